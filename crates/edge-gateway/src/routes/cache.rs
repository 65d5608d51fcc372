//! The cache over REST: raw bodies, metadata in headers.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use http::header::{AGE, CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use mainstay_proto::cache::v1::{
    DeleteRequest, GetRequest, GetResponse, Layer, SetRequest, StatsRequest, WriteOutcome,
};
use mainstay_rpc::{Call, Caller, trace};
use tokio::time::Instant;

mod answer;

pub(crate) use answer::CacheStats;
use answer::{Deleted, Stored};

use super::words::wire_duration;
use crate::body::{Raw, Who};
use crate::error::Problem;
use crate::etag;
use crate::middleware::idempotency::KEY;
use crate::state::App;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static(KEY);
const X_CACHE: HeaderName = HeaderName::from_static("x-cache");
const X_CACHE_TTL: HeaderName = HeaderName::from_static("x-cache-ttl");
const X_CACHE_TAGS: HeaderName = HeaderName::from_static("x-cache-tags");
/// Names what could not be asked, so that the answer is less than it could be.
const X_DEGRADED: HeaderName = HeaderName::from_static("x-mainstay-degraded");

/// Headers of an entry, and those that every answer has.
const MOST_HEADERS: usize = 24;

const GET: &str = "mainstay.cache.v1.CacheService/Get";
const SET: &str = "mainstay.cache.v1.CacheService/Set";
const DELETE: &str = "mainstay.cache.v1.CacheService/Delete";
const STATS: &str = "mainstay.cache.v1.CacheService/Stats";

/// Reads one entry: the raw value, what is known about it in headers.
#[utoipa::path(get, path = "/cache/{namespace}/{key}", tag = "cache", params(
    ("namespace" = String, Path, description = "letters, digits, `_` and `-`, starting with a letter", pattern = "^[a-z][a-z0-9_-]{0,63}$"),
    ("key" = String, Path, description = "1 to 1024 bytes of UTF-8 without control characters", min_length = 1, max_length = 1024),
    ("if-none-match" = Option<String>, Header, description = "an `etag` given earlier: the value is sent only if it changed"),
), responses(
    (status = 200, description = "the value, of the media type it was stored with", content_type = "*/*", headers(
        ("etag" = String, description = "version of the entry"),
        ("x-cache" = String, description = "who answered: `l1`, `l2`, `l3`, `origin` or `stale`"),
        ("x-cache-ttl" = String, description = "time left, like `4m 59s`"),
    )),
    (status = 304, description = "the version of `if-none-match` is still the current one"),
    (status = 404, description = "there is no entry under this key"),
))]
pub(crate) async fn get(
    State(app): State<Arc<App>>,
    Path((namespace, key)): Path<(String, String)>,
    Who(caller): Who,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    read(&app, (namespace, key), || caller, headers.get(IF_NONE_MATCH)).await
}

/// Reads one entry by the stream to the cache where that gives an answer, else by a call.
///
/// What is recorded of a trace is recorded call by call, so such reads are calls.
pub(crate) async fn read(
    app: &App,
    (namespace, key): (String, String),
    caller: impl FnOnce() -> Caller,
    known: Option<&HeaderValue>,
) -> Result<Response, Problem> {
    let began_at = Instant::now();
    let is_recorded = app.cx.records_spans() && trace::is_sampled();
    if !is_recorded && let Some(answer) = app.cache_streams.get(&namespace, &key).await {
        app.figures.streamed_reads.inc();
        return Ok(entry_response(answer?, known));
    }
    app.figures.called_reads.inc();
    let request = GetRequest { namespace, key, ..GetRequest::default() };
    let send = async |mut client: CacheClient, request| client.get(request).await;
    let call = Call::read(GET).by(caller()).within(app.cache_streams.left_of(began_at));
    // Its state is large, and mostly it is not needed.
    let answer = Box::pin(app.upstreams.cache(call, request, send)).await?;
    Ok(entry_response(answer, known))
}

type CacheClient = mainstay_proto::cache::v1::cache_service_client::CacheServiceClient<mainstay_rpc::Lane>;

