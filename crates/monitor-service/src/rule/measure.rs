//! From samples to the figures that rules judge; pure.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::definition::{RuleKind, RuleSpec};
use super::insight;
use crate::series::{Labels, SeriesSamples};

/// Holds the samples that a rule looks at, each list oldest first.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    /// Of the metric; of a quantile, of its buckets.
    pub series: Vec<SeriesSamples>,
    /// Of the divisor.
    pub divisor: Vec<SeriesSamples>,
}

/// Holds one figure of a rule.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Figure {
    /// Of the series, or `service` and `endpoint` of the target where it is a sum.
    pub labels: Labels,
    /// The figure.
    pub value: f64,
    /// More that a text may speak of.
    pub facts: BTreeMap<&'static str, f64>,
}

/// Holds all figures of a rule at one moment.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Measured {
    /// Those that could be made.
    pub figures: Vec<Figure>,
    /// Series, or targets of sums, that were looked at.
    pub n_matched: usize,
    /// Targets with less traffic than the rule asks for.
    pub n_quiet: usize,
}

/// Returns the newest value of each series: of what is read less often than services, one that is older counts too.
fn newest(evidence: &Evidence, from: SystemTime, to: SystemTime) -> Measured {
    let figures: Vec<Figure> = evidence
        .series
        .iter()
        .filter_map(|series| {
            let from = from.checked_sub(series.patience).unwrap_or(from);
            let (_, value) = *within(series, from, to).last()?;
            Some(Figure { labels: series.labels.clone(), value, facts: BTreeMap::new() })
        })
        .collect();
    Measured { n_matched: figures.len(), n_quiet: 0, figures }
}

type Target = (String, String);

/// Makes the figures of a rule from what was sampled in `(from, to]`.
pub(crate) fn measure(spec: &RuleSpec, evidence: &Evidence, from: SystemTime, to: SystemTime) -> Measured {
    let each = |figure: fn(&[(SystemTime, f64)]) -> Option<f64>| {
        let figures: Vec<Figure> = evidence
            .series
            .iter()
            .filter_map(|series| {
                let value = figure(within(series, from, to))?;
                Some(Figure { labels: series.labels.clone(), value, facts: BTreeMap::new() })
            })
            .collect();
        Measured { n_matched: figures.len(), n_quiet: 0, figures }
    };
    match spec.kind {
        RuleKind::Threshold => newest(evidence, from, to),
        RuleKind::Rate => each(per_second),
        RuleKind::Ratio | RuleKind::Share => ratio(spec, evidence, from, to),
        RuleKind::Anomaly => insight::anomaly(spec, evidence, from, to),
        RuleKind::Forecast => insight::forecast(spec, evidence, from, to),
        RuleKind::BurnRate => insight::burn_rate(spec, evidence, from, to),
        RuleKind::Quantile => quantile(spec, evidence, from, to),
        // Which targets lack a metric is asked of those that are there; see `look`.
        RuleKind::Absence => each(|samples| (!samples.is_empty()).then_some(1.0)),
    }
}

pub(super) fn within(series: &SeriesSamples, from: SystemTime, to: SystemTime) -> &[(SystemTime, f64)] {
    let begin = series.samples.partition_point(|(at, _)| *at <= from);
    let end = series.samples.partition_point(|(at, _)| *at <= to);
    series.samples.get(begin..end).unwrap_or_default()
}

/// Adds up how much a counter grew; one that fell began anew at zero.
fn increase(samples: &[(SystemTime, f64)]) -> f64 {
    samples
        .windows(2)
        .map(|pair| if pair[1].1 >= pair[0].1 { pair[1].1 - pair[0].1 } else { pair[1].1 })
        .sum()
}

fn per_second(samples: &[(SystemTime, f64)]) -> Option<f64> {
    let (first, last) = (samples.first()?, samples.last()?);
    let seconds = last.0.duration_since(first.0).ok()?.as_secs_f64();
    (seconds > 0.0).then(|| increase(samples) / seconds)
}

fn target(series: &SeriesSamples) -> Target {
    let label = |name| series.labels.get(name).cloned().unwrap_or_default();
    (label("service"), label("endpoint"))
}

fn of_target((service, endpoint): Target, value: f64) -> Figure {
    let labels = BTreeMap::from([("service".to_owned(), service), ("endpoint".to_owned(), endpoint)]);
    Figure { labels: labels.into(), value, facts: BTreeMap::new() }
}

pub(super) fn ratio(spec: &RuleSpec, evidence: &Evidence, from: SystemTime, to: SystemTime) -> Measured {
    let sums = |all: &[SeriesSamples]| {
        let mut sums: BTreeMap<Target, f64> = BTreeMap::new();
        for series in all {
            *sums.entry(target(series)).or_default() += increase(within(series, from, to));
        }
        sums
    };
    let (dividends, mut divisors) = (sums(&evidence.series), sums(&evidence.divisor));
    if spec.kind == RuleKind::Share {
        for (target, dividend) in &dividends {
            *divisors.entry(target.clone()).or_default() += dividend;
        }
    }
    let mut measured = Measured { n_matched: divisors.len(), ..Measured::default() };
    for (target, divisor) in divisors {
        if divisor <= 0.0 || divisor < spec.min_traffic {
            measured.n_quiet += 1;
            continue;
        }
        // A counter with labels shows up with its first increase: none yet means zero.
        let dividend = dividends.get(&target).copied().unwrap_or_default();
        measured.figures.push(of_target(target, dividend / divisor));
    }
    measured
}

