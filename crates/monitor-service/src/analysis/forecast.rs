//! Where a figure is going, and when it gets there.

use std::time::Duration;

use super::robust;
use super::steps::Steps;

/// Holds a straight line through figures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Line {
    /// Where the line is at the end of the figures.
    pub now: f64,
    /// How much it changes in a second.
    pub per_second: f64,
    /// The slope lies between these with a probability of [`BETWEEN`].
    pub slope_between: (f64, f64),
    /// Probability that there is a trend at all, 0 to 1 (Mann-Kendall).
    pub confidence: f64,
    /// Standard deviation of the figures around the line.
    pub spread: f64,
    /// Seconds from the first figure to the last.
    pub seconds: f64,
}

/// Says when a level is reached.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reach {
    /// If it goes on like this.
    pub after: Duration,
    /// If it goes on as fast as it may.
    pub earliest: Duration,
    /// If it goes on as slowly as it may; none if it may not get there.
    pub latest: Option<Duration>,
}

/// Probability that the slope lies within its bounds.
pub const BETWEEN: f64 = 0.9;
const BETWEEN_Z: f64 = 1.645;
/// Figures of a line: more cost time, and say nothing more.
const FIGURES_MAX: usize = 240;
/// Fewer figures make no line.
const FIGURES_MIN: usize = 8;
/// Nobody believes a forecast for later than this.
const FURTHEST: Duration = Duration::from_hours(24 * 3_650);

impl Line {
    /// Lays a line through figures (Theil and Sen; bounds of the slope after Sen, 1968): the median of the slopes between
    /// all pairs, which a quarter of wild figures cannot move. None of too few figures.
    ///
    /// The confidence takes figures as independent; where each resembles the one before, it is less.
    pub fn through(steps: &Steps) -> Option<Self> {
        let present: Vec<(usize, f64)> = steps.present().collect();
        let every = present.len().div_ceil(FIGURES_MAX).max(1);
        let points: Vec<(f64, f64)> = present
            .chunks(every)
            .filter_map(|chunk| {
                let (middle, _) = chunk.get(chunk.len() / 2)?;
                let mut values: Vec<f64> = chunk.iter().map(|(_, value)| *value).collect();
                Some((*middle as f64 * steps.step.as_secs_f64(), robust::median(&mut values)?))
            })
            .collect();
        if points.len() < FIGURES_MIN {
            return None;
        }
        let mut slopes = Vec::with_capacity(points.len() * points.len() / 2);
        let mut order: f64 = 0.0;
        for (index, (x, y)) in points.iter().enumerate() {
            for (later_x, later_y) in &points[index + 1..] {
                slopes.push((later_y - y) / (later_x - x));
                order += match later_y.total_cmp(y) {
                    std::cmp::Ordering::Greater => 1.0,
                    std::cmp::Ordering::Less => -1.0,
                    std::cmp::Ordering::Equal => 0.0,
                };
            }
        }
        slopes.sort_unstable_by(f64::total_cmp);
        let per_second = robust::median(&mut slopes.clone())?;
        let n = points.len() as f64;
        let deviation = (n * (n - 1.0) * (2.0 * n + 5.0) / 18.0).sqrt();
        let at = |rank: f64| {
            let last = slopes.len() - 1;
            slopes[(rank.max(0.0) as usize).min(last)]
        };
        let (pairs, width) = (slopes.len() as f64, BETWEEN_Z * deviation);
        let slope_between = (at((pairs - width) / 2.0), at(f64::midpoint(pairs, width)));
        let z = (order.abs() - 1.0).max(0.0) / deviation;
        let mut starts: Vec<f64> = points.iter().map(|(x, y)| y - per_second * x).collect();
        let start = robust::median(&mut starts)?;
        let residuals: Vec<f64> = points.iter().map(|(x, y)| y - (start + per_second * x)).collect();
        let (first, last) = (points.first()?.0, points.last()?.0);
        Some(Self {
            now: start + per_second * last,
            per_second,
            slope_between,
            confidence: if z > 0.0 { (2.0 * robust::normal_below(z) - 1.0).clamp(0.0, 1.0) } else { 0.0 },
            spread: robust::spread(&residuals, 0.0)?,
            seconds: last - first,
        })
    }

    /// Tells when the line reaches a level; none when it goes elsewhere, or so slowly that nobody knows.
    pub fn reach(&self, level: f64) -> Option<Reach> {
        let far = level - self.now;
        let after = |slope: f64| {
            let seconds = far / slope;
            (seconds >= 0.0 && seconds <= FURTHEST.as_secs_f64()).then(|| Duration::from_secs_f64(seconds))
        };
        let expected = after(self.per_second)?;
        let (one, other) = (after(self.slope_between.0), after(self.slope_between.1));
        Some(Reach {
            after: expected,
            earliest: one.into_iter().chain(other).min().unwrap_or(expected).min(expected),
            latest: one.zip(other).map(|(one, other)| one.max(other).max(expected)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    fn steps(figure: impl Fn(usize) -> f64, n: usize) -> Steps {
        let values = (0..n).map(|index| Some(figure(index))).collect();
        Steps { from: SystemTime::UNIX_EPOCH, step: Duration::from_secs(10), values }
    }

    fn noise(index: usize) -> f64 {
        ((index * 7919 + 13) % 101) as f64 / 101.0 - 0.5
    }

    #[test]
    fn disk_that_fills_is_full_when_the_line_says() {
        let wild = |index: usize| if index.is_multiple_of(10) { 30.0 } else { 0.0 };
        let line = Line::through(&steps(|index| 40.0 + 0.1 * index as f64 + noise(index) + wild(index), 360));
        let line = line.unwrap();
        assert!((line.per_second - 0.01).abs() < 0.0005, "{line:?}");
        assert!(line.confidence > 0.999);
        let reach = line.reach(100.0).unwrap();
        let expected = (100.0 - 75.9) / 0.01;
        assert!((reach.after.as_secs_f64() - expected).abs() < 120.0, "{reach:?}");
        assert!(reach.earliest <= reach.after && reach.after <= reach.latest.unwrap(), "{reach:?}");
        assert_eq!(line.reach(10.0), None);
    }

    #[test]
    fn figure_that_rests_or_wanders_is_not_trusted() {
        let rests = Line::through(&steps(|_| 5.0, 100)).unwrap();
        assert_eq!((rests.per_second, rests.confidence, rests.reach(10.0)), (0.0, 0.0, None));
        let wanders = Line::through(&steps(noise, 200)).unwrap();
        assert!(wanders.confidence < 0.9, "{wanders:?}");
        assert_eq!(Line::through(&steps(noise, 5)), None);
    }
}
