//! The Protobuf form of the client protocol, as a translation of its JSON form.
//!
//! Both forms have one schema, so one table per message, [`schema`], leads from either to the other and the rest of the
//! gateway knows only one. What is in no table is passed over. Fields of bytes carry JSON documents, since whoever
//! publishes cannot know in which form others listen.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::Malformed;

mod schema;
#[cfg(test)]
mod tests;

use schema::{COMMAND, Field, REPLY, Type};

/// Messages inside messages; filters are the deepest.
const MAX_DEPTH: usize = 32;

/// A value as it stands in a message, by wire type.
enum Wire<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
}

/// Turns a binary frame of a client, commands behind their lengths, into the lines of a text frame.
pub(crate) fn to_json(mut frame: &[u8]) -> Result<String, Malformed> {
    let mut lines = String::new();
    while !frame.is_empty() {
        if !lines.is_empty() {
            lines.push('\n');
        }
        write_object(read_delimited(&mut frame)?, COMMAND, 0, &mut lines)?;
    }
    Ok(lines)
}

/// Turns one line for a client into a message behind its length.
pub(crate) fn from_json(line: &[u8]) -> Bytes {
    let mut message = Vec::with_capacity(line.len());
    let object = serde_json::from_slice(line).expect("what the gateway says is JSON");
    encode_object(&object, REPLY, &mut message);
    let mut framed = Vec::with_capacity(message.len() + 3);
    put_delimited(&message, &mut framed);
    framed.into()
}

/// A request that belongs to a stream over HTTP.
pub(crate) struct EmulationRequest<'a> {
    pub(crate) node: &'a str,
    pub(crate) session: &'a str,
    /// Commands behind their lengths.
    pub(crate) frame: &'a [u8],
}

/// Reads the body of such a request.
pub(crate) fn emulation_request(mut message: &[u8]) -> Result<EmulationRequest<'_>, Malformed> {
    let mut fields: [&[u8]; 3] = [&[]; 3];
    while !message.is_empty() {
        if let (number @ 1..=3, Some(Wire::Bytes(bytes))) = read_field(&mut message)? {
            fields[number as usize - 1] = bytes;
        }
    }
    let [node, session, frame] = fields;
    let text = |bytes| str::from_utf8(bytes).map_err(|_| Malformed);
    Ok(EmulationRequest { node: text(node)?, session: text(session)?, frame })
}