fn quantile(spec: &RuleSpec, evidence: &Evidence, from: SystemTime, to: SystemTime) -> Measured {
    let mut targets: BTreeMap<Target, Vec<(f64, f64)>> = BTreeMap::new();
    for series in &evidence.series {
        let Some(bound) = series.labels.get("le").and_then(|le| le.parse::<f64>().ok()) else { continue };
        let grown = increase(within(series, from, to));
        let buckets = targets.entry(target(series)).or_default();
        match buckets.iter_mut().find(|(other, _)| *other == bound) {
            Some((_, sum)) => *sum += grown,
            None => buckets.push((bound, grown)),
        }
    }
    let mut measured = Measured { n_matched: targets.len(), ..Measured::default() };
    for (target, mut buckets) in targets {
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let total = buckets.last().map_or(0.0, |(_, count)| *count);
        if total <= 0.0 || total < spec.min_traffic {
            measured.n_quiet += 1;
            continue;
        }
        measured.figures.push(of_target(target, in_buckets(&buckets, spec.quantile * total)));
    }
    measured
}

/// Finds the value below which `rank` of the counted lie, by a straight line within a bucket.
fn in_buckets(buckets: &[(f64, f64)], rank: f64) -> f64 {
    let (mut lower_bound, mut below) = (0.0, 0.0);
    for (bound, count) in buckets {
        if *count >= rank {
            if bound.is_infinite() || *count <= below {
                return lower_bound;
            }
            return lower_bound + (bound - lower_bound) * ((rank - below) / (count - below));
        }
        (lower_bound, below) = (*bound, *count);
    }
    lower_bound
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::roster::tests::at;

    fn series(labels: &[(&str, &str)], samples: &[(u64, f64)]) -> SeriesSamples {
        let labels = [("service", "s"), ("endpoint", "e")].iter().chain(labels);
        SeriesSamples {
            labels: labels
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect::<BTreeMap<_, _>>()
                .into(),
            patience: Duration::ZERO,
            samples: samples.iter().map(|(second, value)| (at(*second), *value)).collect(),
        }
    }

    fn values(kind: RuleKind, min_traffic: f64, evidence: &Evidence) -> (Vec<f64>, usize) {
        let spec = RuleSpec { kind, min_traffic, quantile: 0.5, ..RuleSpec::default() };
        let measured = measure(&spec, evidence, at(0), at(100));
        (measured.figures.iter().map(|figure| figure.value).collect(), measured.n_quiet)
    }

    #[test]
    fn rate_sees_through_a_counter_that_began_anew() {
        let evidence = Evidence {
            series: vec![
                series(&[], &[(0, 7.0), (10, 100.0), (20, 150.0), (30, 10.0)]),
                series(&[], &[(5, 1.0)]),
            ],
            ..Evidence::default()
        };
        assert_eq!(values(RuleKind::Rate, 0.0, &evidence).0, [3.0]);
        assert_eq!(values(RuleKind::Threshold, 0.0, &evidence).0, [10.0, 1.0]);
    }

    #[test]
    fn ratio_sums_per_target_and_is_silent_without_traffic() {
        let evidence = Evidence {
            series: vec![
                series(&[("layer", "l1")], &[(10, 0.0), (20, 30.0)]),
                series(&[("layer", "l2")], &[(10, 5.0), (20, 15.0)]),
            ],
            divisor: vec![series(&[], &[(10, 0.0), (20, 80.0)])],
        };
        assert_eq!(values(RuleKind::Ratio, 80.0, &evidence), (vec![0.5], 0));
        assert_eq!(values(RuleKind::Ratio, 81.0, &evidence), (vec![], 1));
        let none = Evidence { series: Vec::new(), ..evidence };
        assert_eq!(values(RuleKind::Ratio, 1.0, &none).0, [0.0]);
    }

    #[test]
    fn share_is_of_both_together_also_when_there_is_but_one_of_them() {
        let failed = series(&[], &[(10, 0.0), (20, 20.0)]);
        let done = |n| series(&[], &[(10, 0.0), (20, n)]);
        let evidence = |n| Evidence { series: vec![failed.clone()], divisor: vec![done(n)] };
        assert_eq!(values(RuleKind::Share, 100.0, &evidence(80.0)), (vec![0.2], 0));
        assert_eq!(values(RuleKind::Share, 101.0, &evidence(80.0)), (vec![], 1));
        assert_eq!(values(RuleKind::Share, 20.0, &evidence(0.0)), (vec![1.0], 0));
        let none_done = Evidence { series: vec![failed.clone()], divisor: Vec::new() };
        assert_eq!(values(RuleKind::Share, 20.0, &none_done), (vec![1.0], 0));
    }

    #[test]
    fn quantile_lies_within_its_bucket() {
        let bucket = |le, count| series(&[("le", le)], &[(10, 0.0), (20, count)]);
        let evidence = Evidence {
            series: vec![bucket("0.1", 10.0), bucket("0.2", 30.0), bucket("+Inf", 40.0)],
            ..Evidence::default()
        };
        let (found, _) = values(RuleKind::Quantile, 0.0, &evidence);
        assert!((found[0] - 0.15).abs() < 1e-9, "{found:?}");
    }
}
