use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use mainstay_rpc::trace;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_postgres::types::Type;
use tracing::Instrument as _;

use super::{Answered, Engine, Served, Until, mark, statement_span};
use crate::{
    cluster::NodeId,
    error::{Kind, QueryError},
    lsn::Position,
    node::Node,
    route::Reason,
    session::{
        self, Answer, Road, Statement,
        transaction::{Answers, Isolation, Progress},
    },
    token::Token,
};

/// One write.
#[derive(Debug)]
pub(crate) struct Write {
    pub statement: Statement,
    pub until: Until,
}

/// Several statements that happen all or not at all.
#[derive(Debug)]
pub(crate) struct Transaction {
    pub statements: Vec<Statement>,
    pub isolation: Isolation,
    /// It may be run again after it lost a race.
    pub idempotent: bool,
    pub until: Until,
}

/// What a transaction answered.
#[derive(Debug)]
pub(crate) struct TransactionDone {
    pub answers: Vec<Answer>,
    pub served: Served,
    pub token: Option<Token>,
}

/// Why a transaction was undone.
#[derive(Debug)]
pub(crate) struct TransactionFailed {
    /// Number of the statement that ran; that of the statements stands for the commit.
    pub statement: usize,
    pub error: QueryError,
}

type Written<T> = (T, Arc<Node>, Option<Position>);

/// Between two looks at a primary that refuses connections.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Between two probes of all nodes while a primary is waited for: the next one may be any of them.
const PROBE_AGAIN: Duration = Duration::from_millis(250);
/// Left of the deadline when waiting for a primary ends, so that the caller is told why.
const LAST_WORD: Duration = Duration::from_millis(20);
/// Before a transaction that lost a race is run again; doubled each time, with jitter.
const RACE_PAUSE: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(200)];

impl Engine {
    /// Runs one write on the primary.
    pub(crate) async fn execute(&self, write: Write) -> Result<Answered, QueryError> {
        let begun_at = Instant::now();
        let committing = AtomicBool::new(false);
        let attempt = |node| self.write_on(node, &write, &committing);
        let result = match timeout_at(write.until.at, self.on_primary(write.until, attempt)).await {
            Ok(result) => result,
            Err(_) => {
                let committing = committing.load(Ordering::Relaxed);
                Err(QueryError::Deadline { within: write.until.within, committing })
            }
        };
        let took = begun_at.elapsed();
        self.metrics.answered(Kind::Execute, result.as_ref().err().map(QueryError::code), took);
        let result = result.map(|(answer, node, position)| Answered {
            answer,
            served: served_by_primary(&node, 1),
            token: position.and_then(|position| self.token_of(position)),
            shown: None,
        });
        let done = result.as_ref().map(|done| (&done.served, done.answer.n_rows()));
        self.note(Kind::Execute, &write.statement, took, done, trace::trace_id);
        result
    }

    /// Runs several statements in one transaction on the primary; again after a lost race, if they may be.
    pub(crate) async fn transaction(
        &self,
        transaction: Transaction,
    ) -> Result<TransactionDone, TransactionFailed> {
        let begun_at = Instant::now();
        let progress = Progress::default();
        let run = self.until_won(&transaction, &progress);
        let result = match timeout_at(transaction.until.at, run).await {
            Ok(result) => result,
            Err(_) => {
                let committing = progress.committing.load(Ordering::Relaxed);
                Err(QueryError::Deadline { within: transaction.until.within, committing })
            }
        };
        let took = begun_at.elapsed();
        self.metrics.answered(Kind::Transaction, result.as_ref().err().map(QueryError::code), took);
        let statement = progress.statement.load(Ordering::Relaxed);
        match result {
            Ok(((answers, node, position), attempts)) => {
                let served = served_by_primary(&node, attempts);
                for (statement, (answer, took)) in transaction.statements.iter().zip(&answers) {
                    let done = Ok((&served, answer.n_rows()));
                    self.note(Kind::Transaction, statement, *took, done, trace::trace_id);
                }
                let answers = answers.into_iter().map(|(answer, _)| answer).collect();
                let token = position.and_then(|position| self.token_of(position));
                Ok(TransactionDone { answers, served, token })
            }
            Err(error) => {
                if let Some(failed) = transaction.statements.get(statement) {
                    self.note(Kind::Transaction, failed, took, Err(&error), trace::trace_id);
                }
                Err(TransactionFailed { statement, error })
            }
        }
    }

    async fn until_won(
        &self,
        transaction: &Transaction,
        progress: &Progress,
    ) -> Result<(Written<Answers>, u32), QueryError> {
        let [mut pause, longest] = RACE_PAUSE;
        for attempts in 1.. {
            let attempt = |node| self.transact_on(node, transaction, progress);
            match self.on_primary(transaction.until, attempt).await {
                Ok(written) => return Ok((written, attempts)),
                Err(error) if transaction.idempotent && error.is_lost_race() => {
                    let jittered = pause.mul_f64(0.5 + rand::random::<f64>());
                    if jittered + LAST_WORD >= transaction.until.left() {
                        return Err(error);
                    }
                    self.metrics.retries.inc();
                    sleep(jittered).await;
                    pause = (pause * 2).min(longest);
                }
                Err(error) => return Err(error),
            }
        }
        unreachable!("the loop ends by returning")
    }

