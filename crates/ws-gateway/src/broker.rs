//! The gateway's side of Redis: publications go through it to all nodes, and subscriptions begin with what it keeps.
//!
//! In a cluster every channel belongs to a partition with all its keys and the place where it is sent; otherwise there is
//! one partition. Each is listened to, checked and found silent by itself.
//!
//! A publication is numbered, kept and sent to the nodes by one script. What arrives may have gaps, since Redis sends at
//! most once: `hub/relay.rs` sees them, and here the history is read to fill them, or those who count positions are told
//! that something is lost. They are told also when nothing can be heard for long.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use mainstay_proto::realtime::v1;
use mainstay_redis::{Partition, Redis, RedisError};
use mainstay_runtime::Context;
use tokio::time::sleep;

use crate::channel::Channel;
use crate::config::{BrokerConfig, NamespaceConfig, Recovery};
use crate::engine::{HistoryQuery, Item, NotThisEpoch, Position};
use crate::hub::{
    Connection, Followed, Hub, Joined, Message, NOT_NOW, NotJoined, Published, Reach, Subscribed,
    Subscription, counts_positions,
};
use crate::mesh::{Answers, Mesh, Method};
use crate::publication::ClientInfo;

mod ear;
mod hearing;
mod interest;
mod listener;
mod store;
mod wire;

use ear::Ear;
pub(crate) use listener::Listener;
pub(crate) use store::ReadBack;
use store::{Part, Store, Terms};
pub(crate) use wire::{Arrival, ClientPacked};

/// Publications read at once to fill a gap; a wider one is not filled.
const WIDEST_GAP: usize = 1_000;
/// Attempts to begin a subscription, or to fill a gap, before it is left to the client, or to the next look.
const ATTEMPTS: usize = 5;
const ATTEMPT_EVERY: Duration = Duration::from_millis(50);
/// Positions asked for with one command.
const POSITIONS_AT_ONCE: usize = 256;

/// Publishes and subscribes by way of Redis.
pub(crate) struct Broker {
    hub: Arc<Hub>,
    redis: Arc<Redis>,
    store: Store,
    mesh: Mesh,
    /// One for each partition.
    ears: Box<[Ear]>,
    cx: Context,
    within: Duration,
    silent_for: Duration,
}

/// Says why a publication was not made, as far as that is known.
#[derive(Debug, thiserror::Error)]
#[error("redis did not answer: the publication may have been made or not")]
pub(crate) struct PublishUnknown;

/// Says why a history cannot be told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoHistory {
    #[error("redis cannot be asked")]
    Redis(#[source] RedisError),
    #[error("the epoch of the channel is another")]
    NotThisEpoch,
}

/// Says what became of a publication that is for all nodes or for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotPublished {
    Surely,
    Unknown,
}

impl Broker {
    pub(crate) fn new(
        hub: Arc<Hub>,
        redis: Arc<Redis>,
        within: Duration,
        config: &BrokerConfig,
        cx: Context,
    ) -> Arc<Self> {
        let limits = hub.limits();
        let terms =
            Terms { position_ttl: limits.position_ttl, idempotency_ttl: limits.idempotency_ttl, within };
        Arc::new(Self {
            store: Store::new(Arc::clone(&redis), terms),
            mesh: Mesh::new(
                cx.identity().instance.clone(),
                Arc::clone(&redis),
                hub.metrics().clone(),
                within,
                config,
            ),
            hub,
            ears: redis.partitions().map(|_| Ear::new()).collect(),
            redis,
            cx,
            within,
            silent_for: config.silent_for,
        })
    }

    pub(crate) fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    pub(crate) fn hub(&self) -> &Hub {
        &self.hub
    }

    pub(crate) fn context(&self) -> &Context {
        &self.cx
    }

    fn ear(&self, partition: Partition) -> &Ear {
        &self.ears[partition.index()]
    }

    pub(crate) fn partition_of(&self, channel: &Channel) -> Partition {
        self.redis.partition_of(channel.as_str())
    }

    /// Publishes to all nodes; to this node alone while Redis surely takes nothing.
    pub(crate) async fn publish(
        &self,
        channel: &Channel,
        options: &NamespaceConfig,
        message: &Message,
    ) -> Result<Published, PublishUnknown> {
        match self.publish_for_all(channel, options, message).await {
            Ok(published) => Ok(published),
            // Delivered now it could come a second time: who has a history gets it from there if it was made.
            Err(NotPublished::Unknown) => {
                self.hub.metrics().reached("unknown");
                Err(PublishUnknown)
            }
            Err(NotPublished::Surely) => {
                self.hub.metrics().reached("this_node");
                Ok(self.hub.publish_here(channel, message))
            }
        }
    }

