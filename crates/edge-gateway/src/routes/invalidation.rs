//! Invalidation and what keys look like, over REST.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::{Path, State};
use mainstay_proto::cache::v1 as wire;
use mainstay_proto::cache::v1::cache_admin_client::CacheAdminClient;
use mainstay_proto::cache::v1::cache_service_client::CacheServiceClient;
use mainstay_proto::cache::v1::insight_service_client::InsightServiceClient;
use mainstay_rpc::{Call, Lane};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::cache::CacheStats;
use super::words::seconds;
use crate::body::{Json, Who};
use crate::error::Problem;
use crate::state::App;

const INVALIDATE: &str = "mainstay.cache.v1.CacheAdmin/Invalidate";
const INVALIDATION_STATS: &str = "mainstay.cache.v1.CacheAdmin/InvalidationStats";
const STATS: &str = "mainstay.cache.v1.CacheService/Stats";
const HOT_KEYS: &str = "mainstay.cache.v1.InsightService/HotKeys";
const KEY_PATTERNS: &str = "mainstay.cache.v1.InsightService/KeyPatterns";

/// What to make unusable; at least one of the three.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct InvalidateBody {
    #[serde(default)]
    #[schema(max_items = 1000)]
    keys: Vec<String>,
    /// Every entry stored with one of these in `x-cache-tags`.
    #[serde(default)]
    #[schema(max_items = 1000)]
    tags: Vec<String>,
    /// Every entry of the namespace.
    #[serde(default)]
    all: bool,
}

/// Where the invalidation stands in the log that every node applies in order.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Invalidated {
    position: u64,
    keys_removed: u32,
}

/// Hits, invalidations and times in one answer.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct InvalidationMetrics {
    #[serde(flatten)]
    cache: CacheStats,
    invalidations: Invalidations,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Invalidations {
    total: u64,
    keys: u64,
    tags: u64,
    namespaces: u64,
    per_second: f64,
    failures: u64,
    /// False while the log of invalidations cannot be read to its end.
    current: bool,
    unproven_seconds: Option<f64>,
    position: u64,
    replays: u64,
    flushes: u64,
    lag_seconds_mean: f64,
    lag_seconds_max: f64,
    lag_seconds_p50: f64,
    lag_seconds_p95: f64,
    lag_seconds_p99: f64,
    /// Requests to invalidate that this node has done, and the time of the last 1,000.
    requests: u64,
    request_seconds_mean: f64,
    request_seconds_p99: f64,
    entries_possibly_stale: u64,
}

/// What is read most, and what keys look like.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct KeyStats {
    hot_keys: Vec<HotKey>,
    patterns: Vec<KeyPattern>,
    /// Age of the counts under `patterns`.
    patterns_age_seconds: Option<f64>,
    /// One of so many reads is sampled.
    sample_every: u32,
}

#[derive(Serialize, ToSchema)]
struct HotKey {
    namespace: String,
    key: String,
    /// Estimated; at most `error` too high.
    reads: u64,
    error: u64,
    share: f64,
    /// Called hot by a node: brought into the memory of every node ahead of its readers.
    hot: bool,
    /// In the memory of the node that answers, where it is not evicted.
    pinned: bool,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct KeyPattern {
    namespace: String,
    pattern: String,
    keys: u64,
    bytes: u64,
    hits: u64,
    mean_ttl_seconds: Option<f64>,
}

/// Makes entries unusable on every node.
///
/// Answered once it is numbered in the log that every node applies in order.
#[utoipa::path(post, path = "/cache/{namespace}/invalidate", tag = "cache", params(
    ("namespace" = String, Path, description = "letters, digits, `_` and `-`, starting with a letter", pattern = "^[a-z][a-z0-9_-]{0,63}$"),
), request_body = InvalidateBody, responses(
    (status = 200, description = "numbered", body = Invalidated),
    (status = 404, description = "there is no such namespace"),
))]
pub(crate) async fn invalidate(
    State(app): State<Arc<App>>,
    Path(namespace): Path<String>,
    Who(caller): Who,
    Json(body): Json<InvalidateBody>,
) -> Result<Answer<Invalidated>, Problem> {
    let InvalidateBody { keys, tags, all } = body;
    let request = wire::InvalidateRequest { namespace, keys, tags, all };
    let send = async |mut client: CacheAdminClient<Lane>, request| client.invalidate(request).await;
    let answer = app.upstreams.cache_admin(Call::write(INVALIDATE).by(caller), request, send).await?;
    Ok(Answer(Invalidated { position: answer.position, keys_removed: answer.keys_removed }))
}

