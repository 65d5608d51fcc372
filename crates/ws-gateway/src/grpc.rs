//! The door of the server side: `mainstay.realtime.v1`.

use std::sync::Arc;
use std::time::SystemTime;

use futures_util::future::join_all;
use mainstay_proto::realtime::v1::realtime_service_server::RealtimeService;
use mainstay_proto::realtime::v1::{
    self as v1, BroadcastRequest, BroadcastResponse, BroadcastResult, ChannelsRequest, ChannelsResponse,
    ConnectionsRequest, ConnectionsResponse, DisconnectRequest, DisconnectResponse, DrainRequest,
    DrainResponse, HistoryRemoveRequest, HistoryRemoveResponse, HistoryRequest, HistoryResponse,
    NodesRequest, NodesResponse, PresenceRequest, PresenceResponse, PresenceStatsRequest,
    PresenceStatsResponse, PublishBatchRequest, PublishBatchResponse, PublishRequest, PublishResponse,
    RefreshRequest, RefreshResponse, SubscribeRequest, SubscribeResponse, UnsubscribeRequest,
    UnsubscribeResponse,
};
use mainstay_rpc::{Failure, Reply, Request, Response, Status};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use tracing::field::Empty;

use crate::broker::{NoHistory, PublishUnknown};
use crate::channel::Channel;
use crate::config::NamespaceConfig;
use crate::drain::Drain;
use crate::emulation::Emulation;
use crate::engine::{HistoryQuery, Since};
use crate::error::Refusal;
use crate::feed::Roster;
use crate::hub::{Connection, Hub, Message, Published};
use crate::namespace::Namespaces;
use crate::publication::{Exclusion, Publication};

mod batch;
mod draining;
mod everywhere;
mod feeds;
mod journeys;
mod shown;
mod watch;

use shown::{shown_item, shown_outcome, shown_reach};
pub(crate) use watch::WatchApi;

const MAX_BROADCAST_CHANNELS: usize = 1_000;
const MAX_USER_BYTES: usize = 255;
const MAX_IDEMPOTENCY_KEY_BYTES: usize = 128;
const MAX_PRESENCE: usize = 10_000;
const DEFAULT_PAGE: usize = 100;
const LARGEST_PAGE: usize = 10_000;
/// Channels of a broadcast served before other requests of the same thread get their turn.
const CHANNELS_PER_TURN: usize = 16;

/// Serves publishing and the lists of who is there.
pub(crate) struct RealtimeApi {
    pub(crate) hub: Arc<Hub>,
    pub(crate) namespaces: Arc<Namespaces>,
    pub(crate) max_data_bytes: usize,
    pub(crate) max_channel_bytes: usize,
    pub(crate) history_limit: usize,
    pub(crate) node: NodeIdentity,
    pub(crate) drain: Arc<Drain>,
    /// None when nothing but WebSocket is served.
    pub(crate) emulation: Option<Arc<Emulation>>,
    pub(crate) feeds: Arc<Roster>,
    /// Ends what is told without end.
    pub(crate) stopping: CancellationToken,
}

/// What does not change about a node.
pub(crate) struct NodeIdentity {
    pub(crate) id: String,
    pub(crate) endpoint: String,
    pub(crate) started_at: SystemTime,
    pub(crate) version: String,
}

/// A channel and the options that hold for it.
struct Place {
    channel: Channel,
    options: Arc<NamespaceConfig>,
}

/// What a server wants to publish, as it came.
struct Draft<'a> {
    data: &'a [u8],
    tags: &'a std::collections::HashMap<String, String>,
    idempotency_key: String,
    exclude_client: &'a str,
    exclude_user: String,
}

impl RealtimeApi {
    fn place(&self, name: &str) -> Result<Place, Refusal> {
        let channel = Channel::parse(name, self.max_channel_bytes)?;
        let options = Arc::clone(self.namespaces.of(&channel)?);
        Ok(Place { channel, options })
    }

    /// Returns a channel whose presence is kept.
    fn attended(&self, name: &str) -> Result<Channel, Refusal> {
        let place = self.place(name)?;
        if place.options.presence { Ok(place.channel) } else { Err(Refusal::PresenceOff) }
    }

    /// Returns a channel whose history is kept.
    fn remembered(&self, name: &str) -> Result<Place, Refusal> {
        let place = self.place(name)?;
        if place.options.keeps_history() { Ok(place) } else { Err(Refusal::HistoryOff) }
    }

    fn message(&self, draft: Draft<'_>) -> Result<Message, Refusal> {
        let len_bytes = draft.idempotency_key.len();
        if len_bytes > MAX_IDEMPOTENCY_KEY_BYTES {
            let max_bytes = MAX_IDEMPOTENCY_KEY_BYTES;
            return Err(Refusal::IdempotencyKeyTooLong { len_bytes, max_bytes });
        }
        let publication = Publication::from_server(draft.data, draft.tags, self.max_data_bytes)?;
        Ok(Message {
            publication: Arc::new(publication),
            exclusion: Exclusion::parse(draft.exclude_client, draft.exclude_user)?,
            idempotency_key: draft.idempotency_key.into(),
        })
    }

