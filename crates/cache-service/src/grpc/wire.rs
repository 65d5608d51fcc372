//! Reads and writes the few messages of the hot path, without a copy of a key and with one of a value.
//!
//! It reads only what it knows well: requests of nothing but reads. For all else, the malformed too, it gives none, and prost
//! decides; so it cannot differ from prost in what it refuses. What it writes is byte for byte what prost writes.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use mainstay_proto::cache::v1 as pb;

use super::operation::MOST_IN_BATCH;
use crate::engine::Seen;

/// A read of one key.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Get<'a> {
    pub(super) namespace: &'a str,
    pub(super) key: &'a str,
}

/// A batch that only reads, as it came.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Gets {
    message: Bytes,
    namespace: Range<usize>,
    keys: Vec<Range<u32>>,
}

const VARINT: u8 = 0;
const LENGTH: u8 = 2;

impl<'a> Get<'a> {
    /// Reads a `GetRequest` that asks for no lease.
    pub(super) fn read(message: &'a [u8]) -> Option<Self> {
        let (mut namespace, mut key) = ("", "");
        let mut rest = Reader::new(message);
        while !rest.is_empty() {
            match rest.field()? {
                (1, LENGTH) => namespace = rest.text()?,
                (2, LENGTH) => key = rest.text()?,
                _ => return None,
            }
        }
        Some(Self { namespace, key })
    }
}

impl Gets {
    /// Reads a `BatchRequest`.
    pub(super) fn read(message: &Bytes) -> Option<Self> {
        Self::read_in(message, 0..message.len())
    }

    /// Reads a `StreamRequest` without a deadline of its own, and its id.
    pub(super) fn read_streamed(message: &Bytes) -> Option<(u64, Self)> {
        let (mut id, mut batch) = (0, None);
        let mut rest = Reader::new(message);
        while !rest.is_empty() {
            match rest.field()? {
                (1, VARINT) => id = rest.varint()?,
                // Two would have to be merged.
                (2, LENGTH) if batch.is_none() => batch = Some(rest.range()?),
                _ => return None,
            }
        }
        Some((id, Self::read_in(message, batch?)?))
    }

    fn read_in(message: &Bytes, batch: Range<usize>) -> Option<Self> {
        let (mut namespace, mut keys) = (0..0, Vec::new());
        let mut rest = Reader { bytes: &message[..batch.end], at: batch.start };
        while !rest.is_empty() {
            match rest.field()? {
                (1, LENGTH) => {
                    namespace = rest.range()?;
                    std::str::from_utf8(&message[namespace.clone()]).ok()?;
                }
                (2, LENGTH) if keys.len() < MOST_IN_BATCH => {
                    let operation = rest.range()?;
                    if keys.is_empty() {
                        // Most are of one size.
                        let about = batch.len() / operation.len().max(1);
                        keys.reserve(about.min(MOST_IN_BATCH));
                    }
                    keys.push(read_key(message, operation)?);
                }
                _ => return None,
            }
        }
        Some(Self { message: message.clone(), namespace, keys })
    }

    pub(super) fn namespace(&self) -> &str {
        std::str::from_utf8(&self.message[self.namespace.clone()]).expect("checked when it was read")
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Returns the keys from one on.
    pub(super) fn keys_from(&self, first: usize) -> impl Iterator<Item = &str> {
        self.keys.iter().skip(first).map(|key| self.text(key))
    }

    pub(super) fn key(&self, index: usize) -> Option<&str> {
        self.keys.get(index).map(|key| self.text(key))
    }

    fn text(&self, key: &Range<u32>) -> &str {
        let key = &self.message[key.start as usize..key.end as usize];
        std::str::from_utf8(key).expect("checked when it was read")
    }
}

/// Reads an `Operation` that is a read.
fn read_key(message: &Bytes, operation: Range<usize>) -> Option<Range<u32>> {
    let (mut key, mut is_get) = (0..0, false);
    let mut rest = Reader { bytes: &message[..operation.end], at: operation.start };
    while !rest.is_empty() {
        match rest.field()? {
            (1, LENGTH) => {
                key = rest.range()?;
                std::str::from_utf8(&message[key.clone()]).ok()?;
            }
            (2, LENGTH) if rest.range()?.is_empty() => is_get = true,
            _ => return None,
        }
    }
    let key = u32::try_from(key.start).ok()?..u32::try_from(key.end).ok()?;
    is_get.then_some(key)
}

/// Goes through the fields of a message.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn is_empty(&self) -> bool {
        self.at >= self.bytes.len()
    }

    /// Returns number and wire type of the next field. All of ours have numbers up to 15, in one byte.
    fn field(&mut self) -> Option<(u8, u8)> {
        let tag = *self.bytes.get(self.at)?;
        self.at += 1;
        (tag < 0x80).then_some((tag >> 3, tag & 7))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..63).step_by(7) {
            let byte = *self.bytes.get(self.at)?;
            self.at += 1;
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        (byte <= 1).then_some(value | (u64::from(byte) << 63))
    }

    fn range(&mut self) -> Option<Range<usize>> {
        let length = usize::try_from(self.varint()?).ok()?;
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len())?;
        let range = self.at..end;
        self.at = end;
        Some(range)
    }

    fn text(&mut self) -> Option<&'a str> {
        let range = self.range()?;
        std::str::from_utf8(&self.bytes[range]).ok()
    }
}

