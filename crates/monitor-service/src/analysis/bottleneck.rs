//! What holds a system up: causes with their evidence, the worst first.

use super::endpoint::Red;

/// Names one thing that holds a system up.
#[derive(Debug, Clone, PartialEq)]
pub struct Cause {
    /// What is wrong with it.
    pub kind: Kind,
    /// Where: a service, or `host`.
    pub source: String,
    /// What: a pool, a route, a disk.
    pub subject: String,
    /// 0 (nothing) to 1 (nothing goes any more).
    pub score: f64,
    /// One line for a person.
    pub summary: String,
    /// The figures it rests on.
    pub evidence: Vec<Evidence>,
}

/// Holds a figure that speaks for a cause.
#[derive(Debug, Clone, PartialEq)]
pub struct Evidence {
    /// Name of the metric.
    pub metric: String,
    /// What it was.
    pub value: f64,
    /// What it is compared with.
    pub level: f64,
}

/// Says what is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Nearly all of it is in use.
    Saturation,
    /// It fails.
    Errors,
    /// It takes longer than it did.
    Latency,
    /// Work waits for it.
    Queueing,
}

impl Kind {
    /// Returns the lower-case name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Saturation => "saturation",
            Self::Errors => "errors",
            Self::Latency => "latency",
            Self::Queueing => "queueing",
        }
    }
}

/// Says how a gauge, or the rate of a counter, becomes a cause.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Signal {
    /// Name of the metric.
    pub metric: &'static str,
    /// What it is divided by, series by series; none when it is a share, a time or a rate by itself.
    pub divisor: Option<&'static str>,
    /// What it speaks for.
    pub kind: Kind,
    /// From here on it is worth naming.
    pub from: f64,
    /// From here on it is as bad as can be.
    pub full: f64,
    /// Words for it, before the figure.
    pub words: &'static str,
}

const fn signal(metric: &'static str, kind: Kind, (from, full): (f64, f64), words: &'static str) -> Signal {
    Signal { metric, divisor: None, kind, from, full, words }
}

/// All that is looked at besides endpoints. Of counters (`_total`) it is the increase per second.
pub const SIGNALS: [Signal; 13] = [
    signal("host_cpu_used_ratio", Kind::Saturation, (0.7, 1.0), "share of CPU in use"),
    signal("host_memory_used_ratio", Kind::Saturation, (0.8, 1.0), "share of memory in use"),
    signal("host_disk_used_ratio", Kind::Saturation, (0.8, 1.0), "share of disk in use"),
    signal("host_fds_used_ratio", Kind::Saturation, (0.7, 1.0), "share of file descriptors in use"),
    signal("host_pressure_ratio", Kind::Queueing, (0.1, 0.8), "share of time in which work waits"),
    Signal {
        metric: "mainstay_replica_pool_in_use",
        divisor: Some("mainstay_replica_pool_size"),
        kind: Kind::Saturation,
        from: 0.8,
        full: 1.0,
        words: "share of database connections in use",
    },
    Signal {
        metric: "mainstay_replica_pool_waiting",
        divisor: Some("mainstay_replica_pool_size"),
        kind: Kind::Queueing,
        from: 0.05,
        full: 1.0,
        words: "requests waiting per database connection",
    },
    signal(
        "mainstay_replica_pool_timeouts_total",
        Kind::Errors,
        (0.0, 1.0),
        "waits for a connection given up per second",
    ),
    signal(
        "mainstay_replica_node_staleness_seconds",
        Kind::Queueing,
        (2.0, 30.0),
        "seconds a replica is behind",
    ),
    signal(
        "mainstay_rpc_shed_total",
        Kind::Queueing,
        (0.0, 10.0),
        "requests refused for overload per second",
    ),
    signal(
        "mainstay_edge_shed_total",
        Kind::Queueing,
        (0.0, 10.0),
        "requests refused for overload per second",
    ),
    signal(
        "mainstay_ws_slow_disconnects_total",
        Kind::Queueing,
        (0.0, 5.0),
        "slow clients cut off per second",
    ),
    signal(
        "mainstay_background_failures_total",
        Kind::Errors,
        (0.0, 1.0),
        "failed background rounds per second",
    ),
];

/// Where errors of an endpoint are worth naming, and as bad as can be.
const ERRORS: (f64, f64) = (0.01, 0.5);
/// Requests in a second below which an endpoint says nothing.
const RATE_MIN: f64 = 0.05;
/// How much slower than before is worth naming, and as bad as can be.
const SLOWER: (f64, f64) = (1.5, 10.0);
/// Seconds of work in a second below which slowness is of no weight.
const BUSY_MIN: f64 = 0.01;
/// A mean below this is not slow, whatever it was before.
const MEAN_MIN_S: f64 = 0.002;

/// Turns a figure of a signal into a cause, if it is worth naming.
pub fn of_signal(signal: &Signal, source: &str, subject: &str, value: f64) -> Option<Cause> {
    let score = between(value, (signal.from, signal.full))?;
    let metric = signal.metric.to_owned();
    let subject = if subject.is_empty() { metric.clone() } else { subject.to_owned() };
    Some(Cause {
        kind: signal.kind,
        source: source.to_owned(),
        summary: format!("{}: {} of {subject}", signal.words, shown(value)),
        subject,
        score,
        evidence: vec![Evidence { metric, value, level: signal.from }],
    })
}

