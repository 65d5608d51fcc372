//! The connection on which the publications of one partition arrive.
//!
//! In a cluster they are sent by sharded pub/sub, so they arrive at the primary that has the slot of the partition, and
//! nowhere else. Each partition has a connection of its own: one that is lost, or moved, holds up no other.

use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fred::interfaces::{ClientLike as _, PubsubInterface as _};
use fred::types::{ClusterHash, CustomCommand, Value};
use futures_util::future::BoxFuture;
use mainstay_redis::{Link, Partition, RedisConfig, RedisError};
use mainstay_resilience::backoff::Backoff;
use mainstay_runtime::Context;
use tokio::sync::Semaphore;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::Broker;
use super::ear::{Deaf, Ear};
use super::hearing::Hearing;
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
/// Messages of one partition, and of all together, that may wait to be taken; with more the oldest are lost, which is seen
/// and made good. Each place takes 700 bytes before anything waits: a client of fred has eight rings of that size.
const MOST_WAITING: usize = 8_192;
const LEAST_WAITING: usize = 1_024;
const ALL_WAITING: usize = 32_768;

/// Listens to one partition for as long as the node runs, on one connection after the other.
pub(crate) struct Listener {
    partition: Partition,
    broker: Arc<Broker>,
    /// Answers what other nodes ask.
    api: Arc<RealtimeApi>,
    config: RedisConfig,
    hearing: Arc<Hearing>,
    /// What stands before the name of a channel, and after it.
    around: (String, &'static str),
    /// Where nodes speak to each other.
    places: Vec<String>,
    answers: Arc<Semaphore>,
    most_waiting: usize,
}

/// Why a connection is not listened to any more, although it works.
enum Ended {
    /// Commands go to another server, or this one no longer sends what it was asked for.
    Moved,
    Silent(Instant),
}

type Confirmed = Result<Vec<Channel>, RedisError>;

impl Listener {
    /// Returns one for each partition.
    pub(crate) fn all(
        broker: &Arc<Broker>,
        api: &Arc<RealtimeApi>,
        config: &RedisConfig,
        cx: &Context,
    ) -> Vec<Self> {
        let n_partitions = broker.redis.partitions().count();
        let hearing = Arc::new(Hearing::new(n_partitions, broker.hub.metrics().clone(), cx));
        let answers = Arc::new(Semaphore::new(ANSWERS_AT_ONCE));
        let listeners = broker.redis.partitions().map(|partition| Self {
            partition,
            around: (broker.redis.part(partition).full("ws:{"), "}"),
            places: broker.mesh.places(partition),
            broker: Arc::clone(broker),
            api: Arc::clone(api),
            config: config.clone(),
            hearing: Arc::clone(&hearing),
            answers: Arc::clone(&answers),
            most_waiting: (ALL_WAITING / n_partitions).clamp(LEAST_WAITING, MOST_WAITING),
        });
        listeners.collect()
    }

