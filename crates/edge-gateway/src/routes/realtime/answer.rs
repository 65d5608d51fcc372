//! What the realtime paths answer.

use mainstay_proto::realtime::v1 as wire;
use serde::Serialize;
use utoipa::ToSchema;

use crate::routes::words::{rfc3339, seconds};

/// Where a client should connect.
#[derive(Serialize, ToSchema)]
pub(crate) struct Endpoint {
    pub(super) url: String,
    pub(super) node: String,
    pub(super) protocol: &'static str,
}

/// Channels that somebody listens to.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ChannelsAnswer {
    channels: Vec<Channel>,
    /// Channels that match, also those beyond the limit.
    total: u64,
    /// Nodes that did not answer in time: what they hold is not in this answer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing_nodes: Vec<String>,
}

#[derive(Serialize, ToSchema)]
struct Channel {
    name: String,
    subscribers: u64,
}

/// Connections with their health.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ConnectionsAnswer {
    connections: Vec<Connection>,
    /// Connections that match, also those beyond the limit.
    total: u64,
    /// Nodes that did not answer in time: what they hold is not in this answer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing_nodes: Vec<String>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Connection {
    client: String,
    /// Id of the node that holds it.
    node: String,
    user: String,
    remote: String,
    client_name: String,
    client_version: String,
    connected_at: Option<String>,
    channels: Vec<String>,
    ping_seconds: Option<f64>,
    queue_bytes: u64,
    queue_bytes_peak: u64,
    messages_sent: u64,
    messages_received: u64,
    bytes_sent: u64,
    bytes_received: u64,
}

/// How one connection fares.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ConnectionHealth {
    #[serde(flatten)]
    connection: Connection,
    age_seconds: Option<f64>,
    /// The command answered last; empty before the first.
    last_command: String,
    last_command_age_seconds: Option<f64>,
    /// Publications left out because the client was too slow for them.
    publications_dropped: u64,
    /// How often the client came back for what it missed and was given all of it.
    recovered: u64,
    /// How often it could not be given all of it.
    unrecovered: u64,
}

/// How many connections were closed.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Disconnected {
    pub(super) disconnected: u64,
    /// Nodes that did not answer in time: what they hold is not in this answer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) missing_nodes: Vec<String>,
}

/// Figures of all gateway nodes together, and of each.
#[derive(Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WebsocketFigures {
    connections: u64,
    subscriptions: u64,
    messages_sent: u64,
    messages_received: u64,
    slow_disconnects: u64,
    nodes: Vec<GatewayNode>,
}

#[derive(Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct GatewayNode {
    id: String,
    endpoint: String,
    connections: u64,
    users: u64,
    channels: u64,
    subscriptions: u64,
    draining: bool,
    max_connections: u64,
    started_at: Option<String>,
    version: String,
    /// Cores in use; 0 where there are no other nodes.
    cpu_cores: f64,
    /// Nothing arrives from other nodes.
    deaf: bool,
}

impl From<wire::ChannelsResponse> for ChannelsAnswer {
    fn from(answer: wire::ChannelsResponse) -> Self {
        let channel =
            |channel: wire::Channel| Channel { name: channel.name, subscribers: channel.subscribers };
        Self {
            channels: answer.channels.into_iter().map(channel).collect(),
            total: answer.total,
            missing_nodes: answer.missing_nodes,
        }
    }
}

impl From<wire::ConnectionsResponse> for ConnectionsAnswer {
    fn from(answer: wire::ConnectionsResponse) -> Self {
        Self {
            connections: answer.connections.into_iter().map(Connection::from).collect(),
            total: answer.total,
            missing_nodes: answer.missing_nodes,
        }
    }
}

impl From<wire::Connection> for Connection {
    fn from(connection: wire::Connection) -> Self {
        Self {
            client: connection.client,
            node: connection.node,
            user: connection.user,
            remote: connection.remote,
            client_name: connection.client_name,
            client_version: connection.client_version,
            connected_at: rfc3339(connection.connected_at),
            channels: connection.channels,
            ping_seconds: seconds(connection.ping_rtt),
            queue_bytes: connection.queue_bytes,
            queue_bytes_peak: connection.queue_bytes_peak,
            messages_sent: connection.messages_sent,
            messages_received: connection.messages_received,
            bytes_sent: connection.bytes_sent,
            bytes_received: connection.bytes_received,
        }
    }
}

impl From<wire::ConnectionHealthResponse> for ConnectionHealth {
    fn from(answer: wire::ConnectionHealthResponse) -> Self {
        Self {
            connection: answer.connection.unwrap_or_default().into(),
            age_seconds: seconds(answer.age),
            last_command: answer.last_command,
            last_command_age_seconds: seconds(answer.last_command_age),
            publications_dropped: answer.publications_dropped,
            recovered: answer.recovered,
            unrecovered: answer.unrecovered,
        }
    }
}

impl From<&[wire::Node]> for WebsocketFigures {
    fn from(nodes: &[wire::Node]) -> Self {
        let total = |figure: fn(&wire::Node) -> u64| nodes.iter().map(figure).sum();
        Self {
            connections: total(|node| node.connections),
            subscriptions: total(|node| node.subscriptions),
            messages_sent: total(|node| node.messages_sent),
            messages_received: total(|node| node.messages_received),
            slow_disconnects: total(|node| node.slow_disconnects),
            nodes: nodes.iter().map(GatewayNode::from).collect(),
        }
    }
}

impl From<&wire::Node> for GatewayNode {
    fn from(node: &wire::Node) -> Self {
        Self {
            id: node.id.clone(),
            endpoint: node.endpoint.clone(),
            connections: node.connections,
            users: node.users,
            channels: node.channels,
            subscriptions: node.subscriptions,
            draining: node.draining,
            max_connections: node.max_connections,
            started_at: rfc3339(node.started_at),
            version: node.version.clone(),
            cpu_cores: node.cpu_cores,
            deaf: node.deaf,
        }
    }
}
