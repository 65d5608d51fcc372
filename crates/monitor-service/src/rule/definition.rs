//! Rules about figures, as people write them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::text;
use crate::alert::Severity;
use crate::analysis::band::Method;

/// Names a rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Rule {
    /// Letters a-z, digits and underscores.
    pub name: String,
    /// What it says.
    pub spec: RuleSpec,
}

/// Says which figures are looked at, and when they are an alert: sections `rules.<name>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RuleSpec {
    /// How the figure is made.
    pub kind: RuleKind,
    /// Name of the metric; of a histogram for a quantile.
    pub metric: String,
    /// Only series that have all of these; of a ratio, of the dividend.
    pub labels: BTreeMap<String, String>,
    /// Ratio, share, burn rate: what it is divided by; of a share, what is added to it before.
    pub divisor: String,
    /// Only series of the divisor that have all of these.
    pub divisor_labels: BTreeMap<String, String>,
    /// Absence: the service whose targets should have the metric.
    pub service: String,
    /// Quantile: above 0 and below 1.
    pub quantile: f64,
    /// On which side of the levels it is an alert.
    pub comparison: Comparison,
    /// Level of a warning.
    pub warning: Option<f64>,
    /// Level above (or below) which it is critical.
    pub critical: Option<f64>,
    /// An open alert stays while the figure is beyond this.
    pub clear: Option<f64>,
    /// Anomaly: how the expectation is made.
    pub method: Method,
    /// Anomaly: length of a season; zero for none.
    #[serde(with = "humantime_serde")]
    pub season: Duration,
    /// Forecast: the level whose time is foretold.
    pub limit: Option<f64>,
    /// Burn rate: share that must go right.
    pub objective: f64,
    /// Severity of an absence.
    pub severity: Severity,
    /// How much of history a rate, ratio, quantile or absence looks at.
    #[serde(with = "humantime_serde")]
    pub window: Duration,
    /// How long it must hold; absent means `alerts.unhealthy_for`.
    #[serde(with = "humantime_serde")]
    pub fires_after: Option<Duration>,
    /// How long it must be gone; absent means `alerts.clear_for`.
    #[serde(with = "humantime_serde")]
    pub clears_after: Option<Duration>,
    /// Least increase of the divisor, or of a histogram's count, in the window.
    pub min_traffic: f64,
    /// One line for a person, with placeholders; empty for a stock text.
    pub summary: String,
    /// Added to the labels of its alerts.
    pub annotations: BTreeMap<String, String>,
    /// Not looked at.
    pub disabled: bool,
}

/// Says how a rule makes its figure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleKind {
    /// The newest value of each series.
    #[default]
    Threshold,
    /// Increase per second of each series.
    Rate,
    /// Increase over increase, both summed per target.
    Ratio,
    /// The same, over the increase of both together: of what fails, where the divisor counts what does not.
    Share,
    /// A quantile of a histogram, summed per target.
    Quantile,
    /// No sample, per target.
    Absence,
    /// Standard deviations between the newest figure of each series and what was to be expected.
    Anomaly,
    /// Seconds until a straight line through each series reaches `limit`.
    Forecast,
    /// How many times faster than `objective` allows `metric` (what went wrong) grows with `divisor` (all), summed per
    /// target: over the window, and over a twelfth of it, whichever is less.
    BurnRate,
}

/// Says on which side of a level it is an alert.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Comparison {
    /// Above it.
    #[default]
    Above,
    /// Below it.
    Below,
    /// At it, exactly.
    Equal,
    /// Anywhere but at it.
    Unequal,
    /// Farther from zero than it, on either side.
    Beyond,
}

const WINDOW: Duration = Duration::from_mins(1);
pub(super) const NAME_MAX: usize = 64;
const LABELS_MAX: usize = 20;
const SUMMARY_MAX: usize = 500;

impl Default for RuleSpec {
    fn default() -> Self {
        Self {
            kind: RuleKind::default(),
            metric: String::new(),
            labels: BTreeMap::new(),
            divisor: String::new(),
            divisor_labels: BTreeMap::new(),
            service: String::new(),
            quantile: 0.95,
            comparison: Comparison::default(),
            warning: None,
            critical: None,
            clear: None,
            method: Method::default(),
            season: Duration::ZERO,
            limit: None,
            objective: 0.999,
            severity: Severity::Warning,
            window: WINDOW,
            fires_after: None,
            clears_after: None,
            min_traffic: 0.0,
            summary: String::new(),
            annotations: BTreeMap::new(),
            disabled: false,
        }
    }
}

