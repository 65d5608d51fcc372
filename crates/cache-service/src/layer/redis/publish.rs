use std::time::Duration;

use bytes::Bytes;
use fred::interfaces::PubsubInterface as _;
use fred::types::Value;

use super::{LayerError, RedisLayer};
use crate::redis::Partition;

impl RedisLayer {
    /// Sends a message on a channel, which gets the prefix, and counts who took it. In a cluster all messages go to the primary to
    /// which all nodes listen, for it counts, and orders, only what passes through itself.
    pub(crate) async fn publish(
        &self,
        channel: &str,
        message: Bytes,
        left: Duration,
    ) -> Result<u32, LayerError> {
        let part = self.part(Partition::FIRST);
        let channel = self.redis.first().full(channel);
        let publish = |within| {
            self.redis.first().command(within, |client| async move {
                client.publish::<u32, _, _>(channel, Value::Bytes(message)).await
            })
        };
        part.ask("redis.publish", "PUBLISH", left, publish).await
    }
}
