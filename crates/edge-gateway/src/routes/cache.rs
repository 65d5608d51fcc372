//! The cache over REST: raw bodies, metadata in headers.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use http::header::{AGE, CONTENT_TYPE, ETAG};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use mainstay_proto::cache::v1::{DeleteRequest, GetRequest, GetResponse, Layer, SetRequest, StatsRequest};
use mainstay_rpc::Call;
use serde::Serialize;
use serde_json::{Value, json};

use super::words::wire_duration;
use crate::body::{Raw, Who};
use crate::error::Problem;
use crate::state::App;

const X_CACHE: HeaderName = HeaderName::from_static("x-cache");
const X_CACHE_TTL: HeaderName = HeaderName::from_static("x-cache-ttl");
/// Names what could not be asked, so that the answer is less than it could be.
const X_DEGRADED: HeaderName = HeaderName::from_static("x-mainstay-degraded");

const GET: &str = "mainstay.cache.v1.CacheService/Get";
const SET: &str = "mainstay.cache.v1.CacheService/Set";
const DELETE: &str = "mainstay.cache.v1.CacheService/Delete";
const STATS: &str = "mainstay.cache.v1.CacheService/Stats";

pub(crate) async fn get(
    State(app): State<Arc<App>>,
    Path((namespace, key)): Path<(String, String)>,
    Who(caller): Who,
) -> Result<Response, Problem> {
    let request = GetRequest { namespace, key };
    let send = async |mut client: CacheClient, request| client.get(request).await;
    let answer = app.upstreams.cache(Call::read(GET).by(caller), request, send).await?;
    Ok(entry_response(answer))
}

type CacheClient = mainstay_proto::cache::v1::cache_service_client::CacheServiceClient<mainstay_rpc::Lane>;

fn entry_response(answer: GetResponse) -> Response {
    let mut headers = HeaderMap::new();
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
    headers.insert(ETAG, etag(entry.version));
    if let Some(age) = entry.age {
        headers.insert(AGE, HeaderValue::from(age.seconds.max(0)));
    }
    if let Some(ttl) = entry.ttl.and_then(|ttl| Duration::try_from(ttl).ok()) {
        let text = humantime::format_duration(Duration::from_millis(whole_ms(ttl))).to_string();
        headers.extend(HeaderValue::try_from(text).ok().map(|value| (X_CACHE_TTL, value)));
    }
    (headers, entry.value).into_response()
}

fn cache_word(answer: &GetResponse) -> &'static str {
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

fn etag(version: u64) -> HeaderValue {
    HeaderValue::try_from(format!("\"{version}\"")).expect("digits and quotes are a header value")
}

/// What a successful PUT answers.
#[derive(Serialize)]
struct Stored {
    version: u64,
    /// True when Redis did not confirm the write.
    degraded: bool,
}

pub(crate) async fn put(
    State(app): State<Arc<App>>,
    Path((namespace, key)): Path<(String, String)>,
    Who(caller): Who,
    headers: HeaderMap,
    Raw(value): Raw,
) -> Result<Response, Problem> {
    let ttl = ttl_of(&headers)?.map(wire_duration);
    let content_type = text_header(&headers, &CONTENT_TYPE)?.unwrap_or_default().to_owned();
    let request = SetRequest { namespace, key, value, ttl, content_type };
    let send = async |mut client: CacheClient, request| client.set(request).await;
    let answer = app.upstreams.cache(Call::write(SET).by(caller), request, send).await?;

    let body = axum::Json(Stored { version: answer.version, degraded: answer.degraded });
    Ok(([(ETAG, etag(answer.version))], body).into_response())
}

fn ttl_of(headers: &HeaderMap) -> Result<Option<Duration>, Problem> {
    let Some(text) = text_header(headers, &X_CACHE_TTL)? else { return Ok(None) };
    humantime::parse_duration(text)
        .map(Some)
        .map_err(|_| Problem::invalid("x-cache-ttl", "must be a duration like 500ms, 30s, 5m or 1h"))
}

fn text_header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Problem> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    value.to_str().map(Some).map_err(|_| Problem::invalid(name.as_str(), "must be plain text"))
}

pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    Path((namespace, key)): Path<(String, String)>,
    Who(caller): Who,
) -> Result<axum::Json<Value>, Problem> {
    let request = DeleteRequest { namespace, key };
    let send = async |mut client: CacheClient, request| client.delete(request).await;
    let answer = app.upstreams.cache(Call::write(DELETE).by(caller), request, send).await?;
    Ok(axum::Json(json!({ "existed": answer.existed })))
}

pub(crate) async fn stats(
    State(app): State<Arc<App>>,
    Who(caller): Who,
) -> Result<axum::Json<Value>, Problem> {
    let send = async |mut client: CacheClient, request| client.stats(request).await;
    let stats = app.upstreams.cache(Call::read(STATS).by(caller), StatsRequest {}, send).await?;
    Ok(axum::Json(stats_json(stats)))
}

/// Gives the cache's figures the shape that operators' scripts read.
pub(crate) fn stats_json(stats: mainstay_proto::cache::v1::StatsResponse) -> Value {
    let memory = stats.memory.unwrap_or_default();
    let operations = stats.operations.unwrap_or_default();
    let hits = operations.l1_hits + operations.l2_hits;
    let redis = stats.redis.map_or_else(
        || json!({ "type": "none", "available": false, "memoryEntries": memory.entries }),
        |redis| {
            json!({
                "type": redis.kind, "available": redis.available, "breaker": redis.breaker,
                "primary": redis.primary, "memoryEntries": memory.entries, "redisInfo": redis.info,
                "sentinel": redis.sentinel.map(|sentinel| json!({
                    "masterName": sentinel.master_name, "master": sentinel.master,
                    "configured": sentinel.sentinels_configured, "reachable": sentinel.sentinels_reachable,
                })),
            })
        },
    );
    let namespaces: Vec<Value> = stats
        .namespaces
        .into_iter()
        .map(|ns| json!({ "namespace": ns.namespace, "gets": ns.gets, "hits": ns.hits, "sets": ns.sets }))
        .collect();
    json!({
        "redisStats": redis,
        "memory": {
            "entries": memory.entries, "bytes": memory.bytes, "capacityBytes": memory.capacity_bytes,
            "evictions": memory.evictions, "expirations": memory.expirations,
        },
        "cacheHitStats": {
            "gets": operations.gets, "hits": hits, "l1Hits": operations.l1_hits, "l2Hits": operations.l2_hits,
            "misses": operations.misses, "hitRate": ratio(hits, operations.gets),
        },
        "operations": {
            "sets": operations.sets, "deletes": operations.deletes, "errors": operations.errors,
            "getSecondsMean": operations.get_seconds_mean, "setSecondsMean": operations.set_seconds_mean,
            "deleteSecondsMean": operations.delete_seconds_mean,
        },
        "namespaces": namespaces,
    })
}

/// Gives `part / whole`, or nothing where there is no whole yet.
fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}
