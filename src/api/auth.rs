//! Who asks, and what they may.
//!
//! A token permits its scopes. Without one, reading and passing on submissions that their authors signed are open on loopback, as the configuration
//! says; having the replica sign is never open.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Uri, header};

use super::problem::{Kind, Problem};
use super::state::Api;
use super::tokens::{Scope, Token};
use crate::config::AnonymousReads;

/// Proxies add these; what came through one did not come from this machine.
const FORWARDED: [&str; 5] = ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via"];

/// Who sent a request.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    /// The token, if one was given.
    token: Option<Token>,
    /// Without a token: whether reading is open to this caller.
    open: bool,
}

impl Caller {
    /// Finds out who sent a request. A token that is not known is refused, whatever would be open without one.
    pub(super) fn of(api: &Api, uri: &Uri, headers: &HeaderMap) -> Result<Self, Problem> {
        let Some(given) = headers.get(header::AUTHORIZATION) else {
            let open = match api.options.anonymous_reads {
                AnonymousReads::Always => true,
                AnonymousReads::Never => false,
                AnonymousReads::Loopback => api.on_loopback && from_this_machine(uri, headers),
            };
            return Ok(Self { token: None, open });
        };
        let unauthorized = |detail: &str| Problem::new(Kind::Unauthorized, detail);
        let text = given.to_str().ok().and_then(|value| value.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let (_, text) = text.ok_or_else(|| unauthorized("the Authorization header is not \"Bearer TOKEN\""))?;
        match api.tokens.find(text.trim()) {
            Ok(Some(token)) => Ok(Self { token: Some(token), open: false }),
            Ok(None) => Err(unauthorized("this token is not known here, or was revoked")),
            Err(reason) => Err(Problem::new(Kind::NoTokens, reason)),
        }
    }

    /// The name under which the caller's requests are counted.
    pub(super) fn name(&self) -> &str {
        self.token.as_ref().map_or("", |token| &token.name)
    }

    fn require(&self, scopes: &[Scope]) -> Result<(), Problem> {
        let wanted = scopes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
        match &self.token {
            Some(token) if scopes.iter().any(|scope| token.permits(*scope)) => Ok(()),
            Some(token) => Err(Problem::new(Kind::Forbidden, format!("the token {:?} lacks the scope {wanted}", token.name))),
            None => Err(Problem::new(
                Kind::Unauthorized,
                format!("this needs a token with the scope {wanted}: Authorization: Bearer TOKEN; exofed token add makes one"),
            )),
        }
    }
}

/// Whether the request names this machine by a name of loopback, and no proxy says that it passed it on. A web page that has its own name resolve to
/// 127.0.0.1 is stopped by the first, a reverse proxy on this machine by the second.
fn from_this_machine(uri: &Uri, headers: &HeaderMap) -> bool {
    let named = uri.host().or_else(|| headers.get(header::HOST).and_then(|host| host.to_str().ok()).map(without_port));
    let local = named.is_some_and(|host| {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        bare.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    });
    local && !FORWARDED.iter().any(|name| headers.contains_key(*name))
}

fn without_port(host: &str) -> &str {
    match host.rfind(':') {
        Some(colon) if !host.ends_with(']') => host.get(..colon).unwrap_or(host),
        _ => host,
    }
}

fn caller(parts: &Parts) -> Result<&Caller, Problem> {
    parts.extensions.get::<Caller>().ok_or_else(|| Problem::new(Kind::Internal, "nobody asked"))
}

macro_rules! permissions {
    ($($(#[$doc:meta])* $name:ident: $check:expr;)*) => {$(
        $(#[$doc])*
        pub(super) struct $name;

        impl FromRequestParts<Arc<Api>> for $name {
            type Rejection = Problem;

            async fn from_request_parts(parts: &mut Parts, _: &Arc<Api>) -> Result<Self, Problem> {
                let check: fn(&Caller) -> Result<(), Problem> = $check;
                check(caller(parts)?).map(|()| Self)
            }
        }
    )*};
}

permissions! {
    /// May read.
    MayRead: |caller| if caller.open { Ok(()) } else { caller.require(&[Scope::Read]) };
    /// May ask for the fate of an update: readers, and who submitted it.
    MayAsk: |caller| if caller.open { Ok(()) } else { caller.require(&[Scope::Read, Scope::Submit]) };
    /// May pass on what an author signed: the signature is what admits it, the scope only keeps strangers off.
    MayPassOn: |caller| if caller.open { Ok(()) } else { caller.require(&[Scope::Submit]) };
    /// May have the replica sign.
    MaySubmit: |caller| caller.require(&[Scope::Submit]);
}