/// Finds endpoints that fail, or take longer than they did before.
pub fn of_endpoints(now: &[Red], before: &[Red]) -> Vec<Cause> {
    let mut causes = Vec::new();
    let total_busy: f64 = now.iter().map(|red| red.busy).sum();
    for red in now.iter().filter(|red| red.rate >= RATE_MIN) {
        let name = &red.endpoint.name;
        let cause = |kind, score, summary, evidence| Cause {
            kind,
            source: red.endpoint.service.clone(),
            subject: name.clone(),
            score,
            summary,
            evidence,
        };
        let evidence = |metric: &str, value, level| Evidence { metric: metric.to_owned(), value, level };
        let rate = evidence("requests_per_second", red.rate, RATE_MIN);
        if let Some(share) = red.errors
            && let Some(score) = between(share, ERRORS)
        {
            let summary = format!("{} of requests to {name} fail", shown(share));
            causes.push(cause(
                Kind::Errors,
                score,
                summary,
                vec![evidence("error_share", share, ERRORS.0), rate.clone()],
            ));
        }
        let earlier = before.iter().find(|earlier| earlier.endpoint == red.endpoint).and_then(|red| red.mean);
        if let (Some(mean), Some(earlier)) = (red.mean.filter(|mean| *mean >= MEAN_MIN_S), earlier)
            && red.busy >= BUSY_MIN
            && let Some(slower) = between(mean / earlier.max(MEAN_MIN_S), SLOWER)
        {
            // What little is asked of weighs little, however slow it is.
            let weight = (red.busy / total_busy.max(f64::MIN_POSITIVE)).sqrt();
            let summary = format!("{name} takes {} s on average, {} before", shown(mean), shown(earlier));
            let figures = vec![
                evidence("mean_seconds", mean, earlier),
                evidence("busy_seconds_per_second", red.busy, BUSY_MIN),
                rate,
            ];
            causes.push(cause(Kind::Latency, slower * weight, summary, figures));
        }
    }
    causes
}

/// Puts the worst first.
pub fn rank(mut causes: Vec<Cause>, most: usize) -> Vec<Cause> {
    causes.sort_by(|one, other| {
        other
            .score
            .total_cmp(&one.score)
            .then_with(|| (&one.source, &one.subject).cmp(&(&other.source, &other.subject)))
    });
    causes.truncate(most);
    causes
}

/// Tells how far a value has come between two levels; none up to the lower one.
fn between(value: f64, (from, full): (f64, f64)) -> Option<f64> {
    (value > from).then(|| ((value - from) / (full - from)).clamp(0.05, 1.0))
}

/// Writes a number with three digits that matter.
fn shown(value: f64) -> String {
    let digits = (2.0 - value.abs().max(1e-9).log10().floor()).clamp(0.0, 9.0) as usize;
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::endpoint::Endpoint;

    fn red(name: &str, mean: f64, busy: f64, errors: f64) -> Red {
        let endpoint = Endpoint { service: "s".to_owned(), protocol: "grpc", name: name.to_owned() };
        let (mean, errors) = (Some(mean), Some(errors));
        Red { endpoint, rate: 10.0, errors, refused: None, mean, quantiles: None, busy }
    }

    #[test]
    fn causes_are_ranked_and_carry_their_figures() {
        let pool = SIGNALS.iter().find(|signal| signal.metric == "mainstay_replica_pool_waiting").unwrap();
        let mut causes = vec![of_signal(pool, "replica-service", "node=primary", 0.9).unwrap()];
        assert_eq!(of_signal(&SIGNALS[0], "host", "", 0.5), None);
        let now = [red("slow", 0.2, 1.0, 0.0), red("rare", 0.2, 0.02, 0.0), red("bad", 0.01, 0.1, 0.3)];
        let before = [red("slow", 0.02, 0.1, 0.0), red("rare", 0.02, 0.01, 0.0), red("bad", 0.01, 0.1, 0.0)];
        causes.extend(of_endpoints(&now, &before));
        let ranked = rank(causes, 10);
        let names: Vec<(&str, Kind)> =
            ranked.iter().map(|cause| (cause.subject.as_str(), cause.kind)).collect();
        let expected = [
            ("slow", Kind::Latency),
            ("node=primary", Kind::Queueing),
            ("bad", Kind::Errors),
            ("rare", Kind::Latency),
        ];
        assert_eq!(names, expected);
        assert_eq!(ranked[0].summary, "slow takes 0.2 s on average, 0.02 before");
        assert!(ranked.iter().all(|cause| !cause.evidence.is_empty()));
        assert!(ranked.windows(2).all(|pair| pair[0].score >= pair[1].score));
    }

    #[test]
    fn numbers_are_shown_with_the_digits_that_matter() {
        for (value, text) in [(0.0, "0"), (0.012_345, "0.0123"), (1.0, "1"), (123.456, "123"), (0.5, "0.5")] {
            assert_eq!(shown(value), text);
        }
    }
}
