//! Figures of rules that look at what was to be expected.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::definition::{RuleKind, RuleSpec};
use super::measure::{Evidence, Figure, Measured, ratio, within};
use crate::analysis::band::{self, Settings};
use crate::analysis::forecast::Line;
use crate::analysis::steps::Steps;
use crate::series::{SeriesSamples, is_counter};

/// Steps that a window is cut into: what is looked at every second must not take long.
const STEPS: u32 = 240;
/// A figure that is older than so many steps is not news.
const FRESH_STEPS: usize = 2;
/// A trend that is less sure foretells nothing.
const CONFIDENCE_MIN: f64 = 0.95;
/// The short window of a burn rate, as a part of the long one.
const SHORT: u32 = 12;

/// Measures how far the newest figure of each series is from what was to be expected.
pub(super) fn anomaly(spec: &RuleSpec, evidence: &Evidence, from: SystemTime, to: SystemTime) -> Measured {
    each(spec, evidence, (from, to), |steps| {
        let season = (spec.season.as_nanos() / steps.step.as_nanos().max(1)).try_into().unwrap_or_default();
        let sensitivity = spec.warning.or(spec.critical).unwrap_or(1.0);
        let settings = Settings { method: spec.method, sensitivity, season };
        let newest = band::judge(&steps.values, &settings).pop()?;
        if newest.index + FRESH_STEPS < steps.values.len() {
            return None;
        }
        let facts = [
            ("now", newest.value),
            ("expected", newest.expected),
            ("lower", newest.lower),
            ("upper", newest.upper),
        ];
        Some((newest.score.abs(), facts.into()))
    })
}

/// Measures the time until each series reaches the limit.
pub(super) fn forecast(spec: &RuleSpec, evidence: &Evidence, from: SystemTime, to: SystemTime) -> Measured {
    let Some(limit) = spec.limit else { return Measured::default() };
    each(spec, evidence, (from, to), |steps| {
        let line = Line::through(steps).filter(|line| line.confidence >= CONFIDENCE_MIN)?;
        let reach = line.reach(limit)?;
        let facts = [("now", line.now), ("limit", limit), ("earliest", reach.earliest.as_secs_f64())];
        Some((reach.after.as_secs_f64(), facts.into()))
    })
}

/// Measures how fast the error budget is used up, in the calmer of a long and a short window.
pub(super) fn burn_rate(spec: &RuleSpec, evidence: &Evidence, from: SystemTime, to: SystemTime) -> Measured {
    let recent = to.checked_sub(spec.window / SHORT).unwrap_or(from);
    let short_spec = RuleSpec { kind: RuleKind::Ratio, min_traffic: 0.0, ..spec.clone() };
    let short = ratio(&short_spec, evidence, recent, to);
    let mut long = ratio(spec, evidence, from, to);
    for figure in &mut long.figures {
        let now = short.figures.iter().find(|short| short.labels == figure.labels);
        let share = now.map_or(0.0, |now| now.value.min(figure.value));
        figure.value = share / (1.0 - spec.objective);
    }
    long
}

type Measure = (f64, BTreeMap<&'static str, f64>);

fn each(
    spec: &RuleSpec,
    evidence: &Evidence,
    (from, to): (SystemTime, SystemTime),
    measure: impl Fn(&Steps) -> Option<Measure>,
) -> Measured {
    let step =
        Duration::from_secs(spec.window.as_secs().div_ceil(u64::from(STEPS))).max(Duration::from_secs(1));
    let figure = |series: &SeriesSamples| {
        let samples = within(series, from, to).iter().copied();
        let steps = Steps::new((from, to + step), step, samples);
        let steps = if is_counter(&spec.metric) { steps.per_second() } else { steps };
        let (value, facts) = measure(&steps)?;
        Some(Figure { labels: series.labels.clone(), value, facts })
    };
    let figures = evidence.series.iter().filter_map(figure).collect();
    Measured { figures, n_matched: evidence.series.len(), n_quiet: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roster::tests::at;
    use crate::rule::definition::Comparison;

    fn series(name: &str, figure: impl Fn(u64) -> f64) -> SeriesSamples {
        let labels = [("service", "s"), ("endpoint", "e"), ("name", name)];
        SeriesSamples {
            labels: BTreeMap::from(labels.map(|(name, value)| (name.to_owned(), value.to_owned()))).into(),
            patience: Duration::ZERO,
            samples: (1..=240).map(|second| (at(second), figure(second))).collect(),
        }
    }

    fn noise(second: u64) -> f64 {
        ((second * 7919 + 13) % 101) as f64 / 101.0 - 0.5
    }

    #[test]
    fn newest_figure_far_from_what_is_expected_is_told_with_its_band() {
        let spec = RuleSpec {
            kind: RuleKind::Anomaly,
            metric: "m".to_owned(),
            warning: Some(5.0),
            window: Duration::from_secs(240),
            ..RuleSpec::default()
        };
        let jump = |second| 50.0 + noise(second) + if second == 240 { 20.0 } else { 0.0 };
        let evidence = Evidence {
            series: vec![series("calm", |second| 50.0 + noise(second)), series("jump", jump)],
            divisor: Vec::new(),
        };
        let measured = anomaly(&spec, &evidence, at(0), at(240));
        let [calm, jump] = measured.figures.try_into().unwrap();
        assert!(calm.value < 3.0 && jump.value > 20.0, "{} {}", calm.value, jump.value);
        let fact = |name| jump.facts[name];
        assert!((fact("expected") - 50.0).abs() < 0.5 && fact("upper") < fact("now"), "{:?}", jump.facts);
    }

    #[test]
    fn time_that_is_left_is_measured_only_where_there_is_a_trend() {
        let spec = RuleSpec {
            kind: RuleKind::Forecast,
            metric: "m".to_owned(),
            comparison: Comparison::Below,
            limit: Some(100.0),
            warning: Some(3_600.0),
            window: Duration::from_secs(240),
            ..RuleSpec::default()
        };
        let fills = series("fills", |second| 50.0 + 0.1 * second as f64 + 0.1 * noise(second));
        let evidence = Evidence { series: vec![fills, series("rests", |_| 50.0)], divisor: Vec::new() };
        let measured = forecast(&spec, &evidence, at(0), at(240));
        assert_eq!((measured.figures.len(), measured.n_matched), (1, 2));
        assert!((measured.figures[0].value - 260.0).abs() < 5.0, "{:?}", measured.figures);
        assert_eq!(spec.judge(measured.figures[0].value, None).map(|(_, level)| level), Some(3_600.0));
    }

    #[test]
    fn budget_burns_only_while_both_windows_say_so() {
        let spec = RuleSpec {
            kind: RuleKind::BurnRate,
            objective: 0.99,
            window: Duration::from_secs(240),
            ..RuleSpec::default()
        };
        let all = vec![series("all", |second| second as f64 * 10.0)];
        let burn = |bad: &dyn Fn(u64) -> f64| {
            let evidence = Evidence { series: vec![series("bad", bad)], divisor: all.clone() };
            burn_rate(&spec, &evidence, at(0), at(240)).figures[0].value
        };
        assert!((burn(&|second| second as f64) - 10.0).abs() < 0.01);
        assert_eq!(burn(&|second| second.min(200) as f64), 0.0);
    }
}
