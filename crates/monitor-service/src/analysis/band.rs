//! Where a figure should be, step by step, and how far it is from there.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::robust;

/// Says how the expectation is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Exponentially weighted mean: what it was lately.
    #[default]
    Ewma,
    /// Additive Holt-Winters with a damped trend: where it was going, and the time of the season.
    HoltWinters,
    /// Median of the same time in earlier seasons.
    Seasonal,
}

/// Says what is looked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// How the expectation is made.
    pub method: Method,
    /// Half the width of the band, in standard deviations.
    pub sensitivity: f64,
    /// Steps of a season; 0 for none.
    pub season: usize,
}

/// Holds what was expected of a figure, and what it was.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judged {
    /// Which step.
    pub index: usize,
    /// What it was.
    pub value: f64,
    /// What it should have been.
    pub expected: f64,
    /// Below this it is an anomaly.
    pub lower: f64,
    /// Above this it is an anomaly.
    pub upper: f64,
    /// Standard deviations between value and expectation; negative below it.
    pub score: f64,
}

impl Judged {
    /// Tells whether the figure is outside its band.
    pub fn is_anomaly(&self) -> bool {
        self.value < self.lower || self.value > self.upper
    }
}

/// Weight of the newest figure in a running mean.
const ALPHA: f64 = 0.1;
/// Weight of the newest step in a trend, and of the newest season.
const BETA: f64 = 0.02;
const GAMMA: f64 = 0.2;
/// A trend is believed less, the further it is carried on.
const DAMPING: f64 = 0.95;
/// Weight of the newest residual in their running size.
const SPREAD_ALPHA: f64 = 0.05;
/// Figures before anything is judged.
const WARM_UP: usize = 20;
/// Mean absolute deviation of normal noise, as a standard deviation.
const MEAN_TO_SIGMA: f64 = 1.2533;
/// Steps beside the same time of an earlier season that count too.
const NEIGHBOURS: usize = 2;
/// Seasons looked back at.
const SEASONS: usize = 7;
/// A band is at least so wide, as a share of what is expected: figures that rest may move a little.
const REST: f64 = 0.005;

/// Judges every figure against what came before it; the first ones, from which there is nothing to expect, are left out.
///
/// A figure outside its band moves the expectation only as far as the edge of the band would: one spike is not learned,
/// a level that stays is.
pub fn judge(values: &[Option<f64>], settings: &Settings) -> Vec<Judged> {
    match settings.method {
        Method::Ewma => with(values, settings, Running::default()),
        Method::HoltWinters => with(values, settings, HoltWinters::new(settings.season)),
        Method::Seasonal => with(values, settings, Seasonal::new(settings.season)),
    }
}

/// Expects one figure after the other.
trait Expect {
    /// Tells what the next figure should be; none while too little is known.
    fn expect(&mut self) -> Option<f64>;
    /// Takes a figure; `None` is a step without one.
    fn take(&mut self, value: Option<f64>);
}

fn with(values: &[Option<f64>], settings: &Settings, mut model: impl Expect) -> Vec<Judged> {
    let mut judged = Vec::new();
    let mut size = Size::default();
    for (index, value) in values.iter().enumerate() {
        let expected = model.expect();
        let (Some(value), Some(expected)) = (*value, expected) else {
            model.take(*value);
            continue;
        };
        let sigma = size.sigma().max(expected.abs() * REST).max(f64::MIN_POSITIVE);
        let width = settings.sensitivity * sigma;
        let residual = value - expected;
        if size.n >= WARM_UP {
            let (lower, upper) = (expected - width, expected + width);
            judged.push(Judged { index, value, expected, lower, upper, score: residual / sigma });
            let believed = residual.clamp(-width, width);
            size.add(believed);
            model.take(Some(expected + believed));
        } else {
            size.add(residual);
            model.take(Some(value));
        }
    }
    judged
}

/// Runs along with the size of residuals.
#[derive(Debug, Default)]
struct Size {
    n: usize,
    mean_absolute: f64,
}

impl Size {
    fn add(&mut self, residual: f64) {
        self.n += 1;
        // A plain mean at first, so that one odd residual among the first does not count for long.
        let weight = SPREAD_ALPHA.max(1.0 / self.n as f64);
        self.mean_absolute += weight * (residual.abs() - self.mean_absolute);
    }

    fn sigma(&self) -> f64 {
        self.mean_absolute * MEAN_TO_SIGMA
    }
}

#[derive(Debug, Default)]
struct Running {
    n: usize,
    mean: f64,
}

impl Expect for Running {
    fn expect(&mut self) -> Option<f64> {
        (self.n > 0).then_some(self.mean)
    }

    fn take(&mut self, value: Option<f64>) {
        let Some(value) = value else { return };
        self.n += 1;
        self.mean += ALPHA.max(1.0 / self.n as f64) * (value - self.mean);
    }
}

/// Chatfield's additive form; the first season is taken as it comes.
#[derive(Debug)]
struct HoltWinters {
    level: Option<f64>,
    trend: f64,
    seasonal: Vec<f64>,
    first: Vec<Option<f64>>,
    season: usize,
    phase: usize,
}

impl HoltWinters {
    fn new(season: usize) -> Self {
        let season = if season < 2 { 0 } else { season };
        Self {
            level: None,
            trend: 0.0,
            seasonal: Vec::new(),
            first: Vec::with_capacity(season),
            season,
            phase: 0,
        }
    }

    fn of_season(&self) -> f64 {
        self.seasonal.get(self.phase).copied().unwrap_or_default()
    }

