use std::fmt::Write as _;

use super::{Malformed, Reader};

const NEGATIVE: u16 = 0x4000;
const NAN: u16 = 0xC000;
const INFINITY: u16 = 0xD000;
const NEGATIVE_INFINITY: u16 = 0xF000;

/// Reads a numeric: groups of four decimal digits, the first of weight 10000^weight, and how many decimals to show.
pub(super) fn text(reader: &mut Reader<'_>) -> Result<String, Malformed> {
    let n_groups = reader.u16()?;
    let weight = reader.i16()?;
    let sign = reader.u16()?;
    let n_decimals = reader.u16()?;
    match sign {
        NAN => return Ok("NaN".to_owned()),
        INFINITY => return Ok("Infinity".to_owned()),
        NEGATIVE_INFINITY => return Ok("-Infinity".to_owned()),
        0 | NEGATIVE => {}
        _ => return Err(Malformed),
    }
    let groups = (0..n_groups).map(|_| reader.u16().and_then(legal_group)).collect::<Result<Vec<_>, _>>()?;
    let group =
        |index: i32| usize::try_from(index).ok().and_then(|index| groups.get(index)).copied().unwrap_or(0);
    let mut text = String::with_capacity(groups.len() * 4 + 8);
    if sign == NEGATIVE {
        text.push('-');
    }
    let weight = i32::from(weight);
    let _ = write!(text, "{}", if weight < 0 { 0 } else { group(0) });
    for index in 1..=weight {
        let _ = write!(text, "{:04}", group(index));
    }
    if n_decimals > 0 {
        text.push('.');
        let end = text.len() + usize::from(n_decimals);
        let mut index = weight + 1;
        while text.len() < end {
            let _ = write!(text, "{:04}", group(index));
            index += 1;
        }
        text.truncate(end);
    }
    Ok(text)
}

fn legal_group(group: u16) -> Result<u16, Malformed> {
    if group < 10_000 { Ok(group) } else { Err(Malformed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(header: [u16; 4], groups: &[u16]) -> Vec<u8> {
        header.iter().chain(groups).flat_map(|word| word.to_be_bytes()).collect()
    }

    #[test]
    fn groups_become_digits() {
        for (header, groups, wanted) in [
            ([0, 0, 0, 0], &[][..], "0"),
            ([0, 0, 0, 3], &[], "0.000"),
            ([2, 1, 0, 0], &[1, 2345], "12345"),
            ([1, 1, 0, 0], &[1], "10000"),
            ([2, 0, NEGATIVE, 2], &[12, 3400], "-12.34"),
            ([1, 0xFFFE, 0, 8], &[1], "0.00000001"),
            ([1, 0xFFFF, 0, 2], &[100], "0.01"),
            ([0, 0, NAN, 0], &[], "NaN"),
            ([0, 0, NEGATIVE_INFINITY, 0], &[], "-Infinity"),
        ] {
            assert_eq!(text(&mut Reader::new(&raw(header, groups))), Ok(wanted.to_owned()));
        }
    }

    #[test]
    fn a_group_above_9999_is_malformed() {
        assert_eq!(text(&mut Reader::new(&raw([1, 0, 0, 0], &[10_000]))), Err(Malformed));
    }
}
