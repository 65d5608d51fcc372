use super::arena::{Arena, CHUNK_BYTES, u32_at};
use super::pages::Paged;
use crate::entry::Head;
use crate::key::{ContentType, Key, Tags};
use crate::time::Moment;

mod draft;
mod held;
mod value;

pub(super) use draft::{Draft, Layout};
pub(crate) use held::Held;
use value::Rest;
pub(crate) use value::Value;

/// One entry as it lies in memory: a head of fixed layout, the addresses of its chunks, key, tags, content type, and the value,
/// or the first part of it.
///
/// An entry of up to [`Layout::MOST_INLINE`] is one item. Of a larger one the end of the value lies in chunks, all of one size; a value
/// above [`Layout::PAGED_ABOVE`] lies in pages of its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record<'a> {
    item: &'a [u8],
    rest: Rest<'a>,
}

const FLAGS: usize = 4;
const CONTENT_TYPE_BYTES: usize = 5;
const KEY_BYTES: usize = 6;
const VERSION: usize = 8;
const SET_AT: usize = 16;
const FRESH_UNTIL: usize = 22;
const LIVES_UNTIL: usize = 28;
const KEPT_UNTIL: usize = 34;
const EPOCH: usize = 40;
const VALUE_BYTES: usize = 44;
const TAGS_BYTES: usize = 48;
const N_CHUNKS: usize = 50;
const POOL: usize = 52;
/// Milliseconds in 48 bits: 8,900 years.
const TIME_BYTES: usize = 6;
const LATEST_TIME: u64 = (1 << (8 * TIME_BYTES)) - 1;
const CONFIRMED: u8 = 1;
const ABSENT: u8 = 2;
const PAGED: u8 = 4;
const ADDRESS_BYTES: usize = 4;

/// Returns the address of a chunk of the record in an item.
pub(super) fn chunk_at(item: &[u8], nth: u32) -> u32 {
    u32_at(item, Record::HEAD_BYTES + nth as usize * ADDRESS_BYTES)
}

pub(super) fn set_chunk(item: &mut [u8], nth: u32, address: u32) {
    let at = Record::HEAD_BYTES + nth as usize * ADDRESS_BYTES;
    item[at..at + ADDRESS_BYTES].copy_from_slice(&address.to_le_bytes());
}

pub(super) fn n_chunks(item: &[u8]) -> u32 {
    u16_at(item, N_CHUNKS).into()
}

pub(super) fn set_owner(item: &mut [u8], number: u32) {
    item[..4].copy_from_slice(&number.to_le_bytes());
}

pub(super) fn is_paged(item: &[u8]) -> bool {
    item[FLAGS] & PAGED != 0
}

pub(super) fn lives_until(item: &[u8]) -> Moment {
    Moment::from_millis(time_at(item, LIVES_UNTIL))
}

pub(super) fn kept_until(item: &[u8]) -> Moment {
    Moment::from_millis(time_at(item, KEPT_UNTIL))
}

/// Tells whether the record in an item is that of `namespace:key`.
pub(super) fn is_of(item: &[u8], key: &str) -> bool {
    let at = Record::HEAD_BYTES + usize::from(u16_at(item, N_CHUNKS)) * ADDRESS_BYTES;
    usize::from(u16_at(item, KEY_BYTES)) == key.len() && item[at..at + key.len()] == *key.as_bytes()
}

impl<'a> Record<'a> {
    pub(super) const HEAD_BYTES: usize = 54;
    /// What key, tags and content type take at most.
    const LARGEST_TEXTS: usize =
        Key::MAX_TEXT_BYTES + Tags::MOST * (1 + Tags::MAX_BYTES) + ContentType::MAX_BYTES;

