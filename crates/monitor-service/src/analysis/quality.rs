//! How well anomalies are found, measured on series of which it is known where they are.

use super::band::{self, Method, Settings};
use super::change;
use super::robust;

/// Holds a series with what is wrong in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Labelled {
    /// Tells it from others.
    pub name: String,
    /// What is wrong in it: `spike`, `level`, `drift`, `season`, `missing` or `clean`.
    pub kind: String,
    /// Steps of a day.
    pub day: usize,
    /// From when to when something is wrong: first step, and the one after the last.
    pub wrong: Vec<(usize, usize)>,
    /// Oldest first.
    pub values: Vec<Option<f64>>,
}

/// Counts what was found, and what was found without reason.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Score {
    /// Stretches in which something is wrong.
    pub wrong: usize,
    /// Those of them that were found.
    pub found: usize,
    /// Alarms.
    pub alarms: usize,
    /// Alarms without reason.
    pub false_alarms: usize,
    /// Days of series looked at, without those from which nothing could be expected yet.
    pub days: f64,
}

/// Says how anomalies are looked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Detector {
    /// Figures outside their band, and gaps.
    Band(Method),
    /// Changes of level of what a season leaves over, and gaps.
    Changes,
    /// All of it: what `Anomalies` answers.
    Both(Method),
}

/// How a detector does on a whole set.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Name of the detector; `+` means with changes of level.
    pub detector: &'static str,
    /// Of all series.
    pub all: Score,
    /// Of those with one kind of anomaly each.
    pub by_kind: Vec<(&'static str, Score)>,
}

/// All detectors there are, by name.
pub const DETECTORS: [(&str, Detector); 7] = [
    ("seasonal", Detector::Band(Method::Seasonal)),
    ("holt_winters", Detector::Band(Method::HoltWinters)),
    ("ewma", Detector::Band(Method::Ewma)),
    ("changes", Detector::Changes),
    ("seasonal+", Detector::Both(Method::Seasonal)),
    ("holt_winters+", Detector::Both(Method::HoltWinters)),
    ("ewma+", Detector::Both(Method::Ewma)),
];
/// What may be wrong with a series.
pub const KINDS: [&str; 5] = ["spike", "level", "drift", "season", "missing"];

/// Measures every detector on a set.
pub fn measure(set: &[Labelled]) -> Vec<Row> {
    let row = |(detector, how): (&'static str, Detector)| {
        let scored: Vec<(&str, Score)> = set
            .iter()
            .map(|series| (series.kind.as_str(), Score::of(series, &alarms(series, how))))
            .collect();
        let sum = |wanted: &dyn Fn(&str) -> bool| {
            let some = scored.iter().filter(|(kind, _)| wanted(kind)).map(|(_, score)| *score);
            some.fold(Score::default(), Score::and)
        };
        let by_kind = KINDS.iter().map(|kind| (*kind, sum(&|of| of == *kind))).collect();
        Row { detector, all: sum(&|_| true), by_kind }
    };
    DETECTORS.into_iter().map(row).collect()
}

/// An alarm goes on until so many steps are well.
const CALM: usize = 6;
/// Steps without a figure that are a gap.
const GAP: usize = 3;
/// A few steps late is not too late: a change of level has an edge.
const GRACE: usize = 12;
/// Days from which is learned.
const LEARNED_DAYS: usize = 3;
const SENSITIVITY: f64 = 5.0;

/// Reads series: for each a line `name,kind,steps of a day,from-to from-to` and a line of figures.
///
/// # Errors
/// Names the line that cannot be read.
pub fn read(text: &str) -> Result<Vec<Labelled>, String> {
    let mut lines = text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let mut series = Vec::new();
    while let Some((number, head)) = lines.next() {
        let figures = lines.next().map(|(_, line)| line);
        let one = one(head, figures.unwrap_or_default());
        series.push(one.ok_or_else(|| format!("line {}: cannot be read", number + 1))?);
    }
    Ok(series)
}

fn one(head: &str, figures: &str) -> Option<Labelled> {
    let [name, kind, day, wrong] = head.split(',').collect::<Vec<_>>().try_into().ok()?;
    let stretch = |text: &str| {
        let (from, to) = text.split_once('-')?;
        Some((from.parse().ok()?, to.parse().ok()?))
    };
    let figure = |text: &str| if text.is_empty() { Some(None) } else { text.parse::<f64>().ok().map(Some) };
    Some(Labelled {
        name: name.to_owned(),
        kind: kind.to_owned(),
        day: day.parse().ok()?,
        wrong: wrong.split_whitespace().map(stretch).collect::<Option<_>>()?,
        values: figures.split(',').map(figure).collect::<Option<_>>()?,
    })
}

