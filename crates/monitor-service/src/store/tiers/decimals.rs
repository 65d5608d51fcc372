//! Figures that are whole numbers, or have few decimals, as small differences of whole numbers.
//!
//! After ALP (Afroozeh, Kuffó, Boncz: Adaptive Lossless floating-Point Compression, 2023): where every figure is a whole
//! number over the same power of ten, bit by bit, the whole numbers say it all. A mean is none, but what it is the mean of
//! sums up to one: that sum tells it up to its last bits, and those are told as a distance.

use super::pack::Damaged;
use super::{TierPoint, varint};

/// Decimals that are looked for.
const DECIMALS_MAX: u8 = 9;
/// From here on not every whole number is a figure.
const WHOLE_MAX: f64 = (1_u64 << 53) as f64;

/// Finds how many decimals say all of these figures, if any number does.
pub(super) fn of(points: &[(u32, TierPoint)]) -> Option<u8> {
    let all = |decimals: &u8| {
        let scale = scale(*decimals);
        let figures = points.iter().flat_map(|(_, point)| [point.last, point.min, point.max]);
        figures.into_iter().all(|figure| whole(figure, scale).is_some())
    };
    (0..=DECIMALS_MAX).find(all)
}

/// Writes figures that have so many decimals: column by column, since like is packed best with like.
pub(super) fn put(bytes: &mut Vec<u8>, points: &[(u32, TierPoint)], decimals: u8) {
    let scale = scale(decimals);
    let whole = |figure| whole(figure, scale).unwrap_or_default();
    let mut before = 0;
    for (_, point) in points {
        let last = whole(point.last);
        varint::put_signed(bytes, last - before);
        before = last;
    }
    for (_, point) in points {
        varint::put(bytes, (whole(point.last) - whole(point.min)).cast_unsigned());
    }
    for (_, point) in points {
        varint::put(bytes, (whole(point.max) - whole(point.last)).cast_unsigned());
    }
    let sum = |point: &TierPoint| (point.mean * divisor(point.n, scale)).round() as i64;
    for (_, point) in points {
        let expected = expected(point.n, whole(point.min), whole(point.max));
        varint::put_signed(bytes, sum(point).wrapping_sub(expected));
    }
    for (_, point) in points {
        let near = mean(sum(point), point.n, scale).to_bits();
        varint::put_signed(bytes, point.mean.to_bits().wrapping_sub(near).cast_signed());
    }
}

/// Reads figures into points whose numbers of samples are known.
pub(super) fn take(bytes: &mut &[u8], points: &mut [(u32, TierPoint)], decimals: u8) -> Result<(), Damaged> {
    if decimals > DECIMALS_MAX {
        return Err(Damaged);
    }
    let scale = scale(decimals);
    let figure = |whole: i64| whole as f64 / scale;
    let mut wholes = vec![Wholes::default(); points.len()];
    let mut before = 0_i64;
    for of in &mut wholes {
        of.last = before.wrapping_add(varint::take_signed(bytes)?);
        before = of.last;
    }
    for of in &mut wholes {
        of.min = of.last.wrapping_sub(varint::take(bytes)?.cast_signed());
    }
    for of in &mut wholes {
        of.max = of.last.wrapping_add(varint::take(bytes)?.cast_signed());
    }
    for (of, (_, point)) in wholes.iter_mut().zip(&*points) {
        of.sum = expected(point.n, of.min, of.max).wrapping_add(varint::take_signed(bytes)?);
    }
    for (Wholes { last, min, max, sum }, (_, point)) in wholes.into_iter().zip(points) {
        (point.last, point.min, point.max) = (figure(last), figure(min), figure(max));
        let near = mean(sum, point.n, scale).to_bits();
        point.mean = f64::from_bits(near.wrapping_add(varint::take_signed(bytes)?.cast_unsigned()));
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, Default)]
struct Wholes {
    last: i64,
    min: i64,
    max: i64,
    sum: i64,
}

fn scale(decimals: u8) -> f64 {
    10_f64.powi(decimals.into())
}

/// Returns the whole number that tells a figure, to the last bit and to its sign.
fn whole(figure: f64, scale: f64) -> Option<i64> {
    let scaled = (figure * scale).round();
    let whole = scaled as i64;
    (scaled.abs() < WHOLE_MAX && (whole as f64 / scale).to_bits() == figure.to_bits()).then_some(whole)
}

/// Figures that grow evenly, or scatter evenly, have their mean in the middle.
fn expected(n: i64, min: i64, max: i64) -> i64 {
    n.wrapping_mul(min.wrapping_add(max)) / 2
}

fn divisor(n: i64, scale: f64) -> f64 {
    n as f64 * scale
}

/// The same steps when writing and when reading, so that both get the same bits.
fn mean(sum: i64, n: i64, scale: f64) -> f64 {
    let mean = sum as f64 / divisor(n, scale);
    // Machines do not agree on the bits of what is no number.
    if mean.is_finite() { mean } else { 0.0 }
}