    /// `paged` is its large value, if it has one.
    pub(super) fn new(item: &'a [u8], arena: &'a Arena, paged: Option<&'a Paged>) -> Self {
        let end = Self::HEAD_BYTES + usize::from(u16_at(item, N_CHUNKS)) * ADDRESS_BYTES;
        let rest = match paged {
            Some(paged) => Rest::Pages(paged),
            None if end == Self::HEAD_BYTES => Rest::None,
            None => Rest::Chunks { addresses: &item[Self::HEAD_BYTES..end], arena },
        };
        Self { item, rest }
    }

    /// Reads a copy of the item of a record with a large value.
    pub(super) fn of_copy(item: &'a [u8], paged: &'a Paged) -> Self {
        Self { item, rest: Rest::Pages(paged) }
    }

    /// Returns its item up to the value.
    pub(super) fn texts(&self) -> &'a [u8] {
        &self.item[..self.value_at()]
    }

    /// Returns the number of its slot.
    pub(super) fn number(&self) -> u32 {
        u32_at(self.item, 0)
    }

    pub(super) fn pool(&self) -> u16 {
        u16_at(self.item, POOL)
    }

    /// Returns `namespace:key`.
    pub(super) fn key_text(&self) -> &'a str {
        text(&self.item[self.key_at()..self.tags_at()])
    }

    pub(super) fn lives_until(&self) -> Moment {
        lives_until(self.item)
    }

    pub(super) fn layout(&self) -> Layout {
        Layout::of(self.value_at() - self.key_at(), self.value_bytes())
    }

    pub(super) fn value_bytes(&self) -> usize {
        u32_at(self.item, VALUE_BYTES) as usize
    }

    /// Returns the value; empty too when the origin does not have the key.
    pub(crate) fn value(&self) -> Value<'a> {
        let n_bytes = self.value_bytes();
        let first = match self.rest {
            Rest::None => n_bytes,
            Rest::Chunks { addresses, .. } => {
                n_bytes.saturating_sub(addresses.len() / ADDRESS_BYTES * CHUNK_BYTES)
            }
            Rest::Pages(_) => 0,
        };
        let at = self.value_at();
        Value { first: &self.item[at..at + first], rest: self.rest, n_bytes }
    }

    pub(crate) fn content_type(&self) -> &'a str {
        text(&self.item[self.content_type_at()..self.value_at()])
    }

    pub(crate) fn tags(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        tags_in(self.tags_bytes())
    }

    pub(crate) fn head(&self) -> Head {
        head_of(self.item)
    }

    fn tags_bytes(&self) -> &'a [u8] {
        &self.item[self.tags_at()..self.content_type_at()]
    }

    fn key_at(&self) -> usize {
        Self::HEAD_BYTES + usize::from(u16_at(self.item, N_CHUNKS)) * ADDRESS_BYTES
    }

    fn tags_at(&self) -> usize {
        self.key_at() + usize::from(u16_at(self.item, KEY_BYTES))
    }

    fn content_type_at(&self) -> usize {
        self.tags_at() + usize::from(u16_at(self.item, TAGS_BYTES))
    }

    fn value_at(&self) -> usize {
        self.content_type_at() + usize::from(self.item[CONTENT_TYPE_BYTES])
    }
}

pub(super) fn head_of(item: &[u8]) -> Head {
    Head {
        version: u64_at(item, VERSION),
        set_at_unix_ms: time_at(item, SET_AT),
        fresh_until: Moment::from_millis(time_at(item, FRESH_UNTIL)),
        lives_until: lives_until(item),
        kept_until: kept_until(item),
        confirmed: item[FLAGS] & CONFIRMED != 0,
        epoch: u32_at(item, EPOCH),
        has_value: item[FLAGS] & ABSENT == 0,
    }
}

fn tags_in(mut rest: &[u8]) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        let (length, behind) = rest.split_first()?;
        let (tag, others) = behind.split_at(usize::from(*length));
        rest = others;
        Some(text(tag))
    })
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("it was a text when it was packed")
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn time_at(bytes: &[u8], at: usize) -> u64 {
    // The bytes behind it belong to the record too.
    u64_at(bytes, at) & LATEST_TIME
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
