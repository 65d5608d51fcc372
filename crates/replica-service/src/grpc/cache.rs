use std::sync::Arc;

use mainstay_proto::replica::v1::{
    CacheFiguresRequest, CacheFiguresResponse, PurgeCacheRequest, PurgeCacheResponse,
    query_cache_service_server::QueryCacheService,
};
use mainstay_rpc::{Caller, Reply, Request, Response};

use super::{decode::invalid, refuse, tell};
use crate::cache::{QueryCache, check_tags};

/// Tells what the cache does, and empties it.
pub(crate) struct CacheDoor {
    cache: Arc<QueryCache>,
}

impl CacheDoor {
    pub(crate) fn new(cache: Arc<QueryCache>) -> Self {
        Self { cache }
    }
}

#[tonic::async_trait]
impl QueryCacheService for CacheDoor {
    async fn purge_cache(&self, request: Request<PurgeCacheRequest>) -> Reply<PurgeCacheResponse> {
        let by = Caller::of(&request).map(|caller| caller.subject).unwrap_or_default();
        let PurgeCacheRequest { tags, all } = request.into_inner();
        let tags = check_tags("tags", tags).map_err(refuse)?;
        if tags.is_empty() != all {
            return Err(refuse(invalid("tags", "give tags, or all, and not both")));
        }
        tracing::info!(?tags, all, by, "answers are forgotten");
        self.cache.purge(tags, all).await.map_err(tell)?;
        Ok(Response::new(PurgeCacheResponse {}))
    }

    async fn cache_figures(&self, _: Request<CacheFiguresRequest>) -> Reply<CacheFiguresResponse> {
        Ok(Response::new(self.cache.figures()))
    }
}
