//! The connection on which publications arrive.

use std::sync::Arc;
use std::time::Duration;

use fred::interfaces::{ClientLike as _, PubsubInterface as _};
use futures_util::future::BoxFuture;
use mainstay_redis::{Link, RedisConfig, RedisError};
use mainstay_resilience::backoff::Backoff;
use mainstay_runtime::{Component, ComponentKind, Context};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::Broker;
use super::wire::read_message;
use crate::channel::Channel;

/// Channels asked for with one command.
const CHANNELS_AT_ONCE: usize = 512;
/// How often the connection is tried, and channels that nobody needs are let go.
const TICK_EVERY: Duration = Duration::from_secs(1);
/// How often a node that stops looks whether somebody is left.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Messages that may wait to be taken; with more the oldest are lost, which is seen and made good.
const MOST_WAITING: usize = 16_384;

/// Listens to Redis for as long as the node runs, on one connection after the other.
pub(crate) struct Listener {
    broker: Arc<Broker>,
    config: RedisConfig,
    component: Component,
    /// What stands before the name of a channel, and after it.
    around: (String, &'static str),
}

type Confirmed = Result<Vec<Channel>, RedisError>;

impl Listener {
    pub(crate) fn new(broker: Arc<Broker>, config: RedisConfig, cx: &Context) -> Self {
        let component = cx.component("broker", ComponentKind::Internal, false);
        let before = broker.redis.full("ws:{");
        Self { broker, config, component, around: (before, "}") }
    }

    pub(crate) async fn run(self, stopping: CancellationToken) -> anyhow::Result<()> {
        let empty = async {
            stopping.cancelled().await;
            // Clients are sent away little by little, and hear everything until then.
            while self.broker.hub.census().connections > 0 {
                sleep(LOOK_EVERY).await;
            }
        };
        tokio::select! {
            () = self.listen() => {}
            () = empty => {}
        }
        Ok(())
    }

    async fn listen(&self) {
        let mut backoff = Backoff::try_new(Duration::from_millis(50), Duration::from_secs(1))
            .expect("both are above zero and in order");
        loop {
            let trouble = match self.follow(&mut backoff).await {
                Ok(()) => "the primary moved".to_owned(),
                Err(error) => error.in_full(),
            };
            self.broker.interest.disconnected();
            self.broker.hub.metrics().broker_connected.set(0);
            self.component.degraded(format!("hears nothing: {trouble}"));
            tracing::debug!(trouble, "listening interrupted");
            self.broker.hears_nothing();
            sleep(backoff.next(rand::random())).await;
        }
    }

    /// Listens on one connection until it fails or leads to another server than commands do.
    async fn follow(&self, backoff: &mut Backoff) -> Result<(), RedisError> {
        let broker = &self.broker;
        let Some(address) = broker.redis.primary() else { return Err(RedisError::NotConnected) };
        let (link, mut messages) =
            Link::open_to_listen(address, &self.config, MOST_WAITING, &broker.cx).await?;
        broker.interest.connected();
        while let Some(ask) = self.ask_for_new(&link) {
            broker.interest.confirm(&ask.await?);
        }
        broker.hub.metrics().broker_connected.set(1);
        // What was missed until now.
        broker.check_positions().await?;
        self.broker.hears();
        backoff.reset();
        let mut tick = interval(TICK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut asking: Option<BoxFuture<'_, Confirmed>> = None;
        loop {
            tokio::select! {
                message = messages.recv() => self.take(message).await?,
                confirmed = async { asking.as_mut().expect("checked before").await }, if asking.is_some() => {
                    broker.interest.confirm(&confirmed?);
                    asking = self.ask_for_new(&link);
                }
                () = broker.interest.changed(), if asking.is_none() => asking = self.ask_for_new(&link),
                _ = tick.tick() => {
                    if broker.redis.primary().as_ref() != Some(link.address()) {
                        return Ok(());
                    }
                    self.tidy(&link).await?;
                }
                () = link.closed() => return Err(RedisError::Lost),
            }
        }
    }

    /// Asks for channels; done when Redis has confirmed them.
    fn ask_for_new<'a>(&self, link: &'a Link) -> Option<BoxFuture<'a, Confirmed>> {
        let channels = self.broker.interest.take_new(CHANNELS_AT_ONCE);
        if channels.is_empty() {
            return None;
        }
        let places: Vec<String> = channels.iter().map(|channel| self.broker.store.place(channel)).collect();
        let within = self.config.command_within;
        Some(Box::pin(async move {
            link.run(within, link.commands(within).subscribe(places)).await?;
            // The answer to SUBSCRIBE is not told; that to what was sent after it comes after it.
            link.run(within, link.commands(within).ping::<()>(None)).await?;
            Ok(channels)
        }))
    }

    async fn tidy(&self, link: &Link) -> Result<(), RedisError> {
        let (broker, within) = (&self.broker, self.config.command_within);
        let needed = |channel: &Channel| broker.hub.is_attended(channel);
        let unneeded = broker.interest.take_unneeded(CHANNELS_AT_ONCE, needed);
        if !unneeded.is_empty() {
            let places: Vec<String> = unneeded.iter().map(|channel| broker.store.place(channel)).collect();
            link.run(within, link.commands(within).unsubscribe(places)).await?;
        }
        link.run(within, link.commands(within).ping::<()>(None)).await?;
        let n_channels = broker.interest.len();
        broker.hub.metrics().broker_channels.set(n_channels as i64);
        self.component.healthy(format!("listens to {n_channels} channels on {}", link.address()));
        Ok(())
    }

    async fn take(&self, message: Result<fred::types::Message, RecvError>) -> Result<(), RedisError> {
        match message {
            Ok(message) => {
                self.hear(&message);
                Ok(())
            }
            Err(RecvError::Lagged(n_lost)) => {
                tracing::warn!(n_lost, "messages of redis came faster than they were taken");
                self.broker.check_positions().await
            }
            Err(RecvError::Closed) => Err(RedisError::Lost),
        }
    }

    fn hear(&self, message: &fred::types::Message) {
        let (before, after) = &self.around;
        let place = message.channel.strip_prefix(before.as_str()).and_then(|rest| rest.strip_suffix(after));
        let channel = place.and_then(|name| Channel::parse(name, usize::MAX).ok());
        let arrival = message.value.as_bytes().and_then(|bytes| read_message(bytes).ok());
        let (Some(channel), Some(arrival)) = (channel, arrival) else {
            tracing::debug!(channel = %message.channel, "a message in redis is not ours");
            return;
        };
        self.broker.hub.metrics().broker_messages.inc();
        if self.broker.hub.take(&channel, arrival) {
            self.broker.keep_catching_up(channel);
        }
    }
}
