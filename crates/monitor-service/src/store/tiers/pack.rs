//! Rolled-up points as few bytes, and back, to the last bit.
//!
//! The same form holds points of one series, step by step, and points of one step, series by series: each has a place among
//! at most [`PLACES`].
//!
//! | bytes | meaning |
//! |---|---|
//! | 1 | form: what follows is [`PLAIN`], or Zstandard of it |
//! | varint | number of points |
//! | varint | of Zstandard: bytes before it |
//! | varints | places without and with a point in turn, beginning with those without |
//! | varints | numbers of samples, each with the number of points in a row that have it |
//! | 1 | decimals, or [`BITS`] |
//! | ... | figures, see [`super::decimals`] and [`super::bits`] |
//! | 4 | CRC-32 of all before |

use super::{TierPoint, bits, decimals, varint};

/// Places in a pack.
pub(super) const PLACES: u32 = 256;

/// Says that bytes are not what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not what was written")]
pub(super) struct Damaged;

const PLAIN: u8 = 0;
const ZSTD: u8 = 1;
/// Instead of a number of decimals.
const BITS: u8 = 0xff;
/// The usual one: a higher one saves less than a hundredth here.
const LEVEL: i32 = 3;
/// More than any pack is.
const PLAIN_MAX: usize = PLACES as usize * 80;
const CHECK: usize = 4;

/// Packs points, whose places grow.
pub(super) fn pack(points: &[(u32, TierPoint)]) -> Vec<u8> {
    let plain = plain(points);
    let squeezed = zstd::bulk::compress(&plain, LEVEL).ok().filter(|bytes| bytes.len() + 2 < plain.len());
    let mut packed = vec![if squeezed.is_some() { ZSTD } else { PLAIN }];
    varint::put(&mut packed, points.len() as u64);
    if squeezed.is_some() {
        varint::put(&mut packed, plain.len() as u64);
    }
    packed.extend(squeezed.unwrap_or(plain));
    let check = crc32fast::hash(&packed);
    packed.extend(check.to_le_bytes());
    packed
}

/// Reads what [`pack`] wrote.
pub(super) fn unpack(packed: &[u8]) -> Result<Vec<(u32, TierPoint)>, Damaged> {
    let (body, check) = packed.split_last_chunk::<CHECK>().ok_or(Damaged)?;
    if crc32fast::hash(body) != u32::from_le_bytes(*check) {
        return Err(Damaged);
    }
    let (form, mut rest) = body.split_first().ok_or(Damaged)?;
    let n_points = n_of(&mut rest)?;
    match *form {
        PLAIN => of_plain(rest, n_points),
        ZSTD => {
            let n_plain = usize::try_from(varint::take(&mut rest)?).map_err(|_| Damaged)?;
            let plain = zstd::bulk::decompress(rest, n_plain.min(PLAIN_MAX)).map_err(|_| Damaged)?;
            of_plain(&plain, n_points)
        }
        _ => Err(Damaged),
    }
}

/// Counts the points of a pack without reading them; none in one that is damaged.
pub(super) fn count(packed: &[u8]) -> usize {
    packed.split_first().and_then(|(_, mut rest)| n_of(&mut rest).ok()).unwrap_or(0)
}

fn n_of(bytes: &mut &[u8]) -> Result<usize, Damaged> {
    let n_points = varint::take(bytes)?;
    usize::try_from(n_points).ok().filter(|n| *n <= PLACES as usize).ok_or(Damaged)
}

fn plain(points: &[(u32, TierPoint)]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(points.len() * 8);
    let mut next = 0;
    for run in points.chunk_by(|one, other| one.0 + 1 == other.0) {
        let first = run.first().map_or(next, |(place, _)| *place);
        varint::put(&mut bytes, u64::from(first - next));
        varint::put(&mut bytes, run.len() as u64);
        next = first + run.len() as u32;
    }
    for run in points.chunk_by(|(_, one), (_, other)| one.n == other.n) {
        varint::put_signed(&mut bytes, run.first().map_or(0, |(_, point)| point.n));
        varint::put(&mut bytes, run.len() as u64);
    }
    match decimals::of(points) {
        Some(decimals) => {
            bytes.push(decimals);
            decimals::put(&mut bytes, points, decimals);
        }
        None => {
            bytes.push(BITS);
            bits::put(&mut bytes, points);
        }
    }
    bytes
}

