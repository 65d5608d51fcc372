//! Legacy tables and their partitioned twins over REST: whether they are equal, and how they are made of.

use std::sync::Arc;
use std::time::Duration;

use axum::Json as Answer;
use axum::extract::State;
use mainstay_proto::replica::v1::partition_service_client::PartitionServiceClient;
use mainstay_proto::replica::v1::{
    PartitionMetricsRequest, PartitionMetricsResponse, PartitionTableStatsRequest,
};
use mainstay_rpc::{Call, Caller, Lane};

mod answer;

pub(crate) use answer::PartitionFigures;
use answer::{PartitionMetrics, TableStats};

use crate::body::Who;
use crate::error::Problem;
use crate::state::App;

type Client = PartitionServiceClient<Lane>;

const METRICS: &str = "mainstay.replica.v1.PartitionService/PartitionMetrics";
const TABLE_STATS: &str = "mainstay.replica.v1.PartitionService/PartitionTableStats";

/// Whether each partitioned table holds the same rows as its legacy table, and what stands in the way of a switchover.
#[utoipa::path(get, path = "/monitoring/partitions/metrics", tag = "monitoring", responses((status = 200, description = "per table; empty where none is configured", body = PartitionMetrics)))]
pub(crate) async fn metrics(
    State(app): State<Arc<App>>,
    Who(caller): Who,
) -> Result<Answer<PartitionMetrics>, Problem> {
    Ok(Answer(fetch(&app, caller, app.request_within).await?.into()))
}

/// Sizes, rows and bounds of every partition, and the partitions that are missing ahead of now.
#[utoipa::path(get, path = "/monitoring/partitions/table-stats", tag = "monitoring", responses((status = 200, description = "per table; empty where none is configured", body = TableStats)))]
pub(crate) async fn table_stats(
    State(app): State<Arc<App>>,
    Who(caller): Who,
) -> Result<Answer<TableStats>, Problem> {
    let send = async |mut client: Client, request| client.partition_table_stats(request).await;
    let call = Call::read(TABLE_STATS).by(caller);
    let answer = app.upstreams.partitions(call, PartitionTableStatsRequest::default(), send).await?;
    Ok(Answer(answer.into()))
}

/// Asks replica-service for every pair of tables.
pub(crate) async fn fetch(
    app: &App,
    caller: impl Into<Option<Caller>>,
    within: Duration,
) -> Result<PartitionMetricsResponse, Problem> {
    let send = async |mut client: Client, request| client.partition_metrics(request).await;
    let call = Call::read(METRICS).by(caller).within(within);
    Ok(app.upstreams.partitions(call, PartitionMetricsRequest::default(), send).await?)
}
