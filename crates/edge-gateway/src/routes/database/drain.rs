//! Nodes taken out of reads, and back.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::{Path, State};
use mainstay_proto::replica::v1::node_service_client::NodeServiceClient;
use mainstay_proto::replica::v1::{DrainNodeRequest, ResumeNodeRequest};
use mainstay_rpc::{Call, Lane};

use super::answer::NodeInfo;
use crate::body::Who;
use crate::error::Problem;
use crate::state::App;

type Client = NodeServiceClient<Lane>;

const DRAIN: &str = "mainstay.replica.v1.NodeService/DrainNode";
const RESUME: &str = "mainstay.replica.v1.NodeService/ResumeNode";

/// Sends no more reads to a node, until it is resumed or replica-service is restarted; a primary goes on taking writes.
#[utoipa::path(post, path = "/database/nodes/{node}/drain", tag = "database", params(
    ("node" = String, Path, description = "name of a node as it is configured"),
), responses(
    (status = 200, description = "the node after it", body = NodeInfo),
    (status = 404, description = "there is no such node"),
))]
pub(crate) async fn drain(
    State(app): State<Arc<App>>,
    Who(caller): Who,
    Path(node): Path<String>,
) -> Result<Answer<NodeInfo>, Problem> {
    let send = async |mut client: Client, request| client.drain_node(request).await;
    let call = Call::write(DRAIN).by(caller);
    let answer = app.upstreams.nodes(call, DrainNodeRequest { node }, send).await?;
    Ok(Answer(NodeInfo::from(&answer.node.unwrap_or_default())))
}

/// Sends reads to a node again.
#[utoipa::path(post, path = "/database/nodes/{node}/resume", tag = "database", params(
    ("node" = String, Path, description = "name of a node as it is configured"),
), responses(
    (status = 200, description = "the node after it", body = NodeInfo),
    (status = 404, description = "there is no such node"),
))]
pub(crate) async fn resume(
    State(app): State<Arc<App>>,
    Who(caller): Who,
    Path(node): Path<String>,
) -> Result<Answer<NodeInfo>, Problem> {
    let send = async |mut client: Client, request| client.resume_node(request).await;
    let call = Call::write(RESUME).by(caller);
    let answer = app.upstreams.nodes(call, ResumeNodeRequest { node }, send).await?;
    Ok(Answer(NodeInfo::from(&answer.node.unwrap_or_default())))
}