fn entry_response(answer: GetResponse, known: Option<&HeaderValue>) -> Response {
    // With room for what every answer gets on its way out.
    let mut headers = HeaderMap::with_capacity(MOST_HEADERS);
    headers.insert(X_CACHE, HeaderValue::from_static(cache_word(&answer)));
    if answer.degraded {
        headers.insert(X_DEGRADED, HeaderValue::from_static("redis"));
    }
    let Some(entry) = answer.entry else {
        let problem =
            Problem::new(StatusCode::NOT_FOUND, "KEY_NOT_FOUND", "there is no entry under this key");
        return (headers, problem).into_response();
    };
    let content_type = HeaderValue::try_from(entry.content_type)
        .ok()
        .filter(|value| !value.is_empty())
        .unwrap_or(HeaderValue::from_static("application/octet-stream"));
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(ETAG, version_tag(entry.version));
    if let Some(age) = entry.age {
        headers.insert(AGE, HeaderValue::from(age.seconds.max(0)));
    }
    if let Some(ttl) = entry.ttl.and_then(|ttl| Duration::try_from(ttl).ok()) {
        let text = humantime::format_duration(Duration::from_millis(whole_ms(ttl))).to_string();
        headers.extend(HeaderValue::try_from(text).ok().map(|value| (X_CACHE_TTL, value)));
    }
    if known.is_some_and(|known| etag::matches(known, &headers[ETAG])) {
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }
    let mut response = Response::new(Body::from(entry.value));
    *response.headers_mut() = headers;
    response
}

pub(super) fn cache_word(answer: &GetResponse) -> &'static str {
    if answer.stale {
        return "stale";
    }
    match answer.layer() {
        Layer::L1 => "l1",
        Layer::L2 => "l2",
        Layer::L3 => "l3",
        Layer::Origin => "origin",
        Layer::Unspecified => "miss",
    }
}

fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn version_tag(version: u64) -> HeaderValue {
    HeaderValue::try_from(format!("\"{version}\"")).expect("digits and quotes are a header value")
}

/// Stores one entry.
#[utoipa::path(put, path = "/cache/{namespace}/{key}", tag = "cache", params(
    ("namespace" = String, Path, description = "letters, digits, `_` and `-`, starting with a letter", pattern = "^[a-z][a-z0-9_-]{0,63}$"),
    ("key" = String, Path, description = "1 to 1024 bytes of UTF-8 without control characters", min_length = 1, max_length = 1024),
    ("x-cache-ttl" = Option<String>, Header, description = "lifetime like `30s`; without it the namespace's own", example = "30s"),
    ("x-cache-tags" = Option<String>, Header, description = "names under which it can be invalidated, split at commas", example = "user-7,list"),
    ("if-match" = Option<String>, Header, description = "the `etag` of the version to replace; another one is 412"),
    ("if-none-match" = Option<String>, Header, description = "`*`: store only if there is no entry, else 412"),
    ("idempotency-key" = Option<String>, Header, description = "the write is made once: sent again with the same key within 10 minutes it gets the version of the first", max_length = 128),
), request_body(content = serde_json::Value, description = "the value, any bytes", content_type = "*/*"), responses(
    (status = 200, description = "stored", body = Stored, headers(("etag" = String, description = "version of the entry"))),
    (status = 404, description = "there is no such namespace"),
    (status = 409, description = "the idempotency key came with another value before"),
    (status = 412, description = "another version is there than the condition names"),
))]
pub(crate) async fn put(
    State(app): State<Arc<App>>,
    Path((namespace, key)): Path<(String, String)>,
    Who(caller): Who,
    headers: HeaderMap,
    Raw(value): Raw,
) -> Result<Response, Problem> {
    let ttl = ttl_of(&headers)?.map(wire_duration);
    let content_type = text_header(&headers, &CONTENT_TYPE)?.unwrap_or_default().to_owned();
    let request = SetRequest {
        namespace,
        key,
        value,
        ttl,
        content_type,
        tags: tags_of(&headers)?,
        if_version: condition_of(&headers)?,
        idempotency_key: idempotency_key_of(&headers)?,
        ..SetRequest::default()
    };
    let send = async |mut client: CacheClient, request| client.set(request).await;
    let answer = app.upstreams.cache(Call::write(SET).by(caller), request, send).await?;

    let body = axum::Json(Stored {
        version: answer.version,
        degraded: answer.degraded,
        outcome: outcome_word(answer.outcome()),
        replayed: answer.replayed,
    });
    Ok(([(ETAG, version_tag(answer.version))], body).into_response())
}

pub(super) fn outcome_word(outcome: WriteOutcome) -> &'static str {
    match outcome {
        WriteOutcome::Applied => "applied",
        WriteOutcome::NotApplied => "notApplied",
        WriteOutcome::Unknown | WriteOutcome::Unspecified => "unknown",
    }
}

fn idempotency_key_of(headers: &HeaderMap) -> Result<String, Problem> {
    match text_header(headers, &IDEMPOTENCY_KEY)? {
        Some("") => Err(Problem::invalid(KEY, "must have 1 to 128 characters")),
        key => Ok(key.unwrap_or_default().to_owned()),
    }
}

fn ttl_of(headers: &HeaderMap) -> Result<Option<Duration>, Problem> {
    let Some(text) = text_header(headers, &X_CACHE_TTL)? else { return Ok(None) };
    humantime::parse_duration(text)
        .map(Some)
        .map_err(|_| Problem::invalid("x-cache-ttl", "must be a duration like 500ms, 30s, 5m or 1h"))
}

