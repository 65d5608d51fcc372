//! Queues of changes that origins learn of later, over REST.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::{Path, State};
use mainstay_proto::cache::v1 as wire;
use mainstay_proto::cache::v1::write_behind_service_client::WriteBehindServiceClient;
use mainstay_rpc::{Call, Lane};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::words::seconds;
use crate::body::{Json, Params, Who};
use crate::error::Problem;
use crate::state::App;

const LIST_QUEUES: &str = "mainstay.cache.v1.WriteBehindService/ListQueues";
const LIST_DEAD: &str = "mainstay.cache.v1.WriteBehindService/ListDeadLetters";
const REPLAY: &str = "mainstay.cache.v1.WriteBehindService/ReplayDeadLetters";
const DROP: &str = "mainstay.cache.v1.WriteBehindService/DropDeadLetters";

type Client = WriteBehindServiceClient<Lane>;

/// Queues that hold something.
#[derive(Serialize, ToSchema)]
pub(crate) struct Queues {
    queues: Vec<Queue>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Queue {
    namespace: String,
    /// Changes that wait.
    queued: u64,
    /// How long the first of them has waited.
    oldest_age_seconds: Option<f64>,
    dead_letters: u64,
    /// Instance of the node that empties the queue now; empty: none.
    owner: String,
}

/// Changes that an origin refused, the oldest first.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DeadLetters {
    dead_letters: Vec<DeadLetter>,
}

#[derive(Serialize, ToSchema)]
struct DeadLetter {
    id: String,
    key: String,
    version: u64,
    /// True: the key was to be deleted.
    delete: bool,
    bytes: u64,
    /// What the origin said last.
    reason: String,
    attempts: u32,
}

/// Where to go on.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Page {
    /// Id of the last dead letter seen.
    #[serde(default)]
    after: String,
    /// Most to return; 100 if it is not given.
    #[serde(default)]
    #[param(maximum = 1000)]
    limit: u32,
}

/// Dead letters to settle.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ids {
    #[schema(min_items = 1, max_items = 1000)]
    ids: Vec<String>,
}

/// How many of them were there.
#[derive(Serialize, ToSchema)]
pub(crate) struct Settled {
    settled: u64,
}

/// Queues of changes that origins do not have yet.
#[utoipa::path(get, path = "/cache/write-behind", tag = "cache", responses(
    (status = 200, description = "the queues of all nodes", body = Queues),
))]
pub(crate) async fn queues(State(app): State<Arc<App>>, Who(caller): Who) -> Result<Answer<Queues>, Problem> {
    let send = async |mut client: Client, request| client.list_queues(request).await;
    let call = Call::read(LIST_QUEUES).by(caller);
    let answer = app.upstreams.write_behind(call, wire::ListQueuesRequest {}, send).await?;
    let queue = |queue: wire::WriteBehindQueue| Queue {
        namespace: queue.namespace,
        queued: queue.queued,
        oldest_age_seconds: seconds(queue.oldest_age),
        dead_letters: queue.dead_letters,
        owner: queue.owner,
    };
    Ok(Answer(Queues { queues: answer.queues.into_iter().map(queue).collect() }))
}

/// Changes that the origin of a namespace refused.
#[utoipa::path(get, path = "/cache/write-behind/{namespace}/dead-letters", tag = "cache", params(
    ("namespace" = String, Path, description = "letters, digits, `_` and `-`, starting with a letter", pattern = "^[a-z][a-z0-9_-]{0,63}$"),
    Page,
), responses((status = 200, description = "the oldest first", body = DeadLetters)))]
pub(crate) async fn dead_letters(
    State(app): State<Arc<App>>,
    Path(namespace): Path<String>,
    Who(caller): Who,
    Params(Page { after, limit }): Params<Page>,
) -> Result<Answer<DeadLetters>, Problem> {
    let request = wire::ListDeadLettersRequest { namespace, after, limit };
    let send = async |mut client: Client, request| client.list_dead_letters(request).await;
    let answer = app.upstreams.write_behind(Call::read(LIST_DEAD).by(caller), request, send).await?;
    let letter = |letter: wire::DeadLetter| DeadLetter {
        id: letter.id,
        key: letter.key,
        version: letter.version,
        delete: letter.delete,
        bytes: letter.bytes,
        reason: letter.reason,
        attempts: letter.attempts,
    };
    Ok(Answer(DeadLetters { dead_letters: answer.dead_letters.into_iter().map(letter).collect() }))
}

/// Puts dead letters back at the end of the queue, with the versions they had.
#[utoipa::path(post, path = "/cache/write-behind/{namespace}/replay", tag = "cache", params(
    ("namespace" = String, Path, description = "letters, digits, `_` and `-`, starting with a letter", pattern = "^[a-z][a-z0-9_-]{0,63}$"),
), request_body = Ids, responses((status = 200, description = "queued again", body = Settled)))]
pub(crate) async fn replay(
    State(app): State<Arc<App>>,
    Path(namespace): Path<String>,
    Who(caller): Who,
    Json(Ids { ids }): Json<Ids>,
) -> Result<Answer<Settled>, Problem> {
    let request = wire::ReplayDeadLettersRequest { namespace, ids };
    let send = async |mut client: Client, request| client.replay_dead_letters(request).await;
    let answer = app.upstreams.write_behind(Call::write(REPLAY).by(caller), request, send).await?;
    Ok(Answer(Settled { settled: answer.replayed }))
}

/// Removes dead letters: the origin will not have these changes.
#[utoipa::path(post, path = "/cache/write-behind/{namespace}/drop", tag = "cache", params(
    ("namespace" = String, Path, description = "letters, digits, `_` and `-`, starting with a letter", pattern = "^[a-z][a-z0-9_-]{0,63}$"),
), request_body = Ids, responses((status = 200, description = "removed", body = Settled)))]
pub(crate) async fn drop_dead(
    State(app): State<Arc<App>>,
    Path(namespace): Path<String>,
    Who(caller): Who,
    Json(Ids { ids }): Json<Ids>,
) -> Result<Answer<Settled>, Problem> {
    let request = wire::DropDeadLettersRequest { namespace, ids };
    let send = async |mut client: Client, request| client.drop_dead_letters(request).await;
    let answer = app.upstreams.write_behind(Call::write(DROP).by(caller), request, send).await?;
    Ok(Answer(Settled { settled: answer.dropped }))
}
