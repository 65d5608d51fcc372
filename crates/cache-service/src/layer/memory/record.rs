use std::ops::Deref;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes};

use crate::entry::{Entry, Head};
use crate::key::{ContentType, Key, Tags};
use crate::time::Moment;

/// One entry in one allocation: a head of fixed layout, then key, tags, content type and value.
#[derive(Debug, Clone)]
pub(crate) struct Record(Arc<[u8]>);

/// What memory holds of a key, as it was when it was read. Shares its bytes with memory.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    record: Record,
    head: Head,
}

const VERSION: usize = 0;
const SET_AT: usize = 8;
const FRESH_UNTIL: usize = 16;
const LIVES_UNTIL: usize = 24;
const KEPT_UNTIL: usize = 32;
const EPOCH: usize = 40;
const FLAGS: usize = 44;
const CONTENT_TYPE_BYTES: usize = 45;
const KEY_BYTES: usize = 46;
const TAGS_BYTES: usize = 48;
const CONFIRMED: u8 = 1;
const ABSENT: u8 = 2;

impl Record {
    pub(super) const HEAD_BYTES: usize = 50;
    /// What key, tags and content type take at most.
    pub(super) const LARGEST_TEXTS: u64 =
        (Key::MAX_TEXT_BYTES + Tags::MOST * (1 + Tags::MAX_BYTES) + ContentType::MAX_BYTES) as u64;
    /// Smaller values are copied for a reader, larger ones are shared with it.
    const SHARED_FROM_BYTES: usize = 256;

    pub(super) fn pack(key: &Key, entry: &Entry) -> Self {
        let key = key.as_str().as_bytes();
        let content_type = entry.content_type.as_str().as_bytes();
        let tags_bytes: usize = entry.tags.iter().map(|tag| 1 + tag.len()).sum();
        let value = entry.value.as_deref().unwrap_or_default();
        let length = Self::HEAD_BYTES + key.len() + tags_bytes + content_type.len() + value.len();
        // Filled in place: a buffer to be copied from would double the cost of large values.
        let mut bytes: Arc<[u8]> = std::iter::repeat_n(0, length).collect();
        let mut room = Arc::get_mut(&mut bytes).expect("nobody else has it yet");
        room.put_u64_le(entry.version);
        room.put_u64_le(entry.set_at_unix_ms);
        room.put_u64_le(entry.fresh_until.as_millis());
        room.put_u64_le(entry.lives_until.as_millis());
        room.put_u64_le(entry.kept_until.as_millis());
        room.put_u32_le(entry.epoch);
        let confirmed = if entry.confirmed { CONFIRMED } else { 0 };
        room.put_u8(confirmed | if entry.value.is_none() { ABSENT } else { 0 });
        room.put_u8(u8::try_from(content_type.len()).expect("a content type has at most 255 bytes"));
        room.put_u16_le(u16::try_from(key.len()).expect("a key has at most 1,089 bytes"));
        room.put_u16_le(u16::try_from(tags_bytes).expect("tags have at most 2,064 bytes"));
        room.put_slice(key);
        for tag in entry.tags.iter() {
            room.put_u8(u8::try_from(tag.len()).expect("a tag has at most 128 bytes"));
            room.put_slice(tag.as_bytes());
        }
        room.put_slice(content_type);
        room.put_slice(value);
        Self(bytes)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// `key` is `namespace:key`.
    pub(super) fn is_of(&self, key: &str) -> bool {
        self.key() == key.as_bytes()
    }

    /// Returns `namespace:key`.
    pub(super) fn key_text(&self) -> &str {
        text(self.key())
    }

    pub(super) fn lives_until(&self) -> Moment {
        Moment::from_millis(self.u64_at(LIVES_UNTIL))
    }

    pub(super) fn kept_until(&self) -> Moment {
        Moment::from_millis(self.u64_at(KEPT_UNTIL))
    }

    pub(super) fn value_bytes(&self) -> usize {
        self.len() - self.value_at()
    }

    /// Loads a small record into the processor's cache. Nothing waits for it, so that many are loaded at once.
    pub(super) fn touch(&self) {
        const LINE_BYTES: usize = 64;
        const LINES: usize = 8;
        let lines = self.0.iter().step_by(LINE_BYTES).take(LINES);
        std::hint::black_box(lines.fold(0, |all, byte| all | byte));
    }

    /// Returns the value; empty too when the origin does not have the key.
    pub(crate) fn value(&self) -> &[u8] {
        &self.0[self.value_at()..]
    }

    pub(crate) fn content_type(&self) -> &str {
        text(&self.0[self.content_type_at()..self.value_at()])
    }

    pub(crate) fn tags(&self) -> impl Iterator<Item = &str> {
        let mut rest = &self.0[self.tags_at()..self.content_type_at()];
        std::iter::from_fn(move || {
            let (length, behind) = rest.split_first()?;
            let (tag, others) = behind.split_at(usize::from(*length));
            rest = others;
            Some(text(tag))
        })
    }

    pub(crate) fn head(&self) -> Head {
        Head {
            version: self.u64_at(VERSION),
            set_at_unix_ms: self.u64_at(SET_AT),
            fresh_until: Moment::from_millis(self.u64_at(FRESH_UNTIL)),
            lives_until: self.lives_until(),
            kept_until: self.kept_until(),
            confirmed: self.0[FLAGS] & CONFIRMED != 0,
            epoch: u32::from_le_bytes(self.0[EPOCH..EPOCH + 4].try_into().expect("four bytes")),
            has_value: self.0[FLAGS] & ABSENT == 0,
        }
    }

    fn key(&self) -> &[u8] {
        &self.0[Self::HEAD_BYTES..self.tags_at()]
    }

    fn tags_at(&self) -> usize {
        Self::HEAD_BYTES + self.u16_at(KEY_BYTES)
    }

    fn content_type_at(&self) -> usize {
        self.tags_at() + self.u16_at(TAGS_BYTES)
    }

    fn value_at(&self) -> usize {
        self.content_type_at() + usize::from(self.0[CONTENT_TYPE_BYTES])
    }

    fn u16_at(&self, at: usize) -> usize {
        u16::from_le_bytes(self.0[at..at + 2].try_into().expect("two bytes")).into()
    }

    fn u64_at(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.0[at..at + 8].try_into().expect("eight bytes"))
    }
}

impl AsRef<[u8]> for Record {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Held {
    pub(super) fn new(record: Record) -> Self {
        Self { head: record.head(), record }
    }

    /// Returns the value; none when the origin does not have the key.
    pub(crate) fn value(&self) -> Option<Bytes> {
        if !self.head.has_value {
            return None;
        }
        let at = self.record.value_at();
        if self.record.len() - at < Record::SHARED_FROM_BYTES {
            return Some(Bytes::copy_from_slice(&self.record.0[at..]));
        }
        Some(Bytes::from_owner(self.record.clone()).slice(at..))
    }

    pub(crate) fn content_type(&self) -> ContentType {
        ContentType::kept(self.record.content_type())
    }

    pub(crate) fn tags(&self) -> impl Iterator<Item = &str> {
        self.record.tags()
    }
}

impl Deref for Held {
    type Target = Head;

    fn deref(&self) -> &Head {
        &self.head
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("it was a text when it was packed")
}
