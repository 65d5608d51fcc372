use std::collections::HashMap;
use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use mainstay_proto::realtime::v1 as wire;
use mainstay_rpc::Call;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::Client;
use crate::body::{Json, Who};
use crate::error::Problem;
use crate::scope;
use crate::state::App;

const PUBLISH: &str = "mainstay.realtime.v1.RealtimeService/Publish";
const BROADCAST: &str = "mainstay.realtime.v1.RealtimeService/Broadcast";
const PUBLISH_BATCH: &str = "mainstay.realtime.v1.RealtimeService/PublishBatch";

/// One message for one channel.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct PublishBody {
    #[schema(example = "news")]
    channel: String,
    /// Passed on as it was written, number formats included.
    #[schema(value_type = serde_json::Value)]
    data: Box<RawValue>,
    /// At most 16, keys and values of at most 64 bytes.
    #[serde(default)]
    tags: HashMap<String, String>,
    /// At most 128 bytes. Sent again with the same key into the same channel it is not delivered again, and the answer is
    /// that of the first.
    #[serde(default)]
    idempotency_key: String,
    #[serde(default)]
    exclude: ExcludedReceivers,
}

/// One message for many channels.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct BroadcastBody {
    #[schema(min_items = 1, max_items = 1000)]
    channels: Vec<String>,
    #[schema(value_type = serde_json::Value)]
    data: Box<RawValue>,
    #[serde(default)]
    tags: HashMap<String, String>,
    /// As of a publication; it counts for each channel by itself.
    #[serde(default)]
    idempotency_key: String,
    #[serde(default)]
    exclude: ExcludedReceivers,
}

/// Many different messages; those for one channel are published in their order.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PublishBatchBody {
    #[schema(min_items = 1, max_items = 1000)]
    messages: Vec<PublishBody>,
}

/// Who does not receive a message, also not by recovery.
#[derive(Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
struct ExcludedReceivers {
    /// Id of a connection, as it was told at connect.
    client: String,
    user: String,
}

/// What became of a message.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Published {
    /// To how many connections of the node that was asked it was queued.
    receivers: u64,
    /// Place in the history of the channel, and the epoch in which it counts; absent where none is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<String>,
    /// The idempotency key was seen before: nothing was published now.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    duplicate: bool,
    /// Redis took nothing: it went to the subscribers of one node only, and into no history.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    this_node_only: bool,
}

/// One result per channel of a broadcast, or per message of a batch, in the order of the request.
#[derive(Serialize, ToSchema)]
pub(crate) struct BroadcastAnswer {
    results: Vec<BroadcastResult>,
}

/// What became of it, as of a message by itself; `code` and `detail` in place of that where it was refused.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct BroadcastResult {
    channel: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    receivers: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    duplicate: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    this_node_only: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

/// Sends one message to everybody subscribed to a channel.
#[utoipa::path(post, path = "/realtime/publish", tag = "realtime", request_body = PublishBody, responses(
    (status = 200, description = "queued to the subscribers", body = Published),
))]
pub(crate) async fn publish(
    State(app): State<Arc<App>>,
    Who(caller): Who,
    Json(body): Json<PublishBody>,
) -> Result<Answer<Published>, Problem> {
    scope::demand_channels(&caller.scopes, [&body.channel])?;
    let send = async |mut client: Client, request| client.publish(request).await;
    let request = wire::PublishRequest::from(body);
    let answer = app.upstreams.realtime(Call::write(PUBLISH).by(caller), request, send).await?;
    Ok(Answer(answer.into()))
}

/// Sends one message to many channels; each channel has its own result.
#[utoipa::path(post, path = "/realtime/broadcast", tag = "realtime", request_body = BroadcastBody, responses(
    (status = 200, description = "one result per channel, in the order of the request", body = BroadcastAnswer),
))]
pub(crate) async fn broadcast(
    State(app): State<Arc<App>>,
    Who(caller): Who,
    Json(body): Json<BroadcastBody>,
) -> Result<Answer<BroadcastAnswer>, Problem> {
    scope::demand_channels(&caller.scopes, &body.channels)?;
    let request = wire::BroadcastRequest {
        channels: body.channels,
        data: raw(&body.data),
        tags: body.tags,
        idempotency_key: body.idempotency_key,
        exclude_client: body.exclude.client,
        exclude_user: body.exclude.user,
    };
    let send = async |mut client: Client, request| client.broadcast(request).await;
    let answer = app.upstreams.realtime(Call::write(BROADCAST).by(caller), request, send).await?;
    Ok(Answer(answer.results.into()))
}

/// Sends many different messages; each has its own result. One of which it is not known whether it was published
/// (`PUBLISH_UNKNOWN`) stops the rest of its channel (`BATCH_STOPPED`): sent again with their idempotency keys, they keep
/// their order.
#[utoipa::path(post, path = "/realtime/batch", tag = "realtime", request_body = PublishBatchBody, responses(
    (status = 200, description = "one result per message, in the order of the request", body = BroadcastAnswer),
))]
pub(crate) async fn publish_batch(
    State(app): State<Arc<App>>,
    Who(caller): Who,
    Json(body): Json<PublishBatchBody>,
) -> Result<Answer<BroadcastAnswer>, Problem> {
    scope::demand_channels(&caller.scopes, body.messages.iter().map(|message| &message.channel))?;
    let messages = body.messages.into_iter().map(wire::PublishRequest::from).collect();
    let send = async |mut client: Client, request| client.publish_batch(request).await;
    let call = Call::write(PUBLISH_BATCH).by(caller);
    let answer = app.upstreams.realtime(call, wire::PublishBatchRequest { messages }, send).await?;
    Ok(Answer(answer.results.into()))
}

fn raw(data: &RawValue) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(data.get().as_bytes())
}

impl From<PublishBody> for wire::PublishRequest {
    fn from(body: PublishBody) -> Self {
        Self {
            channel: body.channel,
            data: raw(&body.data),
            tags: body.tags,
            idempotency_key: body.idempotency_key,
            exclude_client: body.exclude.client,
            exclude_user: body.exclude.user,
        }
    }
}

impl From<wire::PublishResponse> for Published {
    fn from(answer: wire::PublishResponse) -> Self {
        let this_node_only = answer.reach() == wire::Reach::ThisNode;
        let is_kept = !answer.epoch.is_empty();
        Self {
            receivers: answer.receivers,
            offset: is_kept.then_some(answer.offset),
            epoch: is_kept.then_some(answer.epoch),
            duplicate: answer.duplicate,
            this_node_only,
        }
    }
}

impl From<Vec<wire::BroadcastResult>> for BroadcastAnswer {
    fn from(results: Vec<wire::BroadcastResult>) -> Self {
        Self { results: results.into_iter().map(BroadcastResult::from).collect() }
    }
}

impl From<wire::BroadcastResult> for BroadcastResult {
    fn from(result: wire::BroadcastResult) -> Self {
        let channel = result.channel;
        if !result.error_code.is_empty() {
            return Self {
                channel,
                receivers: None,
                offset: None,
                epoch: None,
                duplicate: false,
                this_node_only: false,
                code: Some(result.error_code),
                detail: Some(result.error_message),
            };
        }
        let Published { receivers, offset, epoch, duplicate, this_node_only } = wire::PublishResponse {
            receivers: result.receivers,
            offset: result.offset,
            epoch: result.epoch,
            duplicate: result.duplicate,
            reach: result.reach,
            nodes: result.nodes,
        }
        .into();
        let receivers = Some(receivers);
        Self { channel, receivers, offset, epoch, duplicate, this_node_only, code: None, detail: None }
    }
}
