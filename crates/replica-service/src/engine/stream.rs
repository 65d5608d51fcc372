use std::{sync::Arc, time::Duration};

use mainstay_rpc::trace;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};
use tracing::Instrument as _;

use super::{Engine, MAX_ATTEMPTS, Read, Served, mark, statement_span};
use crate::{
    error::{Kind, QueryError},
    fleet::Choice,
    node::Node,
    session::{
        self, Road,
        stream::{Chunk, Sink, StreamLimits, WAITING_CHUNKS},
    },
};

/// One read whose rows are sent in chunks.
#[derive(Debug)]
pub(crate) struct StreamRead {
    /// Its limits of rows and bytes do not count here.
    pub read: Read,
    pub limits: StreamLimits,
}

/// For the last word to a caller that does not read.
const LAST_WORD_WITHIN: Duration = Duration::from_secs(1);

impl Engine {
    /// Starts a read and returns where its chunks arrive; it ends when the receiver is dropped.
    pub(crate) fn stream(self: &Arc<Self>, stream: StreamRead) -> mpsc::Receiver<Result<Chunk, QueryError>> {
        let (chunks_tx, chunks) = mpsc::channel(WAITING_CHUNKS);
        let (engine, trace_id) = (Arc::clone(self), trace::trace_id());
        self.cx.spawn_work(async move {
            let sink = Sink::new(chunks_tx);
            tokio::select! {
                biased;
                // Dropping the other branch drops the connection, which cancels the statement.
                () = sink.closed() => {}
                () = engine.pour(&stream, &sink, trace_id) => {}
            }
        });
        chunks
    }

    async fn pour(&self, stream: &StreamRead, sink: &Sink, trace_id: Option<String>) {
        let begun_at = Instant::now();
        let until = stream.read.until;
        let result = match timeout_at(until.at, self.pour_from_any(stream, sink)).await {
            Ok(result) => result,
            Err(_) => Err(QueryError::Deadline { within: until.within, committing: false }),
        };
        let took = begun_at.elapsed();
        self.metrics.answered(Kind::Stream, result.as_ref().err().map(QueryError::code), took);
        let done = result.as_ref().map(|(served, rows)| (served, *rows));
        self.note(Kind::Stream, &stream.read.statement, took, done, || trace_id);
        match result {
            Ok((_, rows)) => {
                self.metrics.stream_rows.inc_by(rows);
            }
            Err(error) => {
                // A caller that does not read sees a stream without a last chunk.
                let _ = timeout(LAST_WORD_WITHIN, sink.fail(error)).await;
            }
        }
    }

    /// Tries a second node as long as nothing was sent.
    async fn pour_from_any(&self, stream: &StreamRead, sink: &Sink) -> Result<(Served, u64), QueryError> {
        let needs = self.needs(&stream.read)?;
        let (mut attempts, mut failed) = (0, None);
        loop {
            let Choice { node, reason, .. } = self.route_again(&stream.read, &needs, failed).await?;
            attempts += 1;
            let (is_primary, staleness) = self.standing(node.id);
            let name = Arc::clone(&node.name);
            let served = Served { node: name, is_primary, staleness, reason, attempts, hedged: false };
            let poured = tokio::select! {
                biased;
                poured = self.pour_from(&node, served.clone(), stream, sink) => poured,
                // It will not answer any more; see `read_on`.
                () = self.fleet.wait_replaceable(node.id, &needs) => {
                    Err(QueryError::Broken { node: node.name.to_string(), source: None })
                }
            };
            match poured {
                Ok(rows) => return Ok((served, rows)),
                Err(error)
                    if error.may_succeed_elsewhere() && !sink.has_begun() && attempts < MAX_ATTEMPTS =>
                {
                    tracing::debug!(node = &*served.node, %error, "stream tried again");
                    self.metrics.retries.inc();
                    failed = Some((node.id, error));
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn pour_from(
        &self,
        node: &Node,
        served: Served,
        stream: &StreamRead,
        sink: &Sink,
    ) -> Result<u64, QueryError> {
        let flight = node.begin()?;
        let statement = &stream.read.statement;
        let span = statement_span(node, statement);
        let run = async {
            let lease = node.reads().lease().await?;
            statement.stopwatch.start(&node.name);
            let road = Road { node: &node.name, pgbouncer: node.pgbouncer };
            let left = stream.read.until.left();
            session::stream::stream(lease, road, statement, stream.limits, left, (served, sink)).await
        };
        let result = run.instrument(span.clone()).await.inspect_err(|error| mark(&span, error));
        flight.end(&result);
        result
    }
}
