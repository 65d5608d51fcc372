//! Reads and writes the few messages of the hot path, without a copy of a key and with one of a value.
//!
//! It reads only what it knows well: requests of nothing but reads. For all else, the malformed too, it gives none, and prost
//! decides; so it cannot differ from prost in what it refuses. What it writes is byte for byte what prost writes.

use std::ops::Range;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
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

    /// Reads a `StreamRequest`: its id, and the time for it where it names one.
    pub(super) fn read_streamed(message: &Bytes) -> Option<(u64, Option<Duration>, Self)> {
        let (mut id, mut batch, mut within) = (0, None, None);
        let mut rest = Reader::new(message);
        while !rest.is_empty() {
            match rest.field()? {
                (1, VARINT) => id = rest.varint()?,
                // Two would have to be merged.
                (2, LENGTH) if batch.is_none() => batch = Some(rest.range()?),
                (3, LENGTH) if within.is_none() => within = Some(read_duration(message, rest.range()?)?),
                _ => return None,
            }
        }
        Some((id, within, Self::read_in(message, batch?)?))
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

/// Reads a `Duration` above zero whose parts belong together.
fn read_duration(message: &Bytes, duration: Range<usize>) -> Option<Duration> {
    let (mut seconds, mut nanos) = (0, 0);
    let mut rest = Reader { bytes: &message[..duration.end], at: duration.start };
    while !rest.is_empty() {
        match rest.field()? {
            (1, VARINT) => seconds = rest.varint().filter(|seconds| i64::try_from(*seconds).is_ok())?,
            (2, VARINT) => nanos = rest.varint().filter(|nanos| *nanos < 1_000_000_000)?,
            _ => return None,
        }
    }
    let within = Duration::new(seconds, u32::try_from(nanos).ok()?);
    (!within.is_zero()).then_some(within)
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

/// Writes a `GetResponse` of an entry that memory holds.
pub(super) fn put_get_response(seen: &Seen<'_>, to: &mut BytesMut) {
    let answer = Answer::of(seen);
    to.reserve(answer.n_bytes());
    answer.put(Fields::new(), to);
}

/// Writes an `Outcome` of an entry that memory holds, as a field of what holds outcomes.
pub(super) fn put_outcome(field: u8, index: u32, seen: &Seen<'_>, to: &mut BytesMut) {
    let answer = Answer::of(seen);
    let get = answer.n_bytes();
    let index_bytes = if index == 0 { 0 } else { 1 + varint_bytes(index.into()) };
    let outcome = index_bytes + 1 + varint_bytes(get as u64) + get;
    to.reserve(1 + varint_bytes(outcome as u64) + outcome);
    let mut head = Fields::new();
    head.tag(field, LENGTH);
    head.varint(outcome as u64);
    if index != 0 {
        head.tag(1, VARINT);
        head.varint(index.into());
    }
    head.tag(2, LENGTH);
    head.varint(get as u64);
    answer.put(head, to);
}

/// Writes the id of a `StreamResponse`, which comes first.
pub(super) fn put_stream_id(id: u64, to: &mut BytesMut) {
    if id != 0 {
        let mut fields = Fields::new();
        fields.tag(1, VARINT);
        fields.varint(id);
        to.extend_from_slice(fields.bytes());
    }
}

/// Says that a `StreamResponse` is the last of its request, which comes last.
pub(super) fn put_stream_last(to: &mut BytesMut) {
    let mut fields = Fields::new();
    fields.tag(3, VARINT);
    fields.byte(1);
    to.extend_from_slice(fields.bytes());
}

/// A `GetResponse` of an entry that memory holds: the value in the middle is written from where it lies.
struct Answer<'a> {
    seen: &'a Seen<'a>,
    /// What follows the value.
    tail: Fields,
    entry_bytes: usize,
}

impl<'a> Answer<'a> {
    fn of(seen: &'a Seen<'a>) -> Self {
        let mut tail = Fields::new();
        if seen.version != 0 {
            tail.tag(2, VARINT);
            tail.varint(seen.version);
        }
        tail.millis(3, seen.ttl_left_ms);
        tail.millis(4, seen.age_ms);
        let content_type = seen.content_type.len();
        if content_type != 0 {
            tail.tag(5, LENGTH);
            tail.varint(content_type as u64);
        }
        let value = seen.value.len();
        let value_bytes = if value == 0 { 0 } else { 1 + varint_bytes(value as u64) + value };
        let entry_bytes = value_bytes + tail.bytes().len() + content_type;
        Self { seen, tail, entry_bytes }
    }

    fn n_bytes(&self) -> usize {
        1 + varint_bytes(self.entry_bytes as u64) + self.entry_bytes + 2
    }

    /// Writes it after what precedes it.
    fn put(self, mut head: Fields, to: &mut BytesMut) {
        let Self { seen, mut tail, entry_bytes } = self;
        head.tag(1, LENGTH);
        head.varint(entry_bytes as u64);
        if !seen.value.is_empty() {
            head.tag(1, LENGTH);
            head.varint(seen.value.len() as u64);
        }
        to.extend_from_slice(head.bytes());
        seen.value.pieces().for_each(|piece| to.extend_from_slice(piece));
        if !seen.content_type.is_empty() {
            to.extend_from_slice(tail.bytes());
            to.extend_from_slice(seen.content_type.as_bytes());
            tail = Fields::new();
        }
        tail.tag(2, VARINT);
        tail.byte(pb::Layer::L1 as u8);
        to.extend_from_slice(tail.bytes());
    }
}

/// A few fields, put together where one more byte costs nothing.
struct Fields {
    bytes: [u8; Self::MOST],
    n_bytes: usize,
}

impl Fields {
    /// A head takes 30 bytes at most and a tail 50.
    const MOST: usize = 64;

    fn new() -> Self {
        Self { bytes: [0; Self::MOST], n_bytes: 0 }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.n_bytes]
    }

    fn byte(&mut self, byte: u8) {
        self.bytes[self.n_bytes] = byte;
        self.n_bytes += 1;
    }

    fn tag(&mut self, field: u8, wire: u8) {
        self.byte((field << 3) | wire);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.byte((value & 0x7F) as u8 | 0x80);
            value >>= 7;
        }
        self.byte(value as u8);
    }

    /// Puts a `google.protobuf.Duration`.
    fn millis(&mut self, field: u8, millis: u64) {
        self.tag(field, LENGTH);
        let length_at = self.n_bytes;
        self.byte(0);
        for (field, number) in [(1, millis / 1_000), (2, millis % 1_000 * 1_000_000)] {
            if number != 0 {
                self.tag(field, VARINT);
                self.varint(number);
            }
        }
        // Two numbers take less than 128 bytes: their length is one.
        self.bytes[length_at] = (self.n_bytes - length_at - 1) as u8;
    }
}

fn varint_bytes(value: u64) -> usize {
    // Seven bits a byte; zero takes one too.
    ((64 - (value | 1).leading_zeros() as usize) * 9 + 64) / 64
}

#[cfg(test)]
mod tests;
