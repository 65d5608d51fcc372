//! What history tells when it is looked at; the statistics are in [`crate::analysis`].

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use mainstay_runtime::Health;

use super::Monitor;
use crate::analysis::bottleneck::{self, Cause, Evidence, Kind, SIGNALS, Signal};
use crate::analysis::endpoint::{self, Endpoint, Gained, Red};
use crate::analysis::slo::increase;
use crate::analysis::steps::Steps;
use crate::analysis::words;

use crate::series::{InvalidRange, Range, SeriesSamples, is_counter};
use crate::store::StoreError;

/// Holds one series at even steps.
#[derive(Debug, Clone)]
pub(crate) struct SteppedSeries {
    /// Labels, the target's included.
    pub labels: BTreeMap<String, String>,
    /// Its figures; of a counter, the increase per second.
    pub steps: Steps,
}

/// Says why history was not looked at.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LookError {
    /// There is no such stretch.
    #[error("the range is not possible")]
    Range(#[source] InvalidRange),
    /// The store does not answer.
    #[error("the store does not answer")]
    Store(#[source] StoreError),
}

/// Series looked at for one answer.
pub(crate) const LOOKED_AT_MAX: usize = 50;
/// Causes in one answer.
const CAUSES_MAX: usize = 50;

/// Adds what a series gained to its endpoint.
type Add<'a> = &'a dyn Fn(&mut Gained, &BTreeMap<String, String>, f64);

const REST_TOTAL: &str = "mainstay_edge_requests_total";
const REST_SECONDS: &str = "mainstay_edge_request_seconds";
const GRPC_TOTAL: &str = "mainstay_rpc_requests_total";
const GRPC_SECONDS: &str = "mainstay_rpc_request_seconds";

/// What every service shows of its components: 1 unhealthy, 2 degraded, 3 healthy.
const COMPONENT_HEALTH: &str = "mainstay_component_health";
const HEALTHY: f64 = 3.0;

impl Monitor {
    /// Reads series at even steps, from memory and the store; true when more matched than are looked at.
    pub(crate) async fn stepped(
        &self,
        metric: &str,
        labels: &BTreeMap<String, String>,
        (from, to): (SystemTime, SystemTime),
        step: Duration,
    ) -> Result<(Vec<SteppedSeries>, bool), LookError> {
        let range = Range::try_new(metric, labels.clone(), from, to, step).map_err(LookError::Range)?;
        let answer = self.range(&range).await.map_err(LookError::Store)?;
        let truncated = answer.truncated || answer.series.len() > LOOKED_AT_MAX;
        let counter = is_counter(metric);
        let series = answer.series.into_iter().take(LOOKED_AT_MAX).map(|series| {
            let points =
                series.points.iter().map(|point| (point.at, if counter { point.last } else { point.mean }));
            let steps = Steps::new((from, to), step, points);
            let steps = if counter { steps.per_second() } else { steps };
            SteppedSeries { labels: series.labels, steps }
        });
        Ok((series.collect(), truncated))
    }

    /// Sums up every route and method over the last `window`, ending `ago`.
    pub(crate) fn endpoints(&self, window: Duration, ago: Duration) -> Vec<Red> {
        let now = self.clock.now();
        let to = now.checked_sub(ago).unwrap_or(now);
        let from = to.checked_sub(window).unwrap_or(SystemTime::UNIX_EPOCH);
        let mut gained: BTreeMap<Endpoint, Gained> = BTreeMap::new();
        let rest = |labels: &BTreeMap<String, String>| {
            let route = labels.get("route")?;
            Some(format!("{} {route}", labels.get("method")?))
        };
        let grpc = |labels: &BTreeMap<String, String>| labels.get("method").cloned();
        let history = self.history.lock();
        let mut walk = |metric: &str, protocol: &'static str, add: Add<'_>| {
            for series in history.samples(metric, &BTreeMap::new(), from) {
                let name = if protocol == "rest" { rest(&series.labels) } else { grpc(&series.labels) };
                let Some((name, service)) = name.zip(series.labels.get("service").cloned()) else { continue };
                let entry = gained.entry(Endpoint { service, protocol, name }).or_default();
                add(entry, &series.labels, grown(&series, to));
            }
        };
        for (protocol, total, seconds, how) in
            [("rest", REST_TOTAL, REST_SECONDS, "status"), ("grpc", GRPC_TOTAL, GRPC_SECONDS, "code")]
        {
            walk(total, protocol, &|gained, labels, by| {
                let how = labels.get(how).cloned().unwrap_or_default();
                *gained.answered.entry(how).or_default() += by;
            });
            walk(&format!("{seconds}_count"), protocol, &|gained, _, by| gained.timed += by);
            walk(&format!("{seconds}_sum"), protocol, &|gained, _, by| gained.seconds += by);
            walk(&format!("{seconds}_bucket"), protocol, &|gained, labels, by| {
                let Some(bound) = labels.get("le").and_then(|le| le.parse::<f64>().ok()) else { return };
                let place = gained.buckets.partition_point(|(other, _)| *other < bound);
                match gained.buckets.get_mut(place).filter(|(other, _)| *other == bound) {
                    Some((_, count)) => *count += by,
                    None => gained.buckets.insert(place, (bound, by)),
                }
            });
        }
        drop(history);
        endpoint::sum_up(gained, window)
    }

    /// Ranks what holds the system up, looking at the last `window` and as long before.
    pub(crate) fn bottlenecks(&self, window: Duration) -> Vec<Cause> {
        let mut causes = bottleneck::of_endpoints(
            &self.endpoints(window, Duration::ZERO),
            &self.endpoints(window, window),
        );
        causes.extend(SIGNALS.iter().flat_map(|signal| self.signal(signal, window)));
        causes.extend(self.ill_components());
        bottleneck::rank(causes, CAUSES_MAX)
    }

    fn signal(&self, signal: &Signal, window: Duration) -> Vec<Cause> {
        let now = self.clock.now();
        let from = now.checked_sub(window).unwrap_or(SystemTime::UNIX_EPOCH);
        let none = BTreeMap::new();
        let (series, divisors) = {
            let history = self.history.lock();
            let divisors =
                signal.divisor.map(|metric| history.samples(metric, &none, from)).unwrap_or_default();
            (history.samples(signal.metric, &none, from), divisors)
        };
        let figure = |series: &SeriesSamples| {
            if is_counter(signal.metric) {
                return Some(grown(series, now) / window.as_secs_f64());
            }
            let n = series.samples.len() as f64;
            let mean = series.samples.iter().map(|(_, value)| value / n).sum::<f64>();
            if signal.divisor.is_none() {
                return Some(mean);
            }
            let of = divisors.iter().find(|other| other.labels == series.labels)?;
            let whole = of.samples.iter().map(|(_, value)| *value).fold(0.0, f64::max);
            (whole > 0.0).then(|| mean / whole)
        };
        let cause = |series: &SeriesSamples| bottleneck::of_signal(signal, &series.labels, figure(series)?);
        series.iter().filter_map(cause).collect()
    }

    fn ill_components(&self) -> Vec<Cause> {
        let roster = self.roster.lock();
        let mut causes = Vec::new();
        for entry in roster.entries() {
            for component in entry.current().into_iter().flat_map(|report| &report.components) {
                let (score, value) = match (component.health, component.critical) {
                    (Health::Unhealthy, true) => (1.0, 1.0),
                    (Health::Unhealthy, false) => (0.6, 1.0),
                    (Health::Degraded, _) => (0.3, 2.0),
                    (Health::Healthy | Health::Unknown, _) => continue,
                };
                causes.push(Cause {
                    kind: Kind::Errors,
                    source: entry.target.service.clone(),
                    subject: component.name.clone(),
                    score,
                    summary: words::because(
                        &format!("{} is {}", component.name, component.health.as_str()),
                        &component.detail,
                    ),
                    evidence: vec![Evidence { metric: COMPONENT_HEALTH.to_owned(), value, level: HEALTHY }],
                });
            }
        }
        causes
    }
}

fn grown(series: &SeriesSamples, to: SystemTime) -> f64 {
    increase(series.samples.iter().take_while(|(at, _)| *at <= to).map(|(_, value)| *value))
}
