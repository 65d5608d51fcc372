use std::sync::Arc;

use bytes::{BufMut as _, Bytes};

use super::{ABSENT, ADDRESS_BYTES, CONFIRMED, LATEST_TIME, PAGED, Record, TIME_BYTES, chunk_at};
use crate::entry::Entry;
use crate::key::Key;
use crate::layer::memory::arena::{self, Arena, CHUNK, CHUNK_BYTES, CHUNK_HEAD, CHUNK_ITEM, LARGEST_ITEM};
use crate::layer::memory::pages::{PAGE_BYTES, Paged};
use crate::time::Moment;

/// How an entry will lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Layout {
    pub(in super::super) class: u8,
    pub(in super::super) n_chunks: usize,
    pub(in super::super) n_pages: usize,
}

/// An entry to be stored.
#[derive(Debug)]
pub(in super::super) struct Draft<'a> {
    pub(in super::super) key: &'a str,
    entry: &'a Entry,
    tags_bytes: usize,
    pub(in super::super) layout: Layout,
    pub(in super::super) paged: Option<Arc<Paged>>,
}

impl Layout {
    /// Larger entries have chunks: there items come in steps of 12 % and more.
    const MOST_INLINE: usize = CHUNK_ITEM;
    /// Room that the value has in an item beside long texts, for the addresses of its chunks at least.
    const LEAST_ROOM: usize = 256;
    pub(in super::super) const PAGED_ABOVE: usize = 64 << 10;

    pub(in super::super) fn of(texts_bytes: usize, value_bytes: usize) -> Self {
        const { assert!(Record::HEAD_BYTES + Record::LARGEST_TEXTS + Self::LEAST_ROOM <= LARGEST_ITEM) };
        let fixed = Record::HEAD_BYTES + texts_bytes;
        if value_bytes > Self::PAGED_ABOVE {
            let n_pages = value_bytes.div_ceil(PAGE_BYTES);
            return Self { class: arena::class_for(fixed), n_chunks: 0, n_pages };
        }
        let most =
            if fixed + Self::LEAST_ROOM > Self::MOST_INLINE { LARGEST_ITEM } else { Self::MOST_INLINE };
        let behind = value_bytes.saturating_sub(most - fixed);
        // Each chunk takes the room of its address.
        let n_chunks = behind.div_ceil(CHUNK_BYTES - ADDRESS_BYTES);
        let first = value_bytes.saturating_sub(n_chunks * CHUNK_BYTES);
        let class = arena::class_for(fixed + n_chunks * ADDRESS_BYTES + first);
        Self { class, n_chunks, n_pages: 0 }
    }

    /// Returns what an entry takes of items and pages.
    pub(in super::super) fn n_bytes(self) -> usize {
        arena::class_bytes(self.class) + self.n_chunks * CHUNK_ITEM + self.n_pages * PAGE_BYTES
    }

    /// Returns how many pages it takes where there are none.
    pub(in super::super) fn pages_alone(self) -> usize {
        1 + (self.n_chunks * CHUNK_ITEM).div_ceil(PAGE_BYTES) + self.n_pages
    }

    /// Returns how many more pages it takes here.
    pub(in super::super) fn pages_in(self, arena: &Arena) -> usize {
        arena.pages_for(self.class, 1) + arena.pages_for(CHUNK, self.n_chunks) + self.n_pages
    }
}

impl<'a> Draft<'a> {
    /// Copies a large value, so that nobody has to wait for it.
    pub(in super::super) fn new(key: &'a Key, entry: &'a Entry) -> Self {
        let key = key.as_str();
        let tags_bytes: usize = entry.tags.iter().map(|tag| 1 + tag.len()).sum();
        let value = entry.value.as_deref().unwrap_or_default();
        let layout = Layout::of(key.len() + tags_bytes + entry.content_type.as_str().len(), value.len());
        let paged = (layout.n_pages > 0).then(|| Arc::new(Paged::new(value)));
        Self { key, entry, tags_bytes, layout, paged }
    }

    /// Writes the record with this number into items of its layout; those of chunks have been taken.
    pub(in super::super) fn write(&self, number: u32, pool: u16, at: u32, arena: &mut Arena) {
        let value = if self.paged.is_some() { &[] } else { self.entry.value.as_deref().unwrap_or_default() };
        let first = value.len().saturating_sub(self.layout.n_chunks * CHUNK_BYTES);
        let (first, behind) = value.split_at(first);
        self.write_item(number, pool, first, arena.item_mut(at));
        for (nth, part) in (0..).zip(behind.chunks(CHUNK_BYTES)) {
            let chunk = arena.item_mut(chunk_at(arena.item(at), nth));
            chunk[..4].copy_from_slice(&number.to_le_bytes());
            chunk[4..CHUNK_HEAD].copy_from_slice(&nth.to_le_bytes());
            chunk[CHUNK_HEAD..][..part.len()].copy_from_slice(part);
        }
    }

    fn write_item(&self, number: u32, pool: u16, first: &[u8], item: &mut [u8]) {
        let (entry, content_type) = (self.entry, self.entry.content_type.as_str().as_bytes());
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        let flags = flag(entry.confirmed, CONFIRMED)
            | flag(entry.value.is_none(), ABSENT)
            | flag(self.paged.is_some(), PAGED);
        let value_bytes = entry.value.as_ref().map_or(0, Bytes::len);
        let mut room = item;
        room.put_u32_le(number);
        room.put_u8(flags);
        room.put_u8(u8::try_from(content_type.len()).expect("a content type has at most 255 bytes"));
        room.put_u16_le(u16::try_from(self.key.len()).expect("a key has at most 1,089 bytes"));
        room.put_u64_le(entry.version);
        let [fresh_until, lives_until, kept_until] =
            [entry.fresh_until, entry.lives_until, entry.kept_until].map(Moment::as_millis);
        for time in [entry.set_at_unix_ms, fresh_until, lives_until, kept_until] {
            room.put_uint_le(time.min(LATEST_TIME), TIME_BYTES);
        }
        room.put_u32_le(entry.epoch);
        room.put_u32_le(u32::try_from(value_bytes).expect("a value has at most 16 MiB"));
        room.put_u16_le(u16::try_from(self.tags_bytes).expect("tags have at most 2,064 bytes"));
        room.put_u16_le(u16::try_from(self.layout.n_chunks).expect("no more than 33"));
        room.put_u16_le(pool);
        let mut room = &mut room[self.layout.n_chunks * ADDRESS_BYTES..];
        room.put_slice(self.key.as_bytes());
        for tag in entry.tags.iter() {
            room.put_u8(u8::try_from(tag.len()).expect("a tag has at most 128 bytes"));
            room.put_slice(tag.as_bytes());
        }
        room.put_slice(content_type);
        room.put_slice(first);
    }
}
