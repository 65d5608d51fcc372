//! Answers reads and writes: route, run, and what to do when that fails.

use std::{sync::Arc, time::Duration};

use mainstay_runtime::Context;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_postgres::types::Type;
use tracing::{Instrument as _, Span, field::Empty, info_span};

use crate::{
    error::{Kind, QueryError},
    fleet::Fleet,
    insight::{Call, Insight},
    metrics::Metrics,
    node::Node,
    route::{Pick, Place, Prefer, ReadNeeds, Reason},
    session::{self, Answer, Road, Statement},
    token::Token,
};

mod stream;
mod write;

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
    pub cx: Context,
}

/// One read.
#[derive(Debug)]
pub(crate) struct Read {
    pub statement: Statement,
    /// `None` for the configured bound.
    pub max_staleness: Option<Duration>,
    pub after: Option<Token>,
    pub prefer: Prefer,
    pub until: Until,
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
}

/// Who answered, and how fresh it was.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    pub node: String,
    pub is_primary: bool,
    /// Proven upper bound at the time of the answer; `None` on the primary.
    pub staleness: Option<Duration>,
    pub reason: Reason,
    pub attempts: u32,
}

const MAX_ATTEMPTS: u32 = 2;
/// Between two looks at a replica that a token waits for; grows up to the second.
const LOOK_AGAIN: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(20)];
const SHOWN_SQL_BYTES: usize = 2_048;

impl Engine {
    /// Runs one read on a node that keeps its bounds.
    pub(crate) async fn query(&self, read: Read) -> Result<Answered, QueryError> {
        let begun_at = Instant::now();
        let sql = read.statement.sql.clone();
        let result = self.ask(read).await;
        self.metrics.answered(Kind::Query, result.as_ref().err().map(QueryError::code), begun_at.elapsed());
        self.note(
            &sql,
            begun_at.elapsed(),
            result.as_ref().ok().map(|done| (&done.served, done.answer.n_rows())),
        );
        result
    }

    /// Notes what a statement cost; `done` is who answered and with how many rows.
    fn note(&self, sql: &str, took: Duration, done: Option<(&Served, u64)>) {
        let node = |served: &Served| self.fleet.names.iter().position(|name| *name == served.node);
        let call = Call {
            took,
            ok: done.is_some(),
            rows: done.map_or(0, |(_, rows)| rows),
            node: done.and_then(|(served, _)| node(served)),
        };
        self.insight.record(sql, call, self.cx.clock().now());
    }

    /// Runs one read of our own: it is routed and bounded like any other, but no caller asked for it.
    pub(crate) async fn ask(&self, read: Read) -> Result<Answered, QueryError> {
        match timeout_at(read.until.at, self.read(&read)).await {
            Ok(result) => result,
            Err(_) => Err(QueryError::Deadline { within: read.until.within, committing: false }),
        }
    }

