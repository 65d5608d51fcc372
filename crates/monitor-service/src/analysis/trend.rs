//! How a figure compares with itself a day before.

use super::forecast::Line;
use super::steps::Steps;

/// Compares two stretches of a figure of the same length.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trend {
    /// Mean of the newer one.
    pub now: f64,
    /// Mean of the older one; none where nothing is known of it.
    pub before: Option<f64>,
    /// Change as a share of the older one; none where that was zero.
    pub change: Option<f64>,
    /// Which way it goes within the newer one.
    pub direction: Direction,
    /// How much it changes in an hour, within the newer one.
    pub per_hour: f64,
    /// Probability that it goes anywhere at all.
    pub confidence: f64,
}

/// Says which way a figure goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Up.
    Rising,
    /// Down.
    Falling,
    /// Neither, as far as its noise lets one tell.
    Steady,
}

impl Direction {
    /// Returns the lower-case name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rising => "rising",
            Self::Falling => "falling",
            Self::Steady => "steady",
        }
    }
}

/// A trend that is less sure is none.
const CONFIDENCE_MIN: f64 = 0.95;

/// Compares; none when nothing is known of the newer stretch.
pub fn compare(newer: &Steps, older: &Steps) -> Option<Trend> {
    let mean = |steps: &Steps| {
        let (n, sum) = steps.present().fold((0_u32, 0.0), |(n, sum), (_, value)| (n + 1, sum + value));
        (n > 0).then(|| sum / f64::from(n))
    };
    let now = mean(newer)?;
    let before = mean(older);
    let line = Line::through(newer);
    let (per_second, confidence) = line.map_or((0.0, 0.0), |line| (line.per_second, line.confidence));
    // What it changes over the whole stretch must be more than its noise.
    let moves = line.is_some_and(|line| (line.per_second * line.seconds).abs() > line.spread);
    let direction = match per_second.total_cmp(&0.0) {
        _ if confidence < CONFIDENCE_MIN || !moves => Direction::Steady,
        std::cmp::Ordering::Greater => Direction::Rising,
        std::cmp::Ordering::Less => Direction::Falling,
        std::cmp::Ordering::Equal => Direction::Steady,
    };
    let change = before.filter(|before| *before != 0.0).map(|before| (now - before) / before.abs());
    Some(Trend { now, before, change, direction, per_hour: per_second * 3_600.0, confidence })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

    fn steps(figure: impl Fn(f64) -> f64) -> Steps {
        let values = (0..60).map(|index| Some(figure(f64::from(index)))).collect();
        Steps { from: SystemTime::UNIX_EPOCH, step: Duration::from_mins(1), values }
    }

    #[test]
    fn figure_is_compared_with_itself_a_day_before() {
        let noisy = |x: f64| (x * 7.3).sin();
        let trend = compare(&steps(|x| 110.0 + x + noisy(x)), &steps(|_| 100.0)).unwrap();
        assert_eq!(trend.direction, Direction::Rising);
        assert!(
            (trend.change.unwrap() - 0.395).abs() < 0.01 && (trend.per_hour - 60.0).abs() < 3.0,
            "{trend:?}"
        );
        let flat = compare(&steps(noisy), &steps(|_| 0.0)).unwrap();
        assert_eq!((flat.direction, flat.change, flat.before), (Direction::Steady, None, Some(0.0)));
        let empty = Steps { values: vec![None; 60], ..steps(noisy) };
        assert_eq!(compare(&empty, &steps(noisy)), None);
        assert_eq!(compare(&steps(noisy), &empty).unwrap().before, None);
    }
}
