//! Answers reads and writes: route, run, and what to do when that fails.

use std::{sync::Arc, time::Duration};

use mainstay_rpc::trace;
use mainstay_runtime::Context;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{Instrument as _, Span, field::Empty, info_span};

use crate::{
    cluster::NodeId,
    error::{Kind, QueryError},
    fleet::{Choice, Chosen, Fleet},
    insight::{Call, Insight},
    lsn::{Lsn, Position},
    metrics::Metrics,
    node::Node,
    route::{Place, Prefer, ReadNeeds, Reason},
    session::{self, Answer, Road, Statement},
    slow_log::{Ended, SlowLog},
    token::Token,
};

mod hedge;
mod plan;
mod stream;
mod together;
mod write;

pub(crate) use hedge::Hedge;
pub(crate) use stream::StreamRead;
pub(crate) use write::{Transaction, TransactionDone, TransactionFailed, Write};

/// Runs statements on the node that each belongs on.
///
/// A read is idempotent by proof, because it runs read-only: after a failure that is the node's it is tried once more,
/// elsewhere if possible. A write is sent once.
pub(crate) struct Engine {
    pub fleet: Arc<Fleet>,
    pub metrics: Metrics,
    pub insight: Insight,
    pub slow_log: SlowLog,
    /// `None` where no read is asked twice.
    pub hedge: Option<Hedge>,
    pub cx: Context,
}

/// One read.
#[derive(Debug)]
pub(crate) struct Read {
    pub statement: Statement,
    /// `None` for the configured bound.
    pub max_staleness: Option<Duration>,
    /// `None` for the configured bound, or for none where `max_staleness` is given.
    pub max_lag_bytes: Option<u64>,
    pub after: Option<Token>,
    /// What is known to have been written and must be shown; unlike a token it comes from ourselves.
    pub written: Option<Position>,
    pub prefer: Prefer,
    /// Whose replicas come first; empty for the configured zone.
    pub zone: String,
    pub until: Until,
}

impl Read {
    /// Tells whether any node that may answer the one may answer the other, for callers who wait as long.
    pub(crate) fn asks_like(&self, other: &Self) -> bool {
        let bounds =
            |read: &Self| (read.max_staleness, read.max_lag_bytes, read.after, read.written, read.prefer);
        bounds(self) == bounds(other) && self.zone == other.zone
    }
}

/// When the caller stops waiting.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Until {
    pub at: Instant,
    pub within: Duration,
}

/// An answer and where it came from.
#[derive(Debug)]
pub(crate) struct Answered {
    pub answer: Answer,
    pub served: Served,
    /// Of a write: where it ended in the log.
    pub token: Option<Token>,
    /// Of a read: it shows everything that was committed up to here; `None` when that is not known.
    pub shown: Option<Position>,
}

/// Who answered, and how fresh it was.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    pub node: Arc<str>,
    pub is_primary: bool,
    /// Proven upper bound at the time of the answer; `None` on the primary.
    pub staleness: Option<Duration>,
    pub reason: Reason,
    pub attempts: u32,
    /// Another replica was asked too, because one was slow.
    pub hedged: bool,
}

const MAX_ATTEMPTS: u32 = 2;
/// Between two looks at a replica that a token waits for; grows up to the second.
const LOOK_AGAIN: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(20)];
const SHOWN_SQL_BYTES: usize = 2_048;

impl Engine {
    /// Runs one read on a node that keeps its bounds.
    pub(crate) async fn query(&self, read: Read) -> Result<Answered, QueryError> {
        self.query_alone(&read).await
    }

    async fn query_alone(&self, read: &Read) -> Result<Answered, QueryError> {
        let begun_at = Instant::now();
        let result = self.within(read, true).await;
        let took = begun_at.elapsed();
        self.metrics.answered(Kind::Query, result.as_ref().err().map(QueryError::code), took);
        let done = result.as_ref().map(|done| (&done.served, done.answer.n_rows()));
        self.note(Kind::Query, &read.statement, took, done, trace::trace_id);
        result
    }

