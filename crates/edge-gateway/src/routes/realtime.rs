//! Who listens and where, over REST; publishing is in `realtime/publishing.rs`.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::{Path, State};
use http::StatusCode;
use mainstay_proto::realtime::v1::realtime_service_client::RealtimeServiceClient;
use mainstay_proto::realtime::v1::realtime_watch_service_client::RealtimeWatchServiceClient;
use mainstay_proto::realtime::v1::{
    ChannelsRequest, ConnectionHealthRequest, ConnectionsRequest, DisconnectRequest, Node, NodesRequest,
};
use mainstay_rpc::{Call, Caller, Lane};
use serde::Deserialize;

mod answer;
mod draining;
mod publishing;

pub(crate) use answer::WebsocketFigures;
use answer::{ChannelsAnswer, ConnectionHealth, ConnectionsAnswer, Disconnected, Endpoint};
pub(crate) use draining::*;
pub(crate) use publishing::*;

use crate::body::{Params, Who};
use crate::error::Problem;
use crate::state::App;

type Client = RealtimeServiceClient<Lane>;

const NODES: &str = "mainstay.realtime.v1.RealtimeService/Nodes";
const CHANNELS: &str = "mainstay.realtime.v1.RealtimeService/Channels";
const CONNECTIONS: &str = "mainstay.realtime.v1.RealtimeService/Connections";
const CONNECTION_HEALTH: &str = "mainstay.realtime.v1.RealtimeWatchService/ConnectionHealth";
const DISCONNECT: &str = "mainstay.realtime.v1.RealtimeService/Disconnect";

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ChannelsQuery {
    /// Only channels that begin with this.
    #[serde(default)]
    prefix: String,
    /// Most entries to list; 0 means the service's own default.
    #[serde(default)]
    limit: u32,
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ConnectionsQuery {
    /// Only connections of this user.
    #[serde(default)]
    user: String,
    /// Only connections subscribed to this channel.
    #[serde(default)]
    channel: String,
    /// Most entries to list; 0 means the service's own default.
    #[serde(default)]
    limit: u32,
}

/// Asks for the gateway nodes.
pub(crate) async fn nodes(app: &App, call: Call) -> Result<Vec<Node>, Problem> {
    let send = async |mut client: Client, request| client.nodes(request).await;
    Ok(app.upstreams.realtime(call, NodesRequest {}, send).await?.nodes)
}

/// Gives the call with which [`nodes`] is asked.
pub(crate) fn nodes_call(caller: impl Into<Option<Caller>>) -> Call {
    Call::read(NODES).by(caller)
}

/// Tells a client where to connect: the least loaded node that takes connections.
#[utoipa::path(get, path = "/realtime/endpoint", tag = "realtime", responses((status = 200, description = "the gateway to use", body = Endpoint)))]
pub(crate) async fn endpoint(
    State(app): State<Arc<App>>,
    Who(caller): Who,
) -> Result<Answer<Endpoint>, Problem> {
    let nodes = nodes(&app, nodes_call(caller)).await?;
    let open = nodes.iter().filter(|node| !node.draining && node.connections < node.max_connections);
    // One that hears nothing of the others is better than none.
    let taken = |node: &Node| node.connections as f64 / node.max_connections as f64;
    let load =
        |one: &&Node, other: &&Node| one.deaf.cmp(&other.deaf).then(taken(one).total_cmp(&taken(other)));
    let Some(best) = open.min_by(load) else {
        let detail = "every realtime node is full or draining";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "NO_REALTIME_NODE", detail)
            .retry_after(std::time::Duration::from_secs(1)));
    };
    Ok(Answer(Endpoint { url: best.endpoint.clone(), node: best.id.clone(), protocol: "centrifuge" }))
}

/// Lists channels that somebody listens to.
#[utoipa::path(get, path = "/realtime/channels", tag = "realtime", params(ChannelsQuery), responses((status = 200, description = "the channels", body = ChannelsAnswer)))]
pub(crate) async fn channels(
    State(app): State<Arc<App>>,
    Who(caller): Who,
    Params(query): Params<ChannelsQuery>,
) -> Result<Answer<ChannelsAnswer>, Problem> {
    let request = ChannelsRequest { prefix: query.prefix, limit: query.limit };
    let send = async |mut client: Client, request| client.channels(request).await;
    let answer = app.upstreams.realtime(Call::read(CHANNELS).by(caller), request, send).await?;
    Ok(Answer(answer.into()))
}

/// Lists connections with their health.
#[utoipa::path(get, path = "/monitoring/websocket/connections", tag = "monitoring", params(ConnectionsQuery), responses((status = 200, description = "the connections", body = ConnectionsAnswer)))]
pub(crate) async fn connections(
    State(app): State<Arc<App>>,
    Who(caller): Who,
    Params(query): Params<ConnectionsQuery>,
) -> Result<Answer<ConnectionsAnswer>, Problem> {
    let request = ConnectionsRequest { user: query.user, channel: query.channel, limit: query.limit };
    let send = async |mut client: Client, request| client.connections(request).await;
    let answer = app.upstreams.realtime(Call::read(CONNECTIONS).by(caller), request, send).await?;
    Ok(Answer(answer.into()))
}

/// Tells how one connection fares.
#[utoipa::path(get, path = "/monitoring/websocket/connections/{id}", tag = "monitoring", params(("id" = String, Path, description = "id given to the client at connect")), responses(
    (status = 200, description = "the connection", body = ConnectionHealth),
    (status = 404, description = "no connection has this id"),
    (status = 503, description = "none that answered, but some nodes did not"),
))]
pub(crate) async fn connection(
    State(app): State<Arc<App>>,
    Path(client): Path<String>,
    Who(caller): Who,
) -> Result<Answer<ConnectionHealth>, Problem> {
    let send =
        async |mut client: RealtimeWatchServiceClient<Lane>, request| client.connection_health(request).await;
    let call = Call::read(CONNECTION_HEALTH).by(caller);
    let answer = app.upstreams.realtime_watch(call, ConnectionHealthRequest { client }, send).await?;
    Ok(Answer(answer.into()))
}

/// Closes every connection of a user.
#[utoipa::path(post, path = "/realtime/users/{user}/disconnect", tag = "realtime", params(("user" = String, Path, description = "1 to 255 bytes", min_length = 1, max_length = 255)), responses(
    (status = 200, description = "how many were closed", body = Disconnected),
))]
pub(crate) async fn disconnect(
    State(app): State<Arc<App>>,
    Path(user): Path<String>,
    Who(caller): Who,
) -> Result<Answer<Disconnected>, Problem> {
    let send = async |mut client: Client, request| client.disconnect(request).await;
    let call = Call::write(DISCONNECT).by(caller);
    let answer = app.upstreams.realtime(call, DisconnectRequest { user }, send).await?;
    Ok(Answer(Disconnected { disconnected: answer.disconnected, missing_nodes: answer.missing_nodes }))
}
