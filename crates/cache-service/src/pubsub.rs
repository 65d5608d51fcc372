//! Messages by topic: through Redis to all nodes, or among the streams of this process when Redis is not configured.
//!
//! A publication goes to Redis and comes back over one connection that is there for all subscribers of the node, so all
//! nodes see the messages of a topic in one order. Nothing is kept anywhere: what a break or a slow reader costs is told
//! in the stream as a gap.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use mainstay_rpc::{ErrorCode, Failure};

use crate::config::{PubSubConfig, SlowReaders};
use crate::key::ContentType;
use crate::layer::redis::RedisLayer;
use crate::metrics::PubSubMetrics;
use crate::shared::{SharedError, Source};
use crate::time::Time;

mod hub;
mod listener;
mod message;
mod outbox;
mod topic;

use hub::Hub;
pub(crate) use hub::Subscription;
pub(crate) use listener::Listener;
pub(crate) use message::Message;
use message::MessageId;
pub(crate) use outbox::{Delivery, Gap, GapReason, TooSlow};
pub(crate) use topic::{Interest, Pattern, Topic};

/// Publishes, and keeps who listens.
#[derive(Debug)]
pub(crate) struct PubSub {
    redis: Option<Arc<RedisLayer>>,
    hub: Arc<Hub>,
    config: PubSubConfig,
    time: Time,
    metrics: Arc<PubSubMetrics>,
    /// This process among all publishers.
    publisher: u64,
    n_published: AtomicU64,
}

/// Says why a message was not published or a stream not opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PubSubError {
    #[error("the payload has more than {max_bytes} bytes")]
    TooLarge { max_bytes: u64 },
    #[error("a stream has 1 to {most} topics and patterns")]
    TopicCount { most: u32 },
    #[error("too many streams are open")]
    TooManyStreams,
    #[error("the streams of this node have too many different topics")]
    TooManyTopics,
    #[error(transparent)]
    Shared(#[from] SharedError),
}

/// Places of streams and topics come free when others leave.
const RETRY_AFTER: Duration = Duration::from_secs(1);

impl From<PubSubError> for Failure {
    fn from(error: PubSubError) -> Self {
        let message = error.to_string();
        match error {
            PubSubError::TooLarge { .. } => {
                Self::new(ErrorCode::InvalidArgument, "MESSAGE_TOO_LARGE", message.as_str())
                    .field("payload", message)
            }
            PubSubError::TopicCount { .. } => Self::invalid("topics", message),
            PubSubError::TooManyStreams | PubSubError::TooManyTopics => {
                Self::new(ErrorCode::ResourceExhausted, "OVERLOADED", message).retry_after(RETRY_AFTER)
            }
            PubSubError::Shared(error) => error.into(),
        }
    }
}

impl From<TooSlow> for Failure {
    fn from(_: TooSlow) -> Self {
        let message = "the stream was not read as fast as messages came";
        Self::new(ErrorCode::ResourceExhausted, "SUBSCRIBER_TOO_SLOW", message)
    }
}

impl PubSub {
    pub(crate) fn new(
        redis: Option<Arc<RedisLayer>>,
        config: &PubSubConfig,
        time: Time,
        metrics: Arc<PubSubMetrics>,
    ) -> Self {
        let hub = Hub::new(redis.is_none(), config, Arc::clone(&metrics));
        Self {
            redis,
            hub: Arc::new(hub),
            config: config.clone(),
            time,
            metrics,
            publisher: rand::random(),
            n_published: AtomicU64::new(0),
        }
    }

    pub(crate) fn source(&self) -> Source {
        if self.redis.is_some() { Source::Redis } else { Source::Local }
    }

    /// Sends a message once, and tells how many took it; `left` is the time the caller has.
    pub(crate) async fn publish(
        &self,
        topic: Topic,
        payload: Bytes,
        content_type: ContentType,
        left: Duration,
    ) -> Result<u32, PubSubError> {
        let max_bytes = self.config.max_message_size.as_u64();
        if payload.len() as u64 > max_bytes {
            return Err(PubSubError::TooLarge { max_bytes });
        }
        let number = self.n_published.fetch_add(1, Ordering::Relaxed);
        let id = MessageId { publisher: self.publisher, number };
        let published_at_unix_ms = self.time.unix_ms();
        let message = Message { id, topic, payload, content_type, published_at_unix_ms };
        let published = match &self.redis {
            Some(redis) => {
                let channel = message.topic.channel();
                redis.publish(&channel, message.encode(), left).await.map_err(SharedError::of_write)
            }
            None => Ok(self.hub.deliver(&Arc::new(message))),
        };
        self.metrics.published(published.is_ok());
        Ok(published?)
    }

    /// Begins to listen.
    pub(crate) fn subscribe(
        &self,
        interests: Vec<Interest>,
        slow_readers: Option<SlowReaders>,
    ) -> Result<Subscription, PubSubError> {
        if interests.is_empty() || interests.len() > self.config.max_topics as usize {
            return Err(PubSubError::TopicCount { most: self.config.max_topics });
        }
        self.hub.subscribe(interests, slow_readers.unwrap_or(self.config.slow_readers))
    }
}
