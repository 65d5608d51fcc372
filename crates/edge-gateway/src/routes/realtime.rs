//! Publishing and looking at who listens, over REST.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::{Path, State};
use http::StatusCode;
use mainstay_proto::realtime::v1::realtime_service_client::RealtimeServiceClient;
use mainstay_proto::realtime::v1::{
    BroadcastRequest, ChannelsRequest, ConnectionsRequest, DisconnectRequest, Node, NodesRequest,
    PublishRequest,
};
use mainstay_rpc::{Call, Caller, Lane};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::words::{rfc3339, seconds};
use crate::body::{Json, Params, Who};
use crate::error::Problem;
use crate::state::App;

type Client = RealtimeServiceClient<Lane>;

const PUBLISH: &str = "mainstay.realtime.v1.RealtimeService/Publish";
const BROADCAST: &str = "mainstay.realtime.v1.RealtimeService/Broadcast";
const NODES: &str = "mainstay.realtime.v1.RealtimeService/Nodes";
const CHANNELS: &str = "mainstay.realtime.v1.RealtimeService/Channels";
const CONNECTIONS: &str = "mainstay.realtime.v1.RealtimeService/Connections";
const DISCONNECT: &str = "mainstay.realtime.v1.RealtimeService/Disconnect";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PublishBody {
    channel: String,
    /// Passed on as it was written, number formats included.
    data: Box<RawValue>,
    #[serde(default)]
    tags: HashMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BroadcastBody {
    channels: Vec<String>,
    data: Box<RawValue>,
    #[serde(default)]
    tags: HashMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChannelsQuery {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    limit: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConnectionsQuery {
    #[serde(default)]
    user: String,
    #[serde(default)]
    channel: String,
    #[serde(default)]
    limit: u32,
}

pub(crate) async fn publish(
    State(app): State<Arc<App>>,
    Who(caller): Who,
    Json(body): Json<PublishBody>,
) -> Result<Answer<Value>, Problem> {
    let request = PublishRequest { channel: body.channel, data: raw(&body.data), tags: body.tags };
    let send = async |mut client: Client, request| client.publish(request).await;
    let answer = app.upstreams.realtime(Call::write(PUBLISH).by(caller), request, send).await?;
    Ok(Answer(json!({ "receivers": answer.receivers })))
}

pub(crate) async fn broadcast(
    State(app): State<Arc<App>>,
    Who(caller): Who,
    Json(body): Json<BroadcastBody>,
) -> Result<Answer<Value>, Problem> {
    let request = BroadcastRequest { channels: body.channels, data: raw(&body.data), tags: body.tags };
    let send = async |mut client: Client, request| client.broadcast(request).await;
    let answer = app.upstreams.realtime(Call::write(BROADCAST).by(caller), request, send).await?;
    let results: Vec<Value> = answer
        .results
        .into_iter()
        .map(|result| match result.error_code.as_str() {
            "" => json!({ "channel": result.channel, "receivers": result.receivers }),
            code => json!({ "channel": result.channel, "code": code, "detail": result.error_message }),
        })
        .collect();
    Ok(Answer(json!({ "results": results })))
}

fn raw(data: &RawValue) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(data.get().as_bytes())
}

/// Asks for the gateway nodes.
pub(crate) async fn nodes(app: &App, call: Call) -> Result<Vec<Node>, Problem> {
    let send = async |mut client: Client, request| client.nodes(request).await;
    Ok(app.upstreams.realtime(call, NodesRequest {}, send).await?.nodes)
}

/// Gives the call with which [`nodes`] is asked.
pub(crate) fn nodes_call(caller: Caller) -> Call {
    Call::read(NODES).by(caller)
}

/// Tells a client where to connect: the least loaded node that takes connections.
pub(crate) async fn endpoint(
    State(app): State<Arc<App>>,
    Who(caller): Who,
) -> Result<Answer<Value>, Problem> {
    let nodes = nodes(&app, nodes_call(caller)).await?;
    let open = nodes.iter().filter(|node| !node.draining && node.connections < node.max_connections);
    let Some(best) = open.min_by_key(|node| node.connections) else {
        let detail = "every realtime node is full or draining";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "NO_REALTIME_NODE", detail)
            .retry_after(std::time::Duration::from_secs(1)));
    };
    Ok(Answer(json!({ "url": best.endpoint, "node": best.id, "protocol": "centrifuge" })))
}

pub(crate) async fn channels(
    State(app): State<Arc<App>>,
    Who(caller): Who,
    Params(query): Params<ChannelsQuery>,
) -> Result<Answer<Value>, Problem> {
    let request = ChannelsRequest { prefix: query.prefix, limit: query.limit };
    let send = async |mut client: Client, request| client.channels(request).await;
    let answer = app.upstreams.realtime(Call::read(CHANNELS).by(caller), request, send).await?;
    let channels: Vec<Value> = answer
        .channels
        .into_iter()
        .map(|channel| json!({ "name": channel.name, "subscribers": channel.subscribers }))
        .collect();
    Ok(Answer(json!({ "channels": channels, "total": answer.total })))
}

pub(crate) async fn connections(
    State(app): State<Arc<App>>,
    Who(caller): Who,
    Params(query): Params<ConnectionsQuery>,
) -> Result<Answer<Value>, Problem> {
    let request = ConnectionsRequest { user: query.user, channel: query.channel, limit: query.limit };
    let send = async |mut client: Client, request| client.connections(request).await;
    let answer = app.upstreams.realtime(Call::read(CONNECTIONS).by(caller), request, send).await?;
    let connections: Vec<Value> = answer
        .connections
        .into_iter()
        .map(|connection| {
            json!({
                "client": connection.client, "user": connection.user, "remote": connection.remote,
                "clientName": connection.client_name, "clientVersion": connection.client_version,
                "connectedAt": rfc3339(connection.connected_at), "channels": connection.channels,
                "pingSeconds": seconds(connection.ping_rtt),
                "queueBytes": connection.queue_bytes, "queueBytesPeak": connection.queue_bytes_peak,
                "messagesSent": connection.messages_sent, "messagesReceived": connection.messages_received,
                "bytesSent": connection.bytes_sent, "bytesReceived": connection.bytes_received,
            })
        })
        .collect();
    Ok(Answer(json!({ "connections": connections, "total": answer.total })))
}

pub(crate) async fn disconnect(
    State(app): State<Arc<App>>,
    Path(user): Path<String>,
    Who(caller): Who,
) -> Result<Answer<Value>, Problem> {
    let send = async |mut client: Client, request| client.disconnect(request).await;
    let call = Call::write(DISCONNECT).by(caller);
    let answer = app.upstreams.realtime(call, DisconnectRequest { user }, send).await?;
    Ok(Answer(json!({ "disconnected": answer.disconnected })))
}