    /// Notes what a statement cost; `done` is who answered and with how many rows.
    fn note(
        &self,
        kind: Kind,
        statement: &Statement,
        took: Duration,
        done: Result<(&Served, u64), &QueryError>,
        trace_id: impl FnOnce() -> Option<String>,
    ) {
        let at = self.cx.clock().now();
        let call = Call {
            took,
            ok: done.is_ok(),
            rows: done.map_or(0, |(_, rows)| rows),
            node: done.ok().map(|(served, _)| Arc::clone(&served.node)),
        };
        self.insight.record(&statement.sql, &call, at);
        if self.slow_log.is_slow(took) {
            let (last, waited, executed) = statement.stopwatch.split(took);
            self.metrics.slow.statement(kind);
            self.slow_log.keep(Ended {
                at,
                kind,
                sql: &statement.sql,
                params: &statement.params,
                node: call.node.or(last),
                waited,
                executed,
                rows: call.rows,
                error: done.err().map(QueryError::reason),
                trace_id: trace_id(),
            });
        }
    }

    /// Runs one read of our own: it is routed and bounded like any other, but no caller asked for it.
    pub(crate) async fn ask(&self, read: Read) -> Result<Answered, QueryError> {
        self.within(&read, false).await
    }

    async fn within(&self, read: &Read, may_hedge: bool) -> Result<Answered, QueryError> {
        match timeout_at(read.until.at, self.read(read, may_hedge)).await {
            Ok(result) => result,
            Err(_) => Err(QueryError::Deadline { within: read.until.within, committing: false }),
        }
    }

    async fn read(&self, read: &Read, may_hedge: bool) -> Result<Answered, QueryError> {
        let needs = self.needs(read)?;
        let (mut attempts, mut failed) = (0, None::<(NodeId, QueryError)>);
        loop {
            let choice = self.route_again(read, &needs, failed).await?;
            attempts += 1;
            let (asked, result) = if may_hedge && attempts == 1 {
                self.ask_hedged(choice, read, &needs).await
            } else {
                let asked = self.asked(choice, read, false);
                let result = self.read_on(&asked.choice.node, read, &needs).await;
                (asked, result)
            };
            let Choice { node, reason, .. } = asked.choice;
            match result {
                Ok(answer) => {
                    // What the replica showed is as old as when it was chosen, plus the time since.
                    let staleness = asked.proven.map(|proven| proven + asked.at.elapsed());
                    let served = Served {
                        node: Arc::clone(&node.name),
                        is_primary: asked.is_primary,
                        staleness,
                        reason,
                        attempts,
                        hedged: asked.hedged,
                    };
                    return Ok(Answered { answer, served, token: None, shown: asked.shown });
                }
                Err(error) if error.may_succeed_elsewhere() && attempts < MAX_ATTEMPTS => {
                    tracing::debug!(node = &*node.name, %error, "read tried again");
                    self.metrics.retries.inc();
                    failed = Some((node.id, error));
                }
                Err(error) => return Err(error),
            }
        }
    }

    pub(crate) fn needs(&self, read: &Read) -> Result<ReadNeeds, QueryError> {
        let mut needs = self.fleet.default_needs();
        needs.prefer = read.prefer;
        if !read.zone.is_empty() {
            needs.zone = self.fleet.look(|topology, _| topology.zone(&read.zone));
        }
        if let Some(max_staleness) = read.max_staleness {
            needs.max_staleness = max_staleness;
            needs.max_lag_bytes = None;
        }
        needs.max_lag_bytes = read.max_lag_bytes.or(needs.max_lag_bytes);
        if let Some(token) = read.after {
            let known = self.fleet.look(|_, cluster| cluster.system_identifier());
            if known.is_some_and(|known| known != token.system_identifier) {
                return Err(QueryError::Token("it belongs to another cluster".into()));
            }
            needs.after = Some(token.position);
        }
        let latest = |a: Position, b: Position| std::cmp::max_by_key(a, b, |at| (at.timeline, at.lsn));
        needs.after = [needs.after, read.written].into_iter().flatten().reduce(latest);
        Ok(needs)
    }

    /// Returns up to where a node surely shows the log when it is asked now.
    ///
    /// A primary shows a commit a moment after its record stands in the log. So the end of the log that a probe saw
    /// does not count itself; what a writer was told afterwards does.
    fn shown(&self, node: NodeId, written: Option<Position>) -> Option<Position> {
        self.fleet.look(|_, cluster| match cluster.place(node) {
            Place::Replica { replayed, .. } => replayed,
            Place::Primary { timeline, .. } => {
                let (_, seen) = cluster.last(node)?;
                let probed = Position { timeline, lsn: Lsn(seen.lsn.0.saturating_sub(1)) };
                let written = written.filter(|at| at.timeline == timeline && at.lsn > probed.lsn);
                Some(written.unwrap_or(probed))
            }
            Place::Neither => None,
        })
    }

