//! Reads over one lasting stream.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, StreamExt as _, future::BoxFuture, stream};
use mainstay_proto::replica::v1::{
    BatchedQuery, QueryBatch, QueryBatchAnswer, QueryFailure, QueryOutcome, QueryRequest, QueryResponse,
    batched_query::Read as Asked, query_batch_service_server::QueryBatchService, query_outcome,
};
use mainstay_rpc::{Caller, ErrorCode, Failure, Reply, Request, Response, Status, unreadable};
use prost::Message as _;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Streaming;
use tracing::{Instrument as _, Span};

use super::{Door, decode, encode, tell};
use crate::{
    config::{BatchesConfig, NamedKind},
    engine::{Read, Until},
    metrics::BatchMetrics,
    session::together::Budget,
};

/// Answers messages of queries, through the door for single ones.
pub(crate) struct BatchDoor {
    door: Arc<Door>,
    limits: BatchesConfig,
    slots: Arc<Semaphore>,
    stopping: CancellationToken,
}

const STREAMS_RETRY_AFTER: Duration = Duration::from_secs(1);
/// Parts of one message that run at once: queries that share a connection, and each of the others.
const AT_ONCE: usize = 8;

impl BatchDoor {
    pub(crate) fn new(door: Arc<Door>, limits: &BatchesConfig, stopping: CancellationToken) -> Self {
        let slots = Arc::new(Semaphore::new(limits.max_open as usize));
        Self { door, limits: limits.clone(), slots, stopping }
    }
}

#[tonic::async_trait]
impl QueryBatchService for BatchDoor {
    type QueryBatchesStream = Answers;

    async fn query_batches(&self, request: Request<Streaming<QueryBatch>>) -> Reply<Answers> {
        let slot = Arc::clone(&self.slots).try_acquire_owned().map_err(|_| {
            let message = "too many streams are open: batches.max_open";
            let refused = Failure::new(ErrorCode::ResourceExhausted, "OVERLOADED", message);
            tell(refused.retry_after(STREAMS_RETRY_AFTER))
        })?;
        let metrics = self.door.engine.metrics.batches.clone();
        metrics.open.inc();
        Ok(Response::new(Answers {
            batches: Arc::new(Batches {
                door: Arc::clone(&self.door),
                caller: Caller::of(&request),
                max_queries: self.limits.max_queries as usize,
            }),
            max_in_flight: self.limits.max_in_flight as usize,
            metrics,
            messages: Some(request.into_inner()),
            unreadable: None,
            stopping: Box::pin(self.stopping.clone().cancelled_owned()),
            running: JoinSet::new(),
            span: Span::current(),
            _slot: slot,
        }))
    }
}

/// The answers of one stream.
///
/// It is polled when the connection has room for an answer, and asks for the next message only then: a client that does not
/// read is not read from. Dropped when the client goes away, it ends what runs, and that is cancelled in the database.
pub(crate) struct Answers {
    batches: Arc<Batches>,
    max_in_flight: usize,
    metrics: BatchMetrics,
    /// None when the client has ended its side, or the service stops.
    messages: Option<Streaming<QueryBatch>>,
    /// Why the last message could not be read: told when all before it are answered.
    unreadable: Option<Status>,
    stopping: Pin<Box<WaitForCancellationFutureOwned>>,
    running: JoinSet<QueryBatchAnswer>,
    /// That of the call.
    span: Span,
    _slot: OwnedSemaphorePermit,
}

impl Answers {
    fn begin(&mut self, batch: QueryBatch) {
        self.metrics.messages.inc();
        self.metrics.queries.inc_by(batch.queries.len() as u64);
        let batches = Arc::clone(&self.batches);
        self.running.spawn(async move { batches.answer(batch).await }.instrument(self.span.clone()));
    }

    /// Returns the next message; none when there will be no more.
    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Option<QueryBatch>> {
        let Some(messages) = &mut self.messages else { return Poll::Ready(None) };
        // First: a client that never stops must not keep the service from it.
        if self.stopping.as_mut().poll(cx).is_pending() {
            match messages.poll_next_unpin(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(batch))) => return Poll::Ready(Some(batch)),
                Poll::Ready(Some(Err(status))) => {
                    let failure = unreadable(&status).unwrap_or_else(|| status.into());
                    self.unreadable = Some(failure.into());
                }
                Poll::Ready(None) => {}
            }
        }
        self.messages = None;
        Poll::Ready(None)
    }
}

impl Stream for Answers {
    type Item = Result<QueryBatchAnswer, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            match this.running.poll_join_next(cx) {
                Poll::Ready(Some(Ok(answer))) => return Poll::Ready(Some(Ok(answer))),
                Poll::Ready(Some(Err(panicked))) => {
                    return Poll::Ready(Some(Err(tell(Failure::internal(panicked)))));
                }
                Poll::Ready(None) | Poll::Pending => {}
            }
            if this.running.len() >= this.max_in_flight {
                // The end of one wakes us.
                return Poll::Pending;
            }
            match this.poll_message(cx) {
                Poll::Ready(Some(batch)) => this.begin(batch),
                Poll::Ready(None) if this.running.is_empty() => {
                    return Poll::Ready(this.unreadable.take().map(Err));
                }
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.metrics.open.dec();
    }
}

/// What the messages of one stream have in common.
struct Batches {
    door: Arc<Door>,
    caller: Option<Caller>,
    max_queries: usize,
}

type Answer = Result<QueryResponse, Status>;
/// Answers with their places in the message.
type Part = Vec<(usize, Answer)>;

