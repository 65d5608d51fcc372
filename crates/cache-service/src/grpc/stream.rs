//! Batches over one lasting stream: many keys for the price of one call.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use std::vec;

use bytes::{Bytes, BytesMut};
use futures_util::Stream as _;
use mainstay_proto::cache::v1 as pb;
use mainstay_proto::cache::v1::operation::Action;
use mainstay_proto::cache::v1::outcome::Result as Outcome;
use mainstay_rpc::{Deadline, ErrorCode, Failure, Status};
use prost::Message as _;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Streaming;

use super::codec::encode_found;
use super::operation::{Operation, check_length, failed, size};
use super::wire::{Gets, put_outcome, put_stream_id, put_stream_last};
use crate::engine::{Engine, Hits};
use crate::metrics::StreamMetrics;
use crate::origin::Seat;
use crate::shared::exact;

mod body;

pub(super) use body::AnswersBody;
use body::write_message;

/// `outcomes` of a `StreamResponse`.
const OUTCOMES: u8 = 2;
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
    requests: Option<Streaming<Bytes>>,
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
    namespace: Arc<str>,
    deadline: Deadline,
    operations: Operations,
    /// Read as not in memory, and waiting to be begun.
    next_below: Option<(u32, Operation)>,
    n_running: usize,
    /// For as long as more reads of it may turn out to be loads.
    seat: Option<Seat>,
}

/// What is left of a request.
enum Operations {
    Gets { gets: Gets, n_taken: u32 },
    Any { operations: vec::IntoIter<pb::Operation>, n_taken: u32 },
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
        requests: Streaming<Bytes>,
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

    /// Begins a request; one that cannot be done is answered, and one that cannot be read ends the client's side.
    fn begin(&mut self, message: &Bytes, out: &mut BytesMut) -> bool {
        if let Some((id, within, gets)) = Gets::read_streamed(message).filter(|(_, _, gets)| gets.len() > 0) {
            let namespace = gets.namespace().into();
            let (n, operations) = (gets.len(), Operations::Gets { gets, n_taken: 0 });
            self.begin_with(id, namespace, within.unwrap_or(self.limits.default_within), n, operations);
            return false;
        }
        let Ok(request) = pb::StreamRequest::decode(message.clone()) else {
            self.requests = None;
            return false;
        };
        let pb::StreamRequest { id, batch, within } = request;
        let pb::BatchRequest { namespace, operations } = batch.unwrap_or_default();
        let within = match within.map(exact) {
            None => Ok(self.limits.default_within),
            Some(Some(within)) if !within.is_zero() => Ok(within),
            Some(_) => Err(Failure::invalid("within", "must be above zero")),
        };
        let n = operations.len();
        match within.and_then(|within| check_length(n).map(|()| within)) {
            Ok(within) => {
                let operations = Operations::Any { operations: operations.into_iter(), n_taken: 0 };
                self.begin_with(id, namespace.into(), within, n, operations);
                false
            }
            Err(failure) => {
                let outcomes = vec![pb::Outcome { index: 0, result: Some(failed(&failure)) }];
                write(&pb::StreamResponse { id, outcomes, last: true }, out)
            }
        }
    }

    fn begin_with(
        &mut self,
        id: u64,
        namespace: Arc<str>,
        within: Duration,
        n: usize,
        operations: Operations,
    ) {
        self.n_requests += 1;
        self.metrics.operations.inc_by(n as u64);
        self.current = Some(Current {
            number: self.n_requests,
            id,
            namespace,
            deadline: Deadline::within(within),
            operations,
            next_below: None,
            n_running: 0,
            seat: None,
        });
    }

    /// Goes on with the current request until a part of its answer is full, it is through, or no more may be begun. Returns
    /// whether there is an answer.
    fn go_on(&mut self, out: &mut BytesMut) -> bool {
        let Some(mut current) = self.current.take() else { return false };
        write_message(out, |out| {
            put_stream_id(current.id, out);
            let before = out.len();
            let is_through = self.go_through(&mut current, out);
            let is_last = is_through && current.n_running == 0;
            if is_last {
                put_stream_last(out);
            }
            if !is_through {
                self.current = Some(current);
            } else if current.n_running > 0 {
                self.left.insert(current.number, current.n_running);
            }
            out.len() > before
        })
    }

