//! What one stream knows: who waits for which answer, and what is still to be sent.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::Stream;
use mainstay_proto::cache::v1::operation::Action;
use mainstay_proto::cache::v1::outcome::Result as Outcome;
use mainstay_proto::cache::v1::{BatchRequest, GetAction, Operation, StreamRequest, StreamResponse};
use mainstay_rpc::Upstream;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::routes::words::wire_duration;

/// How long a peer that gave no answer in time is left alone before one read tries it again.
const SILENT_FOR: Duration = Duration::from_secs(1);

/// One endpoint of the cache and the stream to it.
pub(super) struct Line {
    name: String,
    upstream: Upstream,
    wire: Mutex<Wire>,
}

#[derive(Default)]
struct Wire {
    /// Number of the stream that was begun last.
    number: u64,
    is_open: bool,
    /// When the peer failed to answer in time; none once it answers again.
    silent_since: Option<Instant>,
    last_id: u64,
    waiting: HashMap<u64, oneshot::Sender<Outcome>>,
    unsent: VecDeque<StreamRequest>,
    /// Of whoever sends, while there is nothing to send.
    sender: Option<Waker>,
}

impl Line {
    pub(super) fn new(name: &str, upstream: Upstream) -> Self {
        Self { name: name.to_owned(), upstream, wire: Mutex::default() }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// Returns how many reads wait; the most there can be where none would be taken.
    pub(super) fn load(&self) -> usize {
        let wire = self.wire.lock();
        if wire.takes_one(Instant::now()) { wire.waiting.len() } else { usize::MAX }
    }

    /// Sends a read, unless the stream is away, silent or full.
    pub(super) fn ask(
        self: &Arc<Self>,
        namespace: &str,
        key: &str,
        within: Duration,
        most_waiting: usize,
    ) -> Option<Asked> {
        let operation = Operation { key: key.to_owned(), action: Some(Action::Get(GetAction {})) };
        let batch = BatchRequest { namespace: namespace.to_owned(), operations: vec![operation] };
        let (tell, told) = oneshot::channel();
        let (id, sender) = {
            let mut wire = self.wire.lock();
            let is_full = wire.waiting.len().max(wire.unsent.len()) >= most_waiting;
            if is_full || !wire.takes_one(Instant::now()) {
                return None;
            }
            wire.last_id += 1;
            let id = wire.last_id;
            wire.waiting.insert(id, tell);
            wire.unsent.push_back(StreamRequest {
                id,
                batch: Some(batch),
                within: Some(wire_duration(within)),
            });
            (id, wire.sender.take())
        };
        if let Some(sender) = sender {
            sender.wake();
        }
        Some(Asked { line: Arc::clone(self), id, told })
    }

    /// Gives an answer to whoever waits for it.
    pub(super) fn settle(&self, answer: StreamResponse) {
        let mut wire = self.wire.lock();
        wire.silent_since = None;
        let outcome = answer.outcomes.into_iter().find_map(|outcome| outcome.result);
        match outcome {
            Some(outcome) => {
                // Nobody waits any more where the time was up.
                if let Some(tell) = wire.waiting.remove(&answer.id) {
                    let _ = tell.send(outcome);
                }
            }
            None if answer.last => drop(wire.waiting.remove(&answer.id)),
            None => {}
        }
    }

    /// Notes that an answer did not come in time.
    pub(super) fn suspect(&self) {
        self.wire.lock().silent_since = Some(Instant::now());
    }

    /// Prepares a stream; what was under way on the one before is over.
    pub(super) fn begin(&self) -> u64 {
        let mut wire = self.wire.lock();
        wire.shut();
        wire.number += 1;
        wire.number
    }

    /// From now on it is used.
    pub(super) fn opened(&self) {
        let mut wire = self.wire.lock();
        wire.is_open = true;
        wire.silent_since = None;
    }

    /// Tells all who wait that there will be no answer, and lets the sending side end.
    pub(super) fn close(&self) {
        let sender = {
            let mut wire = self.wire.lock();
            wire.shut();
            wire.number += 1;
            wire.sender.take()
        };
        if let Some(sender) = sender {
            sender.wake();
        }
    }
}

impl Wire {
    /// A peer that went silent gets one read at a time, and not at once.
    fn takes_one(&self, now: Instant) -> bool {
        let may_try = |since: Instant| self.waiting.is_empty() && now.duration_since(since) >= SILENT_FOR;
        self.is_open && self.silent_since.is_none_or(may_try)
    }

    fn shut(&mut self) {
        self.is_open = false;
        self.waiting.clear();
        self.unsent.clear();
    }
}

/// A read that was sent; it is forgotten when nobody waits for it any more.
pub(super) struct Asked {
    line: Arc<Line>,
    id: u64,
    told: oneshot::Receiver<Outcome>,
}

impl Asked {
    /// Returns the answer; none when the stream ended before it.
    pub(super) async fn answer(&mut self) -> Option<Outcome> {
        (&mut self.told).await.ok()
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        // Terminated means answered, or that the stream ended: then it is forgotten already.
        if !self.told.is_terminated() {
            self.line.wire.lock().waiting.remove(&self.id);
        }
    }
}

/// The requests of one stream, for as long as it is the newest.
pub(super) struct Outbound {
    line: Arc<Line>,
    number: u64,
}

impl Outbound {
    pub(super) fn new(line: Arc<Line>, number: u64) -> Self {
        Self { line, number }
    }
}

impl Stream for Outbound {
    type Item = StreamRequest;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<StreamRequest>> {
        let mut wire = self.line.wire.lock();
        if wire.number != self.number {
            return Poll::Ready(None);
        }
        while let Some(request) = wire.unsent.pop_front() {
            // Who waited too long for it to be sent has gone.
            if wire.waiting.contains_key(&request.id) {
                return Poll::Ready(Some(request));
            }
        }
        wire.sender = Some(cx.waker().clone());
        Poll::Pending
    }
}
