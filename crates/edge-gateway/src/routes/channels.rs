//! One channel or one user over REST: who is there, what was published, who is let in.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::{Path, State};
use bytes::Bytes;
use mainstay_proto::realtime::v1 as wire;
use mainstay_proto::realtime::v1::realtime_service_client::RealtimeServiceClient;
use mainstay_rpc::{Call, Lane};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::words::rfc3339;
use crate::body::{Json, Params, Who};
use crate::error::Problem;
use crate::scope;
use crate::state::App;

type Client = RealtimeServiceClient<Lane>;

const PRESENCE: &str = "mainstay.realtime.v1.RealtimeService/Presence";
const HISTORY: &str = "mainstay.realtime.v1.RealtimeService/History";
const HISTORY_REMOVE: &str = "mainstay.realtime.v1.RealtimeService/HistoryRemove";
const SUBSCRIBE: &str = "mainstay.realtime.v1.RealtimeService/Subscribe";
const UNSUBSCRIBE: &str = "mainstay.realtime.v1.RealtimeService/Unsubscribe";
/// Publications listed when nobody says how many.
const DEFAULT_LIMIT: u32 = 100;

/// Who is in a channel, connection by connection.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Presence {
    clients: Vec<PresentClient>,
    /// All of them, also those beyond what is listed.
    total: u64,
    /// Nodes that did not answer in time: what they hold is not in this answer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing_nodes: Vec<String>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct PresentClient {
    client: String,
    user: String,
    conn_info: Option<Value>,
    chan_info: Option<Value>,
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct HistoryQuery {
    /// Most publications; 100 without it, 0 gives the position alone.
    limit: Option<u32>,
    /// Only what came after this offset; needs `epoch`.
    offset: Option<u64>,
    /// The `epoch` that came with the offset.
    epoch: Option<String>,
    /// Newest first.
    #[serde(default)]
    reverse: bool,
}

/// What was published into a channel lately, and where the channel is now.
#[derive(Serialize, ToSchema)]
pub(crate) struct ChannelHistory {
    publications: Vec<Publication>,
    offset: u64,
    epoch: String,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Publication {
    offset: u64,
    data: Option<Value>,
    tags: BTreeMap<String, String>,
    /// Who published it; null when a server did.
    user: Option<String>,
    published_at: Option<String>,
}

/// What was published is forgotten.
#[derive(Serialize, ToSchema)]
pub(crate) struct HistoryForgotten {
    removed: bool,
}

/// Which channel, and optionally which connection of the user.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SubscriptionBody {
    channel: String,
    /// Only this connection; without it, all of the user's.
    #[serde(default)]
    client: String,
}

/// Which channel, and optionally which connection of the user and which publications.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewSubscriptionBody {
    channel: String,
    /// Only this connection; without it, all of the user's.
    #[serde(default)]
    client: String,
    /// Which publications the user may see, by tags, in the form of the client protocol, e.g. `{"key": "tier", "cmp": "eq",
    /// "val": "free"}`; clients cannot remove it. Without it, all that the namespace shows. Who is subscribed already keeps
    /// what it has.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    filter: Option<Map<String, Value>>,
}

/// How many connections were newly subscribed.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Subscribed {
    subscribed: u64,
    /// Nodes that did not answer in time: what they hold is not in this answer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing_nodes: Vec<String>,
}

/// How many subscriptions ended.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Unsubscribed {
    unsubscribed: u64,
    /// Nodes that did not answer in time: what they hold is not in this answer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing_nodes: Vec<String>,
}

/// Lists who is in a channel.
#[utoipa::path(get, path = "/realtime/channels/{channel}/presence", tag = "realtime", params(("channel" = String, Path, description = "name of the channel", min_length = 1)), responses(
    (status = 200, description = "the connections", body = Presence),
    (status = 404, description = "the channel is in no configured namespace"),
    (status = 412, description = "its namespace keeps no presence"),
))]
pub(crate) async fn presence(
    State(app): State<Arc<App>>,
    Path(channel): Path<String>,
    Who(caller): Who,
) -> Result<Answer<Presence>, Problem> {
    let send = async |mut client: Client, request| client.presence(request).await;
    let call = Call::read(PRESENCE).by(caller);
    let answer = app.upstreams.realtime(call, wire::PresenceRequest { channel }, send).await?;
    let present = |client: wire::ClientInfo| PresentClient {
        client: client.client,
        user: client.user,
        conn_info: document(&client.conn_info),
        chan_info: document(&client.chan_info),
    };
    Ok(Answer(Presence {
        clients: answer.clients.into_iter().map(present).collect(),
        total: answer.total,
        missing_nodes: answer.missing_nodes,
    }))
}

