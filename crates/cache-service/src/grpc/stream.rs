//! Batches over one lasting stream: many keys for the price of one call.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use std::vec;

use futures_util::Stream;
use mainstay_proto::cache::v1 as pb;
use mainstay_proto::cache::v1::outcome::Result as Outcome;
use mainstay_rpc::{Deadline, ErrorCode, Failure, Status};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Streaming;

use super::codec::encode_found;
use super::operation::{Operation, check_length, failed, size};
use crate::engine::Engine;
use crate::metrics::StreamMetrics;
use crate::origin::Seat;

/// An answer is sent when it has about so many bytes, so that large values do not gather in it.
const PART_BYTES: usize = 64 << 10;
/// Answers of this many times the buffer may wait to be read: what was under way when it filled up.
const SLACK: usize = 4;

/// Bounds of one stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct StreamLimits {
    pub(super) max_in_flight: usize,
    pub(super) buffer_bytes: usize,
    pub(super) default_within: Duration,
}

/// Answers the requests of one stream.
///
/// It is polled when the connection has room for an answer, and asks for the next request only then: a client that
/// does not read is not read from. What memory does not answer runs in tasks, which go on meanwhile: nothing that
/// others wait for is held up by such a client. At most `max_in_flight` run, none is begun while answers of
/// `buffer_bytes` wait, and a value that would make it several times that is given up for an error.
pub(crate) struct Answers {
    engine: Arc<Engine>,
    limits: StreamLimits,
    metrics: StreamMetrics,
    /// None when the client has ended its side, or the service stops.
    requests: Option<Streaming<pb::StreamRequest>>,
    stopping: Pin<Box<WaitForCancellationFutureOwned>>,
    current: Option<Current>,
    n_requests: u64,
    running: JoinSet<Done>,
    /// Operations under way by request, for those whose last operation has been begun.
    left: HashMap<u64, usize>,
    waiting_bytes: Arc<AtomicUsize>,
    _slot: OwnedSemaphorePermit,
}

/// The request that is being worked through.
struct Current {
    number: u64,
    id: u64,
    namespace: String,
    deadline: Deadline,
    operations: std::iter::Enumerate<vec::IntoIter<pb::Operation>>,
    /// Read as not in memory, and waiting to be begun.
    next_below: Option<(u32, Operation)>,
    n_running: usize,
    /// For as long as more reads of it may turn out to be loads.
    seat: Option<Seat>,
}

struct Done {
    number: u64,
    id: u64,
    outcome: pb::Outcome,
    waiting_bytes: usize,
}

impl Answers {
    pub(super) fn new(
        engine: Arc<Engine>,
        requests: Streaming<pb::StreamRequest>,
        limits: StreamLimits,
        stopping: WaitForCancellationFutureOwned,
        slot: OwnedSemaphorePermit,
    ) -> Self {
        let metrics = engine.metrics.streams.clone();
        metrics.open.inc();
        Self {
            engine,
            limits,
            metrics,
            requests: Some(requests),
            stopping: Box::pin(stopping),
            current: None,
            n_requests: 0,
            running: JoinSet::new(),
            left: HashMap::new(),
            waiting_bytes: Arc::default(),
            _slot: slot,
        }
    }

    fn begin(&mut self, request: pb::StreamRequest) -> Result<(), pb::StreamResponse> {
        let pb::StreamRequest { id, batch, within } = request;
        let pb::BatchRequest { namespace, operations } = batch.unwrap_or_default();
        let within = match within.map(Duration::try_from) {
            None => Ok(self.limits.default_within),
            Some(Ok(within)) if !within.is_zero() => Ok(within),
            Some(_) => Err(Failure::invalid("within", "must be above zero")),
        };
        let within = within.and_then(|within| check_length(operations.len()).map(|()| within));
        let within = within.map_err(|failure| {
            let outcomes = vec![pb::Outcome { index: 0, result: Some(failed(&failure)) }];
            pb::StreamResponse { id, outcomes, last: true }
        })?;
        self.n_requests += 1;
        self.metrics.operations.inc_by(operations.len() as u64);
        self.current = Some(Current {
            number: self.n_requests,
            id,
            namespace,
            deadline: Deadline::within(within),
            operations: operations.into_iter().enumerate(),
            next_below: None,
            n_running: 0,
            seat: None,
        });
        Ok(())
    }