impl Comparison {
    /// Tells whether a value is beyond a level.
    pub(crate) fn beyond(self, value: f64, level: f64) -> bool {
        match self {
            Self::Above => value > level,
            Self::Below => value < level,
            Self::Equal => value == level,
            Self::Unequal => value != level,
            Self::Beyond => value.abs() > level,
        }
    }

    /// Tells whether one value is farther from where it should be than another.
    pub(crate) fn is_worse(self, value: f64, than: f64) -> bool {
        self.beyond(value, if self == Self::Beyond { than.abs() } else { than })
    }
}

/// Reports what is wrong with a rule's name.
pub(crate) fn check_name(name: &str, report: &mut dyn FnMut(&str, String)) {
    let legal = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_';
    if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(legal) {
        report("name", "must be 1 to 64 letters a-z, digits and underscores".to_owned());
    } else if super::BUILT_IN.contains(&name) {
        report("name", "is that of a built-in rule, which cannot be replaced".to_owned());
    }
}

impl RuleSpec {
    /// Reports everything that is wrong, field by field; `keep` is how far back memory reaches.
    pub(crate) fn check(&self, keep: Duration, report: &mut dyn FnMut(&str, String)) {
        let mut ensure = |holds: bool, field: &str, message: &str| {
            if !holds {
                report(field, message.to_owned());
            }
        };
        ensure(is_metric(&self.metric), "metric", "must be the name of a metric");
        let levels = [self.warning, self.critical, self.clear];
        for (field, level) in ["warning", "critical", "clear"].into_iter().zip(levels) {
            ensure(level.is_none_or(f64::is_finite), field, "must be a finite number");
            let is_distance = self.comparison != Comparison::Beyond || level.is_none_or(|level| level >= 0.0);
            ensure(is_distance, field, "must not be negative for `beyond`");
        }
        let absence = self.kind == RuleKind::Absence;
        ensure(
            absence || self.warning.or(self.critical).is_some(),
            "warning",
            "needs a level, or `critical` does",
        );
        ensure(!absence || !self.service.is_empty(), "service", "must name a service for an absence");
        ensure(
            !matches!(self.kind, RuleKind::Ratio | RuleKind::Share | RuleKind::BurnRate)
                || is_metric(&self.divisor),
            "divisor",
            "must be the name of a metric for a ratio, share or burn rate",
        );
        self.check_analysis(&mut ensure);
        ensure(self.quantile > 0.0 && self.quantile < 1.0, "quantile", "must be above 0 and below 1");
        ensure(
            self.min_traffic >= 0.0 && self.min_traffic.is_finite(),
            "min_traffic",
            "must not be negative",
        );
        let window = Duration::from_secs(1)..=keep;
        ensure(window.contains(&self.window), "window", "must be 1s to history.keep");
        for (field, time) in [("fires_after", self.fires_after), ("clears_after", self.clears_after)] {
            ensure(time.is_none_or(|time| time <= Duration::from_hours(24)), field, "must be at most 24h");
        }
        self.check_order(&mut ensure);
        let n_labels = self.labels.len().max(self.divisor_labels.len()).max(self.annotations.len());
        ensure(n_labels <= LABELS_MAX, "labels", "must be at most 20");
        ensure(self.summary.chars().count() <= SUMMARY_MAX, "summary", "must have at most 500 characters");
        if let Err(problem) = text::check(&self.summary) {
            report("summary", problem);
        }
    }

    fn check_analysis(&self, ensure: &mut impl FnMut(bool, &str, &str)) {
        let (above, below) = (self.comparison == Comparison::Above, self.comparison == Comparison::Below);
        match self.kind {
            RuleKind::Anomaly => {
                ensure(above, "comparison", "must be above: the figure is a distance");
                let seasonal = self.method == Method::Seasonal;
                let fits = self.season * 2 <= self.window && (!seasonal || !self.season.is_zero());
                ensure(fits, "season", "must fit twice into the window, and be there for `seasonal`");
            }
            RuleKind::Forecast => {
                ensure(below, "comparison", "must be below: the figure is the time that is left");
                let level = self.limit.is_some_and(f64::is_finite);
                ensure(level, "limit", "must be a finite number for a forecast");
            }
            RuleKind::BurnRate => {
                ensure(above, "comparison", "must be above: the figure is a speed");
                let share = self.objective > 0.0 && self.objective < 1.0;
                ensure(share, "objective", "must be above 0 and below 1");
            }
            RuleKind::Threshold
            | RuleKind::Rate
            | RuleKind::Ratio
            | RuleKind::Share
            | RuleKind::Quantile
            | RuleKind::Absence => {}
        }
    }

