//! Submitting updates, and asking what became of them.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::auth::{MayAsk, MayPassOn, MaySubmit};
use super::extract::{Params, Received, Segment, media_type, receive};
use super::fates::{self, Fate};
use super::forms::{SignedSubmission, UpdateForm, UpdatesForm, is_array, member, parse};
use super::gateway::{self, wall_clock};
use super::openapi::{Common, Submitting};
use super::problem::{Kind, Problem};
use super::respond::{JSON, NDJSON, json};
use super::state::Api;
use crate::crypto::{PublicKey, random_bytes};
use crate::types::{ProofQuery, StateUpdate, UpdateId};

/// The longest that a client may ask to wait, in seconds.
const MAX_WAIT: u64 = 60;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Wait {
    /// How many seconds to wait for the commit; 0 answers at once with 202. The header `Prefer: wait=N` or `Prefer: respond-async` does the same.
    #[param(minimum = 0, maximum = 60)]
    wait: Option<u64>,
}

impl Wait {
    /// How long this client waits: what the query says, or the Prefer header, or the configuration.
    fn duration(&self, api: &Api, headers: &HeaderMap) -> Result<Duration, Problem> {
        let preferred = || {
            let preferences = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
            preferences.map(str::trim).find_map(|preference| match preference {
                "respond-async" => Some(0),
                other => other.strip_prefix("wait=").and_then(|seconds| seconds.parse().ok()),
            })
        };
        match self.wait {
            Some(seconds) if seconds > MAX_WAIT => Err(Problem::malformed(format!("wait: {seconds} s, allowed are 0 to {MAX_WAIT}"))),
            Some(seconds) => Ok(Duration::from_secs(seconds)),
            // A preference is none of the things that can be wrong.
            None => Ok(preferred().map_or(Duration::from_millis(api.options.submit_wait_ms), |s| Duration::from_secs(s.min(MAX_WAIT)))),
        }
        .map(|wait: Duration| wait.min(Duration::from_millis(api.options.request_timeout_ms.saturating_sub(1_000))))
    }
}

/// What became of several updates.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Fates)]
pub(super) struct FatesForm {
    /// How many are committed.
    committed: usize,
    /// One for each update, in the order of the request.
    results: Vec<Fate>,
}

/// Submit updates, to be signed by this replica's author key
///
/// One update as an object, several as an array, or as NDJSON with one a line. Each has a fate of its own. A retry with the same `update_id` and payload
/// appends nothing: it is answered with the place at which the id was committed. Answers to a single update: 201 committed now, 200 committed
/// before, 202 not known yet (the `Location` says where to ask), 409 the id is taken by another payload. Answers to several: 200 all are
/// committed, 202 some are not known yet and none failed, 207 some failed.
#[utoipa::path(post, path = "/v1/updates", tag = "updates", params(Wait), security(("token" = ["submit"])),
    request_body(content((UpdatesForm = "application/json"), (String = "application/x-ndjson"))),
    responses(
        (status = 200, description = "Everything is committed; a single update was committed before", body = FatesOrFate),
        (status = 201, description = "The single update is committed", body = Fate, headers(("location" = String, description = "Where to ask for it"))),
        (status = 202, description = "Not known yet: ask at `href`", body = FatesOrFate),
        (status = 207, description = "Several updates, of which some failed", body = FatesForm),
        Common, Submitting,
    ))]
pub(super) async fn submit(
    State(api): State<Arc<Api>>,
    _: MaySubmit,
    Params(wait): Params<Wait>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let wait = wait.duration(&api, &headers)?;
    let lines = match media_type(&headers).as_deref() {
        Some("application/json") => false,
        Some("application/x-ndjson" | "application/ndjson" | "application/jsonl") => true,
        _ => return Err(unsupported(&[JSON, NDJSON])),
    };
    let received = receive(&api, &headers, body).await?;
    let several = lines || is_array(&received.bytes);
    let limit = api.options.max_updates;
    // Parsing and decoding some MiB is no work for the threads that serve sockets.
    let parsed = tokio::task::spawn_blocking(move || read_updates(&received, lines, limit)).await;
    let updates = parsed.map_err(|_| Problem::new(Kind::Internal, "the request could not be read"))??;
    let fates = gateway::sign_and_submit(&api, updates, !wait.is_zero())?.wait(wait).await;
    if several { several_fates(fates, lines) } else { one_fate(fates) }
}

