//! Around every request: its id, who asks, the limits, the time it may take, the metrics, and the form of its errors.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::auth::Caller;
use super::problem::{Kind, PROBLEM_JSON, Problem};
use super::state::Api;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Answered whatever else is under way, and to everyone: an orchestrator must always get an answer.
const ALWAYS: [&str; 2] = ["/healthz", "/readyz"];
/// Not counted as requests: scraped under load, or with a limit of its own.
const UNCOUNTED: [&str; 2] = ["/metrics", "/v1/log/stream"];

/// The whole way of one request.
pub(super) async fn guard(State(api): State<Arc<Api>>, matched: Option<MatchedPath>, mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let id = request_id(request.headers());
    let method = request.method().clone();
    let route = matched.map_or_else(|| "none".to_owned(), |matched| matched.as_str().to_owned());
    if let Ok(value) = HeaderValue::from_str(&id) {
        request.headers_mut().insert(REQUEST_ID, value);
    }
    let response = match admitted(&api, &route, request, next).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    };
    let code = response.status();
    api.metrics.answered(&method, &route, code.as_u16(), began.elapsed());
    if code.is_server_error() {
        tracing::warn!(request = id, %method, route, code = code.as_u16(), "an HTTP request failed");
    } else {
        tracing::debug!(request = id, %method, route, code = code.as_u16(), took = ?began.elapsed(), "answered an HTTP request");
    }
    dress(response, &id)
}

/// The client's own id if it is one that may stand in a log, or a new one.
fn request_id(headers: &HeaderMap) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let usable = |id: &&str| (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    given.filter(usable).map_or_else(
        || {
            let random = crate::crypto::random_bytes::<8>().map(u64::from_le_bytes).unwrap_or(0);
            format!("{random:016x}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
        },
        str::to_owned,
    )
}

/// Lets a request through if nothing stands against it.
async fn admitted(api: &Api, route: &str, mut request: Request, next: Next) -> Result<Response, Problem> {
    let longest = api.options.max_header_bytes;
    let uri = request.uri();
    let uri_bytes = uri.path_and_query().map_or(0, |path| path.as_str().len()) as u64;
    if uri_bytes > longest / 2 {
        return Err(Problem::new(Kind::UriTooLong, format!("the URI has {uri_bytes} bytes, allowed are {}", longest / 2)));
    }
    let header_bytes: usize = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if header_bytes as u64 > longest {
        return Err(Problem::new(Kind::HeadersTooLarge, format!("the headers have {header_bytes} bytes, allowed are {longest}")));
    }
    if ALWAYS.contains(&route) {
        return Ok(next.run(request).await);
    }
    let caller = Caller::of(api, request.uri(), request.headers())?;
    let counted = !UNCOUNTED.contains(&route);
    let _under_way = match counted {
        true => {
            let busy = |_| Problem::busy("as many requests as allowed are under way");
            Some((api.limits.requests.clone().try_acquire_owned().map_err(busy)?, api.limits.share(caller.name())?))
        }
        false => None,
    };
    request.extensions_mut().insert(caller);
    let allowed = Duration::from_millis(api.options.request_timeout_ms);
    tokio::time::timeout(allowed, next.run(request)).await.map_err(|_| {
        let detail = format!("no answer within {} ms; what was submitted may be on its way: ask by its update id", allowed.as_millis());
        Problem::new(Kind::Timeout, detail).retry_after(Duration::from_secs(1))
    })
}

/// Gives an answer its id and its safety headers, and an error its document.
fn dress(mut response: Response, id: &str) -> Response {
    let status = response.status();
    let problem = response.extensions_mut().remove::<Problem>();
    if status.is_client_error() || status.is_server_error() {
        let problem = problem.unwrap_or_else(|| Problem::of_status(status, generic(status)));
        let headers = response.headers_mut();
        headers.remove(header::CONTENT_LENGTH);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        *response.body_mut() = Body::from(problem.render(id));
    }
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID, value);
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.entry(header::X_FRAME_OPTIONS).or_insert(HeaderValue::from_static("DENY"));
    response
}

/// What is said of an error that no handler made.
fn generic(status: StatusCode) -> &'static str {
    match status {
        StatusCode::NOT_FOUND => "there is no such path; /v1/openapi.json names all of them",
        StatusCode::METHOD_NOT_ALLOWED => "this path has other methods; the Allow header names them",
        StatusCode::BAD_REQUEST => "the path or the query does not parse",
        _ => "no more is known",
    }
}
