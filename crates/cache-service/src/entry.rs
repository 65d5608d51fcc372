//! A value and what belongs to it, in memory and as it lies in Redis.

use bytes::{BufMut as _, Bytes, BytesMut};

mod body;

pub(crate) use body::Body;

use crate::fence::Fence;
use crate::key::{ContentType, Tags, Ttl};
use crate::once::{Made, Once};
use crate::time::Moment;

/// Holds one entry for L1 to keep.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// None: the origin does not have the key.
    pub(crate) value: Option<Bytes>,
    pub(crate) content_type: ContentType,
    pub(crate) tags: Tags,
    pub(crate) version: u64,
    pub(crate) set_at_unix_ms: u64,
    /// Until then L1 answers alone.
    pub(crate) fresh_until: Moment,
    /// End of the ttl.
    pub(crate) lives_until: Moment,
    /// Until then it may be served as stale while the layer below fails.
    pub(crate) kept_until: Moment,
    /// False when Redis did not confirm the write.
    pub(crate) confirmed: bool,
    /// Epoch of the invalidation log in which it was loaded or written.
    pub(crate) epoch: u32,
}

/// What memory keeps beside key, tags, content type and value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) version: u64,
    pub(crate) set_at_unix_ms: u64,
    pub(crate) fresh_until: Moment,
    pub(crate) lives_until: Moment,
    pub(crate) kept_until: Moment,
    pub(crate) confirmed: bool,
    pub(crate) epoch: u32,
    /// False: the origin does not have the key.
    pub(crate) has_value: bool,
}

impl Head {
    pub(crate) fn is_fresh(&self, now: Moment) -> bool {
        now < self.fresh_until
    }

    pub(crate) fn is_alive(&self, now: Moment) -> bool {
        now < self.lives_until
    }

    pub(crate) fn is_kept(&self, now: Moment) -> bool {
        now < self.kept_until
    }
}

/// Holds one entry as it lies below memory: a head of 26 bytes that scripts read too, then the [`Body`].
///
/// `0xCA` and the format of the body, then version, set-at and expires-at (Unix milliseconds, by the clock of the Redis
/// server where it is Redis) as big-endian u64.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Envelope {
    pub(crate) version: u64,
    pub(crate) set_at_unix_ms: u64,
    pub(crate) expires_at_unix_ms: u64,
    pub(crate) content_type: ContentType,
    pub(crate) tags: Tags,
    /// None: the origin does not have the key.
    pub(crate) value: Option<Bytes>,
}

impl Envelope {
    const MAGIC: u8 = 0xCA;
    const HEAD_BYTES: usize = 26;
    /// Unpacking more than this is no work for a thread that serves.
    const LARGE_BYTES: usize = 128 << 10;

    /// Writes the whole, as the script does in Redis.
    pub(crate) fn encode(&self, compress_above: u64) -> Bytes {
        let body = match &self.value {
            Some(value) => Body::pack(&self.content_type, &self.tags, value, compress_above),
            None => Body::absent(),
        };
        let mut bytes = BytesMut::with_capacity(Self::HEAD_BYTES + body.bytes.len());
        bytes.put_u8(Self::MAGIC);
        bytes.put_u8(body.format);
        bytes.put_u64(self.version);
        bytes.put_u64(self.set_at_unix_ms);
        bytes.put_u64(self.expires_at_unix_ms);
        bytes.put_slice(&body.bytes);
        bytes.freeze()
    }

    /// Tells whether decoding these bytes takes so long that it should be done aside.
    pub(crate) fn is_large(bytes: &[u8]) -> bool {
        bytes.len() > Self::LARGE_BYTES && bytes.get(1) == Some(&Body::ZSTD)
    }

    /// Reads an envelope; a plain value shares the bytes given.
    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, DamagedEnvelope> {
        let (Some(&Self::MAGIC), Some(&format @ (Body::PLAIN | Body::ZSTD | Body::ABSENT))) =
            (bytes.first(), bytes.get(1))
        else {
            return Err(DamagedEnvelope::NotOurs);
        };
        let number = |at: usize| -> Option<u64> {
            let bytes = bytes.get(at..at + 8)?.try_into().ok()?;
            Some(u64::from_be_bytes(bytes))
        };
        let (Some(version), Some(set_at_unix_ms), Some(expires_at_unix_ms)) =
            (number(2), number(10), number(18))
        else {
            return Err(DamagedEnvelope::Truncated);
        };
        let body = Body { format, bytes: bytes.slice(Self::HEAD_BYTES..) };
        let (content_type, tags, value) = body.unpack()?;
        let value = (format != Body::ABSENT).then_some(value);
        Ok(Self { version, set_at_unix_ms, expires_at_unix_ms, content_type, tags, value })
    }
}

/// Says why bytes are not an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DamagedEnvelope {
    #[error("does not begin like an entry of this cache")]
    NotOurs,
    #[error("ends too early")]
    Truncated,
    #[error("has an illegal content type")]
    ContentType,
    #[error("has illegal tags")]
    Tags,
    #[error("has a compressed value that cannot be unpacked")]
    Compressed,
}

/// What a confirmed write tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) version: u64,
    pub(crate) set_at_unix_ms: u64,
}