    /// Goes on with the current request until a part of its answer is full, it is through, or no more may be begun.
    fn go_on(&mut self) -> Option<pb::StreamResponse> {
        let Self { engine, limits, running, waiting_bytes, metrics, .. } = self;
        let current = self.current.as_mut()?;
        let may_begin = |running: &JoinSet<Done>| {
            running.len() < limits.max_in_flight
                && waiting_bytes.load(Ordering::Relaxed) < limits.buffer_bytes
        };
        let mut hits = engine.hits(&current.namespace);
        let (mut outcomes, mut n_bytes) = (Vec::with_capacity(current.operations.len()), 0);
        let is_through = loop {
            if let Some((index, operation)) = current.next_below.take() {
                if !may_begin(running) {
                    current.next_below = Some((index, operation));
                    break false;
                }
                current.n_running += 1;
                let is_read = matches!(operation, Operation::Get(_));
                let seat = is_read.then(|| current.seat.get_or_insert_with(Seat::first).another());
                let below = Below {
                    number: current.number,
                    id: current.id,
                    index,
                    deadline: current.deadline,
                    most_bytes: SLACK * limits.buffer_bytes,
                };
                running.spawn(below.run(
                    operation,
                    seat,
                    Arc::clone(engine),
                    Arc::clone(waiting_bytes),
                    metrics.clone(),
                ));
            }
            if n_bytes >= PART_BYTES {
                break false;
            }
            let Some((index, operation)) = current.operations.next() else { break true };
            let index = u32::try_from(index).expect("at most 1,000");
            let result = match Operation::decode(&current.namespace, operation) {
                Err(failure) => failed(&failure),
                Ok(Operation::Get(key)) => match hits.as_mut().and_then(|hits| hits.get(&key)) {
                    Some(found) => Outcome::Get(encode_found(found)),
                    None => {
                        current.next_below = Some((index, Operation::Get(key)));
                        continue;
                    }
                },
                Ok(operation) => {
                    current.next_below = Some((index, operation));
                    continue;
                }
            };
            n_bytes += size(&result);
            outcomes.push(pb::Outcome { index, result: Some(result) });
        };
        let (id, last) = (current.id, is_through && current.n_running == 0);
        if is_through {
            if current.n_running > 0 {
                self.left.insert(current.number, current.n_running);
            }
            drop(hits);
            self.current = None;
        }
        (last || !outcomes.is_empty()).then_some(pb::StreamResponse { id, outcomes, last })
    }

    fn finished(&mut self, done: Done) -> pb::StreamResponse {
        let Done { number, id, outcome, waiting_bytes } = done;
        self.waiting_bytes.fetch_sub(waiting_bytes, Ordering::Relaxed);
        let last = match self.left.get_mut(&number) {
            Some(left) => {
                *left -= 1;
                *left == 0
            }
            None => {
                if let Some(current) = &mut self.current {
                    current.n_running -= 1;
                }
                false
            }
        };
        if last {
            self.left.remove(&number);
        }
        pb::StreamResponse { id, outcomes: vec![outcome], last }
    }

    fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<Option<pb::StreamRequest>> {
        let Some(requests) = &mut self.requests else { return Poll::Ready(None) };
        let request = match Pin::new(requests).poll_next(cx) {
            Poll::Ready(Some(Ok(request))) => Some(request),
            // A broken request ends the client's side as its end does.
            Poll::Ready(Some(Err(_)) | None) => None,
            Poll::Pending => {
                ready!(self.stopping.as_mut().poll(cx));
                None
            }
        };
        if request.is_none() {
            self.requests = None;
        }
        Poll::Ready(request)
    }
}

impl Stream for Answers {
    type Item = Result<pb::StreamResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            match this.running.poll_join_next(cx) {
                Poll::Ready(Some(Ok(done))) => return Poll::Ready(Some(Ok(this.finished(done)))),
                Poll::Ready(Some(Err(panicked))) => {
                    return Poll::Ready(Some(Err(Failure::internal(panicked).into())));
                }
                Poll::Ready(None) | Poll::Pending => {}
            }
            if this.current.is_some() {
                let n_running = this.running.len();
                if let Some(answer) = this.go_on() {
                    return Poll::Ready(Some(Ok(answer)));
                }
                if this.running.len() > n_running {
                    // So that the end of what was begun wakes us.
                    continue;
                }
                if this.current.is_some() {
                    // Full: the end of an operation wakes us.
                    return Poll::Pending;
                }
            }
            match ready!(this.poll_request(cx)) {
                Some(request) => {
                    if let Err(refused) = this.begin(request) {
                        return Poll::Ready(Some(Ok(refused)));
                    }
                }
                None if this.running.is_empty() => return Poll::Ready(None),
                None => return Poll::Pending,
            }
        }
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.metrics.open.dec();
    }
}

/// An operation that memory alone does not answer.
struct Below {
    number: u64,
    id: u64,
    index: u32,
    deadline: Deadline,
    most_bytes: usize,
}

impl Below {
    async fn run(
        self,
        operation: Operation,
        seat: Option<Seat>,
        engine: Arc<Engine>,
        waiting: Arc<AtomicUsize>,
        metrics: StreamMetrics,
    ) -> Done {
        let mut outcome = operation.run(&engine, self.deadline.left(), seat).await;
        let mut waiting_bytes = size(&outcome);
        let before = waiting.fetch_add(waiting_bytes, Ordering::Relaxed);
        if before > 0 && before + waiting_bytes > self.most_bytes {
            metrics.dropped.inc();
            waiting.fetch_sub(waiting_bytes, Ordering::Relaxed);
            let message = "too many answers of this stream wait to be read";
            outcome = failed(&Failure::new(ErrorCode::ResourceExhausted, "STREAM_NOT_READ", message));
            waiting_bytes = 0;
        }
        let outcome = pb::Outcome { index: self.index, result: Some(outcome) };
        Done { number: self.number, id: self.id, outcome, waiting_bytes }
    }
}
