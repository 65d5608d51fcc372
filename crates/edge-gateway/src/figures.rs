//! Every metric of the edge, once.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::recent::Recent;

/// Upper bounds of the request histogram, in seconds.
const SECONDS: [f64; 12] = [0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    method: &'static str,
    /// Template of the route, never the path.
    route: String,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TimeLabels {
    method: &'static str,
    route: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClassLabels {
    class: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CountedLabels {
    /// "shared", or "alone" where the shared count gave no answer.
    counted: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WayLabels {
    /// "stream", or "call".
    way: &'static str,
}

/// Rate, errors and duration per route; refusals at the door.
#[derive(Clone)]
pub(crate) struct Figures {
    requests: Family<RouteLabels, Counter>,
    seconds: Family<TimeLabels, Histogram>,
    limited: Family<ClassLabels, Counter>,
    limit_asks: Family<CountedLabels, Counter>,
    stored_keys: Gauge,
    stored_keys_age_seconds: Gauge,
    audit_waiting: Gauge,
    audit_dropped: Counter,
    pub(crate) recent: Arc<Recent>,
    pub(crate) in_flight: Gauge,
    pub(crate) shed: Counter,
    pub(crate) unauthorized: Counter,
    /// Streams to the cache that are open.
    pub(crate) cache_streams: Gauge,
    cache_reads: Family<WayLabels, Counter>,
    pub(crate) streamed_reads: Counter,
    pub(crate) called_reads: Counter,
}

impl Figures {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let cache_reads = Family::default();
        let reads = |way| cache_reads.get_or_create_owned(&WayLabels { way });
        let figures = Self {
            requests: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            limited: Family::default(),
            limit_asks: Family::default(),
            stored_keys: Gauge::default(),
            stored_keys_age_seconds: Gauge::default(),
            audit_waiting: Gauge::default(),
            audit_dropped: Counter::default(),
            recent: Arc::default(),
            in_flight: Gauge::default(),
            shed: Counter::default(),
            unauthorized: Counter::default(),
            cache_streams: Gauge::default(),
            streamed_reads: reads("stream"),
            called_reads: reads("call"),
            cache_reads,
        };
        let registry = registry.sub_registry_with_prefix("mainstay_edge");
        registry.register("requests", "Requests answered", figures.requests.clone());
        registry.register(
            "request_seconds",
            "Time from request head to answer head",
            figures.seconds.clone(),
        );
        registry.register("limited", "Requests refused for being over a limit", figures.limited.clone());
        registry.register(
            "limit_asks",
            "Questions to the shared count of requests",
            figures.limit_asks.clone(),
        );
        registry.register("in_flight", "Requests under way", figures.in_flight.clone());
        registry.register("shed", "Requests refused because too many were under way", figures.shed.clone());
        registry.register(
            "unauthorized",
            "Requests with missing or bad credentials",
            figures.unauthorized.clone(),
        );
        figures.register_access(registry);
        figures.register_cache(registry);
        figures
    }

    fn register_access(&self, registry: &mut Registry) {
        let figures = [
            ("stored_keys", "API keys made over REST that are trusted", &self.stored_keys),
            (
                "stored_keys_age_seconds",
                "Time since monitor-service confirmed them",
                &self.stored_keys_age_seconds,
            ),
            ("audit_waiting", "Changes that are not on record yet", &self.audit_waiting),
        ];
        for (name, help, gauge) in figures {
            registry.register(name, help, gauge.clone());
        }
        registry.register(
            "audit_dropped",
            "Changes that never came on record: too many waited, or they were refused",
            self.audit_dropped.clone(),
        );
    }

    fn register_cache(&self, registry: &mut Registry) {
        registry.register("cache_streams", "Streams to the cache that are open", self.cache_streams.clone());
        registry.register(
            "cache_reads",
            "Reads of the cache, by how they travelled",
            self.cache_reads.clone(),
        );
    }

    /// Counts one answered request.
    pub(crate) fn answered(&self, method: &http::Method, route: &str, status: u16, took: Duration) {
        self.recent.answered(status >= 500, took);
        let method = method_label(method);
        self.requests.get_or_create(&RouteLabels { method, route: route.to_owned(), status }).inc();
        self.seconds
            .get_or_create(&TimeLabels { method, route: route.to_owned() })
            .observe(took.as_secs_f64());
    }
}

impl Figures {
    /// Counts one request that was over its limit.
    pub(crate) fn limited(&self, class: &'static str) {
        self.limited.get_or_create(&ClassLabels { class }).inc();
    }

    /// Tells how many stored keys are trusted, and for how long nobody has confirmed them.
    pub(crate) fn stored_keys(&self, n_keys: usize, age: Duration) {
        self.stored_keys.set(i64::try_from(n_keys).unwrap_or(i64::MAX));
        self.stored_keys_age_seconds.set(i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
    }

    /// Tells how many changes wait to be put on record, and counts those that are lost.
    pub(crate) fn audited(&self, waiting: usize, dropped: usize) {
        self.audit_waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        self.audit_dropped.inc_by(dropped as u64);
    }

    /// Counts one question to the shared count.
    pub(crate) fn limit_asked(&self, counted: &'static str) {
        self.limit_asks.get_or_create(&CountedLabels { counted }).inc();
    }
}

/// Keeps the label set closed: a client can send any word as a method.
pub(crate) fn method_label(method: &http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}