    /// Runs `attempt` on the primary. While nothing was done because the primary is changing, it is waited for the next
    /// one, for `routing.write_wait_within` at most.
    async fn on_primary<T, F, Fut>(&self, until: Until, attempt: F) -> Result<T, QueryError>
    where
        F: Fn(Arc<Node>) -> Fut,
        Fut: Future<Output = Result<T, QueryError>>,
    {
        let now = Instant::now();
        let wait =
            self.fleet.topology().routing.write_wait_within.min(until.left().saturating_sub(LAST_WORD));
        let patience = now + wait;
        let mut news = self.fleet.news();
        let mut refused: Option<(NodeId, QueryError)> = None;
        let mut probe_at = now;
        loop {
            match (self.fleet.primary(), refused.take()) {
                // It says that it is none (any more): only news can change that.
                (Ok(node), Some((same, error))) if node.id == same && error.is_read_only() => {
                    refused = Some((same, error));
                }
                (Ok(node), _) => match attempt(Arc::clone(&node)).await {
                    Err(error) if error.is_not_sent() || error.is_read_only() => {
                        node.probe_now();
                        refused = Some((node.id, error));
                    }
                    result => return result,
                },
                (Err((why, true)), _) => return Err(why),
                (Err((why, false)), _) if Instant::now() >= patience => return Err(why),
                (Err((_, false)), before) => refused = before,
            }
            if Instant::now() >= patience {
                if let Some((_, error)) = refused {
                    return Err(error);
                }
            } else {
                if Instant::now() >= probe_at {
                    self.fleet.topology().nodes().for_each(|node| node.probe_now());
                    probe_at = Instant::now() + PROBE_AGAIN;
                }
                let look_again = patience.min(Instant::now() + LOOK_AGAIN);
                // What is known by then is looked at above.
                let _ = timeout_at(look_again, news.changed()).await;
            }
        }
    }

    async fn write_on(
        &self,
        node: Arc<Node>,
        write: &Write,
        committing: &AtomicBool,
    ) -> Result<Written<Answer>, QueryError> {
        let flight = node.begin()?;
        self.metrics.routed(Reason::Write);
        let span = statement_span(&node, &write.statement);
        let run = async {
            let sql = &write.statement.sql;
            loop {
                let (pool, pgbouncer) = node.way(sql);
                let road = Road { node: &node.name, pgbouncer };
                let lease = pool.lease().await?;
                write.statement.stopwatch.start(&node.name);
                match session::write::write(lease, road, &write.statement, write.until.left(), committing)
                    .await
                {
                    // It was rolled back before its commit, so it has not happened.
                    Err(error)
                        if pgbouncer && error.is_lost_statement() && !committing.load(Ordering::Relaxed) =>
                    {
                        node.keep_from_pooler(sql);
                    }
                    result => return result.inspect(|(answer, _)| learn(&node, pgbouncer, sql, answer)),
                }
            }
        };
        let result = run.instrument(span.clone()).await.inspect_err(|error| mark(&span, error));
        flight.end(&result);
        result.map(|(answer, position)| (answer, node, position))
    }

    async fn transact_on(
        &self,
        node: Arc<Node>,
        transaction: &Transaction,
        progress: &Progress,
    ) -> Result<Written<Answers>, QueryError> {
        let flight = node.begin()?;
        self.metrics.routed(Reason::Write);
        let statements = &transaction.statements;
        let span = statement_span(&node, &statements[0]);
        let run = async {
            loop {
                let way = |statement: &Statement| node.way(&statement.sql);
                // One statement that does not work behind the pooler takes all of them past it.
                let ways = statements.iter().map(way);
                let (pool, pgbouncer) =
                    ways.min_by_key(|(_, pgbouncer)| *pgbouncer).expect("a transaction has statements");
                let road = Road { node: &node.name, pgbouncer };
                let lease = pool.lease().await?;
                statements.iter().for_each(|statement| statement.stopwatch.start(&node.name));
                let left = transaction.until.left();
                match session::transaction::transaction(
                    lease,
                    road,
                    statements,
                    transaction.isolation,
                    left,
                    progress,
                )
                .await
                {
                    Err(error)
                        if pgbouncer
                            && error.is_lost_statement()
                            && !progress.committing.load(Ordering::Relaxed) =>
                    {
                        let failed = progress.statement.load(Ordering::Relaxed);
                        node.keep_from_pooler(&statements[failed.min(statements.len() - 1)].sql);
                    }
                    Ok((answers, position)) => {
                        for (statement, (answer, _)) in statements.iter().zip(&answers) {
                            learn(&node, pgbouncer, &statement.sql, answer);
                        }
                        return Ok((answers, position));
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        let result = run.instrument(span.clone()).await.inspect_err(|error| mark(&span, error));
        flight.end(&result);
        result.map(|(answers, position)| (answers, node, position))
    }

    /// Returns the node that takes writes.
    pub(crate) fn primary(&self) -> Result<Arc<Node>, QueryError> {
        self.fleet.primary().map_err(|(error, _)| error)
    }

    /// Makes the token of a position in the log of the primary.
    pub(crate) fn token_of(&self, position: Position) -> Option<Token> {
        self.fleet.look(|_, cluster| cluster.token(position))
    }
}

/// A column of a type that the database's users made lets the driver ask the catalog by a named statement, which a
/// `PgBouncer` before 1.21 may lose: the next time the statement goes past it.
fn learn(node: &Node, pgbouncer: bool, sql: &str, answer: &Answer) {
    let built_in = |column: &session::Column| Type::from_oid(column.ty.oid()).is_some();
    if pgbouncer && !answer.columns.iter().all(built_in) {
        node.keep_from_pooler(sql);
    }
}

fn served_by_primary(node: &Node, attempts: u32) -> Served {
    let node = Arc::clone(&node.name);
    Served { node, is_primary: true, staleness: None, reason: Reason::Write, attempts, hedged: false }
}
