use mainstay_proto::replica::v1::CacheState;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// What the query cache did.
#[derive(Debug, Clone, Default)]
pub(crate) struct CacheMetrics {
    reads: Family<Answered, Counter>,
    pub outdated: Counter,
    pub stored: Counter,
    pub not_stored: Counter,
    pub pending: Gauge,
    pub flight_landed: Counter,
    pub flight_late: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    result: &'static str,
}

impl CacheMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("cache_reads", "Reads that wished an answer from the cache", self.reads.clone());
        registry.register(
            "cache_outdated",
            "Answers found and not given: a write came after them, or the caller wanted a newer one",
            self.outdated.clone(),
        );
        registry.register("cache_stored", "Answers kept", self.stored.clone());
        registry.register("cache_not_stored", "Answers too large, or not taken", self.not_stored.clone());
        registry.register(
            "cache_pending",
            "Tags of writes that the cache has not confirmed yet",
            self.pending.clone(),
        );
        registry.register(
            "cache_flights_landed",
            "Answers that another process brought while this one waited for it",
            self.flight_landed.clone(),
        );
        registry.register(
            "cache_flights_late",
            "Reads that waited for another process for cache.flight_within, and then asked the database",
            self.flight_late.clone(),
        );
    }

    pub(crate) fn read(&self, state: CacheState) {
        self.reads.get_or_create(&Answered { result: name(state) }).inc();
    }

    pub(crate) fn reads(&self, state: CacheState) -> u64 {
        self.reads.get_or_create(&Answered { result: name(state) }).get()
    }
}

fn name(state: CacheState) -> &'static str {
    match state {
        CacheState::CacheHit => "hit",
        CacheState::CacheMiss => "miss",
        CacheState::CacheShared => "shared",
        CacheState::CacheBypassed => "bypassed",
        CacheState::CacheOff | CacheState::Unspecified => "off",
    }
}