    /// Publishes to all nodes, or to none.
    pub(crate) async fn publish_for_all(
        &self,
        channel: &Channel,
        options: &NamespaceConfig,
        message: &Message,
    ) -> Result<Published, NotPublished> {
        let metrics = self.hub.metrics();
        match self.store.publish(channel, options, message).await {
            Ok(placed) => {
                if placed.duplicate {
                    metrics.duplicates.inc();
                }
                metrics.reached("every_node");
                Ok(Published {
                    receivers: self.hub.n_wanting(channel, message),
                    position: placed.position,
                    duplicate: placed.duplicate,
                    reach: Reach::Everywhere { n_nodes: placed.n_nodes },
                })
            }
            Err(RedisError::Timeout | RedisError::Lost | RedisError::Connection(_) | RedisError::Foreign) => {
                Err(NotPublished::Unknown)
            }
            Err(error) => {
                tracing::debug!(error = error.in_full(), "redis does not take a publication");
                Err(NotPublished::Surely)
            }
        }
    }

    /// Makes a connection a member of a channel. `answer` is as with [`Hub::subscribe`].
    pub(crate) async fn subscribe(
        &self,
        connection: &Arc<Connection>,
        wanted: &Subscription,
        mut answer: impl FnMut(Subscribed) + Send,
    ) -> Result<(), NotJoined> {
        let channel = &wanted.channel;
        let _beginning = self.hub.will_join(connection, wanted)?;
        let is_heard = self.ear(self.partition_of(channel)).interest.listen(channel, self.within * 2).await;
        let counts = counts_positions(wanted);
        if counts && !is_heard {
            return Err(NOT_NOW);
        }
        let cache = wanted.options.recovery == Recovery::Cache;
        let part = Part::to_begin(wanted.recover.as_ref(), cache, self.hub.limits().history_items);
        for _ in 0..ATTEMPTS {
            let read = match self.read(wanted, &part).await {
                Err(_) if counts => return Err(NOT_NOW),
                read => read.ok().flatten(),
            };
            match self.hub.join_relayed(connection, wanted, read, &mut answer)? {
                Joined::Yes => return Ok(()),
                Joined::ReadAgain => self.catch_up(channel).await,
            }
        }
        Err(NOT_NOW)
    }

    /// Subscribes a connection that did not ask for it, and tells it; false when that is not possible now.
    pub(crate) async fn subscribe_unasked(
        &self,
        connection: &Arc<Connection>,
        wanted: &Subscription,
    ) -> bool {
        let tell = |begun| self.hub.tell_subscribed(connection, &wanted.channel, &begun);
        self.subscribe(connection, wanted, tell).await.is_ok()
    }

    async fn read(&self, wanted: &Subscription, part: &Part) -> Result<Option<ReadBack>, RedisError> {
        if !wanted.options.keeps_history() {
            return Ok(None);
        }
        self.store.read(&wanted.channel, &wanted.options, part).await.map(Some)
    }

    /// Returns a part of what is remembered of a channel, and where the channel is.
    pub(crate) async fn history(
        &self,
        channel: &Channel,
        options: &NamespaceConfig,
        query: &HistoryQuery,
    ) -> Result<(Vec<Item>, Position), NoHistory> {
        let part = Part::Page(query.clone());
        let read = self.store.read(channel, options, &part).await.map_err(NoHistory::Redis)?;
        read.into_page(query, self.hub.limits().answer_bytes())
            .map_err(|NotThisEpoch| NoHistory::NotThisEpoch)
    }

    /// Returns who is in a channel on all nodes; none when one of them does not answer.
    pub(crate) async fn presence(&self, channel: &Channel) -> Option<Vec<ClientInfo>> {
        let question = v1::PresenceRequest { channel: channel.as_str().to_owned() };
        let others: Answers<v1::PresenceResponse> = self.mesh.ask(Method::Presence, &question).await;
        let told = others.given.into_iter().flat_map(|answer| answer.clients);
        let mut clients = self.hub.presence(channel);
        clients.extend(told.filter_map(|client| ClientInfo::from_wire(&client)));
        others.missing.is_empty().then_some(clients)
    }