    /// Chooses a node; waits a little for one that the next probe may show to be fit.
    async fn route(
        &self,
        read: &Read,
        needs: &ReadNeeds,
        tried: Option<NodeId>,
    ) -> Result<Choice, QueryError> {
        let span = self.span(|| info_span!("replica.route", node = Empty, reason = Empty));
        let choice = self.wait_and_choose(read, needs, tried).instrument(span.clone()).await?;
        span.record("node", &*choice.node.name).record("reason", choice.reason.as_str());
        self.metrics.routed(choice.reason);
        if choice.elsewhere {
            self.metrics.other_zone.inc();
        }
        Ok(choice)
    }

    /// Chooses a node after another one has failed, and fails with its error where there is none.
    async fn route_again(
        &self,
        read: &Read,
        needs: &ReadNeeds,
        failed: Option<(NodeId, QueryError)>,
    ) -> Result<Choice, QueryError> {
        let Some((tried, error)) = failed else { return self.route(read, needs, None).await };
        if let Ok(choice) = self.route(read, needs, Some(tried)).await {
            return Ok(choice);
        }
        // Nobody else: the same node may have come back, as a restarted pooler does.
        self.route(read, needs, None).await.map_err(|_| error)
    }

    async fn wait_and_choose(
        &self,
        read: &Read,
        needs: &ReadNeeds,
        tried: Option<NodeId>,
    ) -> Result<Choice, QueryError> {
        let patience = Instant::now() + self.fleet.topology().routing.token_wait_within;
        let patience = patience.min(read.until.at);
        let mut news = self.fleet.news();
        let [mut pause, longest] = LOOK_AGAIN;
        loop {
            let Chosen { choice, hopeful } = self.fleet.choose(needs, tried);
            let settled = matches!(choice, Ok(Choice { reason: Reason::Replica, .. }));
            if settled || hopeful.is_empty() || Instant::now() >= patience {
                return choice;
            }
            hopeful.iter().for_each(|node| node.probe_now());
            // Out of patience is seen above, with what is known by then.
            let _ = timeout_at(patience, news.changed()).await;
            sleep(pause.min(patience.saturating_duration_since(Instant::now()))).await;
            pause = (pause * 2).min(longest);
        }
    }

    /// Makes a span where spans are sent to somebody; what is logged belongs to the trace of the request all the same.
    fn span(&self, make: impl FnOnce() -> Span) -> Span {
        if self.cx.records_spans() { make() } else { Span::none() }
    }

    fn standing(&self, node: NodeId) -> (bool, Option<Duration>) {
        let place = self.fleet.look(|_, cluster| cluster.place(node));
        (matches!(place, Place::Primary { .. }), place.staleness(Instant::now().into_std()))
    }

    async fn read_on(&self, node: &Arc<Node>, read: &Read, needs: &ReadNeeds) -> Result<Answer, QueryError> {
        let flight = node.begin()?;
        let span = self.span(|| statement_span(node, &read.statement));
        let run = async {
            let lease = node.reads().lease().await?;
            read.statement.stopwatch.start(&node.name);
            let road = Road { node: &node.name, pgbouncer: node.pgbouncer };
            session::read::read(lease, road, &read.statement, read.until.left()).await
        };
        // A node that is declared down while it should answer will not answer; better to ask somebody else.
        let result = tokio::select! {
            biased;
            result = run.instrument(span.clone()) => result,
            () = self.fleet.wait_replaceable(node.id, needs) => {
                Err(QueryError::Broken { node: node.name.to_string(), source: None })
            }
        }
        .inspect_err(|error| mark(&span, error));
        flight.end(&result);
        result
    }
}

impl Until {
    fn left(self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }
}

fn statement_span(node: &Node, statement: &Statement) -> Span {
    let mut end = statement.sql.len().min(SHOWN_SQL_BYTES);
    while !statement.sql.is_char_boundary(end) {
        end -= 1;
    }
    info_span!(
        "postgresql.query",
        otel.kind = "client",
        otel.status_code = Empty,
        db.system.name = "postgresql",
        db.query.text = &statement.sql[..end],
        db.response.status_code = Empty,
        server.address = node.host,
        server.port = node.port,
        node = &*node.name,
    )
}

fn mark(span: &Span, error: &QueryError) {
    span.record("otel.status_code", "ERROR");
    if let QueryError::Database { source, .. } = error {
        span.record("db.response.status_code", source.code.code());
    }
}
