use super::{Decoder, Malformed, Reader, Value};

/// Nesting that PostgreSQL allows (`MAXDIM`).
const MAX_DIMENSIONS: i32 = 6;

/// Reads an array; its dimensions become nested arrays, its lower bounds are not kept.
pub(super) fn read(element: Decoder, reader: &mut Reader<'_>) -> Result<Value, Malformed> {
    let n_dimensions = reader.i32()?;
    let _has_nulls = reader.i32()?;
    let _element_type = reader.u32()?;
    if !(0..=MAX_DIMENSIONS).contains(&n_dimensions) {
        return Err(Malformed);
    }
    let mut lengths = Vec::new();
    for _ in 0..n_dimensions {
        lengths.push(usize::try_from(reader.i32()?).map_err(|_| Malformed)?);
        let _lower_bound = reader.i32()?;
    }
    if lengths.is_empty() { Ok(Value::Array(Vec::new())) } else { dimension(element, &lengths, reader) }
}

fn dimension(element: Decoder, lengths: &[usize], reader: &mut Reader<'_>) -> Result<Value, Malformed> {
    let Some((&length, inner)) = lengths.split_first() else { return one(element, reader) };
    // No capacity is reserved from a number that the bytes may not hold.
    let mut values = Vec::new();
    for _ in 0..length {
        if inner.contains(&0) {
            return Err(Malformed);
        }
        values.push(dimension(element, inner, reader)?);
    }
    Ok(Value::Array(values))
}

fn one(element: Decoder, reader: &mut Reader<'_>) -> Result<Value, Malformed> {
    match reader.i32()? {
        -1 => Ok(Value::Null),
        length => element.read(reader.slice(usize::try_from(length).map_err(|_| Malformed)?)?),
    }
}
