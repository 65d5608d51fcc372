//! The connection on which messages arrive.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fred::interfaces::{ClientLike as _, PubsubInterface as _};
use futures_util::future::BoxFuture;
use mainstay_redis::{Link, RedisError};
use mainstay_resilience::backoff::Backoff;
use mainstay_runtime::{Component, ComponentKind, Context};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::hub::Hub;
use super::{Interest, Message, PubSub, Topic};
use crate::config::RedisConfig;
use crate::metrics::PubSubMetrics;
use crate::redis::Redis;

/// Topics asked for with one command.
const INTERESTS_AT_ONCE: usize = 512;
/// How often the connection is tried, and topics that nobody needs are let go.
const TICK_EVERY: Duration = Duration::from_secs(1);
/// Messages that may wait to be taken; with more the oldest are lost, and that is told.
const MOST_WAITING: usize = 1_024;
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LAST: Duration = Duration::from_secs(1);

/// Listens to Redis for all streams of this node, on one connection after the other.
pub(crate) struct Listener {
    hub: Arc<Hub>,
    metrics: Arc<PubSubMetrics>,
    redis: Arc<Redis>,
    config: RedisConfig,
    component: Component,
    cx: Context,
}

type Confirmed = Result<Vec<Interest>, RedisError>;

impl Listener {
    /// None when Redis is not configured.
    pub(crate) fn new(pubsub: &PubSub, config: &RedisConfig, cx: &Context) -> Option<Self> {
        let redis = pubsub.redis.as_ref()?.shared();
        let component = cx.component("pubsub", ComponentKind::Internal, false);
        Some(Self {
            hub: Arc::clone(&pubsub.hub),
            metrics: Arc::clone(&pubsub.metrics),
            redis,
            config: config.clone(),
            component,
            cx: cx.clone(),
        })
    }

    /// Runs until the service stops.
    pub(crate) async fn run(self, stopping: CancellationToken) -> anyhow::Result<()> {
        tokio::select! {
            () = self.listen() => {}
            () = stopping.cancelled() => {}
        }
        Ok(())
    }

    async fn listen(&self) {
        let mut backoff =
            Backoff::try_new(RETRY_FIRST, RETRY_LAST).expect("both are above zero and in order");
        loop {
            let trouble = match self.follow(&mut backoff).await {
                Ok(()) => "the primary moved".to_owned(),
                Err(error) => error.in_full(),
            };
            self.hub.link_lost();
            self.metrics.link_up.set(0);
            self.component.degraded(format!("hears nothing: {trouble}"));
            tracing::debug!(trouble, "listening to topics interrupted");
            sleep(backoff.next(rand::random())).await;
        }
    }

    /// Listens on one connection until it fails or leads to another server than commands do.
    async fn follow(&self, backoff: &mut Backoff) -> Result<(), RedisError> {
        let Some(address) = self.redis.first().primary() else { return Err(RedisError::NotConnected) };
        let (link, mut messages) =
            Link::open_to_listen(address, &self.config, MOST_WAITING, &self.cx).await?;
        self.hub.link_made();
        while let Some(ask) = self.ask_for_new(&link) {
            self.hub.confirm(&ask.await?);
        }
        self.metrics.link_up.set(1);
        backoff.reset();
        let mut tick = interval(TICK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut asking: Option<BoxFuture<'_, Confirmed>> = None;
        loop {
            tokio::select! {
                message = messages.recv() => match message {
                    Ok(message) => self.hear(&message),
                    Err(RecvError::Lagged(n_lost)) => {
                        tracing::warn!(n_lost, "messages of topics came faster than they were taken");
                        self.hub.overrun(n_lost);
                    }
                    Err(RecvError::Closed) => return Err(RedisError::Lost),
                },
                confirmed = async { asking.as_mut().expect("checked before").await }, if asking.is_some() => {
                    self.hub.confirm(&confirmed?);
                    asking = self.ask_for_new(&link);
                }
                () = self.hub.changed(), if asking.is_none() => asking = self.ask_for_new(&link),
                _ = tick.tick() => {
                    if self.redis.first().primary().as_ref() != Some(link.address()) {
                        return Ok(());
                    }
                    self.tidy(&link).await?;
                }
                () = link.closed() => return Err(RedisError::Lost),
            }
        }
    }

    /// Asks for topics and patterns; done when Redis has confirmed them.
    fn ask_for_new<'a>(&self, link: &'a Link) -> Option<BoxFuture<'a, Confirmed>> {
        let interests = self.hub.take_unasked(INTERESTS_AT_ONCE);
        if interests.is_empty() {
            return None;
        }
        let (channels, globs) = self.places(&interests);
        let within = self.config.command_within;
        Some(Box::pin(async move {
            if !channels.is_empty() {
                link.run(within, link.commands(within).subscribe(channels)).await?;
            }
            if !globs.is_empty() {
                link.run(within, link.commands(within).psubscribe(globs)).await?;
            }
            // The answer to SUBSCRIBE is not told; that to what was sent after it comes after it.
            link.run(within, link.commands(within).ping::<()>(None)).await?;
            Ok(interests)
        }))
    }

    async fn tidy(&self, link: &Link) -> Result<(), RedisError> {
        let within = self.config.command_within;
        loop {
            let unneeded = self.hub.take_unneeded(INTERESTS_AT_ONCE);
            if unneeded.is_empty() {
                break;
            }
            let (channels, globs) = self.places(&unneeded);
            if !channels.is_empty() {
                link.run(within, link.commands(within).unsubscribe(channels)).await?;
            }
            if !globs.is_empty() {
                link.run(within, link.commands(within).punsubscribe(globs)).await?;
            }
        }
        link.run(within, link.commands(within).ping::<()>(None)).await?;
        let n_interests = self.hub.n_interests();
        self.component.healthy(format!("listens to {n_interests} topics and patterns on {}", link.address()));
        Ok(())
    }

    /// Returns the channels and the patterns of channels in Redis.
    fn places(&self, interests: &[Interest]) -> (Vec<String>, Vec<String>) {
        let (mut channels, mut globs) = (Vec::new(), Vec::new());
        for interest in interests {
            match interest {
                Interest::Topic(topic) => channels.push(self.redis.first().full(&topic.channel())),
                Interest::Pattern(pattern) => globs.push(pattern.channels(&self.redis.first().full(""))),
            }
        }
        (channels, globs)
    }

    fn hear(&self, message: &fred::types::Message) {
        let channel = message.channel.strip_prefix(self.redis.first().full("").as_str());
        let topic = channel.and_then(Topic::of_channel);
        // A copy, for what fred gives may hold on to much more than the message.
        let bytes = message.value.as_bytes().map(Bytes::copy_from_slice);
        match topic.zip(bytes).and_then(|(topic, bytes)| Message::decode(topic, bytes)) {
            Some(message) => drop(self.hub.deliver(&Arc::new(message))),
            None => tracing::debug!(channel = %message.channel, "a message in redis is not ours"),
        }
    }
}