/// Tells what was published into a channel lately.
#[utoipa::path(get, path = "/realtime/channels/{channel}/history", tag = "realtime", params(("channel" = String, Path, description = "name of the channel", min_length = 1), HistoryQuery), responses(
    (status = 200, description = "the publications", body = ChannelHistory),
    (status = 404, description = "the channel is in no configured namespace"),
    (status = 412, description = "its namespace keeps no history, or the epoch is over"),
))]
pub(crate) async fn history(
    State(app): State<Arc<App>>,
    Path(channel): Path<String>,
    Who(caller): Who,
    Params(query): Params<HistoryQuery>,
) -> Result<Answer<ChannelHistory>, Problem> {
    let since = match (query.offset, query.epoch) {
        (None, None) => None,
        (Some(offset), Some(epoch)) => Some(wire::StreamPosition { offset, epoch }),
        (Some(_), None) => return Err(Problem::invalid("epoch", "must come with offset")),
        (None, Some(_)) => return Err(Problem::invalid("offset", "must come with epoch")),
    };
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
    let request = wire::HistoryRequest { channel, limit, since, reverse: query.reverse };
    let send = async |mut client: Client, request| client.history(request).await;
    let answer = app.upstreams.realtime(Call::read(HISTORY).by(caller), request, send).await?;
    let position = answer.position.unwrap_or_default();
    let publications = answer.publications.into_iter().map(Publication::from).collect();
    Ok(Answer(ChannelHistory { publications, offset: position.offset, epoch: position.epoch }))
}

/// Forgets what was published into a channel. Offsets go on from where they are; who comes back for what is forgotten is told
/// that it cannot be recovered.
#[utoipa::path(delete, path = "/realtime/channels/{channel}/history", tag = "realtime", params(("channel" = String, Path, description = "name of the channel", min_length = 1)), responses(
    (status = 200, description = "nothing is remembered any more", body = HistoryForgotten),
    (status = 404, description = "the channel is in no configured namespace"),
    (status = 412, description = "its namespace keeps no history"),
))]
pub(crate) async fn forget_history(
    State(app): State<Arc<App>>,
    Path(channel): Path<String>,
    Who(caller): Who,
) -> Result<Answer<HistoryForgotten>, Problem> {
    let send = async |mut client: Client, request| client.history_remove(request).await;
    let call = Call::write(HISTORY_REMOVE).by(caller);
    app.upstreams.realtime(call, wire::HistoryRemoveRequest { channel }, send).await?;
    Ok(Answer(HistoryForgotten { removed: true }))
}

/// Subscribes the connections of a user to a channel.
#[utoipa::path(post, path = "/realtime/users/{user}/subscribe", tag = "realtime", params(("user" = String, Path, description = "1 to 255 bytes", min_length = 1, max_length = 255)), request_body = NewSubscriptionBody, responses(
    (status = 200, description = "how many are new", body = Subscribed),
    (status = 400, description = "the filter makes no sense"),
    (status = 404, description = "the channel is in no configured namespace"),
))]
pub(crate) async fn subscribe(
    State(app): State<Arc<App>>,
    Path(user): Path<String>,
    Who(caller): Who,
    Json(body): Json<NewSubscriptionBody>,
) -> Result<Answer<Subscribed>, Problem> {
    scope::demand_channels(&caller.scopes, [&body.channel])?;
    let filter = body.filter.map(|filter| Value::Object(filter).to_string().into()).unwrap_or_default();
    let request = wire::SubscribeRequest { user, channel: body.channel, client: body.client, filter };
    let send = async |mut client: Client, request| client.subscribe(request).await;
    let answer = app.upstreams.realtime(Call::write(SUBSCRIBE).by(caller), request, send).await?;
    Ok(Answer(Subscribed { subscribed: answer.subscribed, missing_nodes: answer.missing_nodes }))
}

/// Ends a user's subscriptions to a channel.
#[utoipa::path(post, path = "/realtime/users/{user}/unsubscribe", tag = "realtime", params(("user" = String, Path, description = "1 to 255 bytes", min_length = 1, max_length = 255)), request_body = SubscriptionBody, responses(
    (status = 200, description = "how many ended", body = Unsubscribed),
    (status = 404, description = "the channel is in no configured namespace"),
))]
pub(crate) async fn unsubscribe(
    State(app): State<Arc<App>>,
    Path(user): Path<String>,
    Who(caller): Who,
    Json(body): Json<SubscriptionBody>,
) -> Result<Answer<Unsubscribed>, Problem> {
    scope::demand_channels(&caller.scopes, [&body.channel])?;
    let request = wire::UnsubscribeRequest { user, channel: body.channel, client: body.client };
    let send = async |mut client: Client, request| client.unsubscribe(request).await;
    let answer = app.upstreams.realtime(Call::write(UNSUBSCRIBE).by(caller), request, send).await?;
    Ok(Answer(Unsubscribed { unsubscribed: answer.unsubscribed, missing_nodes: answer.missing_nodes }))
}

impl From<wire::Publication> for Publication {
    fn from(publication: wire::Publication) -> Self {
        Self {
            offset: publication.offset,
            data: document(&publication.data),
            tags: publication.tags.into_iter().collect(),
            user: publication.info.map(|info| info.user),
            published_at: rfc3339(publication.published_at),
        }
    }
}

/// Reads what the gateway has already checked to be JSON; nothing where there is none.
fn document(bytes: &Bytes) -> Option<Value> {
    serde_json::from_slice(bytes).ok()
}
