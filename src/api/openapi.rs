//! The OpenAPI document, made of the handlers' own descriptions, and the router that they share with it.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{Html, IntoResponse as _, Response};
use axum::{Router, http::HeaderValue, http::header};
use bytes::Bytes;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Components, OpenApi};
use utoipa::{IntoResponses, OpenApi as _};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::problem::ProblemForm;
use super::state::Api;
use super::{log, metrics, proofs, status, stream, updates};
use crate::config::AnonymousReads;

/// What every path may answer with.
#[derive(IntoResponses)]
#[allow(dead_code)]
pub(super) enum Common {
    /// The request does not parse, or a parameter is out of bounds.
    #[response(status = 400, content_type = "application/problem+json")]
    Malformed(ProblemForm),
    /// A valid token is needed.
    #[response(status = 401, content_type = "application/problem+json")]
    Unauthorized(ProblemForm),
    /// The token lacks the scope, or the replica signs for nobody.
    #[response(status = 403, content_type = "application/problem+json")]
    Forbidden(ProblemForm),
    /// There is no such thing here.
    #[response(status = 404, content_type = "application/problem+json")]
    NotFound(ProblemForm),
    /// The path has no such method; `Allow` names those it has.
    #[response(status = 405, content_type = "application/problem+json")]
    MethodNotAllowed(ProblemForm),
    /// There is no form that the client accepts.
    #[response(status = 406, content_type = "application/problem+json")]
    NotAcceptable(ProblemForm),
    /// The URI is too long.
    #[response(status = 414, content_type = "application/problem+json")]
    UriTooLong(ProblemForm),
    /// It parses, and breaks a rule.
    #[response(status = 422, content_type = "application/problem+json")]
    Rejected(ProblemForm),
    /// One caller has too much under way; `Retry-After` says when to come again.
    #[response(status = 429, content_type = "application/problem+json")]
    TooManyRequests(ProblemForm),
    /// The headers are too large.
    #[response(status = 431, content_type = "application/problem+json")]
    HeadersTooLarge(ProblemForm),
    /// A fault of this replica: damage to its files, most likely. Ask another one.
    #[response(status = 500, content_type = "application/problem+json")]
    Internal(ProblemForm),
    /// Busy, not ready or stopping; `Retry-After` says when to come again.
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(ProblemForm),
}

/// What submitting may answer with besides.
#[derive(IntoResponses)]
#[allow(dead_code)]
pub(super) enum Submitting {
    /// The body took too long.
    #[response(status = 408, content_type = "application/problem+json")]
    BodyTimeout(ProblemForm),
    /// The id is in the log, or on its way, with another payload.
    #[response(status = 409, content_type = "application/problem+json")]
    Conflict(ProblemForm),
    /// The body, or the number of updates, is over the limit.
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(ProblemForm),
    /// The body's media type is not supported.
    #[response(status = 415, content_type = "application/problem+json")]
    UnsupportedMediaType(ProblemForm),
}

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "exo-federation",
        description = "One replica of a Byzantine-fault-tolerant, replicated log. Every error is a problem document (RFC 9457); every answer carries an \
                       x-request-id. docs/http-api.md says more."
    ),
    components(schemas(ProblemForm)),
    tags(
        (name = "updates", description = "Submitting, and asking what became of it"),
        (name = "log", description = "Reading and following the log"),
        (name = "proofs", description = "Proofs that anyone checks offline"),
        (name = "status", description = "Health, readiness, metrics and evidence"),
    )
)]
struct Document;

/// All routes, and their description.
pub(super) fn routes(anonymous: AnonymousReads) -> (Router<Arc<Api>>, Bytes) {
    let documented = OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(updates::submit))
        .routes(routes!(updates::pass_on))
        .routes(routes!(updates::fate))
        .routes(routes!(log::page))
        .routes(routes!(log::entry))
        .routes(routes!(stream::stream))
        .routes(routes!(proofs::commit))
        .routes(routes!(proofs::consistency))
        .routes(routes!(status::status))
        .routes(routes!(status::evidence))
        .routes(routes!(status::health))
        .routes(routes!(status::ready))
        .routes(routes!(metrics::metrics))
        .routes(routes!(document))
        .routes(routes!(index));
    let (router, mut document) = documented.split_for_parts();
    describe_security(&mut document, anonymous);
    let bytes = document.to_json().map(Bytes::from).unwrap_or_default();
    (router, bytes)
}

/// Names the scheme; where nothing is open without a token, no path says that it is.
fn describe_security(document: &mut OpenApi, anonymous: AnonymousReads) {
    let token = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("As `exofed token add` prints it")).build();
    document.components.get_or_insert_with(Components::default).add_security_scheme("token", SecurityScheme::Http(token));
    if anonymous != AnonymousReads::Never {
        return;
    }
    for item in document.paths.paths.values_mut() {
        for operation in [&mut item.get, &mut item.post].into_iter().flatten() {
            if let Some(security) = &mut operation.security {
                security.retain(|requirement| *requirement != SecurityRequirement::default());
            }
        }
    }
}

/// This document
#[utoipa::path(get, path = "/v1/openapi.json", tag = "status",
    responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value), Common))]
pub(super) async fn document(State(api): State<Arc<Api>>) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], api.openapi.clone()).into_response()
}

/// What is here
#[utoipa::path(get, path = "/", tag = "status", responses((status = 200, description = "A page for people", body = String, content_type = "text/html"), Common))]
pub(super) async fn index(State(api): State<Arc<Api>>) -> Response {
    let status = api.handle.status();
    let page = include_str!("index.html").replace("{peer}", &status.peer.0).replace("{version}", &status.version);
    let page = page.replace("{federation}", &status.federation_id.to_string());
    let policy =
        HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'");
    ([(header::CONTENT_SECURITY_POLICY, policy)], Html(page)).into_response()
}
