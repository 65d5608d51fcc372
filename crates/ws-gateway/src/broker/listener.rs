//! The connection on which publications arrive.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fred::interfaces::{ClientLike as _, PubsubInterface as _};
use futures_util::future::BoxFuture;
use mainstay_redis::{Link, RedisConfig, RedisError};
use mainstay_resilience::backoff::Backoff;
use mainstay_runtime::{Component, ComponentKind, Context};
use tokio::sync::Semaphore;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::Broker;
use super::wire::read_message;
use crate::channel::Channel;
use crate::grpc::RealtimeApi;
use crate::mesh::{Heeded, Question, read_attendance};

/// Channels asked for with one command.
const CHANNELS_AT_ONCE: usize = 512;
/// How often the connection is tried, and channels that nobody needs are let go.
const TICK_EVERY: Duration = Duration::from_secs(1);
/// Questions of other nodes answered at the same time; more are not answered.
const ANSWERS_AT_ONCE: usize = 64;
/// How often a node that stops looks whether somebody is left.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Messages that may wait to be taken; with more the oldest are lost, which is seen and made good.
const MOST_WAITING: usize = 16_384;

/// Listens to Redis for as long as the node runs, on one connection after the other.
pub(crate) struct Listener {
    broker: Arc<Broker>,
    /// Answers what other nodes ask.
    api: Arc<RealtimeApi>,
    config: RedisConfig,
    component: Component,
    /// What stands before the name of a channel, and after it.
    around: (String, &'static str),
    /// Where nodes speak to each other.
    places: Vec<String>,
    answers: Arc<Semaphore>,
}

/// Why a connection is not listened to any more, although it works.
enum Ended {
    Moved,
    Silent(Instant),
}

type Confirmed = Result<Vec<Channel>, RedisError>;

impl Listener {
    pub(crate) fn new(broker: Arc<Broker>, api: Arc<RealtimeApi>, config: RedisConfig, cx: &Context) -> Self {
        let component = cx.component("broker", ComponentKind::Internal, false);
        let before = broker.redis.full("ws:{");
        let (places, answers) = (broker.mesh.places(), Arc::new(Semaphore::new(ANSWERS_AT_ONCE)));
        Self { broker, api, config, component, around: (before, "}"), places, answers }
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
            let (trouble, since) = match self.follow(&mut backoff).await {
                Ok(Ended::Moved) => ("the primary moved".to_owned(), Instant::now()),
                Ok(Ended::Silent(since)) => {
                    self.broker.hub.metrics().canary_silences.inc();
                    tracing::warn!("redis answers, but nothing arrives that is sent through it");
                    ("nothing arrives that is sent through redis".to_owned(), since)
                }
                Err(error) => (error.in_full(), Instant::now()),
            };
            self.broker.interest.disconnected();
            self.broker.hub.metrics().broker_connected.set(0);
            tracing::debug!(trouble, "listening interrupted");
            if self.broker.hears_nothing(since) {
                self.component.unhealthy(format!("hears nothing, ended what counts positions: {trouble}"));
            } else {
                self.component.degraded(format!("hears nothing: {trouble}"));
            }
            sleep(backoff.next(rand::random())).await;
        }
    }

    /// Listens on one connection until it fails or leads to another server than commands do.
    async fn follow(&self, backoff: &mut Backoff) -> Result<Ended, RedisError> {
        let broker = &self.broker;
        let Some(address) = broker.redis.primary() else { return Err(RedisError::NotConnected) };
        let (link, mut messages) =
            Link::open_to_listen(address, &self.config, MOST_WAITING, &broker.cx).await?;
        let within = self.config.command_within;
        link.run(within, link.commands(within).subscribe(self.places.clone())).await?;
        link.run(within, link.commands(within).ping::<()>(None)).await?;
        self.hear_oneself(&mut messages).await?;
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
                        return Ok(Ended::Moved);
                    }
                    if let Some(since) = broker.mesh.silent_since()
                        && since.elapsed() > broker.silent_for
                    {
                        return Ok(Ended::Silent(since));
                    }
                    self.tidy(&link).await?;
                }
                () = link.closed() => return Err(RedisError::Lost),
            }
        }
    }

    /// Makes sure that what is sent arrives: a connection may answer and yet bring nothing.
    async fn hear_oneself(&self, messages: &mut Receiver<fred::types::Message>) -> Result<(), RedisError> {
        let mesh = &self.broker.mesh;
        mesh.listens_anew();
        let number = mesh.probe().await?;
        let deadline = Instant::now() + self.config.command_within * 2;
        while !mesh.heard(number) {
            let message = timeout_at(deadline, messages.recv()).await.map_err(|_| RedisError::Timeout)?;
            self.take(message).await?;
        }
        Ok(())
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
        let bytes = message.value.as_bytes().unwrap_or_default();
        if self.places.iter().any(|place| **place == *message.channel) {
            return self.hear_node(&Bytes::copy_from_slice(bytes));
        }
        let (before, after) = &self.around;
        let place = message.channel.strip_prefix(before.as_str()).and_then(|rest| rest.strip_suffix(after));
        let channel = place.and_then(|name| Channel::parse(name, usize::MAX).ok());
        if let (Some(channel), Some((coming, node, info))) = (&channel, read_attendance(bytes)) {
            if node != self.broker.mesh.id() {
                self.broker.hub.hear_of(channel, &info, coming);
            }
            return;
        }
        let arrival = read_message(bytes).ok();
        let (Some(channel), Some(arrival)) = (channel, arrival) else {
            tracing::debug!(channel = %message.channel, "a message in redis is not ours");
            return;
        };
        self.broker.hub.metrics().broker_messages.inc();
        if self.broker.hub.take(&channel, arrival) {
            self.broker.keep_catching_up(channel);
        }
    }

    fn hear_node(&self, message: &Bytes) {
        match self.broker.mesh.heed(message) {
            Heeded::Done => {}
            Heeded::Asked(question) => self.answer(question),
            Heeded::Gap => {
                self.broker.hub.metrics().canary_gaps.inc();
                let broker = Arc::clone(&self.broker);
                self.broker.cx.spawn_work(Box::pin(async move {
                    if let Err(error) = broker.check_positions().await {
                        tracing::debug!(error = error.in_full(), "positions cannot be checked");
                    }
                }));
            }
        }
    }

    fn answer(&self, question: Question) {
        // Who is not answered names this node as missing.
        let Ok(turn) = Arc::clone(&self.answers).try_acquire_owned() else { return };
        let (broker, api) = (Arc::clone(&self.broker), Arc::clone(&self.api));
        self.broker.cx.spawn_work(Box::pin(async move {
            let _turn = turn;
            let answer = api.answer(&question).await;
            if let Err(error) = broker.mesh.answer(&question, answer).await {
                tracing::debug!(node = question.node, error = error.in_full(), "a node was not answered");
            }
        }));
    }
}
