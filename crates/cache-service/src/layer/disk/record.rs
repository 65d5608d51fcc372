use bytes::{BufMut as _, Bytes, BytesMut};

/// One record of a segment: length of the rest and its CRC-32, both u32, then kind, end of use (Unix ms, u64), version
/// (u64), length of the key (u16), the key, and the envelope; integers are little-endian.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) kind: Kind,
    /// Until then it may be served.
    pub(super) kept_until_unix_ms: u64,
    pub(super) version: u64,
    pub(super) key: Box<str>,
    pub(super) envelope: Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Put,
    /// What earlier records hold for the key is no longer true.
    Gone,
    /// Nor is what they hold for a tag, or for a namespace, up to the version. The key names it: `namespace NUL tag`, the
    /// tag empty for the whole namespace.
    Raise,
    /// What each segment begins with: its number as the end of use, and the length of the segment before it as the version.
    Begin,
}

/// A tag or a namespace that was invalidated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Raised {
    pub(crate) namespace: Box<str>,
    /// None: the whole namespace.
    pub(crate) tag: Option<Box<str>>,
    /// Versions up to it are no longer true.
    pub(crate) number: u64,
}

/// Says why bytes are not a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// It goes on behind the end.
    Torn,
    Damaged,
}

impl Record {
    pub(super) const HEAD_BYTES: usize = 8;
    const FIXED_BYTES: usize = 1 + 8 + 8 + 2;
    /// The largest value, key and envelope there are, with room to spare.
    const MOST_BYTES: usize = 17 << 20;

    /// What [`Self::begin`] takes.
    pub(super) const BEGIN_BYTES: u64 = (Self::HEAD_BYTES + Self::FIXED_BYTES) as u64;

    pub(super) fn begin(number: u64, bytes_before: u64) -> Self {
        Self { kind: Kind::Begin, kept_until_unix_ms: number, version: bytes_before, ..Self::gone("") }
    }

    pub(super) fn gone(key: &str) -> Self {
        Self { kind: Kind::Gone, kept_until_unix_ms: 0, version: 0, key: key.into(), envelope: Bytes::new() }
    }

    pub(super) fn raise(raised: &Raised) -> Self {
        let key = [&raised.namespace, "\0", raised.tag.as_deref().unwrap_or_default()].concat();
        Self { kind: Kind::Raise, version: raised.number, key: key.into(), ..Self::gone("") }
    }

    pub(super) fn raised(&self) -> Option<Raised> {
        let (namespace, tag) = self.key.split_once('\0').filter(|_| self.kind == Kind::Raise)?;
        let tag = (!tag.is_empty()).then(|| tag.into());
        Some(Raised { namespace: namespace.into(), tag, number: self.version })
    }

    pub(super) fn encode(&self) -> Bytes {
        let length = Self::FIXED_BYTES + self.key.len() + self.envelope.len();
        let mut bytes = BytesMut::with_capacity(Self::HEAD_BYTES + length);
        bytes.put_u32_le(u32::try_from(length).expect("a record has at most 17 MiB"));
        bytes.put_u32_le(0);
        bytes.put_u8(match self.kind {
            Kind::Put => 1,
            Kind::Gone => 2,
            Kind::Raise => 3,
            Kind::Begin => 4,
        });
        bytes.put_u64_le(self.kept_until_unix_ms);
        bytes.put_u64_le(self.version);
        bytes.put_u16_le(u16::try_from(self.key.len()).expect("namespace and key have at most 1,089 bytes"));
        bytes.put_slice(self.key.as_bytes());
        bytes.put_slice(&self.envelope);
        let sum = crc32fast::hash(&bytes[Self::HEAD_BYTES..]);
        bytes[4..8].copy_from_slice(&sum.to_le_bytes());
        bytes.freeze()
    }

    /// Reads the record that begins here and tells how many bytes it has.
    pub(super) fn decode(bytes: &Bytes) -> Result<(Self, usize), Unreadable> {
        let Some(head) = bytes.get(..Self::HEAD_BYTES) else { return Err(Unreadable::Torn) };
        let length = u32_at(head, 0) as usize;
        if !(Self::FIXED_BYTES..=Self::MOST_BYTES).contains(&length) {
            return Err(Unreadable::Damaged);
        }
        let end = Self::HEAD_BYTES + length;
        if bytes.len() < end {
            return Err(Unreadable::Torn);
        }
        let rest = bytes.slice(Self::HEAD_BYTES..end);
        if crc32fast::hash(&rest) != u32_at(head, 4) {
            return Err(Unreadable::Damaged);
        }
        let kind = match rest[0] {
            1 => Kind::Put,
            2 => Kind::Gone,
            3 => Kind::Raise,
            4 => Kind::Begin,
            _ => return Err(Unreadable::Damaged),
        };
        let key_end = Self::FIXED_BYTES + usize::from(u16::from_le_bytes([rest[17], rest[18]]));
        let key = rest.get(Self::FIXED_BYTES..key_end).and_then(|key| std::str::from_utf8(key).ok());
        let record = Self {
            kind,
            kept_until_unix_ms: u64_at(&rest, 1),
            version: u64_at(&rest, 9),
            key: key.ok_or(Unreadable::Damaged)?.into(),
            envelope: rest.slice(key_end..),
        };
        Ok((record, end))
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_record_comes_back_as_it_was_and_no_changed_bit_goes_unseen(
            version: u64,
            kept_until_unix_ms: u64,
            key in "[a-z:]{1,40}",
            envelope in prop::collection::vec(any::<u8>(), 0..200),
            at: prop::sample::Index,
            bit in 0_u8..8,
        ) {
            let record = Record { kind: Kind::Put, kept_until_unix_ms, version, key: key.into(), envelope: envelope.into() };
            let bytes = record.encode();
            prop_assert_eq!(Record::decode(&bytes), Ok((record, bytes.len())));
            for length in 0..bytes.len() {
                prop_assert_eq!(Record::decode(&bytes.slice(..length)), Err(Unreadable::Torn));
            }
            let mut damaged = bytes.to_vec();
            let at = at.index(damaged.len());
            damaged[at] ^= 1 << bit;
            prop_assert!(Record::decode(&damaged.into()).is_err());
        }
    }
}
