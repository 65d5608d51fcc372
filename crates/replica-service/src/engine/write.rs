use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use mainstay_rpc::trace;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::Instrument as _;

use super::{Answered, Engine, Served, Until, learn, mark, statement_span};
use crate::{
    cluster::Primary,
    error::{Kind, QueryError},
    lsn::Position,
    route::{Reason, Refusal},
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

type Written<T> = (T, usize, Option<Position>);

/// Between two looks at a primary that refuses connections.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Left of the deadline when waiting for a primary ends, so that the caller is told why.
const LAST_WORD: Duration = Duration::from_millis(20);
/// Before a transaction that lost a race is run again; doubled each time, with jitter.
const RACE_PAUSE: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(200)];

impl Engine {
    /// Runs one write on the primary.
    pub(crate) async fn execute(&self, write: Write) -> Result<Answered, QueryError> {
        let begun_at = Instant::now();
        let committing = AtomicBool::new(false);
        let attempt = |index| self.write_on(index, &write, &committing);
        let result = match timeout_at(write.until.at, self.on_primary(write.until, attempt)).await {
            Ok(result) => result,
            Err(_) => {
                let committing = committing.load(Ordering::Relaxed);
                Err(QueryError::Deadline { within: write.until.within, committing })
            }
        };
        let took = begun_at.elapsed();
        self.metrics.answered(Kind::Execute, result.as_ref().err().map(QueryError::code), took);
        let result = result.map(|(answer, index, position)| Answered {
            answer,
            served: self.served_by_primary(index, 1),
            token: self.token(index, position),
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
            Ok(((answers, index, position), attempts)) => {
                let served = self.served_by_primary(index, attempts);
                for (statement, (answer, took)) in transaction.statements.iter().zip(&answers) {
                    let done = Ok((&served, answer.n_rows()));
                    self.note(Kind::Transaction, statement, *took, done, trace::trace_id);
                }
                let answers = answers.into_iter().map(|(answer, _)| answer).collect();
                Ok(TransactionDone { answers, served, token: self.token(index, position) })
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
            let attempt = |index| self.transact_on(index, transaction, progress);
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
        F: Fn(usize) -> Fut,
        Fut: Future<Output = Result<T, QueryError>>,
    {
        let now = Instant::now();
        let wait = self.fleet.routing.write_wait_within.min(until.left().saturating_sub(LAST_WORD));
        let patience = now + wait;
        let mut news = self.fleet.news();
        let mut refused: Option<(usize, QueryError)> = None;
        loop {
            match (self.primary(), refused.take()) {
                // It says that it is none (any more): only news can change that.
                (Ok(index), Some((same, error))) if index == same && error.is_read_only() => {
                    refused = Some((same, error));
                }
                (Ok(index), _) => match attempt(index).await {
                    Err(error) if error.is_not_sent() || error.is_read_only() => {
                        self.fleet.nodes[index].probe_now();
                        refused = Some((index, error));
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
                let look_again = patience.min(Instant::now() + LOOK_AGAIN);
                // What is known by then is looked at above.
                let _ = timeout_at(look_again, news.changed()).await;
            }
        }
    }

    async fn write_on(
        &self,
        index: usize,
        write: &Write,
        committing: &AtomicBool,
    ) -> Result<Written<Answer>, QueryError> {
        self.metrics.routed(Reason::Write);
        let node = &self.fleet.nodes[index];
        let flight = node.begin()?;
        let span = statement_span(node, &write.statement);
        let run = async {
            let sql = &write.statement.sql;
            loop {
                let (pool, pgbouncer) = node.way(sql, Kind::Execute);
                let road = Road { node: &node.name, pgbouncer, is_primary: true };
                let lease = pool.lease().await?;
                write.statement.stopwatch.start(index);
                match session::write(lease, road, &write.statement, write.until.left(), committing).await {
                    // It was rolled back before its commit, so it has not happened.
                    Err(error)
                        if pgbouncer && error.is_lost_statement() && !committing.load(Ordering::Relaxed) =>
                    {
                        node.keep_from_pooler(sql);
                    }
                    result => return result.inspect(|(answer, _)| learn(node, pgbouncer, sql, answer)),
                }
            }
        };
        let result = run.instrument(span.clone()).await.inspect_err(|error| mark(&span, error));
        flight.end(&result);
        result.map(|(answer, position)| (answer, index, position))
    }

    async fn transact_on(
        &self,
        index: usize,
        transaction: &Transaction,
        progress: &Progress,
    ) -> Result<Written<Answers>, QueryError> {
        self.metrics.routed(Reason::Write);
        let node = &self.fleet.nodes[index];
        let flight = node.begin()?;
        let statements = &transaction.statements;
        let span = statement_span(node, &statements[0]);
        let run = async {
            loop {
                let way = |statement: &Statement| node.way(&statement.sql, Kind::Transaction);
                // One statement that does not work behind the pooler takes all of them past it.
                let ways = statements.iter().map(way);
                let (pool, pgbouncer) =
                    ways.min_by_key(|(_, pgbouncer)| *pgbouncer).expect("a transaction has statements");
                let road = Road { node: &node.name, pgbouncer, is_primary: true };
                let lease = pool.lease().await?;
                statements.iter().for_each(|statement| statement.stopwatch.start(index));
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
                            learn(node, pgbouncer, &statement.sql, answer);
                        }
                        return Ok((answers, position));
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        let result = run.instrument(span.clone()).await.inspect_err(|error| mark(&span, error));
        flight.end(&result);
        result.map(|(answers, position)| (answers, index, position))
    }

    /// Returns the primary; the flag of the error says that waiting does not help.
    fn primary(&self) -> Result<usize, (QueryError, bool)> {
        self.fleet.with_cluster(|cluster| match cluster.primary() {
            Primary::Node { node, .. } => match cluster.barred(*node) {
                None => Ok(*node),
                Some(refusal) => {
                    let why = format!("{}: {refusal}", self.fleet.names[*node]);
                    Err((QueryError::NoPrimary(why), false))
                }
            },
            Primary::None => {
                let why = |index| {
                    cluster
                        .barred(index)
                        .map_or_else(|| "a replica".to_owned(), |refusal: Refusal| refusal.to_string())
                };
                let names = self.fleet.names.iter().enumerate();
                let nodes: Vec<_> = names.map(|(index, name)| format!("{name} is {}", why(index))).collect();
                Err((QueryError::NoPrimary(nodes.join(", ")), false))
            }
            Primary::SplitBrain(nodes) => {
                let nodes: Vec<_> = nodes.iter().map(|node| self.fleet.names[*node].as_str()).collect();
                Err((QueryError::NoPrimary(format!("split brain of {}", nodes.join(" and "))), true))
            }
        })
    }

    /// Returns the node that takes writes.
    pub(crate) fn primary_index(&self) -> Result<usize, QueryError> {
        self.primary().map_err(|(error, _)| error)
    }

    /// Makes the token of a position in the log of the primary.
    pub(crate) fn token_of(&self, position: Position) -> Option<Token> {
        self.token(self.primary_index().ok()?, Some(position))
    }

    fn served_by_primary(&self, index: usize, attempts: u32) -> Served {
        let node = self.fleet.names[index].clone();
        Served { node, is_primary: true, staleness: None, reason: Reason::Write, attempts, hedged: false }
    }

    fn token(&self, node: usize, position: Option<Position>) -> Option<Token> {
        let position = position?;
        self.fleet.with_cluster(|cluster| {
            let (_, seen) = cluster.last(node)?;
            let lsn = position.lsn.end_of_record(seen.shape);
            Some(Token { system_identifier: seen.system_identifier, position: Position { lsn, ..position } })
        })
    }
}