/// Hits, invalidations and the times of operations.
#[utoipa::path(get, path = "/monitoring/cache/invalidation-metrics", tag = "monitoring", responses((status = 200, description = "the figures of the node that answers", body = InvalidationMetrics)))]
pub(crate) async fn metrics(
    State(app): State<Arc<App>>,
    Who(caller): Who,
) -> Result<Answer<InvalidationMetrics>, Problem> {
    let stats = async |mut client: CacheServiceClient<Lane>, request| client.stats(request).await;
    let invalidations =
        async |mut client: CacheAdminClient<Lane>, request| client.invalidation_stats(request).await;
    let (stats, invalidations) = tokio::try_join!(
        app.upstreams.cache(Call::read(STATS).by(caller.clone()), wire::StatsRequest {}, stats),
        app.upstreams.cache_admin(
            Call::read(INVALIDATION_STATS).by(caller),
            wire::InvalidationStatsRequest {},
            invalidations
        ),
    )?;
    Ok(Answer(InvalidationMetrics { cache: stats.into(), invalidations: invalidations.into() }))
}

/// What is read most, and what keys look like.
#[utoipa::path(get, path = "/monitoring/cache/key-stats", tag = "monitoring", responses((status = 200, description = "the figures of the node that answers", body = KeyStats)))]
pub(crate) async fn key_stats(
    State(app): State<Arc<App>>,
    Who(caller): Who,
) -> Result<Answer<KeyStats>, Problem> {
    let hot = async |mut client: InsightServiceClient<Lane>, request| client.hot_keys(request).await;
    let patterns = async |mut client: InsightServiceClient<Lane>, request| client.key_patterns(request).await;
    let (hot, patterns) = tokio::try_join!(
        app.upstreams.insight(Call::read(HOT_KEYS).by(caller.clone()), wire::HotKeysRequest::default(), hot),
        app.upstreams.insight(
            Call::read(KEY_PATTERNS).by(caller),
            wire::KeyPatternsRequest::default(),
            patterns
        ),
    )?;
    Ok(Answer(KeyStats::new(hot, patterns)))
}

impl From<wire::InvalidationStatsResponse> for Invalidations {
    fn from(stats: wire::InvalidationStatsResponse) -> Self {
        Self {
            total: stats.keys + stats.tags + stats.namespaces,
            keys: stats.keys,
            tags: stats.tags,
            namespaces: stats.namespaces,
            per_second: stats.per_second,
            failures: stats.failures,
            current: stats.current,
            unproven_seconds: seconds(stats.unproven_for),
            position: stats.position,
            replays: stats.replays,
            flushes: stats.flushes,
            lag_seconds_mean: stats.lag_seconds_mean,
            lag_seconds_max: stats.lag_seconds_max,
            lag_seconds_p50: stats.lag_seconds_p50,
            lag_seconds_p95: stats.lag_seconds_p95,
            lag_seconds_p99: stats.lag_seconds_p99,
            requests: stats.requests,
            request_seconds_mean: stats.request_seconds_mean,
            request_seconds_p99: stats.request_seconds_p99,
            entries_possibly_stale: stats.entries_possibly_stale,
        }
    }
}

impl KeyStats {
    fn new(hot: wire::HotKeysResponse, patterns: wire::KeyPatternsResponse) -> Self {
        let hot_key = |hot: wire::HotKey| HotKey {
            namespace: hot.namespace,
            key: hot.key,
            reads: hot.reads,
            error: hot.error,
            share: hot.share,
            hot: hot.hot,
            pinned: hot.pinned,
        };
        let pattern = |pattern: wire::KeyPattern| KeyPattern {
            namespace: pattern.namespace,
            pattern: pattern.pattern,
            keys: pattern.keys,
            bytes: pattern.bytes,
            hits: pattern.hits,
            mean_ttl_seconds: seconds(pattern.mean_ttl),
        };
        Self {
            hot_keys: hot.keys.into_iter().map(hot_key).collect(),
            patterns: patterns.patterns.into_iter().map(pattern).collect(),
            patterns_age_seconds: seconds(patterns.age),
            sample_every: hot.sample_every,
        }
    }
}