    /// Describes this node.
    pub(crate) fn node_here(&self) -> v1::Node {
        let (census, metrics) = (self.hub.census(), self.hub.metrics());
        v1::Node {
            id: self.node.id.clone(),
            endpoint: self.node.endpoint.clone(),
            connections: census.connections as u64,
            users: census.users as u64,
            channels: census.channels as u64,
            subscriptions: census.subscriptions as u64,
            started_at: Some(self.node.started_at.into()),
            draining: census.draining,
            max_connections: self.hub.limits().max_connections as u64,
            messages_sent: metrics.messages_sent.get(),
            messages_received: metrics.messages_received.get(),
            slow_disconnects: metrics.slow_disconnects.get(),
            version: self.node.version.clone(),
            cpu_cores: 0.0,
            deaf: self.hub.broker().is_some() && metrics.broker_connected.get() == 0,
        }
    }

    async fn deliver(&self, place: &Place, message: &Message) -> Result<Published, Refusal> {
        match self.hub.broker() {
            None => Ok(self.hub.publish(&place.channel, &place.options, message)),
            Some(broker) => {
                let published = broker.publish(&place.channel, &place.options, message).await;
                published.map_err(|PublishUnknown| Refusal::PublishUnknown)
            }
        }
    }

    /// Returns the connections a request names.
    fn addressed(&self, user: &str, client: &str) -> Result<Vec<Arc<Connection>>, Refusal> {
        if user.is_empty() || user.len() > MAX_USER_BYTES {
            return Err(Refusal::UserInvalid);
        }
        let mut connections = self.hub.connections_of(user);
        if !client.is_empty() {
            let client = uuid::Uuid::parse_str(client).map_err(|_| Refusal::ClientInvalid)?;
            connections.retain(|connection| connection.client == client);
        }
        Ok(connections)
    }

    async fn deliver_to_each(&self, channels: Vec<String>, message: &Message) -> Vec<BroadcastResult> {
        let mut results = Vec::with_capacity(channels.len());
        for some in channels.chunks(CHANNELS_PER_TURN) {
            results.extend(join_all(some.iter().map(|name| self.deliver_to(name, message))).await);
            tokio::task::yield_now().await;
        }
        results
    }

    async fn deliver_to(&self, name: &str, message: &Message) -> BroadcastResult {
        let outcome = match self.place(name) {
            Ok(place) => self.deliver(&place, message).await,
            Err(refusal) => Err(refusal),
        };
        shown_outcome(name.to_owned(), outcome)
    }

    async fn publish_one(&self, request: PublishRequest) -> Result<Published, Refusal> {
        let place = self.place(&request.channel)?;
        let draft = Draft {
            data: &request.data,
            tags: &request.tags,
            idempotency_key: request.idempotency_key,
            exclude_client: &request.exclude_client,
            exclude_user: request.exclude_user,
        };
        let message = self.message(draft)?;
        let channel = place.channel.as_str();
        let span = tracing::info_span!("realtime.publish", channel, receivers = Empty, offset = Empty);
        let published = self.deliver(&place, &message).instrument(span.clone()).await?;
        span.record("receivers", published.receivers);
        if let Some(position) = &published.position {
            span.record("offset", position.offset);
        }
        Ok(published)
    }
}

#[tonic::async_trait]
impl RealtimeService for RealtimeApi {
    async fn publish(&self, request: Request<PublishRequest>) -> Reply<PublishResponse> {
        let published = self.publish_one(request.into_inner()).await.map_err(refused)?;
        let mut response = PublishResponse {
            receivers: published.receivers,
            duplicate: published.duplicate,
            ..PublishResponse::default()
        };
        let (reach, nodes) = shown_reach(published.reach);
        (response.reach, response.nodes) = (reach.into(), nodes);
        if let Some(position) = published.position {
            (response.offset, response.epoch) = (position.offset, position.epoch.to_string());
        }
        Ok(Response::new(response))
    }

    async fn broadcast(&self, request: Request<BroadcastRequest>) -> Reply<BroadcastResponse> {
        let request = request.into_inner();
        let n_channels = request.channels.len();
        if n_channels == 0 || n_channels > MAX_BROADCAST_CHANNELS {
            return Err(refused(Refusal::TooManyChannels {
                n_channels,
                max_channels: MAX_BROADCAST_CHANNELS,
            }));
        }
        let draft = Draft {
            data: &request.data,
            tags: &request.tags,
            idempotency_key: request.idempotency_key,
            exclude_client: &request.exclude_client,
            exclude_user: request.exclude_user,
        };
        let message = self.message(draft).map_err(refused)?;
        let span = tracing::info_span!("realtime.broadcast", channels = n_channels);
        let results = self.deliver_to_each(request.channels, &message).instrument(span).await;
        Ok(Response::new(BroadcastResponse { results }))
    }

