//! Whole numbers in as few bytes as they need: seven bits each, the lowest first (LEB128).

use super::pack::Damaged;

/// Appends a number: 1 to 10 bytes.
pub(super) fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// Appends a number that is small on either side of zero.
pub(super) fn put_signed(bytes: &mut Vec<u8>, number: i64) {
    put(bytes, (number << 1 ^ number >> 63).cast_unsigned());
}

/// Takes a number from the front.
pub(super) fn take(bytes: &mut &[u8]) -> Result<u64, Damaged> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or(Damaged)?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(Damaged)
}

/// Takes a number as [`put_signed`] wrote it.
pub(super) fn take_signed(bytes: &mut &[u8]) -> Result<i64, Damaged> {
    let number = take(bytes)?;
    Ok((number >> 1).cast_signed() ^ -((number & 1).cast_signed()))
}
