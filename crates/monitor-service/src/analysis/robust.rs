//! Middle and spread that a few wild figures cannot move.

/// Makes the median absolute deviation of normal noise its standard deviation.
const MAD_TO_SIGMA: f64 = 1.4826;

/// Returns the middle one of some figures; none of none. Their order is lost.
pub fn median(values: &mut [f64]) -> Option<f64> {
    let middle = values.len() / 2;
    if values.is_empty() {
        return None;
    }
    let is_even = values.len().is_multiple_of(2);
    let (below, &mut upper, _) = values.select_nth_unstable_by(middle, f64::total_cmp);
    if !is_even {
        return Some(upper);
    }
    let lower = below.iter().copied().max_by(f64::total_cmp).unwrap_or(upper);
    Some(lower.midpoint(upper))
}

/// Returns the spread around a centre, as the standard deviation that normal noise of that spread would have.
pub fn spread(values: &[f64], centre: f64) -> Option<f64> {
    let mut deviations: Vec<f64> = values.iter().map(|value| (value - centre).abs()).collect();
    median(&mut deviations).map(|deviation| deviation * MAD_TO_SIGMA)
}

/// Returns the spread of the noise of a sequence, whatever its level does: from its steps.
pub fn noise(values: &[f64]) -> Option<f64> {
    let steps: Vec<f64> = values.windows(2).map(|pair| pair[1] - pair[0]).collect();
    spread(&steps, 0.0).map(|spread| spread / std::f64::consts::SQRT_2)
}

/// Returns the share of a standard normal distribution below `z` (Abramowitz and Stegun 7.1.26; error below 2e-7).
pub fn normal_below(z: f64) -> f64 {
    let x = z.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * x);
    let series = [0.254_829_592, -0.284_496_736, 1.421_413_741, -1.453_152_027, 1.061_405_429];
    let sum = series.iter().rev().fold(0.0, |sum, factor| (sum + factor) * t);
    let erf = 1.0 - sum * (-x * x).exp();
    if z >= 0.0 { 0.5 * (1.0 + erf) } else { 0.5 * (1.0 - erf) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wild_figure_moves_neither_middle_nor_spread() {
        assert_eq!(median(&mut []), None);
        assert_eq!(median(&mut [3.0, 1.0, 2.0, 4.0]), Some(2.5));
        assert_eq!(median(&mut [3.0, 1.0, 1e9]), Some(3.0));
        let quiet = spread(&[9.0, 10.0, 11.0, 10.0, 1e6], 10.0).unwrap();
        assert!((quiet - 1.4826).abs() < 1e-9, "{quiet}");
        assert_eq!(noise(&[1.0, 1.0, 1.0, 9.0, 9.0, 9.0]), Some(0.0));
    }

    #[test]
    fn normal_distribution_is_that_of_the_tables() {
        for (z, below) in [(0.0, 0.5), (1.0, 0.841_344_7), (-1.96, 0.024_997_9), (3.0, 0.998_650_1)] {
            assert!((normal_below(z) - below).abs() < 1e-6, "{z}");
        }
    }
}