/// Finds stretches that look wrong: first step, and the one after the last.
pub fn alarms(series: &Labelled, detector: Detector) -> Vec<(usize, usize)> {
    let mut odd: Vec<usize> = gaps(&series.values);
    match detector {
        Detector::Band(method) | Detector::Both(method) => {
            let settings = Settings { method, sensitivity: SENSITIVITY, season: series.day };
            let judged = band::judge(&series.values, &settings);
            odd.extend(judged.iter().filter(|judged| judged.is_anomaly()).map(|judged| judged.index));
        }
        Detector::Changes => {}
    }
    match detector {
        Detector::Band(_) => {}
        Detector::Changes | Detector::Both(_) => {
            let left = change::changes(&without_season(&series.values, series.day));
            odd.extend(left.iter().map(|change| change.index));
        }
    }
    odd.sort_unstable();
    odd.retain(|index| *index >= series.day * LEARNED_DAYS);
    let mut alarms: Vec<(usize, usize)> = Vec::new();
    for index in odd {
        match alarms.last_mut() {
            Some((_, end)) if index < *end + CALM => *end = index + 1,
            _ => alarms.push((index, index + 1)),
        }
    }
    alarms
}

/// Takes the median of each time of the day out.
pub fn without_season(values: &[Option<f64>], season: usize) -> Vec<Option<f64>> {
    if season < 2 || values.len() < 2 * season {
        return values.to_vec();
    }
    let base: Vec<f64> = (0..season)
        .map(|phase| {
            let mut same: Vec<f64> = values.iter().skip(phase).step_by(season).flatten().copied().collect();
            robust::median(&mut same).unwrap_or_default()
        })
        .collect();
    let left =
        values.iter().enumerate().map(|(index, value)| value.map(|value| value - base[index % season]));
    left.collect()
}

/// Lists the steps of gaps that are long enough to matter.
pub fn gaps(values: &[Option<f64>]) -> Vec<usize> {
    let mut gaps = Vec::new();
    let mut begun: Option<usize> = None;
    let mut known = false;
    for (index, value) in values.iter().map(Option::is_some).chain([true]).enumerate() {
        if !value {
            begun = begun.or_else(|| known.then_some(index));
            continue;
        }
        known = true;
        if let Some(from) = begun.take().filter(|from| index - from >= GAP) {
            gaps.extend(from..index);
        }
    }
    gaps
}

impl Score {
    /// Compares alarms with what is wrong.
    pub fn of(series: &Labelled, alarms: &[(usize, usize)]) -> Self {
        let meets =
            |(from, to): (usize, usize), (begin, end): (usize, usize)| from < end + GRACE && begin < to;
        let found = series.wrong.iter().filter(|wrong| alarms.iter().any(|alarm| meets(*alarm, **wrong)));
        let without_reason =
            alarms.iter().filter(|alarm| !series.wrong.iter().any(|wrong| meets(**alarm, *wrong)));
        let steps = series.values.len().saturating_sub(series.day * LEARNED_DAYS);
        Self {
            wrong: series.wrong.len(),
            found: found.count(),
            alarms: alarms.len(),
            false_alarms: without_reason.count(),
            days: steps as f64 / series.day as f64,
        }
    }

    /// Adds another one.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            wrong: self.wrong + other.wrong,
            found: self.found + other.found,
            alarms: self.alarms + other.alarms,
            false_alarms: self.false_alarms + other.false_alarms,
            days: self.days + other.days,
        }
    }

    /// Returns the share of alarms that have a reason.
    pub fn precision(&self) -> f64 {
        if self.alarms == 0 { 1.0 } else { 1.0 - self.false_alarms as f64 / self.alarms as f64 }
    }

    /// Returns the share of what is wrong that was found.
    pub fn recall(&self) -> f64 {
        if self.wrong == 0 { 1.0 } else { self.found as f64 / self.wrong as f64 }
    }

    /// Returns false alarms of one series in one day.
    pub fn false_per_day(&self) -> f64 {
        if self.days > 0.0 { self.false_alarms as f64 / self.days } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SET: &str = include_str!("../../data/labelled.csv");

    fn total(detector: Detector) -> Score {
        let series = read(SET).unwrap();
        series
            .iter()
            .map(|series| Score::of(series, &alarms(series, detector)))
            .fold(Score::default(), Score::and)
    }

    #[test]
    fn what_is_wrong_in_the_labelled_set_is_found_without_many_false_alarms() {
        let band = total(Detector::Band(Method::Seasonal));
        assert!(band.recall() >= 0.8 && band.precision() >= 0.9, "{band:?}");
        let both = total(Detector::Both(Method::Seasonal));
        assert!(both.recall() >= 0.95 && both.precision() >= 0.9, "{both:?}");
        assert!(both.false_per_day() < 0.05, "{both:?}");
    }

    #[test]
    fn line_that_cannot_be_read_is_named() {
        assert_eq!(read("# nothing\n"), Ok(Vec::new()));
        assert!(read("a,spike,288,10-12\n1,2,x\n").unwrap_err().contains("line 1"));
        let read = read("a,spike,2,1-2\n1,,3.5\n").unwrap();
        assert_eq!(
            (read[0].values.clone(), read[0].wrong.clone()),
            (vec![Some(1.0), None, Some(3.5)], vec![(1, 2)])
        );
    }
}
