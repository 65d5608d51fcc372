use super::{Malformed, Reader};

/// Reads `bit` and `varbit`: a length in bits and the bits, first bit highest.
pub(super) fn bit_text(reader: &mut Reader<'_>) -> Result<String, Malformed> {
    let n_bits = usize::try_from(reader.i32()?).map_err(|_| Malformed)?;
    let bytes = reader.slice(n_bits.div_ceil(8))?;
    let bit = |index: usize| if bytes[index / 8] >> (7 - index % 8) & 1 == 1 { '1' } else { '0' };
    Ok((0..n_bits).map(bit).collect())
}

/// Writes the one-byte type `"char"` as PostgreSQL prints it: nothing for zero, octal above ASCII.
pub(super) fn char_text(byte: u8) -> String {
    match byte {
        0 => String::new(),
        1..=127 => char::from(byte).to_string(),
        _ => format!("\\{byte:03o}"),
    }
}