/// What `POST /v1/updates` answers with, as one update or several were submitted.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code)]
pub(super) enum FatesOrFate {
    /// To a single update.
    One(Fate),
    /// To several.
    Many(FatesForm),
}

fn unsupported(supported: &[&str]) -> Problem {
    Problem::new(Kind::UnsupportedMediaType, format!("give a Content-Type of {}", supported.join(" or ")))
}

/// The updates in a body; a fault names its place.
fn read_updates(received: &Received, lines: bool, limit: u64) -> Result<Vec<StateUpdate>, Problem> {
    let bytes = &received.bytes;
    let forms: Vec<UpdateForm> = if lines {
        let filled = bytes.split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.iter().all(u8::is_ascii_whitespace));
        let bounded = filled.take(usize::try_from(limit).unwrap_or(usize::MAX).saturating_add(1));
        let parsed = bounded.map(|(at, line)| parse(line).map_err(|e| Problem::malformed(format!("line {}: {e}", at + 1)).with("line", at + 1)));
        parsed.collect::<Result<_, _>>()?
    } else if is_array(bytes) {
        parse(bytes).map_err(|e| Problem::malformed(format!("the body: {e}")))?
    } else {
        vec![parse(bytes).map_err(|e| Problem::malformed(format!("the body: {e}")))?]
    };
    if forms.is_empty() {
        return Err(Problem::new(Kind::Rejected, "there is no update in the body"));
    }
    if forms.len() as u64 > limit {
        return Err(Problem::new(Kind::TooLarge, format!("a request holds at most {limit} updates")).with("limit", limit));
    }
    let now = wall_clock();
    let each = forms.into_iter().enumerate().map(|(at, form)| {
        let id = random_bytes::<16>().map_err(|e| Problem::new(Kind::Internal, e.to_string()))?;
        form.update(|| data_encoding::HEXLOWER.encode(&id), now)
            .map_err(|e| Problem::new(Kind::Rejected, format!("update {at}: {e}")).with("index", at))
    });
    each.collect()
}

fn located(mut response: Response, href: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(href) {
        response.headers_mut().insert(header::LOCATION, value);
    }
    response
}

/// The answer to a single update.
fn one_fate(fates: Vec<Fate>) -> Result<Response, Problem> {
    let fate = fates.into_iter().next().ok_or_else(|| Problem::new(Kind::Internal, "no fate is known"))?;
    let status = match fate.status {
        fates::State::Committed if fate.duplicate => StatusCode::OK,
        fates::State::Committed => StatusCode::CREATED,
        fates::State::Pending | fates::State::Unknown => StatusCode::ACCEPTED,
        _ => return Err(refusal(&fate)),
    };
    let href = fate.href.clone();
    Ok(located(json(status, &fate), &href))
}

/// The problem that a refused update is.
fn refusal(fate: &Fate) -> Problem {
    let kind = match fate.status {
        fates::State::Conflict => Kind::Conflict,
        fates::State::Expired => Kind::Expired,
        fates::State::Busy => Kind::Busy,
        _ => Kind::Rejected,
    };
    let problem =
        Problem::new(kind, fate.reason.clone().unwrap_or_default()).with("update_id", fate.update_id.clone()).with("href", fate.href.clone());
    if kind == Kind::Busy { problem.retry_after(Duration::from_secs(1)) } else { problem }
}

/// The answer to several updates.
fn several_fates(results: Vec<Fate>, lines: bool) -> Result<Response, Problem> {
    let count = |wanted: &[fates::State]| results.iter().filter(|fate| wanted.contains(&fate.status)).count();
    let committed = count(&[fates::State::Committed]);
    let open = count(&[fates::State::Pending, fates::State::Unknown]);
    if count(&[fates::State::Busy]) == results.len() {
        return Err(Problem::busy("the replica took none of these updates").with("results", member(&results)));
    }
    let status = match results.len() - committed - open {
        0 if open == 0 => StatusCode::OK,
        0 => StatusCode::ACCEPTED,
        _ => StatusCode::MULTI_STATUS,
    };
    if lines {
        let text: Vec<u8> =
            results.iter().filter_map(|fate| serde_json::to_vec(fate).ok()).flat_map(|line| [line, b"\n".to_vec()].concat()).collect();
        return Ok((status, [(header::CONTENT_TYPE, NDJSON)], text).into_response());
    }
    Ok(json(status, &FatesForm { committed, results }))
}