fn write_object(
    mut message: &[u8],
    fields: &[Field],
    depth: usize,
    json: &mut String,
) -> Result<(), Malformed> {
    if depth > MAX_DEPTH {
        return Err(Malformed);
    }
    let mut found: BTreeMap<u64, (&Field, Vec<Wire<'_>>)> = BTreeMap::new();
    while !message.is_empty() {
        let (number, value) = read_field(&mut message)?;
        if let (Some(field), Some(value)) = (fields.iter().find(|field| field.number == number), value) {
            found.entry(number).or_insert_with(|| (field, Vec::new())).1.push(value);
        }
    }
    json.push('{');
    for (index, (field, values)) in found.into_values().enumerate() {
        if index > 0 {
            json.push(',');
        }
        push_text(field.name, json);
        json.push(':');
        write_values(field, &values, depth, json)?;
    }
    json.push('}');
    Ok(())
}

/// Writes what a field has; of a field that stands once, the last value counts.
fn write_values(
    field: &Field,
    values: &[Wire<'_>],
    depth: usize,
    json: &mut String,
) -> Result<(), Malformed> {
    match field.kind {
        Type::List(item) => {
            write_sequence("[]", values, json, |value, json| write_value(*item, value, depth, json))
        }
        Type::Map(item) => {
            write_sequence("{}", values, json, |value, json| write_entry(item, value, depth, json))
        }
        kind => write_value(kind, values.last().ok_or(Malformed)?, depth, json),
    }
}

fn write_sequence(
    brackets: &str,
    values: &[Wire<'_>],
    json: &mut String,
    write: impl Fn(&Wire<'_>, &mut String) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    json.push_str(&brackets[..1]);
    for (index, value) in values.iter().enumerate() {
        if index > 0 {
            json.push(',');
        }
        write(value, json)?;
    }
    json.push_str(&brackets[1..]);
    Ok(())
}

fn write_value(kind: Type, value: &Wire<'_>, depth: usize, json: &mut String) -> Result<(), Malformed> {
    match (kind, value) {
        (Type::Unsigned, Wire::Varint(number)) => json.push_str(&number.to_string()),
        (Type::Signed, Wire::Varint(number)) => json.push_str(&number.cast_signed().to_string()),
        (Type::Bool, Wire::Varint(number)) => json.push_str(if *number == 0 { "false" } else { "true" }),
        (Type::Text, Wire::Bytes(text)) => push_text(str::from_utf8(text).map_err(|_| Malformed)?, json),
        (Type::Json | Type::Payload, Wire::Bytes(document)) => {
            push_document(serde_json::from_slice(document).map_err(|_| Malformed)?, json);
        }
        (Type::MaybeJson, Wire::Bytes(document)) => {
            push_document(serde_json::from_slice(document).unwrap_or(RawValue::NULL), json);
        }
        (Type::Message(fields), Wire::Bytes(message)) => write_object(message, fields, depth + 1, json)?,
        _ => return Err(Malformed),
    }
    Ok(())
}

fn push_document(document: &RawValue, json: &mut String) {
    // Lines are what separates commands; inside a document they stand only between tokens.
    json.extend(document.get().chars().map(|c| if c == '\n' { ' ' } else { c }));
}

/// Writes one entry of a map: a message with the key as field 1 and the value as field 2.
fn write_entry(item: &Type, entry: &Wire<'_>, depth: usize, json: &mut String) -> Result<(), Malformed> {
    let Wire::Bytes(mut entry) = *entry else { return Err(Malformed) };
    let (mut key, mut value) = ("", Wire::Bytes(&[]));
    while !entry.is_empty() {
        match read_field(&mut entry)? {
            (1, Some(Wire::Bytes(text))) => key = str::from_utf8(text).map_err(|_| Malformed)?,
            (2, Some(wire)) => value = wire,
            _ => {}
        }
    }
    push_text(key, json);
    json.push(':');
    write_value(*item, &value, depth, json)
}

/// Reads a field; its value is none when no field of the protocol has such a wire type.
fn read_field<'a>(message: &mut &'a [u8]) -> Result<(u64, Option<Wire<'a>>), Malformed> {
    let key = read_varint(message)?;
    let value = match key & 7 {
        0 => Some(Wire::Varint(read_varint(message)?)),
        1 => message.split_off(..8).ok_or(Malformed).map(|_| None)?,
        2 => Some(Wire::Bytes(read_delimited(message)?)),
        5 => message.split_off(..4).ok_or(Malformed).map(|_| None)?,
        _ => return Err(Malformed),
    };
    Ok((key >> 3, value))
}

fn read_delimited<'a>(input: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let len = usize::try_from(read_varint(input)?).map_err(|_| Malformed)?;
    input.split_off(..len).ok_or(Malformed)
}

fn read_varint(input: &mut &[u8]) -> Result<u64, Malformed> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = *input.split_off_first().ok_or(Malformed)?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(Malformed)
}

fn push_text(text: &str, json: &mut String) {
    json.push_str(&serde_json::to_string(text).expect("texts can be written"));
}

/// The fields of one of our own objects.
type Object<'a> = BTreeMap<String, &'a RawValue>;

fn encode_object(object: &Object<'_>, fields: &[Field], message: &mut Vec<u8>) {
    for field in fields {
        if let Some(value) = object.get(field.name) {
            let kind = match field.kind {
                Type::Payload if object.contains_key("delta") => Type::Text,
                Type::Payload => Type::Json,
                kind => kind,
            };
            encode_field(field.number, kind, value, message);
        }
    }
}

fn encode_field(number: u64, kind: Type, value: &RawValue, message: &mut Vec<u8>) {
    match kind {
        Type::Unsigned => put_number(number, ours::<u64>(value), message),
        Type::Signed => put_number(number, ours::<i64>(value).cast_unsigned(), message),
        Type::Bool => put_number(number, ours::<bool>(value).into(), message),
        Type::Text => put_bytes(number, ours::<String>(value).as_bytes(), message),
        Type::Json | Type::MaybeJson | Type::Payload => put_bytes(number, value.get().as_bytes(), message),
        Type::Message(fields) => {
            let mut inner = Vec::new();
            encode_object(&ours(value), fields, &mut inner);
            put_bytes(number, &inner, message);
        }
        Type::List(item) => {
            for value in ours::<Vec<&RawValue>>(value) {
                encode_field(number, *item, value, message);
            }
        }
        Type::Map(item) => {
            for (key, value) in ours::<Object<'_>>(value) {
                let mut entry = Vec::new();
                put_bytes(1, key.as_bytes(), &mut entry);
                encode_field(2, *item, value, &mut entry);
                put_bytes(number, &entry, message);
            }
        }
    }
}

/// Reads a value the gateway wrote itself.
fn ours<'a, T: serde::Deserialize<'a>>(value: &'a RawValue) -> T {
    serde_json::from_str(value.get()).expect("fields have the types of the schema")
}

fn put_number(number: u64, value: u64, message: &mut Vec<u8>) {
    put_varint(number << 3, message);
    put_varint(value, message);
}

fn put_bytes(number: u64, bytes: &[u8], message: &mut Vec<u8>) {
    put_varint(number << 3 | 2, message);
    put_delimited(bytes, message);
}

fn put_delimited(bytes: &[u8], out: &mut Vec<u8>) {
    put_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn put_varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}
