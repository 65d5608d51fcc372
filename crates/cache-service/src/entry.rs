//! A value and what belongs to it, in memory and as it lies in Redis.

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::key::{ContentType, Ttl};
use crate::time::Moment;

/// Holds one entry as L1 keeps it.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) value: Bytes,
    pub(crate) content_type: ContentType,
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
}

impl Entry {
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

/// Holds one entry as Redis keeps it: a head of 26 bytes that scripts read too, then the body.
///
/// `0xCA 0x01`, then version, set-at and expires-at (Unix milliseconds by the clock of the Redis server) as big-endian
/// u64, then one byte of length and the content type, then the value to the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Envelope {
    pub(crate) version: u64,
    pub(crate) set_at_unix_ms: u64,
    pub(crate) expires_at_unix_ms: u64,
    pub(crate) content_type: ContentType,
    pub(crate) value: Bytes,
}

impl Envelope {
    const MAGIC: [u8; 2] = [0xCA, 0x01];
    const HEAD_BYTES: usize = 26;

    /// Writes the part that the caller of [`SET_SCRIPT`] makes: content type and value.
    pub(crate) fn body(content_type: &ContentType, value: &[u8]) -> Bytes {
        let content_type = content_type.as_str().as_bytes();
        let mut body = BytesMut::with_capacity(1 + content_type.len() + value.len());
        body.put_u8(u8::try_from(content_type.len()).expect("a content type has at most 255 bytes"));
        body.put_slice(content_type);
        body.put_slice(value);
        body.freeze()
    }

    /// Reads an envelope; the value shares the bytes given.
    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, DamagedEnvelope> {
        if !bytes.starts_with(&Self::MAGIC) {
            return Err(DamagedEnvelope::NotOurs);
        }
        let number = |at: usize| -> Option<u64> {
            let bytes = bytes.get(at..at + 8)?.try_into().ok()?;
            Some(u64::from_be_bytes(bytes))
        };
        let parts = (number(2), number(10), number(18), bytes.get(Self::HEAD_BYTES));
        let (Some(version), Some(set_at_unix_ms), Some(expires_at_unix_ms), Some(length)) = parts else {
            return Err(DamagedEnvelope::Truncated);
        };
        let (start, end) = (Self::HEAD_BYTES + 1, Self::HEAD_BYTES + 1 + usize::from(*length));
        let content_type = bytes.get(start..end).ok_or(DamagedEnvelope::Truncated)?;
        let content_type =
            std::str::from_utf8(content_type).ok().and_then(|text| ContentType::try_new(text).ok());
        let content_type = content_type.ok_or(DamagedEnvelope::ContentType)?;
        Ok(Self { version, set_at_unix_ms, expires_at_unix_ms, content_type, value: bytes.slice(end..) })
    }
}

/// Says why bytes in Redis are not an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DamagedEnvelope {
    #[error("does not begin like an entry of this cache")]
    NotOurs,
    #[error("ends too early")]
    Truncated,
    #[error("has an illegal content type")]
    ContentType,
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
    pub(crate) value: Bytes,
    pub(crate) content_type: ContentType,
    pub(crate) ttl: Ttl,
}

/// Stores an envelope with a version above the one in place. KEYS: the key. ARGV: body, ttl in ms, lowest version.
///
/// Redis runs it as one step, so two nodes never give one version twice for a key that is there. The state it reads
/// is the entry itself: it moves with replication and survives a failover as far as the entry does.
pub(crate) const SET_SCRIPT: &str = r"
local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local version = math.max(tonumber(ARGV[3]), now_us)
local head = redis.call('GETRANGE', KEYS[1], 0, 9)
if #head == 10 and string.sub(head, 1, 2) == '\202\001' then
  local old = struct.unpack('>I8', head, 3)
  if old < 9007199254740991 then version = math.max(version, old + 1) end
end
local set_at = math.floor(now_us / 1000)
local envelope = '\202\001' .. struct.pack('>I8I8I8', version, set_at, set_at + ARGV[2]) .. ARGV[1]
redis.call('SET', KEYS[1], envelope, 'PX', ARGV[2])
return {version, set_at}
";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl Envelope {
        /// Does in Rust what the script does with head and body.
        pub(crate) fn encode(&self) -> Bytes {
            let mut bytes = BytesMut::from(&Self::MAGIC[..]);
            bytes.put_u64(self.version);
            bytes.put_u64(self.set_at_unix_ms);
            bytes.put_u64(self.expires_at_unix_ms);
            bytes.put_slice(&Self::body(&self.content_type, &self.value));
            bytes.freeze()
        }
    }

    #[test]
    fn what_is_not_an_envelope_is_refused() {
        let whole = Envelope {
            version: 7,
            set_at_unix_ms: 1,
            expires_at_unix_ms: 2,
            content_type: ContentType::try_new("text/plain").unwrap(),
            value: Bytes::from_static(b""),
        }
        .encode();
        assert!(Envelope::decode(&whole).is_ok());
        for length in 2..whole.len() {
            assert_eq!(Envelope::decode(&whole.slice(..length)), Err(DamagedEnvelope::Truncated), "{length}");
        }
        for foreign in [&b""[..], b"x", b"\xCA", b"\xCA\x02 another format", b"{\"json\":1}"] {
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
            value in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let content_type = ContentType::try_new(&content_type).unwrap();
            let envelope = Envelope { version, set_at_unix_ms, expires_at_unix_ms, content_type, value: value.into() };
            prop_assert_eq!(Envelope::decode(&envelope.encode()), Ok(envelope));
        }

        #[test]
        fn no_bytes_make_decoding_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), ours: bool) {
            let mut bytes = bytes;
            if ours {
                bytes.splice(0..0, Envelope::MAGIC);
            }
            let _ = Envelope::decode(&bytes.into());
        }
    }
}