    fn check_order(&self, ensure: &mut impl FnMut(bool, &str, &str)) {
        let beyond_or_at = |value: f64, level: f64| value == level || self.comparison.beyond(value, level);
        if let (Some(warning), Some(critical)) = (self.warning, self.critical) {
            ensure(beyond_or_at(critical, warning), "critical", "must not be on the good side of `warning`");
        }
        if let (Some(level), Some(clear)) = (self.warning.or(self.critical), self.clear) {
            ensure(beyond_or_at(level, clear), "clear", "must be on the good side of the level that raises");
        }
    }

    /// Judges a figure. An open alert stays as it is until the figure is on the good side of `clear`.
    pub(crate) fn judge(&self, value: f64, open: Option<Severity>) -> Option<(Severity, f64)> {
        let level = |severity, level: Option<f64>| {
            level.filter(|level| self.comparison.beyond(value, *level)).map(|level| (severity, level))
        };
        let raised =
            level(Severity::Critical, self.critical).or_else(|| level(Severity::Warning, self.warning));
        raised.or_else(|| open.and_then(|severity| level(severity, self.clear)))
    }
}

/// Tells whether this can be the name of a metric.
pub(crate) fn is_metric(name: &str) -> bool {
    let legal = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | ':');
    !name.is_empty() && name.len() <= 200 && name.chars().all(legal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_wrong_with_a_rule_is_told_at_once() {
        let spec = RuleSpec {
            kind: RuleKind::Ratio,
            metric: "no metric".to_owned(),
            warning: Some(5.0),
            critical: Some(1.0),
            clear: Some(f64::NAN),
            window: Duration::from_hours(2),
            min_traffic: -1.0,
            summary: "{what}".to_owned(),
            ..RuleSpec::default()
        };
        let mut fields = Vec::new();
        let mut report = |field: &str, _: String| fields.push(field.to_owned());
        check_name("Not legal", &mut report);
        spec.check(Duration::from_hours(1), &mut report);
        let expected =
            ["name", "metric", "clear", "divisor", "min_traffic", "window", "critical", "clear", "summary"];
        assert_eq!(fields, expected);
    }

    #[test]
    fn open_alert_stays_until_the_figure_is_clear() {
        let spec =
            RuleSpec { warning: Some(80.0), critical: Some(95.0), clear: Some(75.0), ..RuleSpec::default() };
        let (warning, critical) = (Severity::Warning, Severity::Critical);
        let cases = [
            (81.0, None, Some((warning, 80.0))),
            (96.0, None, Some((critical, 95.0))),
            (80.0, None, None),
            (78.0, None, None),
            (78.0, Some(warning), Some((warning, 75.0))),
            (78.0, Some(critical), Some((critical, 75.0))),
            (75.0, Some(warning), None),
            (f64::NAN, Some(warning), None),
        ];
        for (value, open, expected) in cases {
            assert_eq!(spec.judge(value, open), expected, "{value} {open:?}");
        }
    }

    #[test]
    fn figure_may_be_too_far_from_zero_on_either_side() {
        let spec = RuleSpec {
            comparison: Comparison::Beyond,
            warning: Some(10.0),
            critical: Some(100.0),
            ..RuleSpec::default()
        };
        let of = |value| spec.judge(value, None).map(|(severity, _)| severity);
        assert_eq!((of(10.0), of(-10.0), of(0.0)), (None, None, None));
        assert_eq!((of(10.5), of(-11.0)), (Some(Severity::Warning), Some(Severity::Warning)));
        assert_eq!((of(101.0), of(-1e9)), (Some(Severity::Critical), Some(Severity::Critical)));
    }

    #[test]
    fn stock_rules_are_legal() {
        for rule in super::super::stock::stock() {
            let mut problems = Vec::new();
            let mut report = |field: &str, message: String| problems.push(format!("{field}: {message}"));
            check_name(&rule.name, &mut report);
            rule.spec.check(Duration::from_hours(1), &mut report);
            assert_eq!(problems, Vec::<String>::new(), "{}", rule.name);
        }
    }
}
