//! The door: decodes requests, calls the engine, encodes answers; decides nothing.

use std::{sync::Arc, time::Duration};

use futures_util::{
    StreamExt as _, future,
    stream::{self, BoxStream},
};
use mainstay_proto::replica::v1::{
    ExecuteRequest, ExecuteResponse, QueryChunk, QueryRequest, QueryResponse, QueryStreamRequest,
    StatementsRequest, StatementsResponse, TopologyRequest, TopologyResponse, TransactionRequest,
    TransactionResponse, replica_service_server::ReplicaService,
};
use mainstay_rpc::{Caller, Deadline, ErrorCode, Failure, Reply, Request, Response, Status};
use tokio::time::Instant;

use crate::{
    cache::{QueryCache, Wish, check_tags},
    config::{LimitsConfig, ReplicaConfig},
    engine::{Engine, TransactionFailed, Until},
    error::QueryError,
    statements::Statements,
    switchover::Pair,
};

mod batches;
mod cache;
mod configuration;
mod database_stats;
mod decode;
mod encode;
mod insight;
mod named;
mod nodes;
mod partitions;
mod slow_log;
mod statements;
mod switchover;
mod topology;
mod value;

pub(crate) use batches::BatchDoor;
pub(crate) use cache::CacheDoor;
pub(crate) use configuration::ConfigurationDoor;
pub(crate) use database_stats::StatsDoor;
use named::Named;
pub(crate) use nodes::NodeDoor;
pub(crate) use partitions::PartitionDoor;
pub(crate) use slow_log::SlowLogDoor;
pub(crate) use statements::StatementDoor;
pub(crate) use switchover::{Stepping, SwitchoverDoor};

/// Speaks `mainstay.replica.v1`.
pub(crate) struct Door {
    engine: Arc<Engine>,
    cache: Arc<QueryCache>,
    pairs: Vec<Arc<Pair>>,
    statements: Statements,
    limits: LimitsConfig,
    statement_within: Duration,
    stream_within: Duration,
}

impl Door {
    pub(crate) fn new(
        engine: Arc<Engine>,
        cache: Arc<QueryCache>,
        config: &ReplicaConfig,
        pairs: Vec<Arc<Pair>>,
    ) -> Self {
        Self {
            engine,
            cache,
            pairs,
            statements: Statements::new(&config.statements),
            limits: config.limits.clone(),
            statement_within: config.postgres.statement_within,
            stream_within: config.postgres.stream_within,
        }
    }

    fn named(&self, table: &str, sql: &str) -> Result<Named, Status> {
        Named::of(&self.pairs, table, sql).map_err(tell)
    }

    /// The earlier of the caller's deadline and the configured one.
    fn until<T>(&self, request: &Request<T>) -> Until {
        let within = Deadline::of(request).map_or(self.statement_within, |deadline| deadline.left());
        let within = within.min(self.statement_within);
        Until { at: Instant::now() + within, within }
    }

    /// Refuses a text where only named statements are legal.
    fn allow_text<T>(&self, request: &Request<T>) -> Result<(), Status> {
        if !self.statements.bind_anybody() {
            return Ok(());
        }
        let legal = self.statements.allow_text(Caller::of(request).as_ref());
        legal.inspect_err(|_| self.engine.metrics.named.refused()).map_err(tell)
    }

    /// Runs one read.
    async fn answer(&self, request: QueryRequest, until: Until) -> Result<QueryResponse, Status> {
        let wish = Wish::of(&request, self.cache.max_ttl).map_err(refuse)?;
        if request.table.is_empty() {
            let read = decode::read(request, until, &self.limits).map_err(refuse)?;
            let answer = match wish {
                Some(wish) => Box::pin(self.cache.query(wish, read, encode::query)).await,
                None => self.engine.query(read).await.map(encode::query),
            };
            return answer.map_err(refuse);
        }
        let named = self.named(&request.table, &request.sql)?;
        let run = |sql| {
            let request = QueryRequest { sql, ..request.clone() };
            Box::pin(async move { self.engine.query(decode::read(request, until, &self.limits)?).await })
        };
        let (answered, table) = named.read(run).await.map_err(refuse)?;
        Ok(encode::of_table(encode::query(answered), table))
    }

