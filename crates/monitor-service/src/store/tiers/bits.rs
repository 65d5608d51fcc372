//! Figures of any kind, bit by bit: what differs from the figure before, and min, max and mean from last.

use super::TierPoint;
use super::pack::Damaged;
use crate::series::{WordReader, Words};

/// Writes figures column by column.
pub(super) fn put(bytes: &mut Vec<u8>, points: &[(u32, TierPoint)]) {
    let mut words = Words::default();
    let mut before = 0;
    for (_, point) in points {
        words.push(point.last.to_bits() ^ before);
        before = point.last.to_bits();
    }
    for (_, point) in points {
        words.push(point.min.to_bits() ^ point.last.to_bits());
    }
    for (_, point) in points {
        words.push(point.max.to_bits() ^ point.last.to_bits());
    }
    for (_, point) in points {
        words.push(point.mean.to_bits() ^ middle(point));
    }
    bytes.extend_from_slice(words.as_bytes());
}

/// Reads figures into points.
pub(super) fn take(bytes: &mut &[u8], points: &mut [(u32, TierPoint)]) -> Result<(), Damaged> {
    let mut words = WordReader::new(bytes);
    let mut next = || match words.next() {
        Some((0, word)) => Ok(word),
        _ => Err(Damaged),
    };
    let mut before = 0;
    for (_, point) in points.iter_mut() {
        before ^= next()?;
        point.last = f64::from_bits(before);
    }
    for (_, point) in points.iter_mut() {
        point.min = f64::from_bits(next()? ^ point.last.to_bits());
    }
    for (_, point) in points.iter_mut() {
        point.max = f64::from_bits(next()? ^ point.last.to_bits());
    }
    for (_, point) in points.iter_mut() {
        point.mean = f64::from_bits(next()? ^ middle(point));
    }
    if !words.is_at_end() {
        return Err(Damaged);
    }
    *bytes = &[];
    Ok(())
}

/// Where a mean lies most often.
fn middle(point: &TierPoint) -> u64 {
    let middle = point.min / 2.0 + point.max / 2.0;
    // Machines do not agree on the bits of what is no number.
    if middle.is_finite() { middle.to_bits() } else { point.last.to_bits() }
}
