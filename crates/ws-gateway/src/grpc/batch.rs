//! Many different messages in one call.

use std::collections::HashMap;

use futures_util::{StreamExt as _, stream};
use mainstay_proto::realtime::v1::{BroadcastResult, PublishRequest};

use super::shown::shown_outcome;
use super::{CHANNELS_PER_TURN, RealtimeApi};
use crate::error::Refusal;

const MAX_MESSAGES: usize = 1_000;
/// Channels published into at the same time.
const CHANNELS_AT_ONCE: usize = 16;

/// The messages of a batch for one channel, in their order, each with its place in the batch.
type Line = Vec<(usize, PublishRequest)>;

impl RealtimeApi {
    /// Publishes each message; those for one channel in their order.
    pub(super) async fn publish_each(
        &self,
        messages: Vec<PublishRequest>,
    ) -> Result<Vec<BroadcastResult>, Refusal> {
        let n_messages = messages.len();
        if n_messages == 0 || n_messages > MAX_MESSAGES {
            return Err(Refusal::TooManyMessages { n_messages, max_messages: MAX_MESSAGES });
        }
        let publishing = stream::iter(by_channel(messages)).map(|line| self.publish_line(line));
        let mut results: Vec<_> = publishing.buffer_unordered(CHANNELS_AT_ONCE).concat().await;
        results.sort_unstable_by_key(|(place, _)| *place);
        Ok(results.into_iter().map(|(_, result)| result).collect())
    }

    /// Publishes into one channel, until it is not known whether a message was published: one that is sent again by itself
    /// would come after those that follow it.
    async fn publish_line(&self, line: Line) -> Vec<(usize, BroadcastResult)> {
        let mut results = Vec::with_capacity(line.len());
        let mut is_stopped = false;
        for (place, request) in line {
            let channel = request.channel.clone();
            let outcome =
                if is_stopped { Err(Refusal::BatchStopped) } else { self.publish_one(request).await };
            is_stopped |= matches!(outcome, Err(Refusal::PublishUnknown));
            results.push((place, shown_outcome(channel, outcome)));
            if results.len() % CHANNELS_PER_TURN == 0 {
                tokio::task::yield_now().await;
            }
        }
        results
    }
}

/// Puts together what goes into the same channel.
fn by_channel(messages: Vec<PublishRequest>) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    let mut line_of: HashMap<String, usize> = HashMap::new();
    for (place, message) in messages.into_iter().enumerate() {
        let line = *line_of.entry(message.channel.clone()).or_insert(lines.len());
        match lines.get_mut(line) {
            Some(line) => line.push((place, message)),
            None => lines.push(vec![(place, message)]),
        }
    }
    lines
}