    fn ear(&self) -> &Ear {
        self.broker.ear(self.partition)
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
        let part = self.broker.redis.part(self.partition);
        let mut last = None;
        loop {
            last = part.primary().or(last);
            let (trouble, since) = match self.follow(&mut backoff).await {
                Ok(Ended::Moved) => ("the primary moved".to_owned(), Instant::now()),
                Ok(Ended::Silent(since)) => {
                    self.broker.hub.metrics().canary_silences.inc();
                    tracing::warn!("redis answers, but nothing arrives that is sent through it");
                    ("nothing arrives that is sent through redis".to_owned(), since)
                }
                Err(error) => {
                    // Of a slot that was moved nobody but the nodes of the cluster knows where it is now.
                    if error.is_redirect() {
                        self.broker.redis.look_again();
                    }
                    (error.in_full(), Instant::now())
                }
            };
            self.ear().interest.disconnected();
            let partition = self.partition.index();
            tracing::debug!(partition, trouble, "listening interrupted");
            let deaf = self.ear().hears_nothing(since, self.broker.silent_for);
            if deaf == Deaf::Tell {
                self.broker.tell_of_silence(self.partition);
            }
            self.hearing.hears_nothing(self.partition, trouble, deaf != Deaf::NotForLong);
            let led_on = async {
                match &last {
                    Some(last) => part.leads_elsewhere(last).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = sleep(backoff.next(rand::random())) => {}
                // The next server is known.
                () = led_on => {}
            }
        }
    }

    /// Listens on one connection until it fails or leads to another server than commands do.
    async fn follow(&self, backoff: &mut Backoff) -> Result<Ended, RedisError> {
        let (broker, interest) = (&self.broker, &self.ear().interest);
        let part = broker.redis.part(self.partition);
        let Some(address) = part.primary() else { return Err(RedisError::NotConnected) };
        let (link, mut messages) =
            Link::open_to_listen(address, &self.config, self.most_waiting, &broker.cx).await?;
        self.begin(&link, self.places.clone()).await?;
        self.hear_oneself(&mut messages).await?;
        interest.connected();
        while let Some(ask) = self.ask_for_new(&link) {
            interest.confirm(&ask.await?);
        }
        self.hearing.begins(self.partition);
        // What was missed until now.
        broker.check_positions_of(self.partition).await?;
        self.ear().hears();
        backoff.reset();
        let mut tick = interval(TICK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut asking: Option<BoxFuture<'_, Confirmed>> = None;
        let mut moved = pin!(part.leads_elsewhere(link.address()));
        loop {
            tokio::select! {
                message = messages.recv() => self.take(message).await?,
                confirmed = async { asking.as_mut().expect("checked before").await }, if asking.is_some() => {
                    interest.confirm(&confirmed?);
                    asking = self.ask_for_new(&link);
                }
                () = interest.changed(), if asking.is_none() => asking = self.ask_for_new(&link),
                () = &mut moved => return Ok(Ended::Moved),
                _ = tick.tick() => {
                    if part.primary().as_ref() != Some(link.address()) {
                        return Ok(Ended::Moved);
                    }
                    if let Some(since) = broker.mesh.silent_since(self.partition)
                        && since.elapsed() > broker.silent_for
                    {
                        return Ok(Ended::Silent(since));
                    }
                    if !self.tidy(&link, asking.is_some()).await? {
                        return Ok(Ended::Moved);
                    }
                }
                () = link.closed() => return Err(RedisError::Lost),
            }
        }
    }

    /// Makes sure that what is sent arrives: a connection may answer and yet bring nothing.
    async fn hear_oneself(&self, messages: &mut Receiver<fred::types::Message>) -> Result<(), RedisError> {
        let mesh = &self.broker.mesh;
        mesh.listens_anew(self.partition);
        let number = mesh.probe(self.partition).await?;
        let deadline = Instant::now() + self.config.command_within * 2;
        while !mesh.heard(self.partition, number) {
            let message = timeout_at(deadline, messages.recv()).await.map_err(|_| RedisError::Timeout)?;
            self.take(message).await?;
        }
        Ok(())
    }

    /// Asks for channels; done when Redis has confirmed them.
    fn ask_for_new<'a>(&'a self, link: &'a Link) -> Option<BoxFuture<'a, Confirmed>> {
        let channels = self.ear().interest.take_new(CHANNELS_AT_ONCE);
        if channels.is_empty() {
            return None;
        }
        let asked = self.begin(link, self.places_of(&channels));
        Some(Box::pin(async move { asked.await.map(|()| channels) }))
    }

    fn places_of(&self, channels: &[Channel]) -> Vec<String> {
        channels.iter().map(|channel| self.broker.store.place(channel)).collect()
    }

    /// Lets go what nobody needs, and asks whether the rest is still sent: false when it is not. While more is being asked
    /// for, nobody knows how much it should be.
    async fn tidy(&self, link: &Link, is_asking: bool) -> Result<bool, RedisError> {
        let (broker, interest) = (&self.broker, &self.ear().interest);
        let needed = |channel: &Channel| broker.hub.is_attended(channel);
        let unneeded = interest.take_unneeded(CHANNELS_AT_ONCE, needed);
        if !unneeded.is_empty() {
            self.end(link, self.places_of(&unneeded)).await?;
        }
        let n_sent = self.n_sent(link).await?;
        let n_asked_for = self.places.len() + interest.n_heard();
        if !is_asking && n_sent.is_some_and(|n_sent| n_sent != n_asked_for) {
            return Ok(false);
        }
        self.hearing.hears(self.partition, interest.len(), link.address());
        Ok(true)
    }

    async fn take(&self, message: Result<fred::types::Message, RecvError>) -> Result<(), RedisError> {
        match message {
            Ok(message) => {
                self.hear(&message);
                Ok(())
            }
            Err(RecvError::Lagged(n_lost)) => {
                tracing::warn!(n_lost, "messages of redis came faster than they were taken");
                self.broker.check_positions_of(self.partition).await
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
        match self.broker.mesh.heed(self.partition, message) {
            Heeded::Done => {}
            Heeded::Asked(question) => self.answer(question),
            Heeded::Gap => {
                self.broker.hub.metrics().canary_gaps.inc();
                let (broker, partition) = (Arc::clone(&self.broker), self.partition);
                self.broker.cx.spawn_work(Box::pin(async move {
                    if let Err(error) = broker.check_positions_of(partition).await {
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

/// What is asked of the server. fred does not tell the answer to SUBSCRIBE; that to what was sent after it comes after it.
/// And it takes every answer to SSUBSCRIBE for one to a command, so there is one command for each place, on which a node
/// that does not have the slot is heard to say so (MOVED). When a slot leaves a server, that one ends all subscriptions
/// in it: this fred keeps to itself, and it shows in how many are left.
impl Listener {
    /// Asks for places; done when the server has confirmed them.
    async fn begin(&self, link: &Link, places: Vec<String>) -> Result<(), RedisError> {
        let (within, client) = (self.config.command_within, link.commands(self.config.command_within));
        if self.broker.redis.is_cluster() {
            let ask = async move {
                let all = client.pipeline();
                for place in places {
                    let _: Value = all.custom(ssubscribe(), vec![place]).await?;
                }
                all.all::<Value>().await
            };
            return link.run(within, ask).await.map(drop);
        }
        link.run(within, client.subscribe(places)).await?;
        link.run(within, link.commands(within).ping::<()>(None)).await
    }

    /// Lets places go.
    async fn end(&self, link: &Link, places: Vec<String>) -> Result<(), RedisError> {
        let (within, client) = (self.config.command_within, link.commands(self.config.command_within));
        if self.broker.redis.is_cluster() {
            return link.run(within, client.sunsubscribe(places)).await;
        }
        link.run(within, client.unsubscribe(places)).await
    }

    /// Makes sure that the server answers; in a cluster it says how many places it sends.
    async fn n_sent(&self, link: &Link) -> Result<Option<usize>, RedisError> {
        let (within, client) = (self.config.command_within, link.commands(self.config.command_within));
        if self.broker.redis.is_cluster() {
            let known = self.places[..1].to_vec();
            let (_, _, n_sent): (String, String, usize) =
                link.run(within, client.custom(ssubscribe(), known)).await?;
            return Ok(Some(n_sent));
        }
        link.run(within, client.ping::<()>(None)).await.map(|()| None)
    }
}

fn ssubscribe() -> CustomCommand {
    CustomCommand::new_static("SSUBSCRIBE", ClusterHash::FirstKey, false)
}
