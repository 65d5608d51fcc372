use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use super::Topic;
use crate::key::ContentType;

/// A message on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(super) id: MessageId,
    pub(crate) topic: Topic,
    pub(crate) payload: Bytes,
    pub(crate) content_type: ContentType,
    pub(crate) published_at_unix_ms: u64,
}

/// Tells copies of one message from messages that are alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MessageId {
    pub(super) publisher: u64,
    pub(super) number: u64,
}

/// The first byte of the form below; another form would have another.
const FORM: u8 = 1;
const HEAD_BYTES: usize = 1 + 8 + 8 + 8 + 1;

impl Message {
    /// Returns what is sent through Redis: all but the topic, which is the name of the channel.
    pub(super) fn encode(&self) -> Bytes {
        let content_type = self.content_type.as_str();
        let mut bytes = BytesMut::with_capacity(HEAD_BYTES + content_type.len() + self.payload.len());
        bytes.put_u8(FORM);
        bytes.put_u64(self.id.publisher);
        bytes.put_u64(self.id.number);
        bytes.put_u64(self.published_at_unix_ms);
        bytes.put_u8(u8::try_from(content_type.len()).expect("a content type has at most 255 bytes"));
        bytes.put_slice(content_type.as_bytes());
        bytes.put_slice(&self.payload);
        bytes.freeze()
    }

    /// Reads what came through Redis; none when another program sent it.
    pub(super) fn decode(topic: Topic, mut bytes: Bytes) -> Option<Self> {
        if bytes.len() < HEAD_BYTES || bytes.get_u8() != FORM {
            return None;
        }
        let id = MessageId { publisher: bytes.get_u64(), number: bytes.get_u64() };
        let published_at_unix_ms = bytes.get_u64();
        let content_type_bytes = usize::from(bytes.get_u8());
        if bytes.len() < content_type_bytes {
            return None;
        }
        let content_type = bytes.split_to(content_type_bytes);
        let content_type = ContentType::try_new(std::str::from_utf8(&content_type).ok()?).ok()?;
        Some(Self { id, topic, payload: bytes, content_type, published_at_unix_ms })
    }

    /// What it takes of a buffer.
    pub(super) fn n_bytes(&self) -> usize {
        HEAD_BYTES + self.topic.as_str().len() + self.content_type.as_str().len() + self.payload.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn topic() -> Topic {
        Topic::try_new("topic", "t").unwrap()
    }

    proptest! {
        #[test]
        fn a_message_is_read_as_it_was_written(
            publisher: u64,
            number: u64,
            published_at_unix_ms: u64,
            payload in prop::collection::vec(any::<u8>(), 0..50),
            content_type in "[ -~]{0,255}",
        ) {
            let message = Message {
                id: MessageId { publisher, number },
                topic: topic(),
                payload: payload.into(),
                content_type: ContentType::try_new(&content_type).unwrap(),
                published_at_unix_ms,
            };
            prop_assert_eq!(Message::decode(topic(), message.encode()), Some(message));
        }

        #[test]
        fn no_bytes_make_reading_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = Message::decode(topic(), bytes.into());
        }
    }
}
