//! The door: decodes requests, calls the engine, encodes answers; decides nothing.

use std::sync::Arc;

use mainstay_proto::replica::v1::{
    ExecuteRequest, ExecuteResponse, QueryRequest, QueryResponse, TopologyRequest, TopologyResponse,
    replica_service_server::ReplicaService,
};
use mainstay_rpc::{Deadline, ErrorCode, Failure, Reply, Request, Response, Status};
use tokio::time::Instant;

use crate::{
    config::{LimitsConfig, ReplicaConfig},
    engine::{Engine, Until},
    error::QueryError,
};

mod decode;
mod encode;
mod topology;
mod value;

/// Speaks `mainstay.replica.v1`.
pub(crate) struct Door {
    engine: Arc<Engine>,
    limits: LimitsConfig,
    statement_within: std::time::Duration,
}

impl Door {
    pub(crate) fn new(engine: Arc<Engine>, config: &ReplicaConfig) -> Self {
        Self { engine, limits: config.limits.clone(), statement_within: config.postgres.statement_within }
    }

    /// The earlier of the caller's deadline and the configured one.
    fn until<T>(&self, request: &Request<T>) -> Until {
        let within = Deadline::of(request).map_or(self.statement_within, |deadline| deadline.left());
        let within = within.min(self.statement_within);
        Until { at: Instant::now() + within, within }
    }
}

#[tonic::async_trait]
impl ReplicaService for Door {
    async fn query(&self, request: Request<QueryRequest>) -> Reply<QueryResponse> {
        let until = self.until(&request);
        let read = decode::read(request.into_inner(), until, &self.limits).map_err(refuse)?;
        let answered = self.engine.query(read).await.map_err(refuse)?;
        Ok(Response::new(encode::query(answered)))
    }

    async fn execute(&self, request: Request<ExecuteRequest>) -> Reply<ExecuteResponse> {
        let until = self.until(&request);
        let write = decode::write(request.into_inner(), until, &self.limits).map_err(refuse)?;
        let answered = self.engine.execute(write).await.map_err(refuse)?;
        Ok(Response::new(encode::execute(answered)))
    }

    async fn topology(&self, _: Request<TopologyRequest>) -> Reply<TopologyResponse> {
        Ok(Response::new(topology::describe(&self.engine.fleet)))
    }
}

/// The conversion to a status logs what is internal.
fn refuse(error: QueryError) -> Status {
    let failure = Failure::from(error);
    if failure.code() != ErrorCode::Internal {
        failure.log();
    }
    failure.into()
}