    /// Returns whether the request is through.
    fn go_through(&mut self, current: &mut Current, out: &mut BytesMut) -> bool {
        let (engine, full_at) = (Arc::clone(&self.engine), out.len() + PART_BYTES);
        let namespace = Arc::clone(&current.namespace);
        let mut hits = engine.hits(&namespace);
        loop {
            if let Some((index, operation)) = current.next_below.take()
                && let Some(not_begun) = self.begin_below(current, index, operation)
            {
                current.next_below = Some((index, not_begun));
                return false;
            }
            let (index, operation) = match current.operations.next(hits.as_mut(), out, full_at) {
                Step::Operation(index, operation) => (index, operation),
                Step::PartIsFull => return false,
                Step::Through => return true,
            };
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
            prost::encoding::message::encode(
                OUTCOMES.into(),
                &pb::Outcome { index, result: Some(result) },
                out,
            );
        }
    }

    /// Begins an operation that memory alone does not answer, or gives it back if no more may be begun.
    fn begin_below(&mut self, current: &mut Current, index: u32, operation: Operation) -> Option<Operation> {
        let Self { engine, limits, running, waiting_bytes, metrics, .. } = self;
        if running.len() >= limits.max_in_flight
            || waiting_bytes.load(Ordering::Relaxed) >= limits.buffer_bytes
        {
            return Some(operation);
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
        let (engine, waiting, metrics) = (Arc::clone(engine), Arc::clone(waiting_bytes), metrics.clone());
        running.spawn(below.run(operation, seat, engine, waiting, metrics));
        None
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

    fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
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

impl Answers {
    /// Writes the next answer when it is there; none when there will be no more.
    fn poll_answer(&mut self, cx: &mut Context<'_>, out: &mut BytesMut) -> Poll<Option<Result<(), Status>>> {
        loop {
            match self.running.poll_join_next(cx) {
                Poll::Ready(Some(Ok(done))) => {
                    write(&self.finished(done), out);
                    return Poll::Ready(Some(Ok(())));
                }
                Poll::Ready(Some(Err(panicked))) => {
                    return Poll::Ready(Some(Err(Failure::internal(panicked).into())));
                }
                Poll::Ready(None) | Poll::Pending => {}
            }
            if self.current.is_some() {
                let n_running = self.running.len();
                if self.go_on(out) {
                    return Poll::Ready(Some(Ok(())));
                }
                if self.running.len() > n_running {
                    // So that the end of what was begun wakes us.
                    continue;
                }
                if self.current.is_some() {
                    // Full: the end of an operation wakes us.
                    return Poll::Pending;
                }
            }
            match ready!(self.poll_request(cx)) {
                Some(message) => {
                    if self.begin(&message, out) {
                        return Poll::Ready(Some(Ok(())));
                    }
                }
                None if self.running.is_empty() => return Poll::Ready(None),
                None => return Poll::Pending,
            }
        }
    }
}

/// What comes next of a request.
#[expect(
    clippy::large_enum_variant,
    reason = "it lives on the stack for one turn of a loop, never in a collection"
)]
enum Step {
    /// An operation that is not a hit of memory; of a request that is more than reads, any.
    Operation(u32, pb::Operation),
    PartIsFull,
    Through,
}

impl Operations {
    /// Writes outcomes from memory, as long as it is as simple as that and the part is not full.
    fn next(&mut self, hits: Option<&mut Hits<'_>>, out: &mut BytesMut, full_at: usize) -> Step {
        if out.len() >= full_at {
            return Step::PartIsFull;
        }
        match self {
            Self::Any { operations, n_taken } => {
                let Some(operation) = operations.next() else { return Step::Through };
                *n_taken += 1;
                Step::Operation(*n_taken - 1, operation)
            }
            Self::Gets { gets, n_taken } => Self::next_of_gets(gets, n_taken, hits, out, full_at),
        }
    }

    fn next_of_gets(
        gets: &Gets,
        n_taken: &mut u32,
        mut hits: Option<&mut Hits<'_>>,
        out: &mut BytesMut,
        full_at: usize,
    ) -> Step {
        while out.len() < full_at {
            let first = *n_taken;
            if let Some(hits) = &mut hits {
                *n_taken += hits.look_at_once(gets.keys_from(first as usize), |index, seen| {
                    put_outcome(OUTCOMES, first + index, seen, out);
                    out.len() < full_at
                });
            }
            if out.len() >= full_at {
                break;
            }
            let Some(key) = gets.key(*n_taken as usize) else { return Step::Through };
            let index = *n_taken;
            *n_taken += 1;
            let look =
                |hits: &mut &mut Hits<'_>| hits.look(key, |seen| put_outcome(OUTCOMES, index, seen, out));
            if hits.as_mut().and_then(look).is_none() {
                let action = Some(Action::Get(pb::GetAction {}));
                return Step::Operation(index, pb::Operation { key: key.to_owned(), action });
            }
        }
        Step::PartIsFull
    }
}

fn write(response: &pb::StreamResponse, out: &mut BytesMut) -> bool {
    write_message(out, |out| {
        response.encode(out).expect("the buffer grows");
        true
    })
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
