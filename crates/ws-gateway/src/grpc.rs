//! The door of the server side: `mainstay.realtime.v1`.

use std::sync::Arc;
use std::time::SystemTime;

use mainstay_proto::realtime::v1::realtime_service_server::RealtimeService;
use mainstay_proto::realtime::v1::{
    self as v1, BroadcastRequest, BroadcastResponse, BroadcastResult, ChannelsRequest, ChannelsResponse,
    ConnectionsRequest, ConnectionsResponse, DisconnectRequest, DisconnectResponse, NodesRequest,
    NodesResponse, PublishRequest, PublishResponse,
};
use mainstay_rpc::{Failure, Reply, Request, Response, Status};
use tracing::field::Empty;

use crate::channel::{Channel, InvalidChannel};
use crate::codes::Disconnect;
use crate::error::Refusal;
use crate::hub::{Connection, Hub};
use crate::publication::Publication;

const MAX_BROADCAST_CHANNELS: usize = 1_000;
const MAX_USER_BYTES: usize = 255;
const DEFAULT_PAGE: usize = 100;
const LARGEST_PAGE: usize = 10_000;
/// Channels of a broadcast served before other requests of the same thread get their turn.
const CHANNELS_PER_TURN: usize = 16;

/// Serves publishing and the lists of who is there.
pub(crate) struct RealtimeApi {
    pub(crate) hub: Arc<Hub>,
    pub(crate) max_data_bytes: usize,
    pub(crate) max_channel_bytes: usize,
    pub(crate) node: NodeIdentity,
}

/// What does not change about a node.
pub(crate) struct NodeIdentity {
    pub(crate) id: String,
    pub(crate) endpoint: String,
    pub(crate) started_at: SystemTime,
}

impl RealtimeApi {
    fn channel(&self, name: &str) -> Result<Channel, InvalidChannel> {
        Channel::parse(name, self.max_channel_bytes)
    }

    fn publication(
        &self,
        data: &[u8],
        tags: &std::collections::HashMap<String, String>,
    ) -> Result<Publication, Status> {
        Publication::from_server(data, tags, self.max_data_bytes).map_err(refused)
    }

    fn deliver(&self, channel: &Channel, publication: &Publication) -> u64 {
        self.hub.publish(channel, &publication.push_to(channel))
    }

    async fn deliver_to_each(
        &self,
        channels: Vec<String>,
        publication: &Publication,
    ) -> Vec<BroadcastResult> {
        let mut results = Vec::with_capacity(channels.len());
        for (index, name) in channels.into_iter().enumerate() {
            if index % CHANNELS_PER_TURN == CHANNELS_PER_TURN - 1 {
                tokio::task::yield_now().await;
            }
            let channel = self.channel(&name);
            let mut result = BroadcastResult { channel: name, ..BroadcastResult::default() };
            match channel.map_err(Refusal::from) {
                Ok(channel) => result.receivers = self.deliver(&channel, publication),
                Err(refusal) => {
                    result.error_code = refusal.reason().to_owned();
                    result.error_message = refusal.to_string();
                }
            }
            results.push(result);
        }
        results
    }
}

#[tonic::async_trait]
impl RealtimeService for RealtimeApi {
    async fn publish(&self, request: Request<PublishRequest>) -> Reply<PublishResponse> {
        let request = request.into_inner();
        let channel = self.channel(&request.channel).map_err(refused)?;
        let publication = self.publication(&request.data, &request.tags)?;
        let span = tracing::info_span!("realtime.publish", channel = channel.as_str(), receivers = Empty);
        let receivers = span.in_scope(|| self.deliver(&channel, &publication));
        span.record("receivers", receivers);
        Ok(Response::new(PublishResponse { receivers }))
    }

    async fn broadcast(&self, request: Request<BroadcastRequest>) -> Reply<BroadcastResponse> {
        use tracing::Instrument as _;

        let request = request.into_inner();
        let n_channels = request.channels.len();
        if n_channels == 0 || n_channels > MAX_BROADCAST_CHANNELS {
            return Err(refused(Refusal::TooManyChannels {
                n_channels,
                max_channels: MAX_BROADCAST_CHANNELS,
            }));
        }
        let publication = self.publication(&request.data, &request.tags)?;
        let span = tracing::info_span!("realtime.broadcast", channels = n_channels);
        let results = self.deliver_to_each(request.channels, &publication).instrument(span).await;
        Ok(Response::new(BroadcastResponse { results }))
    }

    async fn nodes(&self, _: Request<NodesRequest>) -> Reply<NodesResponse> {
        let (census, metrics) = (self.hub.census(), self.hub.metrics());
        let node = v1::Node {
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
        };
        Ok(Response::new(NodesResponse { nodes: vec![node] }))
    }

    async fn channels(&self, request: Request<ChannelsRequest>) -> Reply<ChannelsResponse> {
        let request = request.into_inner();
        let channels = self.hub.channels(&request.prefix);
        let total = channels.len() as u64;
        let page = channels.into_iter().take(page_size(request.limit));
        let channels =
            page.map(|(channel, subscribers)| v1::Channel { name: channel.as_str().to_owned(), subscribers });
        Ok(Response::new(ChannelsResponse { channels: channels.collect(), total }))
    }

    async fn connections(&self, request: Request<ConnectionsRequest>) -> Reply<ConnectionsResponse> {
        let request = request.into_inner();
        let mut connections = match request.channel.as_str() {
            "" => self.hub.connections(),
            name => self.hub.members(&self.channel(name).map_err(refused)?),
        };
        if !request.user.is_empty() {
            connections.retain(|connection| connection.user() == Some(&*request.user));
        }
        let total = connections.len() as u64;
        let page = connections.iter().take(page_size(request.limit));
        Ok(Response::new(ConnectionsResponse { connections: page.map(|one| describe(one)).collect(), total }))
    }

    async fn disconnect(&self, request: Request<DisconnectRequest>) -> Reply<DisconnectResponse> {
        let user = request.into_inner().user;
        if user.is_empty() || user.len() > MAX_USER_BYTES {
            return Err(refused(Refusal::UserInvalid));
        }
        let disconnected = self.hub.disconnect_user(&user, Disconnect::FORCED);
        tracing::info!(user, disconnected, "disconnected a user");
        Ok(Response::new(DisconnectResponse { disconnected }))
    }
}

fn describe(connection: &Connection) -> v1::Connection {
    let profile = connection.profile();
    let (messages_sent, bytes_sent) = connection.traffic.total_sent();
    let (messages_received, bytes_received) = connection.traffic.total_received();
    let level = connection.outbox.level();
    v1::Connection {
        client: connection.client.to_string(),
        user: profile.map(|profile| profile.user.to_string()).unwrap_or_default(),
        remote: connection.remote.to_string(),
        client_name: profile.map(|profile| profile.client_name.to_string()).unwrap_or_default(),
        client_version: profile.map(|profile| profile.client_version.to_string()).unwrap_or_default(),
        connected_at: Some(connection.connected_at.into()),
        channels: connection.channels().iter().map(|channel| channel.as_str().to_owned()).collect(),
        ping_rtt: connection.traffic.last_round_trip().and_then(|took| took.try_into().ok()),
        queue_bytes: level.bytes as u64,
        queue_bytes_peak: level.peak_bytes as u64,
        messages_sent,
        messages_received,
        bytes_sent,
        bytes_received,
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