/// Returns how many bytes a `GetResponse` takes that [`put_get_response`] writes.
fn get_response_bytes(seen: &Seen<'_>) -> usize {
    let entry = entry_bytes(seen);
    1 + varint_bytes(entry as u64) + entry + 2
}

/// Writes a `GetResponse` of an entry that memory holds.
pub(super) fn put_get_response(seen: &Seen<'_>, to: &mut BytesMut) {
    to.reserve(get_response_bytes(seen));
    put_get_response_in(seen, to);
}

fn put_get_response_in(seen: &Seen<'_>, to: &mut BytesMut) {
    put_tag(to, 1, LENGTH);
    put_varint(to, entry_bytes(seen) as u64);
    if !seen.value.is_empty() {
        put_tag(to, 1, LENGTH);
        put_varint(to, seen.value.len() as u64);
        seen.value.pieces().for_each(|piece| to.put_slice(piece));
    }
    if seen.version != 0 {
        put_tag(to, 2, VARINT);
        put_varint(to, seen.version);
    }
    put_millis(to, 3, seen.ttl_left_ms);
    put_millis(to, 4, seen.age_ms);
    if !seen.content_type.is_empty() {
        put_bytes(to, 5, seen.content_type.as_bytes());
    }
    put_tag(to, 2, VARINT);
    to.put_u8(pb::Layer::L1 as u8);
}

/// Writes an `Outcome` of an entry that memory holds, as a field of what holds outcomes.
pub(super) fn put_outcome(field: u8, index: u32, seen: &Seen<'_>, to: &mut BytesMut) {
    let get = get_response_bytes(seen);
    let index_bytes = if index == 0 { 0 } else { 1 + varint_bytes(index.into()) };
    let outcome = index_bytes + 1 + varint_bytes(get as u64) + get;
    to.reserve(1 + varint_bytes(outcome as u64) + outcome);
    put_tag(to, field, LENGTH);
    put_varint(to, outcome as u64);
    if index != 0 {
        put_tag(to, 1, VARINT);
        put_varint(to, index.into());
    }
    put_tag(to, 2, LENGTH);
    put_varint(to, get as u64);
    put_get_response_in(seen, to);
}

/// Writes the id of a `StreamResponse`, which comes first.
pub(super) fn put_stream_id(id: u64, to: &mut BytesMut) {
    if id != 0 {
        to.reserve(11);
        put_tag(to, 1, VARINT);
        put_varint(to, id);
    }
}

/// Says that a `StreamResponse` is the last of its request, which comes last.
pub(super) fn put_stream_last(to: &mut BytesMut) {
    to.reserve(2);
    put_tag(to, 3, VARINT);
    to.put_u8(1);
}

fn entry_bytes(seen: &Seen<'_>) -> usize {
    let text = |bytes: usize| if bytes == 0 { 0 } else { 1 + varint_bytes(bytes as u64) + bytes };
    let version = if seen.version == 0 { 0 } else { 1 + varint_bytes(seen.version) };
    let times = 4 + millis_bytes(seen.ttl_left_ms) + millis_bytes(seen.age_ms);
    text(seen.value.len()) + version + times + text(seen.content_type.len())
}

/// Returns what a `google.protobuf.Duration` takes inside.
fn millis_bytes(millis: u64) -> usize {
    let number = |number: u64| if number == 0 { 0 } else { 1 + varint_bytes(number) };
    number(millis / 1_000) + number(millis % 1_000 * 1_000_000)
}

fn put_millis(to: &mut BytesMut, field: u8, millis: u64) {
    put_tag(to, field, LENGTH);
    put_varint(to, millis_bytes(millis) as u64);
    for (field, number) in [(1, millis / 1_000), (2, millis % 1_000 * 1_000_000)] {
        if number != 0 {
            put_tag(to, field, VARINT);
            put_varint(to, number);
        }
    }
}

fn put_bytes(to: &mut BytesMut, field: u8, bytes: &[u8]) {
    put_tag(to, field, LENGTH);
    put_varint(to, bytes.len() as u64);
    to.extend_from_slice(bytes);
}

fn put_tag(to: &mut BytesMut, field: u8, wire: u8) {
    to.put_u8((field << 3) | wire);
}

fn put_varint(to: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        to.put_u8((value & 0x7F) as u8 | 0x80);
        value >>= 7;
    }
    to.put_u8(value as u8);
}

fn varint_bytes(value: u64) -> usize {
    // Seven bits a byte; zero takes one too.
    ((64 - (value | 1).leading_zeros() as usize) * 9 + 64) / 64
}

#[cfg(test)]
mod tests;