/// Submit what its author signed
///
/// The gateway passes it on as it is: it cannot alter what the signature covers. All of its updates are committed, in one batch, or none. It is
/// idempotent: the same submission, to any replica and however often, is committed once.
#[utoipa::path(post, path = "/v1/submissions", tag = "updates", params(Wait), security((), ("token" = ["submit"])),
    request_body(content = SignedSubmission),
    responses(
        (status = 200, description = "Committed", body = FatesForm),
        (status = 202, description = "Not known yet: ask at each `href`", body = FatesForm),
        Common, Submitting,
    ))]
pub(super) async fn pass_on(
    State(api): State<Arc<Api>>,
    _: MayPassOn,
    Params(wait): Params<Wait>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let wait = wait.duration(&api, &headers)?;
    if media_type(&headers).as_deref() != Some(JSON) {
        return Err(unsupported(&[JSON]));
    }
    let received = receive(&api, &headers, body).await?;
    let federation = api.handle.federation().id();
    let read = move || {
        let form: SignedSubmission = parse(&received.bytes).map_err(|e| Problem::malformed(format!("the body: {e}")))?;
        form.submission(federation).map_err(|e| Problem::new(Kind::Rejected, e.to_string()))
    };
    let parsed = tokio::task::spawn_blocking(read).await;
    let submission = parsed.map_err(|_| Problem::new(Kind::Internal, "the request could not be read"))??;
    if submission.updates.is_empty() {
        return Err(Problem::new(Kind::Rejected, "there is no update in the submission"));
    }
    let fates = gateway::pass_on(&api, submission, !wait.is_zero())?.wait(wait).await;
    // One submission has one fate.
    match fates.iter().find(|fate| !matches!(fate.status, fates::State::Committed | fates::State::Pending | fates::State::Unknown)) {
        Some(_) => {
            // The update that is at fault says more than those that share its fate.
            let at_fault = fates.iter().find(|fate| fate.reason.as_ref().is_some_and(|reason| reason.starts_with("this id")));
            let named = at_fault.or(fates.first()).ok_or_else(|| Problem::new(Kind::Internal, "no fate is known"))?;
            Err(refusal(named).with("results", member(&fates)))
        }
        None => several_fates(fates, false),
    }
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Whose {
    /// Whose update, if several authors use the id: a public key as 64 lower-case hex digits.
    #[param(value_type = Option<String>, pattern = "^[0-9a-f]{64}$")]
    author: Option<PublicKey>,
}

/// Ask for an update's fate
///
/// What the log says; if it holds no such update, what this replica remembers of its submission. 404 means neither: a submission through another replica
/// may still be on its way until its `not_after` passes.
#[utoipa::path(get, path = "/v1/updates/{update_id}", tag = "updates", security((), ("token" = ["read"])),
    params(("update_id" = String, Path, description = "The update's id, percent-encoded", min_length = 1, max_length = 256), Whose),
    responses((status = 200, description = "What is known", body = Fate), Common))]
pub(super) async fn fate(
    State(api): State<Arc<Api>>,
    _: MayAsk,
    Segment(update_id): Segment<String>,
    Params(whose): Params<Whose>,
) -> Result<Response, Problem> {
    let update_id = UpdateId(update_id);
    update_id.check().map_err(|e| Problem::malformed(e.to_string()))?;
    // Read before the log: what is committed meanwhile is found there.
    let remembered = api.fates.find(&update_id, whose.author);
    let query = ProofQuery::Id { update_id: update_id.clone(), author: whose.author.or(remembered.as_ref().map(|fate| fate.author)) };
    let proof = api.handle.proof(query).await?;
    if let Some(proof) = proof {
        let mut fate = Fate::committed(&update_id, proof.leaf.author, proof.leaf.sequence, false);
        // The log holds the id with another payload than the one refused here; both are true.
        fate.reason = remembered.filter(|fate| fate.status == fates::State::Conflict).and_then(|fate| fate.reason);
        return Ok(json(StatusCode::OK, &fate));
    }
    let unknown = || {
        let head = api.handle.head();
        let detail = format!(
            "this replica's log, up to entry {head}, holds no such update, and none was submitted here lately; one submitted elsewhere may still be on \
             its way until its not_after passes"
        );
        Problem::new(Kind::NotFound, detail).with("head", head)
    };
    remembered.map(|fate| json(StatusCode::OK, &fate)).ok_or_else(unknown)
}