    /// Counts the connections and the users in a channel on all nodes; none when one of them does not answer.
    pub(crate) async fn presence_stats(&self, channel: &Channel) -> Option<(usize, usize)> {
        let question = v1::PresenceRequest { channel: channel.as_str().to_owned() };
        let others: Answers<v1::PresenceResponse> = self.mesh.ask(Method::Users, &question).await;
        let here = self.hub.presence(channel);
        let told = others.given.iter().flat_map(|answer| &answer.clients).map(|client| client.user.as_str());
        let users: HashSet<&str> = here.iter().map(|info| &*info.user).chain(told).collect();
        let elsewhere: u64 = others.given.iter().map(|answer| answer.total).sum();
        others.missing.is_empty().then_some((here.len() + elsewhere as usize, users.len()))
    }

    /// Forgets what was published into a channel.
    pub(crate) async fn forget_history(&self, channel: &Channel) -> Result<(), NoHistory> {
        self.store.forget(channel).await.map_err(NoHistory::Redis)
    }

    /// Compares where subscribers are with where their channels are, and fills the gaps. A partition that is away does not
    /// keep the others from it.
    pub(crate) async fn check_positions(self: &Arc<Self>) -> Result<(), RedisError> {
        let mut parts: BTreeMap<Partition, Vec<Followed>> = BTreeMap::new();
        for followed in self.hub.all_followed(|_| true) {
            parts.entry(self.partition_of(&followed.channel)).or_default().push(followed);
        }
        let checks = parts.iter().map(|(partition, all)| Box::pin(self.compare_positions(*partition, all)));
        join_all(checks).await.into_iter().collect()
    }

    /// Does so in one partition.
    async fn check_positions_of(self: &Arc<Self>, partition: Partition) -> Result<(), RedisError> {
        let all = self.hub.all_followed(|channel| self.partition_of(channel) == partition);
        self.compare_positions(partition, &all).await
    }

    async fn compare_positions(
        self: &Arc<Self>,
        partition: Partition,
        all: &[Followed],
    ) -> Result<(), RedisError> {
        for some in all.chunks(POSITIONS_AT_ONCE) {
            let channels: Vec<Channel> = some.iter().map(|followed| followed.channel.clone()).collect();
            let positions = self.store.positions(partition, &channels).await?;
            for (followed, position) in some.iter().zip(positions) {
                // A server that knows nothing of a channel that has a position has lost it.
                if followed.at != position {
                    self.start_catching_up(&followed.channel);
                }
            }
        }
        Ok(())
    }

    /// Reads the history of a channel in the background, unless that is going on.
    fn start_catching_up(self: &Arc<Self>, channel: &Channel) {
        if self.hub.start_catching_up(channel) {
            self.keep_catching_up(channel.clone());
        }
    }

    /// Goes on with what [`Hub::take`] or [`Hub::start_catching_up`] has begun.
    fn keep_catching_up(self: &Arc<Self>, channel: Channel) {
        let broker = Arc::clone(self);
        self.cx.spawn_work(Box::pin(async move { broker.catch_up(&channel).await }));
    }

    async fn catch_up(&self, channel: &Channel) {
        let Ok(_turn) = self.ear(self.partition_of(channel)).reads.acquire().await else { return };
        for _ in 0..ATTEMPTS {
            let Some(Followed { channel, options, at }) = self.hub.followed(channel) else { return };
            let most = options.history_size.min(WIDEST_GAP);
            let part = at.map_or(Part::Nothing, |at| Part::After(at.offset, most));
            match self.store.read(&channel, &options, &part).await {
                Ok(read) => {
                    if !self.hub.catch_up(&channel, read) {
                        return;
                    }
                }
                Err(error) => {
                    let channel = channel.as_str();
                    tracing::debug!(channel, error = error.in_full(), "the history cannot be read");
                    sleep(ATTEMPT_EVERY).await;
                }
            }
        }
        self.hub.give_up_catching_up(channel);
    }

    /// Sends those who count positions in a partition to begin anew: nothing has been heard of it for too long.
    fn tell_of_silence(&self, partition: Partition) {
        let n_severed = self.hub.sever(|channel| self.partition_of(channel) == partition);
        if n_severed > 0 {
            let partition = partition.index();
            tracing::warn!(
                n_severed,
                partition,
                "nothing is heard from redis, ended the subscriptions that count positions"
            );
        }
    }
}
