//! Every metric of the monitor. Names start with `mainstay_monitor_`.

use std::time::{Duration, SystemTime};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::alert::{Counts, Severity};
use crate::rule::Origin;
use crate::series::{History, Recorded};
use crate::store::Tier;

/// Holds the instruments.
#[derive(Debug, Clone)]
pub(crate) struct MonitorMetrics {
    pulls: Family<PullLabels, Counter>,
    pull_seconds: Histogram,
    series: Gauge,
    history_bytes: Gauge,
    series_refused: Counter,
    samples: Counter,
    alerts_firing: Family<SeverityLabel, Gauge>,
    alerts_refused: Counter,
    evaluations: Counter,
    evaluation_seconds: Histogram,
    rule_looks: Counter,
    store_failures: Counter,
    store_dropped: Counter,
    store_bytes: Gauge,
    store_trimmed_points: Counter,
    store_folded_points: Family<TierLabel, Counter>,
    store_folded_bytes: Family<TierLabel, Counter>,
    store_folded_blocks: Family<TierLabel, Counter>,
    store_damaged: Family<TierLabel, Counter>,
    store_moved_points: Counter,
    store_copy_failures: Counter,
    store_copied_at: Gauge,
    notifications: Family<NotificationLabels, Counter>,
    notified_events: Family<ChannelLabel, Counter>,
    notified_alone: Family<ChannelLabel, Counter>,
    taken_over: Family<KindLabel, Counter>,
    rules: Family<OriginLabel, Gauge>,
    dns_lookups: Family<PullLabels, Counter>,
    dns_instances: Family<ServiceLabel, Gauge>,
}

/// Says how a pull went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PullResult {
    /// The target answered everything.
    Ok,
    /// It answered, but its metrics could not be read.
    Partial,
    /// It did not answer.
    Failed,
}

