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
    /// What became of it in Redis: `applied`, `notApplied` or `unknown`.
    pub(super) outcome: &'static str,
    /// True when it had been made before, under its idempotency key.
    pub(super) replayed: bool,
}

/// What a DELETE answers.
#[derive(Serialize, ToSchema)]
pub(crate) struct Deleted {
    /// True when an entry was there.
    pub(super) existed: bool,
    /// True when it had been made before, under its idempotency key.
    pub(super) replayed: bool,
}

/// Figures of the cache's layers, in the shape that operators' scripts read.
#[derive(Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CacheStats {
    redis_stats: RedisStats,
    memory: MemoryStats,
    cache_hit_stats: CacheHitStats,
    operations: CacheOperations,
    /// Absent when no directory is configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    disk: Option<DiskStats>,
    /// Number of the last change that this node has read from the log in Redis.
    log_position: u64,
    namespaces: Vec<NamespaceStats>,
    origins: Vec<OriginStats>,
}

#[derive(Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct DiskStats {
    available: bool,
    entries: u64,
    bytes: u64,
    capacity_bytes: u64,
    dropped: u64,
    damaged: u64,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<RedisClusterStats>,
    /// Commands of the node that answers, by what they are for.
    commands: Vec<RedisCommandStats>,
    /// Keys in Redis, of all kinds, as of the last look.
    keys: u64,
    /// Of those, the ones from which `l2Entries` and `l2Bytes` of namespaces are estimated.
    keys_sampled: u64,
}

#[derive(Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct RedisCommandStats {
    command: String,
    /// Answered, or given up after they were sent.
    commands: u64,
    mean_seconds: f64,
    /// Upper end of a bucket; null when above all of them.
    p50_seconds_at_most: Option<f64>,
    p99_seconds_at_most: Option<f64>,
}

#[derive(Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct RedisClusterStats {
    nodes: u32,
    /// Nodes that others could not reach for a while.
    failing: u32,
    partitions: u32,
    /// Partitions whose primary answered the last probe.
    partitions_served: u32,
    /// Primaries with slots.
    shards: Vec<RedisShardStats>,
}

#[derive(Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct RedisShardStats {
    address: String,
    slots: u32,
    replicas: u32,
    partitions: u32,
    /// False also where it has none of the partitions, for it is not asked.
    answers: bool,
    redis_info: BTreeMap<String, String>,
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
    l3_hits: u64,
    origin_hits: u64,
    /// Reads answered with the knowledge that there is nothing.
    negatives: u64,
    stale: u64,
    /// Hits of all reads; null before the first read.
    hit_rate: Option<f64>,
    /// Hits of the last 1,000 reads; null when there are none.
    recent_hit_rate: Option<f64>,
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
    degraded: u64,
    recent: RecentOperations,
}

/// The last up to 1,000 operations of each kind.
#[derive(Clone, Serialize, ToSchema)]
struct RecentOperations {
    get: OperationWindow,
    set: OperationWindow,
    delete: OperationWindow,
}

#[derive(Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct OperationWindow {
    operations: u64,
    mean_seconds: f64,
    p50_seconds: f64,
    p95_seconds: f64,
    p99_seconds: f64,
}

#[derive(Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct NamespaceStats {
    namespace: String,
    gets: u64,
    hits: u64,
    misses: u64,
    stale: u64,
    sets: u64,
    l1_hits: u64,
    l2_hits: u64,
    l3_hits: u64,
    origin_hits: u64,
    l1_entries: u64,
    l1_bytes: u64,
    l1_evictions: u64,
    /// `lfu`, `lru`, `ttl` or `fifo`.
    eviction: String,
    /// Reads for which a layer was asked and which it did not answer.
    l1_misses: u64,
    l2_misses: u64,
    l3_misses: u64,
    l3_entries: u64,
    l3_bytes: u64,
    l3_evictions: u64,
    /// Of all nodes, estimated from a sample of the keys in Redis: see `redisStats.keysSampled`.
    l2_entries: u64,
    l2_bytes: u64,
    /// Of `stale`, by the layer that had the entry.
    l1_stale: u64,
    l2_stale: u64,
    l3_stale: u64,
}

#[derive(Clone, Serialize, ToSchema)]
struct OriginStats {
    name: String,
    /// `grpc` or `http`.
    kind: String,
    /// `closed`, `half_open` or `open`: that of the endpoint which it is best with.
    breaker: String,
    endpoints: Vec<OriginEndpointStats>,
}