/// What is to be written.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    /// None: the origin does not have the key.
    pub(crate) value: Option<Bytes>,
    pub(crate) content_type: ContentType,
    pub(crate) tags: Tags,
    /// Only if this lease still holds; it ends with the write.
    pub(crate) lease: Option<u64>,
    /// Only if nobody else got this lock since.
    pub(crate) fence: Option<Fence>,
    pub(crate) ttl: Ttl,
    pub(crate) condition: Condition,
    /// Values of more bytes are compressed below memory.
    pub(crate) compress_above: u64,
    /// The change goes into the queue of its namespace, which takes so many.
    pub(crate) max_queued: Option<u64>,
    /// Only if it was not made before under this key.
    pub(crate) once: Option<Once>,
    /// Done when a replica has it too.
    pub(crate) replica_ack: bool,
}

/// What a removal depends on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Removal {
    /// Only if nobody else got this lock since.
    pub(crate) fence: Option<Fence>,
    /// Only if it was not made before under this key.
    pub(crate) once: Option<Once>,
    /// Done when a replica has it too.
    pub(crate) replica_ack: bool,
}

/// When a draft may be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    Always,
    /// Only if the key is not there.
    Absent,
    /// Only if the entry has this version.
    Version(u64),
}

impl Condition {
    /// Compares with the version that is there, if any.
    pub(crate) fn holds(self, version: Option<u64>) -> bool {
        match self {
            Self::Always => true,
            Self::Absent => version.is_none(),
            Self::Version(expected) => version == Some(expected),
        }
    }
}

/// What Redis did with a draft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    Stored {
        written: Written,
        /// There was an entry before.
        existed: bool,
    },
    /// It was stored before under its idempotency key.
    Replayed(Made),
    /// Another change was made under its idempotency key.
    OnceReused,
    /// Stored, as far as this server knows: no replica confirmed it.
    NotDurable { version: u64 },
    /// The condition did not hold; the version that is there, 0 for none.
    Refused { version: u64 },
    /// The key was changed or invalidated since the lease was given, or the lease is over.
    LeaseLost,
    /// Somebody else got the lock; the newest token of it.
    Fenced { newest: u64 },
    /// Too many changes wait for the origin.
    QueueFull,
}

/// What Redis did with a removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Removed {
    Done(Made),
    /// As of [`Decision`].
    Replayed(Made),
    Fenced {
        newest: u64,
    },
    OnceReused,
    NotDurable {
        version: u64,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn envelope(value: Vec<u8>) -> Envelope {
        Envelope {
            version: 7,
            set_at_unix_ms: 1,
            expires_at_unix_ms: 2,
            content_type: ContentType::try_new("text/plain").unwrap(),
            tags: Tags::try_new(["a"]).unwrap(),
            value: Some(value.into()),
        }
    }

    #[test]
    fn a_value_over_the_threshold_is_compressed_if_it_becomes_smaller() {
        let even = envelope(vec![7; 10_000]);
        assert!(even.encode(9_999).len() < 200);
        assert!(even.encode(10_000).len() > 10_000, "not above the threshold");
        assert!(even.encode(u64::MAX).len() > 10_000);
        let mut state = 1_u64;
        let noise = envelope(
            (0..10_000)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (state >> 56) as u8
                })
                .collect(),
        );
        assert_eq!(noise.encode(1), noise.encode(u64::MAX));
    }

    #[test]
    fn a_damaged_compressed_value_is_refused() {
        let whole = envelope(vec![7; 10_000]).encode(1);
        for length in 0..whole.len() {
            assert!(Envelope::decode(&whole.slice(..length)).is_err(), "{length}");
        }
        let mut lies = whole.to_vec();
        // The length of the value, behind the head, the content type and one tag.
        lies[26 + 1 + 10 + 3] = 0xFF;
        assert_eq!(Envelope::decode(&lies.into()), Err(DamagedEnvelope::Compressed));
    }

    #[test]
    fn what_is_not_an_envelope_is_refused() {
        let whole = envelope(Vec::new()).encode(u64::MAX);
        assert!(Envelope::decode(&whole).is_ok());
        for length in 2..whole.len() {
            assert_eq!(Envelope::decode(&whole.slice(..length)), Err(DamagedEnvelope::Truncated), "{length}");
        }
        for foreign in [&b""[..], b"x", b"\xCA", b"\xCA\x04 another format", b"{\"json\":1}"] {
            let foreign = Bytes::copy_from_slice(foreign);
            assert_eq!(Envelope::decode(&foreign), Err(DamagedEnvelope::NotOurs), "{foreign:?}");
        }
    }

    proptest! {
        #[test]
        fn an_envelope_comes_back_as_it_was(
            version: u64,
            set_at_unix_ms: u64,
            expires_at_unix_ms: u64,
            content_type in "[ -~]{0,255}",
            tags in prop::collection::vec("[^\\p{Cc}]{1,20}", 0..16),
            value in prop::option::of(prop::collection::vec(any::<u8>(), 0..300)),
        ) {
            let tags = Tags::try_new(tags.iter().map(String::as_str)).unwrap();
            let content_type = ContentType::try_new(&content_type).unwrap();
            let content_type = if value.is_some() { content_type } else { ContentType::default() };
            let tags = if value.is_some() { tags } else { Tags::default() };
            let value = value.map(Bytes::from);
            let envelope =
                Envelope { version, set_at_unix_ms, expires_at_unix_ms, content_type, tags, value };
            prop_assert_eq!(Envelope::decode(&envelope.encode(u64::MAX)), Ok(envelope.clone()));
            prop_assert_eq!(Envelope::decode(&envelope.encode(0)), Ok(envelope));
        }

        #[test]
        fn no_bytes_make_decoding_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), format in 0_u8..5) {
            let mut bytes = bytes;
            if format > 0 {
                bytes.splice(0..0, [Envelope::MAGIC, format]);
            }
            let _ = Envelope::decode(&bytes.into());
        }
    }
}