/// Says what looking up the names of a service gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LookupResult {
    /// The addresses of all.
    Ok,
    /// Of some places, not of all.
    Partial,
    /// Nothing.
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PullLabels {
    service: String,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NotificationLabels {
    channel: String,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ChannelLabel {
    channel: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServiceLabel {
    service: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OriginLabel {
    origin: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TierLabel {
    tier: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SeverityLabel {
    severity: &'static str,
}

const PULL_SECONDS: [f64; 10] = [0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0];
const EVALUATION_SECONDS: [f64; 8] = [0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.005, 0.025, 0.1];

impl MonitorMetrics {
    /// Registers every metric.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            pulls: Family::default(),
            pull_seconds: Histogram::new(PULL_SECONDS),
            series: Gauge::default(),
            history_bytes: Gauge::default(),
            series_refused: Counter::default(),
            samples: Counter::default(),
            alerts_firing: Family::default(),
            alerts_refused: Counter::default(),
            evaluations: Counter::default(),
            evaluation_seconds: Histogram::new(EVALUATION_SECONDS),
            rule_looks: Counter::default(),
            store_failures: Counter::default(),
            store_dropped: Counter::default(),
            store_bytes: Gauge::default(),
            store_trimmed_points: Counter::default(),
            store_folded_points: Family::default(),
            store_folded_bytes: Family::default(),
            store_folded_blocks: Family::default(),
            store_damaged: Family::default(),
            store_moved_points: Counter::default(),
            store_copy_failures: Counter::default(),
            store_copied_at: Gauge::default(),
            notifications: Family::default(),
            notified_events: Family::default(),
            notified_alone: Family::default(),
            taken_over: Family::default(),
            rules: Family::default(),
            dns_lookups: Family::default(),
            dns_instances: Family::default(),
        };
        metrics.firing(Counts::default());
        let registry = registry.sub_registry_with_prefix("mainstay_monitor");
        registry.register("pulls", "Pulls by service and result", metrics.pulls.clone());
        registry.register("pull_seconds", "Time of pulls that were answered", metrics.pull_seconds.clone());
        registry.register("series", "Series held in memory", metrics.series.clone());
        registry.register("history_bytes", "Memory of the samples held", metrics.history_bytes.clone());
        registry.register(
            "series_refused",
            "Samples turned away because history.max_series is reached",
            metrics.series_refused.clone(),
        );
        registry.register("samples", "Samples stored", metrics.samples.clone());
        registry.register("alerts_firing", "Alerts firing now", metrics.alerts_firing.clone());
        registry.register(
            "alerts_refused",
            "Conditions not tracked because alerts.keep alerts are open",
            metrics.alerts_refused.clone(),
        );
        registry.register("evaluations", "Evaluations of the rules", metrics.evaluations.clone());
        registry.register(
            "rule_looks",
            "Targets looked at with all rules about figures: each when it was read",
            metrics.rule_looks.clone(),
        );
        registry.register(
            "evaluation_seconds",
            "Time of one evaluation: all rules, of what was read since the last one",
            metrics.evaluation_seconds.clone(),
        );
        registry.register("store_failures", "Commits that failed", metrics.store_failures.clone());
        registry.register(
            "store_dropped",
            "Writes that the queue of the store had no room for",
            metrics.store_dropped.clone(),
        );
        registry.register("store_bytes", "Bytes of what is stored", metrics.store_bytes.clone());
        registry.register(
            "store_trimmed_points",
            "Points of history that went before their time because of store.max_size",
            metrics.store_trimmed_points.clone(),
        );
        registry.register(
            "store_folded_points",
            "Rolled-up points folded into blocks, by tier: 10s, 1m, 1h",
            metrics.store_folded_points.clone(),
        );
        registry.register(
            "store_folded_bytes",
            "Bytes of the blocks that points were folded into, by tier",
            metrics.store_folded_bytes.clone(),
        );
        registry.register(
            "store_folded_blocks",
            "Blocks that points were folded into, by tier",
            metrics.store_folded_blocks.clone(),
        );
        registry.register(
            "store_damaged",
            "Reads of stored history that met a damaged block or step, by tier",
            metrics.store_damaged.clone(),
        );
        registry.register(
            "store_moved_points",
            "Points moved out of the tables of an earlier version",
            metrics.store_moved_points.clone(),
        );
        registry.register(
            "store_copy_failures",
            "Copies of the store for backups that failed",
            metrics.store_copy_failures.clone(),
        );
        registry.register(
            "store_copied_at_seconds",
            "When the store was last copied for backups, in seconds since 1970; 0 is never",
            metrics.store_copied_at.clone(),
        );
        registry.register(
            "notifications",
            "Attempts to notify by channel and result: delivered, failed, dropped, elsewhere",
            metrics.notifications.clone(),
        );
        registry.register(
            "notified_events",
            "Events that delivered messages told of, by channel: several in one where a channel groups",
            metrics.notified_events.clone(),
        );
        registry.register(
            "notified_alone",
            "Messages that other monitors may send too, because Redis did not answer, by channel",
            metrics.notified_alone.clone(),
        );
        registry.register(
            "taken_over",
            "Acknowledgements and silences taken over from other monitors, by kind",
            metrics.taken_over.clone(),
        );
        registry.register(
            "dns_lookups",
            "Lookups of the names of services by service and result: ok, partial, failed",
            metrics.dns_lookups.clone(),
        );
        registry.register(
            "dns_instances",
            "Instances of a service that DNS names",
            metrics.dns_instances.clone(),
        );
        registry.register("rules", "Rules about figures in force, by origin", metrics.rules.clone());
        metrics
    }

    pub(crate) fn store_failed(&self) {
        self.store_failures.inc();
    }

    pub(crate) fn store_dropped(&self) {
        self.store_dropped.inc();
    }

    pub(crate) fn store_size(&self, bytes: u64) {
        self.store_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    pub(crate) fn store_trimmed(&self, n_points: usize) {
        self.store_trimmed_points.inc_by(n_points as u64);
    }

    pub(crate) fn store_folded(&self, tier: Tier, n_points: usize, n_bytes: usize) {
        let label = TierLabel { tier: tier.name() };
        self.store_folded_points.get_or_create(&label).inc_by(n_points as u64);
        self.store_folded_bytes.get_or_create(&label).inc_by(n_bytes as u64);
        self.store_folded_blocks.get_or_create(&label).inc();
    }

    pub(crate) fn store_damaged(&self, tier: Tier) {
        self.store_damaged.get_or_create(&TierLabel { tier: tier.name() }).inc();
    }

    pub(crate) fn store_moved(&self, n_points: usize) {
        self.store_moved_points.inc_by(n_points as u64);
    }

    pub(crate) fn store_copied(&self, at: SystemTime) {
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.store_copied_at.set(i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
    }

    pub(crate) fn store_copy_failed(&self) {
        self.store_copy_failures.inc();
    }

    pub(crate) fn notified(&self, channel: &str, result: &'static str) {
        self.notifications.get_or_create(&NotificationLabels { channel: channel.to_owned(), result }).inc();
    }

    pub(crate) fn told_of(&self, channel: &str, n_events: usize) {
        let label = ChannelLabel { channel: channel.to_owned() };
        self.notified_events.get_or_create(&label).inc_by(n_events as u64);
    }

    pub(crate) fn notified_alone(&self, channel: &str) {
        self.notified_alone.get_or_create(&ChannelLabel { channel: channel.to_owned() }).inc();
    }

    pub(crate) fn taken_over(&self, kind: &'static str) {
        self.taken_over.get_or_create(&KindLabel { kind }).inc();
    }

    pub(crate) fn looked_up(&self, service: &str, result: LookupResult) {
        let result = match result {
            LookupResult::Ok => "ok",
            LookupResult::Partial => "partial",
            LookupResult::Failed => "failed",
        };
        self.dns_lookups.get_or_create(&PullLabels { service: service.to_owned(), result }).inc();
    }

    pub(crate) fn in_dns(&self, service: &str, n: usize) {
        let label = ServiceLabel { service: service.to_owned() };
        self.dns_instances.get_or_create(&label).set(i64::try_from(n).unwrap_or(i64::MAX));
    }

    pub(crate) fn rules_in_force(&self, counts: &[(Origin, usize)]) {
        for (origin, n) in counts {
            let label = OriginLabel { origin: origin.as_str() };
            self.rules.get_or_create(&label).set(i64::try_from(*n).unwrap_or(i64::MAX));
        }
    }

    pub(crate) fn pulled(&self, service: &str, result: PullResult, took: Option<Duration>) {
        let result = match result {
            PullResult::Ok => "ok",
            PullResult::Partial => "partial",
            PullResult::Failed => "failed",
        };
        self.pulls.get_or_create(&PullLabels { service: service.to_owned(), result }).inc();
        if let Some(took) = took {
            self.pull_seconds.observe(took.as_secs_f64());
        }
    }

    pub(crate) fn recorded(&self, recorded: Recorded, history: &History) {
        self.samples.inc_by(recorded.stored as u64);
        self.series_refused.inc_by(recorded.refused as u64);
        self.series.set(i64::try_from(history.len()).unwrap_or(i64::MAX));
    }

    pub(crate) fn history_size(&self, bytes: usize) {
        self.history_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    pub(crate) fn evaluated(&self, took: Duration, n_looks: usize, refused: usize) {
        self.evaluations.inc();
        self.rule_looks.inc_by(n_looks as u64);
        self.evaluation_seconds.observe(took.as_secs_f64());
        self.alerts_refused.inc_by(refused as u64);
    }

    pub(crate) fn firing(&self, counts: Counts) {
        for severity in Severity::ALL {
            let label = SeverityLabel { severity: severity.as_str() };
            self.alerts_firing.get_or_create(&label).set(i64::from(counts.of(severity)));
        }
    }
}