impl Batches {
    async fn answer(&self, batch: QueryBatch) -> QueryBatchAnswer {
        let QueryBatch { id, queries, within } = batch;
        match self.check(queries.len(), within) {
            Ok(until) => {
                QueryBatchAnswer { id, outcomes: self.outcomes(queries, until).await, failure: None }
            }
            Err(failure) => {
                QueryBatchAnswer { id, outcomes: Vec::new(), failure: Some(encode_failure(&failure)) }
            }
        }
    }

    fn check(&self, n_queries: usize, within: Option<prost_types::Duration>) -> Result<Until, Failure> {
        let most = self.max_queries;
        if !(1..=most).contains(&n_queries) {
            return Err(Failure::invalid("queries", format!("must be 1 to {most}, are {n_queries}")));
        }
        let within = match within.map(Duration::try_from) {
            None => self.door.statement_within,
            Some(Ok(within)) if !within.is_zero() => within.min(self.door.statement_within),
            Some(_) => return Err(Failure::invalid("within", "must be above zero")),
        };
        Ok(Until { at: Instant::now() + within, within })
    }

    async fn outcomes(&self, queries: Vec<BatchedQuery>, until: Until) -> Vec<QueryOutcome> {
        let names: Vec<_> = queries.iter().map(|query| self.name(query)).collect();
        let answers = self.run(queries, until).await;
        let outcome = |(name, answer): (Option<String>, Answer)| {
            let answer = answer.map_err(Failure::from);
            if let Some(name) = name {
                self.door.engine.metrics.named.ran(name, answer.as_ref().err().map(Failure::code));
            }
            let result = match answer {
                Ok(answer) => query_outcome::Result::Answer(answer),
                Err(failure) => query_outcome::Result::Failure(encode_failure(&failure)),
            };
            QueryOutcome { result: Some(result) }
        };
        names.into_iter().zip(answers).map(outcome).collect()
    }

    /// Returns the name of a statement; what is no name in the configuration must not become a label.
    fn name(&self, query: &BatchedQuery) -> Option<String> {
        let Some(Asked::Statement(asked)) = &query.read else { return None };
        self.door.statements.know(&asked.name).then(|| asked.name.clone())
    }

    /// Runs the queries: those that ask the same of a node together, the others side by side.
    async fn run(&self, queries: Vec<BatchedQuery>, until: Until) -> Vec<Answer> {
        let budget = &Budget::new(self.door.limits.max_result_size.as_u64());
        let mut answers: Vec<Option<Answer>> = queries.iter().map(|_| None).collect();
        let (mut alone, mut groups) = (Vec::new(), Vec::<(Vec<usize>, Vec<Read>)>::new());
        for (index, query) in queries.into_iter().enumerate() {
            match self.decode(query, until) {
                Err(status) => answers[index] = Some(Err(status)),
                Ok(Decoded::Alone(request)) => alone.push((index, request)),
                Ok(Decoded::Plain(read)) => {
                    match groups.iter_mut().find(|(_, group)| group[0].asks_like(&read)) {
                        Some((indexes, group)) => {
                            indexes.push(index);
                            group.push(read);
                        }
                        None => groups.push((vec![index], vec![read])),
                    }
                }
            }
        }
        let mut parts: Vec<BoxFuture<'_, Part>> = Vec::with_capacity(groups.len() + alone.len());
        for (indexes, reads) in groups {
            parts.push(Box::pin(async move {
                let answered = self.door.engine.query_together(&reads, budget).await;
                let answers =
                    answered.into_iter().map(|answered| answered.map(encode::query).map_err(super::refuse));
                indexes.into_iter().zip(answers).collect()
            }));
        }
        for (index, request) in alone {
            parts.push(Box::pin(async move {
                let answer = self.door.answer(request, until).await.and_then(|answer| {
                    budget.admit(answer.encoded_len() as u64, answer).map_err(super::refuse)
                });
                vec![(index, answer)]
            }));
        }
        let mut running = stream::iter(parts).buffer_unordered(AT_ONCE);
        while let Some(part) = running.next().await {
            for (index, answer) in part {
                answers[index] = Some(answer);
            }
        }
        answers.into_iter().map(|answer| answer.expect("each query was run")).collect()
    }

    fn decode(&self, query: BatchedQuery, until: Until) -> Result<Decoded, Status> {
        let request = match query.read {
            None => return Err(tell(Failure::invalid("read", "must be a query or a statement"))),
            Some(Asked::Query(request)) => {
                let legal = self.door.statements.allow_text(self.caller.as_ref());
                legal.inspect_err(|_| self.door.engine.metrics.named.refused()).map_err(tell)?;
                request
            }
            Some(Asked::Statement(asked)) => {
                let named = self.door.statements.find(&asked.name, self.caller.as_ref()).map_err(tell)?;
                if named.kind != NamedKind::Query {
                    let message = "only statements that read can be part of a batch";
                    return Err(tell(Failure::new(ErrorCode::InvalidArgument, "NOT_A_QUERY", message)));
                }
                super::statements::request(named, asked)
            }
        };
        if request.cache.is_some() || !request.table.is_empty() {
            return Ok(Decoded::Alone(request));
        }
        decode::read(request, until, &self.door.limits).map(Decoded::Plain).map_err(super::refuse)
    }
}

enum Decoded {
    /// It wishes the cache or names a pair.
    Alone(QueryRequest),
    Plain(Read),
}

fn encode_failure(failure: &Failure) -> QueryFailure {
    QueryFailure {
        code: failure.code().as_str().to_owned(),
        reason: failure.reason().to_owned(),
        message: failure.message().to_owned(),
        details: failure.details().iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
        retry_after: failure.retry_delay().and_then(|delay| delay.try_into().ok()),
    }
}
