use bytesize::ByteSize;
use mainstay_runtime::Problems;
use serde::{Deserialize, Serialize};

/// Configures messages by topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PubSubConfig {
    /// Streams open at once; more are refused; 1 to 100,000.
    pub max_streams: u32,
    /// Topics and patterns of one stream; 1 to 1,000.
    pub max_topics: u32,
    /// Different topics and patterns of all streams together; 1 to 1,000,000.
    pub max_node_topics: u32,
    /// Payload of one message; 1 byte to 1 MiB.
    pub max_message_size: ByteSize,
    /// Messages of one stream that wait to be read; 1 to 100,000.
    pub buffer_messages: u32,
    /// Their bytes; `max_message_size` to 1 GiB.
    pub buffer: ByteSize,
    /// What happens when a buffer is full, unless the subscriber says.
    pub slow_readers: SlowReaders,
}

/// What happens to a stream that is not read as fast as messages come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SlowReaders {
    /// It ends.
    Disconnect,
    /// The oldest messages that wait are lost.
    DropOldest,
    /// Of each topic only the newest message waits.
    KeepLatest,
}

impl SlowReaders {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Disconnect => "disconnect",
            Self::DropOldest => "drop_oldest",
            Self::KeepLatest => "keep_latest",
        }
    }
}

impl Default for PubSubConfig {
    fn default() -> Self {
        Self {
            max_streams: 1_024,
            max_topics: 100,
            max_node_topics: 50_000,
            max_message_size: ByteSize::kib(256),
            buffer_messages: 1_024,
            buffer: ByteSize::mib(1),
            slow_readers: SlowReaders::DropOldest,
        }
    }
}

impl PubSubConfig {
    pub(super) fn check(&self, problems: &mut Problems) {
        problems.range("pubsub.max_streams", self.max_streams, 1..=100_000);
        problems.range("pubsub.max_topics", self.max_topics, 1..=1_000);
        problems.range("pubsub.max_node_topics", self.max_node_topics, 1..=1_000_000);
        problems.range("pubsub.max_message_size", self.max_message_size, ByteSize::b(1)..=ByteSize::mib(1));
        problems.range("pubsub.buffer_messages", self.buffer_messages, 1..=100_000);
        problems.range("pubsub.buffer", self.buffer, self.max_message_size..=ByteSize::gib(1));
    }
}