    async fn publish_batch(&self, request: Request<PublishBatchRequest>) -> Reply<PublishBatchResponse> {
        let messages = request.into_inner().messages;
        let span = tracing::info_span!("realtime.batch", messages = messages.len());
        let results = self.publish_each(messages).instrument(span).await.map_err(refused)?;
        Ok(Response::new(PublishBatchResponse { results }))
    }

    async fn nodes(&self, _: Request<NodesRequest>) -> Reply<NodesResponse> {
        let mut response = NodesResponse { nodes: vec![self.node_here()], stale: false };
        if let Some(broker) = self.hub.broker() {
            let (peers, is_current) = broker.mesh().peers();
            response.nodes.extend(peers);
            response.stale = !is_current;
        }
        Ok(Response::new(response))
    }

    async fn channels(&self, request: Request<ChannelsRequest>) -> Reply<ChannelsResponse> {
        Ok(Response::new(self.channels_everywhere(request.get_ref()).await))
    }

    async fn connections(&self, request: Request<ConnectionsRequest>) -> Reply<ConnectionsResponse> {
        Ok(Response::new(self.connections_everywhere(request.get_ref()).await.map_err(refused)?))
    }

    async fn disconnect(&self, request: Request<DisconnectRequest>) -> Reply<DisconnectResponse> {
        let asked = request.get_ref();
        if asked.user.is_empty() || asked.user.len() > MAX_USER_BYTES {
            return Err(refused(Refusal::UserInvalid));
        }
        Ok(Response::new(self.disconnect_everywhere(asked).await))
    }

    async fn presence(&self, request: Request<PresenceRequest>) -> Reply<PresenceResponse> {
        Ok(Response::new(self.presence_everywhere(request.get_ref()).await.map_err(refused)?))
    }

    async fn presence_stats(&self, request: Request<PresenceStatsRequest>) -> Reply<PresenceStatsResponse> {
        Ok(Response::new(self.presence_stats_everywhere(request.get_ref()).await.map_err(refused)?))
    }

    async fn history(&self, request: Request<HistoryRequest>) -> Reply<HistoryResponse> {
        let request = request.into_inner();
        let Place { channel, options } = self.remembered(&request.channel).map_err(refused)?;
        let since = request.since;
        let query = HistoryQuery {
            max_items: (request.limit as usize).min(self.history_limit),
            since: since.map(|since| Since { offset: since.offset, epoch: since.epoch.into() }),
            reverse: request.reverse,
        };
        let history = match self.hub.broker() {
            None => self.hub.history(&channel, &options, &query).map_err(|_| Refusal::EpochChanged),
            Some(broker) => broker.history(&channel, &options, &query).await.map_err(Refusal::from),
        };
        let (items, position) = history.map_err(refused)?;
        Ok(Response::new(HistoryResponse {
            publications: items.iter().map(shown_item).collect(),
            position: Some(v1::StreamPosition { offset: position.offset, epoch: position.epoch.to_string() }),
        }))
    }

    async fn history_remove(&self, request: Request<HistoryRemoveRequest>) -> Reply<HistoryRemoveResponse> {
        let place = self.remembered(&request.into_inner().channel).map_err(refused)?;
        match self.hub.broker() {
            None => self.hub.forget_history(&place.channel),
            Some(broker) => broker.forget_history(&place.channel).await.map_err(refused)?,
        }
        Ok(Response::new(HistoryRemoveResponse {}))
    }

    async fn subscribe(&self, request: Request<SubscribeRequest>) -> Reply<SubscribeResponse> {
        Ok(Response::new(self.subscribe_everywhere(request.get_ref()).await.map_err(refused)?))
    }

    async fn unsubscribe(&self, request: Request<UnsubscribeRequest>) -> Reply<UnsubscribeResponse> {
        Ok(Response::new(self.unsubscribe_everywhere(request.get_ref()).await.map_err(refused)?))
    }

    async fn refresh(&self, request: Request<RefreshRequest>) -> Reply<RefreshResponse> {
        Ok(Response::new(self.refresh_everywhere(request.get_ref()).await.map_err(refused)?))
    }

    async fn drain(&self, request: Request<DrainRequest>) -> Reply<DrainResponse> {
        Ok(Response::new(self.drain_somewhere(request.get_ref()).await.map_err(refused)?))
    }
}

impl From<NoHistory> for Refusal {
    fn from(error: NoHistory) -> Self {
        match error {
            NoHistory::NotThisEpoch => Self::EpochChanged,
            NoHistory::Redis(_) => Self::RedisUnavailable,
        }
    }
}

fn page_size(limit: u32) -> usize {
    match limit {
        0 => DEFAULT_PAGE,
        limit => (limit as usize).min(LARGEST_PAGE),
    }
}

fn refused(refusal: impl Into<Refusal>) -> Status {
    Failure::from(refusal.into()).into()
}
