use std::time::Duration;

use bytes::Bytes;
use fred::interfaces::PubsubInterface as _;
use fred::types::Value;
use tracing::Instrument as _;

use super::{LayerError, RedisLayer};

impl RedisLayer {
    /// Sends a message on a channel, which gets the prefix, and counts who took it.
    pub(crate) async fn publish(
        &self,
        channel: &str,
        message: Bytes,
        left: Duration,
    ) -> Result<u32, LayerError> {
        let span = self.span("redis.publish", "PUBLISH");
        let channel = self.redis.full(channel);
        let publish = |within| {
            self.redis.command(within, |client| async move {
                client.publish::<u32, _, _>(channel, Value::Bytes(message)).await
            })
        };
        self.guarded(left, publish).instrument(span).await
    }
}