/// Reads tags, split at commas.
fn tags_of(headers: &HeaderMap) -> Result<Vec<String>, Problem> {
    let text = text_header(headers, &X_CACHE_TAGS)?.unwrap_or_default();
    Ok(text.split(',').map(str::trim).filter(|tag| !tag.is_empty()).map(str::to_owned).collect())
}

/// Reads the version that must be there: that of `if-match`, or none with `if-none-match: *`.
fn condition_of(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let known = text_header(headers, &IF_MATCH)?;
    let none = text_header(headers, &IF_NONE_MATCH)?;
    match (known, none) {
        (None, None) => Ok(None),
        (None, Some(tag)) if tag.trim() == "*" => Ok(Some(0)),
        (None, Some(_)) => Err(Problem::invalid("if-none-match", "must be `*` on a write")),
        (Some(_), Some(_)) => Err(Problem::invalid("if-match", "cannot be joined with if-none-match")),
        (Some(tag), None) => {
            let version = tag.trim().strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
            let version = version.and_then(|digits| digits.parse().ok()).filter(|version| *version > 0);
            let form = "must be one etag that a read or a write gave";
            version.map(Some).ok_or_else(|| Problem::invalid("if-match", form))
        }
    }
}

fn text_header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Problem> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    value.to_str().map(Some).map_err(|_| Problem::invalid(name.as_str(), "must be plain text"))
}

/// Removes one entry from every layer.
#[utoipa::path(delete, path = "/cache/{namespace}/{key}", tag = "cache", params(
    ("namespace" = String, Path, description = "letters, digits, `_` and `-`, starting with a letter", pattern = "^[a-z][a-z0-9_-]{0,63}$"),
    ("key" = String, Path, description = "1 to 1024 bytes of UTF-8 without control characters", min_length = 1, max_length = 1024),
    ("idempotency-key" = Option<String>, Header, description = "the delete is made once: sent again with the same key within 10 minutes it gets the answer of the first", max_length = 128),
), responses(
    (status = 200, description = "the entry is gone", body = Deleted),
    (status = 404, description = "there is no such namespace"),
    (status = 409, description = "the idempotency key came with a write before"),
))]
pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    Path((namespace, key)): Path<(String, String)>,
    Who(caller): Who,
    headers: HeaderMap,
) -> Result<axum::Json<Deleted>, Problem> {
    let idempotency_key = idempotency_key_of(&headers)?;
    let request = DeleteRequest { namespace, key, idempotency_key, ..DeleteRequest::default() };
    let send = async |mut client: CacheClient, request| client.delete(request).await;
    let answer = app.upstreams.cache(Call::write(DELETE).by(caller), request, send).await?;
    Ok(axum::Json(Deleted { existed: answer.existed, replayed: answer.replayed }))
}

/// Figures of the cache's layers, of Redis and of each namespace.
#[utoipa::path(get, path = "/cache/stats", tag = "cache", responses((status = 200, description = "the figures", body = CacheStats)))]
pub(crate) async fn stats(
    State(app): State<Arc<App>>,
    Who(caller): Who,
) -> Result<axum::Json<CacheStats>, Problem> {
    let send = async |mut client: CacheClient, request| client.stats(request).await;
    let stats = app.upstreams.cache(Call::read(STATS).by(caller), StatsRequest {}, send).await?;
    Ok(axum::Json(stats.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Sent = &'static [(HeaderName, &'static str)];

    #[test]
    fn conditions_of_a_write_are_one_etag_or_absence() {
        let table: &[(Sent, Result<Option<u64>, &str>)] = &[
            (&[], Ok(None)),
            (&[(IF_MATCH, "\"17\"")], Ok(Some(17))),
            (&[(IF_NONE_MATCH, "*")], Ok(Some(0))),
            (&[(IF_MATCH, "17")], Err("INVALID_FIELD")),
            (&[(IF_MATCH, "\"0\"")], Err("INVALID_FIELD")),
            (&[(IF_MATCH, "*")], Err("INVALID_FIELD")),
            (&[(IF_NONE_MATCH, "\"17\"")], Err("INVALID_FIELD")),
            (&[(IF_MATCH, "\"17\""), (IF_NONE_MATCH, "*")], Err("INVALID_FIELD")),
        ];
        for (sent, expected) in table {
            let mut headers = HeaderMap::new();
            for (name, value) in *sent {
                headers.insert(name, HeaderValue::from_static(value));
            }
            let seen = condition_of(&headers);
            assert_eq!(
                seen.as_ref().map_err(Problem::code),
                expected.as_ref().map_err(|code| *code),
                "{sent:?}"
            );
        }
    }
}
