//! What holds a system up: causes with their evidence, the worst first.

use std::collections::BTreeMap;

use super::endpoint::Red;
use super::words;

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
    /// What it is about, where labels do not say it.
    pub about: &'static str,
    /// The sentence: `{value}`, `{percent}` and `{duration}` are the figure, `{NAME}` a label.
    pub words: &'static str,
}

const fn signal(
    metric: &'static str,
    kind: Kind,
    (from, full): (f64, f64),
    (about, words): (&'static str, &'static str),
) -> Signal {
    Signal { metric, divisor: None, kind, from, full, about, words }
}

const fn of_pool(metric: &'static str, kind: Kind, (from, full): (f64, f64), words: &'static str) -> Signal {
    let divisor = Some("mainstay_replica_pool_size");
    Signal { metric, divisor, kind, from, full, about: "pool", words }
}

/// All that is looked at besides endpoints. Of counters (`_total`) it is the increase per second.
pub const SIGNALS: [Signal; 13] = [
    signal("host_cpu_used_ratio", Kind::Saturation, (0.7, 1.0), ("cpu", "{percent} of the CPU is in use")),
    signal(
        "host_memory_used_ratio",
        Kind::Saturation,
        (0.8, 1.0),
        ("memory", "{percent} of the memory is in use"),
    ),
    signal(
        "host_disk_used_ratio",
        Kind::Saturation,
        (0.8, 1.0),
        ("disk", "{percent} of the disk at {mount} is in use"),
    ),
    signal(
        "host_fds_used_ratio",
        Kind::Saturation,
        (0.7, 1.0),
        ("file descriptors", "{percent} of the file descriptors are in use"),
    ),
    signal(
        "host_pressure_ratio",
        Kind::Queueing,
        (0.1, 0.8),
        ("pressure", "work waits for {resource} for {percent} of the time"),
    ),
    of_pool(
        "mainstay_replica_pool_in_use",
        Kind::Saturation,
        (0.8, 1.0),
        "{percent} of the connections to {node} ({role}) are in use",
    ),
    of_pool(
        "mainstay_replica_pool_waiting",
        Kind::Queueing,
        (0.05, 1.0),
        "{value} statements wait for each connection to {node} ({role})",
    ),
    signal(
        "mainstay_replica_pool_timeouts_total",
        Kind::Errors,
        (0.0, 1.0),
        ("pool", "{value} statements per second give up waiting for a connection to {node} ({role})"),
    ),
    signal(
        "mainstay_replica_node_staleness_seconds",
        Kind::Queueing,
        (2.0, 30.0),
        ("replica", "{node} is {duration} behind the primary"),
    ),
    signal(
        "mainstay_rpc_shed_total",
        Kind::Queueing,
        (0.0, 10.0),
        ("gRPC", "{value} gRPC requests per second are refused, since too many are under way"),
    ),
    signal(
        "mainstay_edge_shed_total",
        Kind::Queueing,
        (0.0, 10.0),
        ("REST", "{value} REST requests per second are refused, since too many are under way"),
    ),
    signal(
        "mainstay_ws_slow_disconnects_total",
        Kind::Queueing,
        (0.0, 5.0),
        ("connections", "{value} clients per second are cut off, since they read too slowly"),
    ),
    signal(
        "mainstay_background_failures_total",
        Kind::Errors,
        (0.0, 1.0),
        ("background tasks", "{value} rounds of the background task {task} fail per second"),
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

/// Turns a figure of a signal into a cause, if it is worth naming. Labels are those of its series, the target's included.
pub fn of_signal(signal: &Signal, labels: &BTreeMap<String, String>, value: f64) -> Option<Cause> {
    let score = between(value, (signal.from, signal.full))?;
    let own = labels.iter().filter(|(name, _)| !matches!(name.as_str(), "service" | "endpoint"));
    let own: Vec<String> = own.map(|(name, value)| format!("{name}={value}")).collect();
    Some(Cause {
        kind: signal.kind,
        source: labels.get("service").cloned().unwrap_or_default(),
        subject: if own.is_empty() { signal.about.to_owned() } else { own.join(",") },
        score,
        summary: sentence(signal.words, labels, value),
        evidence: vec![Evidence { metric: signal.metric.to_owned(), value, level: signal.from }],
    })
}

fn sentence(words: &str, labels: &BTreeMap<String, String>, value: f64) -> String {
    let figure = [
        ("value", words::short(value)),
        ("percent", words::percent(value)),
        ("duration", words::duration(value)),
    ];
    let figure = figure.iter().map(|(name, text)| (*name, text.as_str()));
    let labels = labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    figure
        .chain(labels)
        .fold(words.to_owned(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value))
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
            let summary = format!("{} of the requests to {name} fail", words::percent(share));
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
            let [now, before] = [mean, earlier].map(words::duration);
            let summary = format!("{name} takes {now} on average, {before} before");
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::endpoint::Endpoint;

    fn red(name: &str, mean: f64, busy: f64, errors: f64) -> Red {
        let endpoint = Endpoint { service: "s".to_owned(), protocol: "grpc", name: name.to_owned() };
        let (mean, errors) = (Some(mean), Some(errors));
        Red { endpoint, rate: 10.0, errors, refused: None, mean, quantiles: None, busy }
    }

    fn series(own: &[(&str, &str)]) -> BTreeMap<String, String> {
        let all = own.iter().chain(&[("service", "s"), ("endpoint", "http://127.0.0.1:1")]);
        all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn causes_are_ranked_and_carry_their_figures() {
        let pool = SIGNALS.iter().find(|signal| signal.metric == "mainstay_replica_pool_waiting").unwrap();
        let mut causes = vec![of_signal(pool, &series(&[("node", "primary")]), 0.9).unwrap()];
        assert_eq!(of_signal(&SIGNALS[0], &series(&[]), 0.5), None);
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
        assert_eq!(ranked[0].summary, "slow takes 200 ms on average, 20 ms before");
        assert!(ranked.iter().all(|cause| !cause.evidence.is_empty()));
        assert!(ranked.windows(2).all(|pair| pair[0].score >= pair[1].score));
    }

    #[test]
    fn every_signal_is_a_sentence_without_a_hole() {
        for (metric, labels, value, subject, sentence) in [
            ("host_cpu_used_ratio", &[][..], 0.998, "cpu", "99.8 % of the CPU is in use"),
            ("host_disk_used_ratio", &[("mount", "/")], 0.91, "mount=/", "91.0 % of the disk at / is in use"),
            (
                "mainstay_replica_pool_waiting",
                &[("node", "replica1"), ("role", "read")],
                0.25,
                "node=replica1,role=read",
                "0.25 statements wait for each connection to replica1 (read)",
            ),
            (
                "mainstay_replica_node_staleness_seconds",
                &[("node", "replica1")],
                95.0,
                "node=replica1",
                "replica1 is 1 min 35 s behind the primary",
            ),
        ] {
            let signal = SIGNALS.iter().find(|signal| signal.metric == metric).unwrap();
            let cause = of_signal(signal, &series(labels), value).unwrap();
            assert_eq!((cause.source.as_str(), cause.subject.as_str()), ("s", subject));
            assert_eq!(cause.summary, sentence);
        }
        let labels = ["mount", "resource", "node", "role", "task"].map(|name| (name, "x"));
        for signal in SIGNALS {
            let summary = of_signal(&signal, &series(&labels), signal.full).unwrap().summary;
            assert!(!summary.contains(['{', '}']), "{summary}");
        }
    }
}