fn of_plain(mut bytes: &[u8], n_points: usize) -> Result<Vec<(u32, TierPoint)>, Damaged> {
    let bytes = &mut bytes;
    let mut points: Vec<(u32, TierPoint)> = Vec::with_capacity(n_points);
    let mut next = 0;
    while points.len() < n_points {
        let first = next + varint::take(bytes)?.min(PLACES.into()) as u32;
        let length = varint::take(bytes)?.min(PLACES.into()) as u32;
        next = first + length;
        if length == 0 || next > PLACES || points.len() + length as usize > n_points {
            return Err(Damaged);
        }
        points.extend((first..next).map(|place| (place, TierPoint::NONE)));
    }
    let mut rest = points.as_mut_slice();
    while !rest.is_empty() {
        let n = varint::take_signed(bytes)?;
        let length = usize::try_from(varint::take(bytes)?).map_err(|_| Damaged)?;
        let (run, others) = rest.split_at_mut_checked(length).filter(|_| length > 0).ok_or(Damaged)?;
        run.iter_mut().for_each(|(_, point)| point.n = n);
        rest = others;
    }
    let (&form, rest) = bytes.split_first().ok_or(Damaged)?;
    *bytes = rest;
    match form {
        BITS => bits::take(bytes, &mut points)?,
        decimals => decimals::take(bytes, &mut points, decimals)?,
    }
    if bytes.is_empty() { Ok(points) } else { Err(Damaged) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn same(one: &[(u32, TierPoint)], other: &[(u32, TierPoint)]) -> bool {
        let bits = |(place, point): &(u32, TierPoint)| {
            let TierPoint { n, min, max, mean, last } = *point;
            (*place, n, [min, max, mean, last].map(f64::to_bits))
        };
        one.iter().map(bits).eq(other.iter().map(bits))
    }

    /// Figures of one kind, as a series has them, and now and then what no series should have.
    fn figures() -> impl Strategy<Value = Vec<f64>> {
        let whole = (-1e6..1e6_f64).prop_map(f64::round);
        let cents = (-1e6..1e6_f64).prop_map(|figure| (figure * 100.0).round() / 100.0);
        let odd = prop_oneof![
            Just(f64::NAN),
            Just(f64::INFINITY),
            Just(f64::NEG_INFINITY),
            Just(-0.0),
            Just(f64::MAX),
            Just(f64::MIN_POSITIVE),
            Just(9_007_199_254_740_993.0),
            any::<f64>(),
            any::<u64>().prop_map(f64::from_bits),
        ];
        let mixed = prop_oneof![9 => -1.0..1.0_f64, 1 => odd];
        let four = 4..=PLACES as usize * 4;
        prop_oneof![
            proptest::collection::vec(whole, four.clone()),
            proptest::collection::vec(cents, four.clone()),
            proptest::collection::vec(-1e9..1e9_f64, four.clone()),
            proptest::collection::vec(mixed, four),
            (0.0..1e12_f64, 0.0..1e3_f64)
                .prop_map(|(from, by)| (0..960).map(|n| (from + by * f64::from(n)).floor()).collect()),
        ]
    }

    /// Points of figures, at places with gaps: summed up as the monitor does, or anyhow.
    fn points() -> impl Strategy<Value = Vec<(u32, TierPoint)>> {
        let places = proptest::collection::btree_set(0..PLACES, 0..=PLACES as usize);
        (figures(), places, any::<bool>(), 1..100_000_i64).prop_map(|(figures, places, is_summed_up, n)| {
            let of = |(place, four): (u32, &[f64])| {
                let point = if is_summed_up {
                    crate::store::tests::point(four)
                } else {
                    TierPoint {
                        n: n / i64::from(place % 3 + 1),
                        min: four[0],
                        max: four[1],
                        mean: four[2],
                        last: four[3],
                    }
                };
                (place, point)
            };
            places.into_iter().zip(figures.chunks_exact(4)).map(of).collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn what_is_packed_comes_back_to_the_last_bit(points in points()) {
            let packed = pack(&points);
            prop_assert_eq!(count(&packed), points.len());
            let back = unpack(&packed).unwrap();
            prop_assert!(same(&points, &back), "{:?} became {:?}", points, back);
        }

        #[test]
        fn what_is_damaged_is_told_and_ends_nothing(points in points(), at in any::<proptest::sample::Index>(), bit in 0..8_u8, is_cut: bool) {
            let mut packed = pack(&points);
            let at = at.index(packed.len());
            if is_cut {
                packed.truncate(at);
            } else {
                packed[at] ^= 1 << bit;
            }
            prop_assert_eq!(unpack(&packed), Err(Damaged));
            let _ = count(&packed);
        }

        /// A check of four bytes can be right by chance, or by malice.
        #[test]
        fn nonsense_with_a_right_check_ends_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..200), form in 0..2_u8) {
            let mut packed = [&[form][..], &bytes].concat();
            packed.extend(crc32fast::hash(&packed).to_le_bytes());
            let _ = unpack(&packed);
        }
    }

    /// What 240 points take, each of ten samples a second apart.
    fn bytes_per_point(figure: impl Fn(u32) -> f64) -> f64 {
        let of = |place: u32| {
            let samples: Vec<f64> = (place * 10..place * 10 + 10).map(&figure).collect();
            (place, crate::store::tests::point(&samples))
        };
        pack(&(0..240).map(of).collect::<Vec<_>>()).len() as f64 / 240.0
    }

    #[test]
    fn figures_of_each_kind_take_as_few_bytes_as_is_said() {
        // SplitMix64: nothing in it repeats.
        let noise = |n: u32| {
            let mut bits = (u64::from(n) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((bits ^ bits >> 31) >> 11) as f64 / (1_u64 << 53) as f64
        };
        for (kind, most, bytes) in [
            ("rests", 0.2, bytes_per_point(|_| 0.1)),
            ("counts evenly", 0.5, bytes_per_point(|n| f64::from(n * 17))),
            ("counts", 5.5, bytes_per_point(|n| f64::from(n * 100) + (noise(n) * 100.0).floor())),
            ("a queue", 4.0, bytes_per_point(|n| (noise(n) * 40.0).floor())),
            ("has two decimals", 9.0, bytes_per_point(|n| (noise(n) * 1e4).floor() / 100.0)),
            ("sums up seconds", 21.0, bytes_per_point(|n| (f64::from(n) + noise(n)) * 0.37)),
            ("has all its digits", 29.0, bytes_per_point(|n| noise(n) / 3.0)),
        ] {
            assert!(bytes <= most, "{kind}: {bytes} bytes per point");
        }
    }
}