    async fn read(&self, read: &Read) -> Result<Answered, QueryError> {
        let needs = self.needs(read)?;
        let (mut attempts, mut failed) = (0, None::<(usize, QueryError)>);
        loop {
            let tried = failed.as_ref().map(|(node, _)| *node);
            let pick = match (self.route(read, &needs, tried).await, failed) {
                (Ok(pick), _) => pick,
                (Err(refused), None) => return Err(refused),
                // Nobody else: the same node may have come back, as a restarted pooler does.
                (Err(_), Some((_, error))) => match self.route(read, &needs, None).await {
                    Ok(pick) => pick,
                    Err(_) => return Err(error),
                },
            };
            attempts += 1;
            let (is_primary, proven) = self.standing(pick.node);
            let decided_at = Instant::now();
            match self.read_on(pick.node, is_primary, read, &needs).await {
                Ok(answer) => {
                    // What the replica showed is as old as when it was chosen, plus the time since.
                    let staleness = proven.map(|proven| proven + decided_at.elapsed());
                    let node = self.fleet.names[pick.node].clone();
                    let served = Served { node, is_primary, staleness, reason: pick.reason, attempts };
                    return Ok(Answered { answer, served, token: None });
                }
                Err(error) if error.may_succeed_elsewhere() && attempts < MAX_ATTEMPTS => {
                    tracing::debug!(node = self.fleet.names[pick.node], %error, "read tried again");
                    self.metrics.retries.inc();
                    failed = Some((pick.node, error));
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn needs(&self, read: &Read) -> Result<ReadNeeds, QueryError> {
        let mut needs = self.fleet.default_needs();
        needs.prefer = read.prefer;
        if let Some(max_staleness) = read.max_staleness {
            needs.max_staleness = max_staleness;
            needs.max_lag_bytes = None;
        }
        if let Some(token) = read.after {
            let known = self.fleet.with_cluster(crate::cluster::Cluster::system_identifier);
            if known.is_some_and(|known| known != token.system_identifier) {
                return Err(QueryError::Token("it belongs to another cluster".into()));
            }
            needs.after = Some(token.position);
        }
        Ok(needs)
    }

    /// Chooses a node; waits a little for a replica that only lacks the token.
    async fn route(&self, read: &Read, needs: &ReadNeeds, tried: Option<usize>) -> Result<Pick, QueryError> {
        let span = info_span!("replica.route", node = Empty, reason = Empty);
        let pick = self.wait_and_choose(read, needs, tried).instrument(span.clone()).await?;
        span.record("node", &self.fleet.names[pick.node]).record("reason", pick.reason.as_str());
        self.metrics.routed(pick.reason);
        Ok(pick)
    }

    async fn wait_and_choose(
        &self,
        read: &Read,
        needs: &ReadNeeds,
        tried: Option<usize>,
    ) -> Result<Pick, QueryError> {
        let patience = Instant::now() + self.fleet.routing.token_wait_within;
        let patience = patience.min(read.until.at);
        let mut news = self.fleet.news();
        let [mut pause, longest] = LOOK_AGAIN;
        loop {
            let decision = self.fleet.choose(needs, tried);
            let settled = matches!(decision.pick, Ok(Pick { reason: Reason::Replica, .. }));
            if settled || decision.behind_token.is_empty() || Instant::now() >= patience {
                return decision.pick.map_err(|refused| QueryError::from((refused, &*self.fleet.names)));
            }
            for node in decision.behind_token {
                self.fleet.nodes[node].probe_now();
            }
            // Out of patience is seen above, with what is known by then.
            let _ = timeout_at(patience, news.changed()).await;
            sleep(pause.min(patience.saturating_duration_since(Instant::now()))).await;
            pause = (pause * 2).min(longest);
        }
    }

    fn standing(&self, node: usize) -> (bool, Option<Duration>) {
        match self.fleet.with_cluster(|cluster| cluster.place(node, Some(Instant::now().into_std()))) {
            Place::Primary { .. } => (true, None),
            Place::Replica { staleness, .. } => (false, staleness),
            Place::Neither => (false, None),
        }
    }

    async fn read_on(
        &self,
        index: usize,
        is_primary: bool,
        read: &Read,
        needs: &ReadNeeds,
    ) -> Result<Answer, QueryError> {
        let node = &self.fleet.nodes[index];
        let flight = node.begin()?;
        let span = statement_span(node, &read.statement);
        let run = async {
            let sql = &read.statement.sql;
            loop {
                let (pool, pgbouncer) = node.way(sql, Kind::Query);
                let road = Road { node: &node.name, pgbouncer, is_primary };
                let lease = pool.lease().await?;
                match session::read(lease, road, &read.statement, read.until.left()).await {
                    Err(error) if pgbouncer && error.is_lost_statement() => node.keep_from_pooler(sql),
                    result => return result.inspect(|answer| learn(node, pgbouncer, sql, answer)),
                }
            }
        };
        // A node that is declared down while it should answer will not answer; better to ask somebody else.
        let result = tokio::select! {
            biased;
            result = run.instrument(span.clone()) => result,
            () = self.fleet.wait_replaceable(index, needs) => Err(QueryError::Broken { node: node.name.clone(), source: None }),
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
        node = node.name,
    )
}

/// A column of a type that the database's users made lets the driver ask the catalog by a named statement, which a
/// `PgBouncer` before 1.21 may lose: the next time the statement goes past it.
fn learn(node: &Node, pgbouncer: bool, sql: &str, answer: &Answer) {
    let built_in = |column: &session::Column| Type::from_oid(column.ty.oid()).is_some();
    if pgbouncer && !answer.columns.iter().all(built_in) {
        node.keep_from_pooler(sql);
    }
}

fn mark(span: &Span, error: &QueryError) {
    span.record("otel.status_code", "ERROR");
    if let QueryError::Database { source, .. } = error {
        span.record("db.response.status_code", source.code().code());
    }
}
