use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::{Path, State};
use mainstay_proto::realtime::v1::DrainRequest;
use mainstay_rpc::Call;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Client;
use crate::body::{Json, Who};
use crate::error::Problem;
use crate::routes::words::seconds;
use crate::state::App;

const DRAIN: &str = "mainstay.realtime.v1.RealtimeService/Drain";

/// How fast clients are sent away, or that they may stay.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct RealtimeDrainBody {
    /// Connections closed each second; 0, or without it, as configured.
    #[serde(default)]
    #[schema(maximum = 1_000_000)]
    connections_per_second: u32,
    /// Lets those that are left stay, and others in again.
    #[serde(default)]
    cancel: bool,
}

/// What draining a gateway node comes to.
#[derive(Serialize, ToSchema)]
pub(crate) struct RealtimeDrained {
    node: String,
    /// Connections of the node when it was asked.
    connections: u64,
    /// How long it takes until all of them were told to go; null when draining was cancelled.
    seconds: Option<f64>,
}

/// Sends the clients of a gateway node away, little by little; they connect again elsewhere.
#[utoipa::path(post, path = "/realtime/nodes/{node}/drain", tag = "realtime", params(("node" = String, Path, description = "id of the node", min_length = 1)), request_body = RealtimeDrainBody, responses(
    (status = 200, description = "begun, or cancelled", body = RealtimeDrained),
    (status = 404, description = "no node has this id"),
    (status = 503, description = "none that answered, but some nodes did not"),
))]
pub(crate) async fn drain(
    State(app): State<Arc<App>>,
    Path(node): Path<String>,
    Who(caller): Who,
    Json(body): Json<RealtimeDrainBody>,
) -> Result<Answer<RealtimeDrained>, Problem> {
    let RealtimeDrainBody { connections_per_second, cancel } = body;
    let request = DrainRequest { node, connections_per_second, cancel };
    let send = async |mut client: Client, request| client.drain(request).await;
    let answer = app.upstreams.realtime(Call::write(DRAIN).by(caller), request, send).await?;
    Ok(Answer(RealtimeDrained {
        node: answer.node,
        connections: answer.connections,
        seconds: seconds(answer.takes),
    }))
}
