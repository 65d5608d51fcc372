use bytes::{BufMut as _, Bytes, BytesMut};

use super::ADDRESS_BYTES;
use crate::layer::memory::arena::{Arena, CHUNK_BYTES, CHUNK_HEAD, CHUNK_ITEM};
use crate::layer::memory::pages::Paged;

/// A value, in as many pieces as it lies in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Value<'a> {
    pub(super) first: &'a [u8],
    pub(super) rest: Rest<'a>,
    pub(super) n_bytes: usize,
}

/// Where the rest of a value lies.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rest<'a> {
    None,
    /// The addresses of chunks follow the head of the record.
    Chunks {
        addresses: &'a [u8],
        arena: &'a Arena,
    },
    Pages(&'a Paged),
}

impl<'a> Value<'a> {
    pub(crate) fn len(&self) -> usize {
        self.n_bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.n_bytes == 0
    }

    /// Returns the pieces of which it is put together, none of them empty.
    pub(crate) fn pieces(self) -> impl Iterator<Item = &'a [u8]> {
        let first = (!self.first.is_empty()).then_some(self.first);
        let mut left = self.n_bytes - self.first.len();
        let behind = (0..).map_while(move |nth: usize| {
            let piece = match self.rest {
                Rest::None => return None,
                Rest::Chunks { addresses, arena } => {
                    let address = addresses.get(nth * ADDRESS_BYTES..)?.first_chunk()?;
                    let chunk = &arena.item(u32::from_le_bytes(*address))[CHUNK_HEAD..CHUNK_ITEM];
                    &chunk[..left.min(CHUNK_BYTES)]
                }
                Rest::Pages(paged) => paged.part(nth)?,
            };
            left -= piece.len();
            Some(piece)
        });
        first.into_iter().chain(behind)
    }

    pub(super) fn of_pages(paged: &'a Paged) -> Self {
        Self { first: &[], rest: Rest::Pages(paged), n_bytes: paged.n_bytes() }
    }

    /// Copies it.
    pub(crate) fn to_bytes(self) -> Bytes {
        if self.first.len() == self.n_bytes {
            return Bytes::copy_from_slice(self.first);
        }
        let mut bytes = BytesMut::with_capacity(self.n_bytes);
        self.pieces().for_each(|piece| bytes.put_slice(piece));
        bytes.freeze()
    }
}

impl<'a> From<&'a [u8]> for Value<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self { first: bytes, rest: Rest::None, n_bytes: bytes.len() }
    }
}
