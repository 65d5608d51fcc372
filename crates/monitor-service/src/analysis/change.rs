//! Moments at which the level of a figure changed, and stayed changed.

use super::robust;

/// Holds one of those moments.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Change {
    /// First step of the new level.
    pub index: usize,
    /// Mean from the change before (or the beginning) to here.
    pub before: f64,
    /// Mean from here to the next change (or the end).
    pub after: f64,
    /// Standard errors between the two.
    pub score: f64,
}

/// Least figures of a level.
const LEVEL_MIN: usize = 12;
const CHANGES_MAX: usize = 20;
/// Standard errors that chance does not give: noise of neighbours is related, so far above what tables say.
const SCORE_MIN: f64 = 12.0;
/// A level differs by at least so many standard deviations of the noise: smaller steps are of no interest to anybody.
const STEP_MIN: f64 = 2.0;

/// Finds changes of level, the oldest first: binary segmentation (Scott and Knott) of means against the noise of
/// neighbouring figures, which a change of level does not widen. A season must have been taken out before.
pub fn changes(values: &[Option<f64>]) -> Vec<Change> {
    let (indices, figures): (Vec<usize>, Vec<f64>) =
        values.iter().enumerate().filter_map(|(index, value)| value.map(|value| (index, value))).unzip();
    let Some(noise) = robust::noise(&figures) else { return Vec::new() };
    let level = robust::median(&mut figures.clone()).unwrap_or_default();
    let noise = noise.max(level.abs() * 1e-3).max(f64::MIN_POSITIVE);
    let sums: Vec<f64> = std::iter::once(0.0)
        .chain(figures.iter().scan(0.0, |sum, value| {
            *sum += value;
            Some(*sum)
        }))
        .collect();
    let mut borders = vec![0, figures.len()];
    let mut open = vec![(0, figures.len())];
    while let Some((from, to)) = open.pop() {
        if borders.len() - 2 == CHANGES_MAX {
            break;
        }
        if let Some(split) = best_split(&sums, from, to, noise) {
            borders.push(split);
            open.extend([(from, split), (split, to)]);
        }
    }
    borders.sort_unstable();
    let mean = |from: usize, to: usize| (sums[to] - sums[from]) / (to - from) as f64;
    let change = |around: &[usize]| {
        let &[from, split, to] = around else { return None };
        let (before, after) = (mean(from, split), mean(split, to));
        let score = score(&sums, (from, split, to), noise);
        Some(Change { index: indices[split], before, after, score })
    };
    borders.windows(3).filter_map(change).collect()
}

fn score(sums: &[f64], (from, split, to): (usize, usize, usize), noise: f64) -> f64 {
    let (left, right) = ((split - from) as f64, (to - split) as f64);
    let step = (sums[to] - sums[split]) / right - (sums[split] - sums[from]) / left;
    step.abs() / noise * (left * right / (left + right)).sqrt()
}

fn best_split(sums: &[f64], from: usize, to: usize, noise: f64) -> Option<usize> {
    let splits = from + LEVEL_MIN..(to + 1).saturating_sub(LEVEL_MIN);
    let scored = splits.map(|split| (split, score(sums, (from, split, to), noise)));
    let (split, score) = scored.max_by(|one, other| one.1.total_cmp(&other.1))?;
    let mean = |from: usize, to: usize| (sums[to] - sums[from]) / (to - from) as f64;
    // The level beside the split, not that of the whole: what comes and goes is no change.
    let near = |split: usize| (split.saturating_sub(LEVEL_MIN).max(from), (split + LEVEL_MIN).min(to));
    let (left, right) = near(split);
    let step = (mean(split, right) - mean(left, split)).abs();
    (score >= SCORE_MIN && step >= STEP_MIN * noise).then_some(split)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(index: usize) -> f64 {
        ((index * 7919 + 13) % 101) as f64 / 101.0 - 0.5
    }

    #[test]
    fn levels_are_found_where_they_begin() {
        let level = |index: usize| match index {
            0..200 => 10.0,
            200..350 => 14.0,
            _ => 8.0,
        };
        let values: Vec<Option<f64>> = (0..500).map(|index| Some(level(index) + noise(index))).collect();
        let found = changes(&values);
        let indices: Vec<usize> = found.iter().map(|change| change.index).collect();
        assert_eq!(indices, [200, 350]);
        assert!((found[0].before - 10.0).abs() < 0.1 && (found[0].after - 14.0).abs() < 0.1, "{found:?}");
    }

    #[test]
    fn noise_a_spike_and_too_few_figures_are_no_change() {
        let mut values: Vec<Option<f64>> = (0..500).map(|index| Some(10.0 + noise(index))).collect();
        values[250] = Some(40.0);
        assert_eq!(changes(&values), []);
        assert_eq!(changes(&[Some(1.0), Some(9.0)]), []);
        assert_eq!(changes(&vec![Some(3.0); 100]), []);
        assert_eq!(changes(&[]), []);
    }
}
