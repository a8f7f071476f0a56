//! The server: connections in, within limits; each ends in time, and all of them when the replica stops.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::{Router, middleware};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::error::ApiError;
use super::fates::Fates;
use super::guard::guard;
use super::metrics::Metrics;
use super::stall::Stalling;
use super::state::{Api, Limits};
use super::tokens::TokenWatch;
use super::{openapi, tls};
use crate::config::HttpConfig;
use crate::node::Handle;

/// What a connection beyond the limit is told, if it can be told in the clear.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 1\r\nconnection: close\r\n\
content-length: 126\r\n\r\n{\"type\":\"urn:exo-federation:problem:busy\",\"title\":\"The replica is busy\",\"status\":503,\"detail\":\"too many connections are open\"}";
/// The longest that the listener rests when the system has no more file descriptors.
const REST: Duration = Duration::from_millis(100);

/// A replica's running HTTP interface.
pub struct ApiServer {
    local: SocketAddr,
    url: String,
    api: Arc<Api>,
    connections: TaskTracker,
    /// Ends connections whatever they do.
    cut: CancellationToken,
}

impl ApiServer {
    /// Listens, and announces the address to whoever asks the replica for its status.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn start(handle: Handle, config: HttpConfig) -> Result<Self, ApiError> {
        let HttpConfig { listen, tls, tokens, author, options } = config;
        let acceptor = tls.as_ref().map(|(chain, key)| tls::acceptor(chain, key)).transpose()?;
        let bind = |error| ApiError::Bind { address: listen, error };
        let listener = TcpListener::bind(listen).await.map_err(bind)?;
        let local = listener.local_addr().map_err(bind)?;
        let url = format!("{}://{local}", if acceptor.is_some() { "https" } else { "http" });
        let (router, openapi) = openapi::routes(options.anonymous_reads);
        let api = Arc::new(Api {
            metrics: Metrics::new(&handle),
            author,
            tokens: TokenWatch::new(tokens),
            on_loopback: local.ip().is_loopback(),
            limits: Limits::new(&options),
            fates: Fates::new(options.max_fates),
            waiting: TaskTracker::new(),
            stop: CancellationToken::new(),
            openapi,
            options,
            handle,
        });
        api.handle.announce_http(url.clone());
        let router = router.layer(middleware::from_fn_with_state(api.clone(), guard)).with_state(api.clone());
        let (connections, cut) = (TaskTracker::new(), CancellationToken::new());
        let accepting = Accepting { api: api.clone(), router, acceptor, connections: connections.clone(), cut: cut.clone() };
        tokio::spawn(stop_with_the_replica(api.clone()));
        connections.spawn(accepting.run(listener));
        Ok(Self { local, url, api, connections, cut })
    }

    /// Where it really listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The same as a URL.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Takes no more connections, ends streams, lets requests under way end for `drain_timeout_ms`, and cuts what is left. Call it before the
    /// replica is stopped, so that submissions under way can still be answered.
    pub async fn stop(self) {
        self.api.stop.cancel();
        self.connections.close();
        let allowed = Duration::from_millis(self.api.options.drain_timeout_ms);
        if timeout(allowed, self.connections.wait()).await.is_err() {
            tracing::warn!(open = self.connections.len(), "HTTP requests did not end in time and were cut");
            self.cut.cancel();
            self.connections.wait().await;
        }
    }
}

/// A replica that fails takes its HTTP interface with it.
async fn stop_with_the_replica(api: Arc<Api>) {
    tokio::select! {
        () = api.handle.stopped() => api.stop.cancel(),
        () = api.stop.cancelled() => {}
    }
}

/// What accepts connections.
struct Accepting {
    api: Arc<Api>,
    router: Router,
    acceptor: Option<TlsAcceptor>,
    connections: TaskTracker,
    cut: CancellationToken,
}

impl Accepting {
    async fn run(self, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(usize::try_from(self.api.options.max_connections).unwrap_or(usize::MAX)));
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.api.stop.cancelled() => return,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, or a client that is gone again: neither ends the listener.
                    tracing::warn!(%error, "an HTTP connection could not be accepted");
                    tokio::time::sleep(REST).await;
                    continue;
                }
            };
            let Ok(place) = places.clone().try_acquire_owned() else {
                self.api.metrics.connection_refused();
                self.turn_away(stream);
                continue;
            };
            let _ = stream.set_nodelay(true);
            let open = (place, self.api.metrics.connection_opened());
            let serving = self.serving(stream);
            self.connections.spawn(async move {
                serving.await;
                drop(open);
            });
        }
    }

    /// Tells a client that there is no place for it, without waiting for it.
    fn turn_away(&self, stream: TcpStream) {
        if self.acceptor.is_none() {
            let _ = stream.try_write(FULL);
        }
    }

    /// The whole life of one connection.
    fn serving(&self, stream: TcpStream) -> impl Future<Output = ()> + Send + use<> {
        let (api, router, cut) = (self.api.clone(), self.router.clone(), self.cut.clone());
        let acceptor = self.acceptor.clone();
        async move {
            let handshake = Duration::from_millis(api.options.header_timeout_ms);
            let life = async {
                match acceptor {
                    None => serve(&api, router, stream).await,
                    Some(acceptor) => match timeout(handshake, acceptor.accept(stream)).await {
                        Ok(Ok(stream)) => serve(&api, router, stream).await,
                        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                        Err(_) => tracing::debug!("a TLS handshake took too long"),
                    },
                }
            };
            tokio::select! {
                () = life => {}
                () = cut.cancelled() => {}
            }
        }
    }
}

/// Serves one connection until it ends or the replica stops.
async fn serve(api: &Api, router: Router, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let options = &api.options;
    let io = TokioIo::new(Stalling::new(stream, Duration::from_millis(options.write_timeout_ms)));
    let head = usize::try_from(options.max_header_bytes).unwrap_or(usize::MAX).saturating_mul(2).max(16 << 10);
    let asked = Arc::new(AtomicBool::new(false));
    let router = TowerToHyperService::new(router);
    let service = {
        let asked = asked.clone();
        service_fn(move |request| {
            asked.store(true, Ordering::Relaxed);
            router.call(request)
        })
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(options.header_timeout_ms))
        .max_buf_size(head)
        .serve_connection(io, service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = api.stop.cancelled() => {
            // A browser's spare connection, or a client that never finished its first head: nothing of it is lost.
            if !asked.load(Ordering::Relaxed) {
                return;
            }
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection ended");
    }
}
