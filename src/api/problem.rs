//! Errors as RFC 9457 has them: every answer from 400 on is one problem document, with the request's id.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::error::FederationError;

/// The media type of a problem.
pub(super) const PROBLEM_JSON: &str = "application/problem+json";

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $status:literal, $slug:literal, $title:literal;)*) => {
        /// What kinds of problems there are.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Kind {
            $($(#[$doc])* $name,)*
        }

        impl Kind {
            const ALL: &[Self] = &[$(Self::$name,)*];

            const fn code(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// The last part of the type's URN.
            const fn slug(self) -> &'static str {
                match self { $(Self::$name => $slug,)* }
            }

            const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

// The first kind of a status stands for answers that name no kind themselves.
kinds! {
    /// Text that does not parse, or a parameter out of bounds.
    Malformed = 400, "malformed", "The request is malformed";
    /// No token, or none that is known.
    Unauthorized = 401, "unauthorized", "A valid token is needed";
    /// A known token without the scope.
    Forbidden = 403, "forbidden", "The token may not do this";
    /// The gateway has no author's key.
    NoAuthor = 403, "no-author", "This replica signs for nobody";
    /// No such path or thing.
    NotFound = 404, "not-found", "There is no such thing here";
    /// Another method.
    MethodNotAllowed = 405, "method-not-allowed", "This path has no such method";
    /// No form that the client accepts.
    NotAcceptable = 406, "not-acceptable", "There is no form that the client accepts";
    /// The body did not come in time.
    BodyTimeout = 408, "body-timeout", "The request body took too long";
    /// The id is in the log with another payload.
    Conflict = 409, "conflict", "The update id is taken by another payload";
    /// The body is over the limit.
    TooLarge = 413, "too-large", "The request body is too large";
    /// The URI is over the limit.
    UriTooLong = 414, "uri-too-long", "The URI is too long";
    /// Another media type.
    UnsupportedMediaType = 415, "unsupported-media-type", "The body's media type is not supported";
    /// It parses, and breaks a rule.
    Rejected = 422, "rejected", "The update breaks a rule";
    /// `not_after` passed.
    Expired = 422, "expired", "The submission has expired";
    /// The caller has too much under way.
    TooManyRequests = 429, "too-many-requests", "Too many requests of one caller are under way";
    /// The headers are over the limit.
    HeadersTooLarge = 431, "headers-too-large", "The headers are too large";
    /// A fault of the replica.
    Internal = 500, "internal", "The replica failed to answer";
    /// Damage is never served.
    Damaged = 500, "damaged", "This replica cannot read this part of its log";
    /// Too much under way, or a full pool.
    Busy = 503, "busy", "The replica is busy";
    /// It cannot vote.
    NotReady = 503, "not-ready", "The replica cannot vote";
    /// The answer did not come in time.
    Timeout = 503, "timeout", "The answer took too long";
    /// The token file cannot be read.
    NoTokens = 503, "no-tokens", "The replica cannot read its token file";
    /// It stops.
    Stopping = 503, "stopping", "The replica is stopping";
}

/// One problem; the request's id is added when the answer leaves.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    kind: Kind,
    detail: String,
    retry_after: Option<Duration>,
    more: Map<String, Value>,
}

/// A problem document (RFC 9457). Some kinds have more members.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct ProblemForm {
    /// `urn:exo-federation:problem:` and the kind; the kinds are listed in docs/http-api.md.
    #[serde(rename = "type")]
    kind: String,
    /// The kind for people.
    title: &'static str,
    /// The status code again.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What is wrong here, and what to do.
    detail: String,
    /// The answer's `x-request-id`; the replica's logs name it.
    request_id: String,
    #[serde(flatten)]
    #[schema(ignore)]
    more: Map<String, Value>,
}

impl Problem {
    pub(super) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), retry_after: None, more: Map::new() }
    }

    /// A request that does not parse.
    pub(super) fn malformed(detail: impl Into<String>) -> Self {
        Self::new(Kind::Malformed, detail)
    }

    /// The replica has too much under way.
    pub(super) fn busy(detail: impl Into<String>) -> Self {
        Self::new(Kind::Busy, detail).retry_after(Duration::from_secs(1))
    }

    /// The kind that stands for a bare status.
    pub(super) fn of_status(status: StatusCode, detail: impl Into<String>) -> Self {
        let kind = Kind::ALL.iter().copied().find(|kind| kind.code() == status.as_u16());
        let other = if status.is_server_error() { Kind::Internal } else { Kind::Malformed };
        Self::new(kind.unwrap_or(other), detail)
    }

    /// When to try again; whole seconds, at least one.
    pub(super) fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// Adds a member.
    pub(super) fn with(mut self, member: &str, value: impl Into<Value>) -> Self {
        self.more.insert(member.to_owned(), value.into());
        self
    }

    fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.kind.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The document, as it leaves.
    pub(super) fn render(self, request_id: &str) -> Vec<u8> {
        let form = ProblemForm {
            kind: format!("urn:exo-federation:problem:{}", self.kind.slug()),
            title: self.kind.title(),
            status: self.kind.code(),
            detail: self.detail,
            request_id: request_id.to_owned(),
            more: self.more,
        };
        serde_json::to_vec(&form).unwrap_or_default()
    }
}

impl IntoResponse for Problem {
    /// The body follows in `guard`, which knows the request's id.
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        if let Some(after) = self.retry_after {
            let seconds = after.as_millis().div_ceil(1_000).max(1);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_str(&seconds.to_string()).unwrap_or(HeaderValue::from_static("1")));
        }
        if self.kind == Kind::Unauthorized {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"exofed\""));
        }
        response.extensions_mut().insert(self);
        response
    }
}

impl From<FederationError> for Problem {
    fn from(error: FederationError) -> Self {
        match error {
            FederationError::Stopped(reason) => Self::new(Kind::Stopping, reason).retry_after(Duration::from_secs(5)),
            damage => {
                tracing::error!(%damage, "an HTTP request met damage");
                Self::new(Kind::Damaged, format!("{damage}; ask another replica"))
            }
        }
    }
}
