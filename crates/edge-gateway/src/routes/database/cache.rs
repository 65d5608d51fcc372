//! What the query cache does, and emptying it.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use mainstay_proto::replica::v1::query_cache_service_client::QueryCacheServiceClient;
use mainstay_proto::replica::v1::{CacheFiguresRequest, PurgeCacheRequest};
use mainstay_rpc::{Call, Caller, Lane};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::body::{Json, Who};
use crate::error::Problem;
use crate::state::App;

type Client = QueryCacheServiceClient<Lane>;

const PURGE: &str = "mainstay.replica.v1.QueryCacheService/PurgeCache";
const FIGURES: &str = "mainstay.replica.v1.QueryCacheService/CacheFigures";

/// What is forgotten: answers with one of the tags, or all.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PurgeBody {
    #[serde(default)]
    #[schema(max_items = 16)]
    tags: Vec<String>,
    #[serde(default)]
    all: bool,
}

/// What the cache has done since replica-service started.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SqlCacheFigures {
    configured: bool,
    hits: u64,
    misses: u64,
    /// Reads that got the answer of another caller who asked the same at the same time.
    shared: u64,
    /// Reads that the cache did not answer in time.
    bypassed: u64,
    /// Answers found and not given, because a write came after them.
    outdated: u64,
    stored: u64,
    not_stored: u64,
    /// Tags of writes that the cache has not confirmed yet.
    pending: u32,
}

/// The figures of the query cache.
#[utoipa::path(get, path = "/database/cache", tag = "database", responses((status = 200, description = "the figures", body = SqlCacheFigures)))]
pub(crate) async fn query_cache(
    State(app): State<Arc<App>>,
    Who(caller): Who,
) -> Result<Answer<SqlCacheFigures>, Problem> {
    figures(&app, caller).await
}

/// Forgets answers that were kept; reads under way may be kept all the same.
#[utoipa::path(post, path = "/database/cache/purge", tag = "database", request_body = PurgeBody, responses(
    (status = 200, description = "they are forgotten; the figures after it", body = SqlCacheFigures),
    (status = 412, description = "no cache is configured"),
))]
pub(crate) async fn purge_query_cache(
    State(app): State<Arc<App>>,
    Who(caller): Who,
    Json(body): Json<PurgeBody>,
) -> Result<Answer<SqlCacheFigures>, Problem> {
    let send = async |mut client: Client, request| client.purge_cache(request).await;
    let request = PurgeCacheRequest { tags: body.tags, all: body.all };
    app.upstreams.query_cache(Call::write(PURGE).by(caller.clone()), request, send).await?;
    figures(&app, caller).await
}

async fn figures(app: &App, caller: Caller) -> Result<Answer<SqlCacheFigures>, Problem> {
    let send = async |mut client: Client, request| client.cache_figures(request).await;
    let call = Call::read(FIGURES).by(caller);
    let told = app.upstreams.query_cache(call, CacheFiguresRequest {}, send).await?;
    Ok(Answer(SqlCacheFigures {
        configured: told.configured,
        hits: told.hits,
        misses: told.misses,
        shared: told.shared,
        bypassed: told.bypassed,
        outdated: told.outdated,
        stored: told.stored,
        not_stored: told.not_stored,
        pending: told.pending,
    }))
}