    /// Starts with a whole season: its mean is the level, what is left the season.
    fn start(&mut self) {
        let known: Vec<f64> = self.first.iter().flatten().copied().collect();
        if known.is_empty() {
            self.first.clear();
            return;
        }
        let level = known.iter().sum::<f64>() / known.len() as f64;
        self.seasonal = self.first.iter().map(|value| value.map_or(0.0, |value| value - level)).collect();
        self.level = Some(level);
    }
}

impl Expect for HoltWinters {
    fn expect(&mut self) -> Option<f64> {
        self.level.map(|level| level + DAMPING * self.trend + self.of_season())
    }

    fn take(&mut self, value: Option<f64>) {
        let Some(level) = self.level else {
            if self.season == 0 {
                self.level = value;
            } else {
                self.first.push(value);
                if self.first.len() == self.season {
                    self.start();
                }
            }
            return;
        };
        let carried = level + DAMPING * self.trend;
        match value {
            Some(value) => {
                let season = self.of_season();
                let new = carried + ALPHA * (value - season - carried);
                self.trend = (1.0 - BETA) * DAMPING * self.trend + BETA * (new - level);
                if let Some(known) = self.seasonal.get_mut(self.phase) {
                    *known += GAMMA * (value - new - season);
                }
                self.level = Some(new);
            }
            None => {
                self.trend *= DAMPING;
                self.level = Some(carried);
            }
        }
        self.phase = if self.season == 0 { 0 } else { (self.phase + 1) % self.season };
    }
}

/// Remembers the last seasons as they were; the level of the last hours is allowed to differ from theirs.
#[derive(Debug)]
struct Seasonal {
    season: usize,
    past: VecDeque<Option<f64>>,
    /// How far figures have lately been from what earlier seasons say.
    shift: Running,
}

impl Seasonal {
    fn new(season: usize) -> Self {
        Self { season: season.max(1), past: VecDeque::new(), shift: Running::default() }
    }

    /// Gives the figures of the same time in earlier seasons.
    fn alike(&self) -> Vec<f64> {
        let mut alike = Vec::with_capacity(SEASONS * (2 * NEIGHBOURS + 1));
        let next = self.past.len();
        for seasons_ago in 1..=SEASONS {
            let Some(same) = next.checked_sub(seasons_ago * self.season) else { break };
            let from = same.saturating_sub(NEIGHBOURS);
            let near = (from..=same + NEIGHBOURS).filter_map(|index| self.past.get(index).copied().flatten());
            alike.extend(near);
        }
        alike
    }
}

impl Expect for Seasonal {
    fn expect(&mut self) -> Option<f64> {
        let base = robust::median(&mut self.alike())?;
        Some(base + self.shift.mean)
    }

    fn take(&mut self, value: Option<f64>) {
        if let (Some(value), Some(base)) = (value, robust::median(&mut self.alike())) {
            self.shift.take(Some(value - base));
        }
        if self.past.len() >= self.season * SEASONS + NEIGHBOURS {
            self.past.pop_front();
        }
        self.past.push_back(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Repeats itself, but not soon: small noise without a generator.
    fn noise(index: usize) -> f64 {
        ((index * 7919 + 13) % 101) as f64 / 101.0 - 0.5
    }

    fn wave(index: usize) -> f64 {
        (index as f64 / 48.0 * std::f64::consts::TAU).sin()
    }

    fn anomalies(values: &[Option<f64>], method: Method) -> Vec<usize> {
        let settings = Settings { method, sensitivity: 5.0, season: 48 };
        let judged = judge(values, &settings);
        judged.iter().filter(|judged| judged.is_anomaly()).map(|judged| judged.index).collect()
    }

    #[test]
    fn spike_is_an_anomaly_and_is_not_learned() {
        let mut values: Vec<Option<f64>> = (0..400).map(|i| Some(50.0 + 10.0 * wave(i) + noise(i))).collect();
        values[300] = Some(90.0);
        for method in [Method::HoltWinters, Method::Seasonal] {
            assert_eq!(anomalies(&values, method), [300], "{method:?}");
        }
        let flat: Vec<Option<f64>> =
            (0..400).map(|i| Some(if i == 300 { 60.0 } else { 50.0 + noise(i) })).collect();
        assert_eq!(anomalies(&flat, Method::Ewma), [300]);
    }

    #[test]
    fn level_that_stays_is_learned() {
        let values: Vec<Option<f64>> =
            (0..600).map(|i| Some(if i < 200 { 50.0 } else { 80.0 } + noise(i))).collect();
        let found = anomalies(&values, Method::Ewma);
        assert_eq!(found.first(), Some(&200));
        assert!(*found.last().unwrap() < 400, "{found:?}");
    }

    #[test]
    fn gaps_and_resting_figures_are_no_anomaly() {
        let values: Vec<Option<f64>> = (0..300).map(|i| (!(100..130).contains(&i)).then_some(7.0)).collect();
        for method in [Method::Ewma, Method::HoltWinters, Method::Seasonal] {
            assert_eq!(anomalies(&values, method), Vec::<usize>::new(), "{method:?}");
        }
        assert_eq!(judge(&[], &Settings { method: Method::Seasonal, sensitivity: 3.0, season: 0 }), []);
    }

    #[test]
    fn band_is_told_with_every_figure() {
        let values: Vec<Option<f64>> = (0..100).map(|i| Some(10.0 + noise(i))).collect();
        let judged = judge(&values, &Settings { method: Method::Ewma, sensitivity: 4.0, season: 0 });
        assert_eq!(judged.first().map(|judged| judged.index), Some(WARM_UP + 1));
        for one in judged {
            assert!(one.lower < one.expected && one.expected < one.upper, "{one:?}");
            let sigma = (one.upper - one.expected) / 4.0;
            assert!(((one.value - one.expected) / sigma - one.score).abs() < 1e-9, "{one:?}");
        }
    }
}
