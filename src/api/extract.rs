//! What handlers take out of a request; whatever does not fit is a problem.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use tokio::sync::OwnedSemaphorePermit;

use super::problem::{Kind, Problem};
use super::state::Api;

/// The largest integer that every JSON reader keeps exactly.
pub(super) const MAX_INTEGER: u64 = (1 << 53) - 1;

/// A query's parameters.
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<Arc<Api>> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let query = Query::<T>::from_request_parts(parts, api).await;
        query.map(|Query(value)| Self(value)).map_err(|e| Problem::malformed(format!("the query: {}", source(&e))))
    }
}

/// A path's parameter.
pub(super) struct Segment<T>(pub(super) T);

impl<T: DeserializeOwned + Send> FromRequestParts<Arc<Api>> for Segment<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let path = Path::<T>::from_request_parts(parts, api).await;
        path.map(|Path(value)| Self(value)).map_err(|e| Problem::malformed(format!("the path: {}", source(&e))))
    }
}

/// The innermost message: the outer ones repeat it.
fn source(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), source)
}

/// A sequence number in a path or query: 1 to 2^53 - 1.
pub(super) fn sequence<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let number = u64::deserialize(deserializer)?;
    if (1..=MAX_INTEGER).contains(&number) {
        Ok(number)
    } else {
        Err(D::Error::custom(format!("{number} is no sequence number: 1 to {MAX_INTEGER}")))
    }
}

/// The same, where it may be left out.
pub(super) fn maybe_sequence<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    sequence(deserializer).map(Some)
}

/// A body, and its share of what all bodies may take until it is dropped.
pub(super) struct Received {
    pub(super) bytes: Bytes,
    _share: OwnedSemaphorePermit,
}

/// Reads a whole body, within the limits of size, time and what all bodies together may take.
pub(super) async fn receive(api: &Api, headers: &HeaderMap, body: Body) -> Result<Received, Problem> {
    let limit = api.options.max_body_bytes;
    let too_large = || Problem::new(Kind::TooLarge, format!("a body has at most {limit} bytes")).with("limit", limit);
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let needed = length.unwrap_or(limit);
    if needed > limit {
        return Err(too_large());
    }
    let share = api.limits.bodies.clone().try_acquire_many_owned(u32::try_from(needed.div_ceil(1_024)).unwrap_or(u32::MAX));
    let share = share.map_err(|_| Problem::busy("the bodies of other requests take all the memory allowed for them"))?;
    let allowed = Duration::from_millis(api.options.body_timeout_ms);
    let body = Limited::new(body, usize::try_from(limit).unwrap_or(usize::MAX));
    match tokio::time::timeout(allowed, body.collect()).await {
        Ok(Ok(collected)) => Ok(Received { bytes: collected.to_bytes(), _share: share }),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => Err(Problem::malformed(format!("the body broke off: {error}"))),
        Err(_) => Err(Problem::new(Kind::BodyTimeout, format!("the body did not come within {} ms", allowed.as_millis()))),
    }
}

/// The media type of a body, in lower case and without parameters.
pub(super) fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

/// The first of these media types that the client takes, by its own order of preference among those it names; all are equal without an Accept header.
pub(super) fn accepted<'a>(headers: &HeaderMap, offers: &[&'a str]) -> Result<&'a str, Problem> {
    let values: Vec<&str> = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let none = || Problem::new(Kind::NotAcceptable, format!("there is: {}", offers.join(", "))).with("offers", offers.to_vec());
    let Some(first) = offers.first().filter(|_| values.is_empty()) else {
        let ranges = values.iter().flat_map(|value| value.split(',')).filter_map(range);
        let best = offers.iter().rev().filter_map(|offer| {
            let quality = ranges.clone().filter(|(range, _)| matches(range, offer)).max_by_key(|(range, _)| specificity(range));
            quality.filter(|(_, quality)| *quality > 0).map(|(_, quality)| (quality, *offer))
        });
        return best.max_by_key(|(quality, _)| *quality).map(|(_, offer)| offer).ok_or_else(none);
    };
    Ok(first)
}

/// A media range and its quality in thousandths.
fn range(text: &str) -> Option<(String, u32)> {
    let mut parts = text.split(';').map(str::trim);
    let name = parts.next().filter(|name| !name.is_empty())?.to_ascii_lowercase();
    let quality = parts.find_map(|parameter| parameter.strip_prefix("q=")).and_then(|q| q.parse::<f32>().ok()).unwrap_or(1.0);
    // In bounds before it is rounded.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Some((name, (quality.clamp(0.0, 1.0) * 1_000.0) as u32))
}

fn matches(range: &str, offer: &str) -> bool {
    let of_kind = range.strip_suffix("/*").is_some_and(|kind| offer.split('/').next() == Some(kind));
    range == "*/*" || range == offer || of_kind
}

fn specificity(range: &str) -> u8 {
    match range {
        "*/*" => 0,
        _ if range.ends_with("/*") => 1,
        _ => 2,
    }
}
