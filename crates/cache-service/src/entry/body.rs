use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use super::DamagedEnvelope;
use crate::key::{ContentType, Tags};

/// No namespace takes larger values, so nothing that unpacks to more is ours.
const LARGEST_VALUE: usize = 16 << 20;
/// The fastest of the usual levels: a cache compresses on the way of a write.
const LEVEL: i32 = 1;

/// Content type and value as they lie below memory, and how.
///
/// One byte of length and the content type, one byte of count and the tags, each with one byte of length, then the value
/// to the end: as it is in format 1; in format 2 its length as big-endian u32 and a zstd frame; in format 3 there is
/// none, for the origin does not have the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Body {
    pub(crate) format: u8,
    pub(crate) bytes: Bytes,
}

impl Body {
    pub(super) const PLAIN: u8 = 1;
    pub(super) const ZSTD: u8 = 2;
    pub(crate) const ABSENT: u8 = 3;

    /// Packs a value, compressed if it has more than `compress_above` bytes and becomes smaller by it.
    pub(crate) fn pack(content_type: &ContentType, tags: &Tags, value: &[u8], compress_above: u64) -> Self {
        let wanted = value.len() as u64 > compress_above;
        let compressed = wanted.then(|| zstd::bulk::compress(value, LEVEL).ok()).flatten();
        let compressed = compressed.filter(|compressed| compressed.len() + 4 < value.len());
        let content_type = content_type.as_str().as_bytes();
        let mut bytes = BytesMut::with_capacity(2 + content_type.len() + tags.bytes() + 4 + value.len());
        bytes.put_u8(u8::try_from(content_type.len()).expect("a content type has at most 255 bytes"));
        bytes.put_slice(content_type);
        bytes.put_u8(u8::try_from(tags.iter().len()).expect("an entry has at most 16 tags"));
        for tag in tags.iter() {
            bytes.put_u8(u8::try_from(tag.len()).expect("a tag has at most 128 bytes"));
            bytes.put_slice(tag.as_bytes());
        }
        let format = match compressed {
            None => {
                bytes.put_slice(value);
                Self::PLAIN
            }
            Some(compressed) => {
                bytes.put_u32(u32::try_from(value.len()).expect("a value has at most 16 MiB"));
                bytes.put_slice(&compressed);
                Self::ZSTD
            }
        };
        Self { format, bytes: bytes.freeze() }
    }

    /// Packs the knowledge that there is no value.
    pub(crate) fn absent() -> Self {
        Self { format: Self::ABSENT, ..Self::pack(&ContentType::default(), &Tags::default(), &[], u64::MAX) }
    }

    /// Gives content type, tags and value back; a plain value shares the bytes given.
    pub(super) fn unpack(self) -> Result<(ContentType, Tags, Bytes), DamagedEnvelope> {
        let mut bytes = self.bytes;
        let content_type = take_text(&mut bytes)?;
        let content_type =
            ContentType::try_new(text(&content_type)?).map_err(|_| DamagedEnvelope::ContentType)?;
        let n_tags = bytes.try_get_u8().map_err(|_| DamagedEnvelope::Truncated)?;
        let tags: Result<Vec<Bytes>, _> = (0..n_tags).map(|_| take_text(&mut bytes)).collect();
        let tags = tags?;
        let tags: Result<Vec<&str>, _> = tags.iter().map(|tag| text(tag)).collect();
        let tags = Tags::try_new(tags?).map_err(|_| DamagedEnvelope::Tags)?;
        if self.format != Self::ZSTD {
            return Ok((content_type, tags, bytes));
        }
        let length = bytes.try_get_u32().map_err(|_| DamagedEnvelope::Truncated)? as usize;
        if length > LARGEST_VALUE {
            return Err(DamagedEnvelope::Compressed);
        }
        let value = zstd::bulk::decompress(&bytes, length).map_err(|_| DamagedEnvelope::Compressed)?;
        if value.len() == length {
            Ok((content_type, tags, value.into()))
        } else {
            Err(DamagedEnvelope::Compressed)
        }
    }
}

fn take_text(bytes: &mut Bytes) -> Result<Bytes, DamagedEnvelope> {
    let length = usize::from(bytes.try_get_u8().map_err(|_| DamagedEnvelope::Truncated)?);
    if bytes.len() < length { Err(DamagedEnvelope::Truncated) } else { Ok(bytes.split_to(length)) }
}

fn text(bytes: &[u8]) -> Result<&str, DamagedEnvelope> {
    std::str::from_utf8(bytes).map_err(|_| DamagedEnvelope::ContentType)
}
