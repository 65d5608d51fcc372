//! What the cache's paths answer.

use std::collections::BTreeMap;

use mainstay_proto::cache::v1 as wire;
use serde::Serialize;
use utoipa::ToSchema;

/// What a successful PUT answers.
#[derive(Serialize, ToSchema)]
pub(crate) struct Stored {
    pub(super) version: u64,
    /// True when Redis did not confirm the write.
    pub(super) degraded: bool,
}

/// What a DELETE answers.
#[derive(Serialize, ToSchema)]
pub(crate) struct Deleted {
    /// True when an entry was there.
    pub(super) existed: bool,
}

/// Figures of the cache's layers, in the shape that operators' scripts read.
#[derive(Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CacheStats {
    redis_stats: RedisStats,
    memory: MemoryStats,
    cache_hit_stats: CacheHitStats,
    operations: CacheOperations,
    namespaces: Vec<NamespaceStats>,
}

#[derive(Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct RedisStats {
    /// `none`, `single`, `sentinel` or `cluster`.
    r#type: String,
    available: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    breaker: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    primary: Option<String>,
    memory_entries: u64,
    /// Fields of INFO that matter; empty while Redis does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    redis_info: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sentinel: Option<SentinelStats>,
}

#[derive(Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct SentinelStats {
    master_name: String,
    master: String,
    configured: u32,
    reachable: u32,
}

#[derive(Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct MemoryStats {
    entries: u64,
    bytes: u64,
    capacity_bytes: u64,
    evictions: u64,
    expirations: u64,
}

#[derive(Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct CacheHitStats {
    gets: u64,
    hits: u64,
    l1_hits: u64,
    l2_hits: u64,
    misses: u64,
    /// Hits of all reads; null before the first read.
    hit_rate: Option<f64>,
}

#[derive(Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct CacheOperations {
    sets: u64,
    deletes: u64,
    errors: u64,
    get_seconds_mean: f64,
    set_seconds_mean: f64,
    delete_seconds_mean: f64,
}

#[derive(Clone, Serialize, ToSchema)]
struct NamespaceStats {
    namespace: String,
    gets: u64,
    hits: u64,
    sets: u64,
}

impl From<wire::StatsResponse> for CacheStats {
    fn from(stats: wire::StatsResponse) -> Self {
        let memory = stats.memory.unwrap_or_default();
        let operations = stats.operations.unwrap_or_default();
        Self {
            redis_stats: RedisStats::new(stats.redis, memory.entries),
            memory: MemoryStats {
                entries: memory.entries,
                bytes: memory.bytes,
                capacity_bytes: memory.capacity_bytes,
                evictions: memory.evictions,
                expirations: memory.expirations,
            },
            cache_hit_stats: CacheHitStats::from(&operations),
            operations: CacheOperations {
                sets: operations.sets,
                deletes: operations.deletes,
                errors: operations.errors,
                get_seconds_mean: operations.get_seconds_mean,
                set_seconds_mean: operations.set_seconds_mean,
                delete_seconds_mean: operations.delete_seconds_mean,
            },
            namespaces: stats.namespaces.into_iter().map(NamespaceStats::from).collect(),
        }
    }
}

impl RedisStats {
    fn new(redis: Option<wire::RedisStats>, memory_entries: u64) -> Self {
        let Some(redis) = redis else {
            return Self {
                r#type: "none".to_owned(),
                available: false,
                breaker: None,
                primary: None,
                memory_entries,
                redis_info: None,
                sentinel: None,
            };
        };
        Self {
            r#type: redis.kind,
            available: redis.available,
            breaker: Some(redis.breaker),
            primary: Some(redis.primary),
            memory_entries,
            redis_info: Some(redis.info.into_iter().collect()),
            sentinel: redis.sentinel.map(|sentinel| SentinelStats {
                master_name: sentinel.master_name,
                master: sentinel.master,
                configured: sentinel.sentinels_configured,
                reachable: sentinel.sentinels_reachable,
            }),
        }
    }
}

impl From<&wire::OperationStats> for CacheHitStats {
    fn from(operations: &wire::OperationStats) -> Self {
        let hits = operations.l1_hits + operations.l2_hits;
        Self {
            gets: operations.gets,
            hits,
            l1_hits: operations.l1_hits,
            l2_hits: operations.l2_hits,
            misses: operations.misses,
            hit_rate: (operations.gets > 0).then(|| hits as f64 / operations.gets as f64),
        }
    }
}

impl From<wire::NamespaceStats> for NamespaceStats {
    fn from(stats: wire::NamespaceStats) -> Self {
        Self { namespace: stats.namespace, gets: stats.gets, hits: stats.hits, sets: stats.sets }
    }
}