    /// Runs one write.
    async fn change(&self, mut request: ExecuteRequest, until: Until) -> Result<ExecuteResponse, Status> {
        let tags = check_tags("invalidates", std::mem::take(&mut request.invalidates)).map_err(refuse)?;
        let write = decode::write(request, until, &self.limits).map_err(refuse)?;
        let writing = self.cache.write(tags);
        match self.engine.execute(write).await {
            Ok(answered) => {
                let invalidation_pending = writing.committed(answered.token).await;
                Ok(ExecuteResponse { invalidation_pending, ..encode::execute(answered) })
            }
            Err(error) => {
                writing.failed(&error);
                Err(refuse(error))
            }
        }
    }
}

#[tonic::async_trait]
impl ReplicaService for Door {
    async fn query(&self, request: Request<QueryRequest>) -> Reply<QueryResponse> {
        self.allow_text(&request)?;
        let until = self.until(&request);
        Ok(Response::new(self.answer(request.into_inner(), until).await?))
    }

    async fn execute(&self, request: Request<ExecuteRequest>) -> Reply<ExecuteResponse> {
        self.allow_text(&request)?;
        let until = self.until(&request);
        Ok(Response::new(self.change(request.into_inner(), until).await?))
    }

    type QueryStreamStream = BoxStream<'static, Result<QueryChunk, Status>>;

    async fn query_stream(&self, request: Request<QueryStreamRequest>) -> Reply<Self::QueryStreamStream> {
        self.allow_text(&request)?;
        // The caller's deadline bounds the time until the answer begins; the whole may take longer.
        let within = self.stream_within;
        let until = Until { at: Instant::now() + within, within };
        let request = request.into_inner();
        let begin = |request: QueryStreamRequest| async move {
            let mut chunks = self.engine.stream(decode::stream(request, until, &self.limits)?);
            // A stream that fails before it has begun fails as a call, with a code and details.
            match chunks.recv().await {
                Some(Ok(first)) => Ok((encode::chunk(first), chunks)),
                Some(Err(error)) => Err(error),
                None => Err(QueryError::Deadline { within, committing: false }),
            }
        };
        let (first, chunks) = if request.table.is_empty() {
            begin(request).await.map_err(refuse)?
        } else {
            let named = self.named(&request.table, &request.sql)?;
            let begin = |sql| begin(QueryStreamRequest { sql, ..request.clone() });
            let ((first, chunks), table) = named.read(begin).await.map_err(refuse)?;
            (encode::of_table(first, table), chunks)
        };
        let rest = stream::unfold(chunks, |mut chunks| async move { Some((chunks.recv().await?, chunks)) });
        let all = stream::once(future::ready(Ok(first))).chain(rest.map(|chunk| chunk.map(encode::chunk)));
        Ok(Response::new(all.map(|chunk| chunk.map_err(refuse)).boxed()))
    }

    async fn transaction(&self, request: Request<TransactionRequest>) -> Reply<TransactionResponse> {
        self.allow_text(&request)?;
        let until = self.until(&request);
        let mut request = request.into_inner();
        let tags = check_tags("invalidates", std::mem::take(&mut request.invalidates)).map_err(refuse)?;
        let transaction = decode::transaction(request, until, &self.limits).map_err(refuse)?;
        let writing = self.cache.write(tags);
        match self.engine.transaction(transaction).await {
            Ok(done) => {
                let invalidation_pending = writing.committed(done.token).await;
                Ok(Response::new(TransactionResponse { invalidation_pending, ..encode::transaction(done) }))
            }
            Err(TransactionFailed { statement, error }) => {
                writing.failed(&error);
                let at_fault = error.blames_statement();
                let failure = Failure::from(error);
                Err(tell(if at_fault { failure.detail("statement", statement.to_string()) } else { failure }))
            }
        }
    }

    async fn statements(&self, request: Request<StatementsRequest>) -> Reply<StatementsResponse> {
        let summary = self.engine.insight.summary();
        let response = insight::statements(request.into_inner(), summary).map_err(refuse)?;
        Ok(Response::new(response))
    }

    async fn topology(&self, _: Request<TopologyRequest>) -> Reply<TopologyResponse> {
        Ok(Response::new(topology::describe(&self.engine.fleet)))
    }
}

fn refuse(error: QueryError) -> Status {
    tell(Failure::from(error))
}

fn tell(failure: Failure) -> Status {
    // The conversion to a status logs what is internal.
    if failure.code() != ErrorCode::Internal {
        failure.log();
    }
    failure.into()
}