#[derive(Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct OriginEndpointStats {
    endpoint: String,
    breaker: String,
    in_flight: u32,
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
                degraded: operations.degraded,
                recent: RecentOperations {
                    get: operations.get_window.unwrap_or_default().into(),
                    set: operations.set_window.unwrap_or_default().into(),
                    delete: operations.delete_window.unwrap_or_default().into(),
                },
            },
            disk: stats.disk.map(DiskStats::from),
            log_position: stats.log_position,
            namespaces: stats.namespaces.into_iter().map(NamespaceStats::from).collect(),
            origins: stats.origins.into_iter().map(OriginStats::from).collect(),
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
                cluster: None,
                commands: Vec::new(),
                keys: 0,
                keys_sampled: 0,
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
            cluster: redis.cluster.map(RedisClusterStats::from),
            commands: redis.commands.into_iter().map(RedisCommandStats::from).collect(),
            keys: redis.keys,
            keys_sampled: redis.keys_sampled,
        }
    }
}

impl From<wire::RedisCommandStats> for RedisCommandStats {
    fn from(stats: wire::RedisCommandStats) -> Self {
        Self {
            command: stats.command,
            commands: stats.commands,
            mean_seconds: stats.mean_seconds,
            p50_seconds_at_most: stats.p50_seconds_at_most,
            p99_seconds_at_most: stats.p99_seconds_at_most,
        }
    }
}

impl From<wire::RedisClusterStats> for RedisClusterStats {
    fn from(cluster: wire::RedisClusterStats) -> Self {
        let shard = |shard: wire::RedisShardStats| RedisShardStats {
            address: shard.address,
            slots: shard.slots,
            replicas: shard.replicas,
            partitions: shard.partitions,
            answers: shard.answers,
            redis_info: shard.info.into_iter().collect(),
        };
        Self {
            nodes: cluster.nodes,
            failing: cluster.failing,
            partitions: cluster.partitions,
            partitions_served: cluster.partitions_served,
            shards: cluster.shards.into_iter().map(shard).collect(),
        }
    }
}

impl From<&wire::OperationStats> for CacheHitStats {
    fn from(operations: &wire::OperationStats) -> Self {
        let below = operations.l2_hits + operations.l3_hits + operations.origin_hits;
        let hits = operations.l1_hits + below;
        Self {
            gets: operations.gets,
            hits,
            l1_hits: operations.l1_hits,
            l2_hits: operations.l2_hits,
            misses: operations.misses,
            l3_hits: operations.l3_hits,
            origin_hits: operations.origin_hits,
            negatives: operations.negatives,
            stale: operations.stale,
            recent_hit_rate: operations.get_window.as_ref().and_then(|window| window.hit_ratio),
            hit_rate: (operations.gets > 0).then(|| hits as f64 / operations.gets as f64),
        }
    }
}

impl From<wire::NamespaceStats> for NamespaceStats {
    fn from(stats: wire::NamespaceStats) -> Self {
        Self {
            namespace: stats.namespace,
            gets: stats.gets,
            hits: stats.hits,
            misses: stats.misses,
            stale: stats.stale,
            sets: stats.sets,
            l1_hits: stats.l1_hits,
            l2_hits: stats.l2_hits,
            l3_hits: stats.l3_hits,
            origin_hits: stats.origin_hits,
            l1_entries: stats.l1_entries,
            l1_bytes: stats.l1_bytes,
            l1_evictions: stats.l1_evictions,
            eviction: stats.eviction,
            l1_misses: stats.l1_misses,
            l2_misses: stats.l2_misses,
            l3_misses: stats.l3_misses,
            l3_entries: stats.l3_entries,
            l3_bytes: stats.l3_bytes,
            l3_evictions: stats.l3_evictions,
            l2_entries: stats.l2_entries,
            l2_bytes: stats.l2_bytes,
            l1_stale: stats.l1_stale,
            l2_stale: stats.l2_stale,
            l3_stale: stats.l3_stale,
        }
    }
}

impl From<wire::OriginStats> for OriginStats {
    fn from(origin: wire::OriginStats) -> Self {
        let endpoints = origin.endpoints.into_iter().map(|endpoint| OriginEndpointStats {
            endpoint: endpoint.endpoint,
            breaker: endpoint.breaker,
            in_flight: endpoint.in_flight,
        });
        Self { endpoints: endpoints.collect(), name: origin.name, kind: origin.kind, breaker: origin.breaker }
    }
}

impl From<wire::WindowStats> for OperationWindow {
    fn from(window: wire::WindowStats) -> Self {
        Self {
            operations: window.operations,
            mean_seconds: window.mean_seconds,
            p50_seconds: window.p50_seconds,
            p95_seconds: window.p95_seconds,
            p99_seconds: window.p99_seconds,
        }
    }
}

impl From<wire::DiskStats> for DiskStats {
    fn from(disk: wire::DiskStats) -> Self {
        Self {
            available: disk.available,
            entries: disk.entries,
            bytes: disk.bytes,
            capacity_bytes: disk.capacity_bytes,
            dropped: disk.dropped,
            damaged: disk.damaged,
        }
    }
}
