use std::sync::Arc;

use futures_util::{StreamExt as _, future::BoxFuture, stream};
use mainstay_rpc::trace;
use tokio::time::{Instant, timeout_at};
use tracing::{Instrument as _, info_span};

use super::{Answered, Engine, Read, Served};
use crate::{
    error::{Kind, QueryError},
    fleet::Choice,
    session::{
        Road, Statement,
        together::{Budget, Ended, read_together},
    },
};

/// How often what is left of a batch is tried together again after one of it was refused.
const ROUNDS: usize = 3;
/// Reads of a batch that run at once when they run by themselves.
const AT_ONCE: usize = 8;

impl Engine {
    /// Runs reads that ask the same of a node, and returns what each of them answered.
    ///
    /// Queries share a connection and a transaction. What has no answer then, because it is no plain query, one before it was
    /// refused or the node failed, is run as if it were alone. A query may so be run more than once; it changes nothing.
    pub(crate) async fn query_together(
        &self,
        reads: &[Read],
        budget: &Budget,
    ) -> Vec<Result<Answered, QueryError>> {
        let mut results: Vec<_> = reads.iter().map(|_| None).collect();
        for _ in 0..ROUNDS {
            let shares = |index: &usize| results[*index].is_none() && reads[*index].statement.is_query();
            let left: Vec<_> = (0..reads.len()).filter(shares).collect();
            if left.len() < 2 || !self.share(reads, &left, budget, &mut results).await {
                break;
            }
        }
        let mut alone: Vec<BoxFuture<'_, ()>> = Vec::new();
        for (read, result) in reads.iter().zip(&mut results).filter(|(_, result)| result.is_none()) {
            alone.push(Box::pin(async move {
                let answered = self.query_alone(read).await;
                *result = Some(answered.and_then(|answered| budget.admit(answered.answer.n_bytes, answered)));
            }));
        }
        stream::iter(alone).buffer_unordered(AT_ONCE).collect::<()>().await;
        results.into_iter().map(|result| result.expect("who had no answer was run alone")).collect()
    }

    /// Runs some of the reads on one connection; returns whether any has its answer now.
    async fn share(
        &self,
        reads: &[Read],
        indexes: &[usize],
        budget: &Budget,
        results: &mut [Option<Result<Answered, QueryError>>],
    ) -> bool {
        let first = &reads[indexes[0]];
        let begun_at = Instant::now();
        let Ok(needs) = self.needs(first) else { return false };
        let Ok(choice) = self.wait_and_choose(first, &needs, None).await else { return false };
        let asked = self.asked(choice, first, false);
        let Choice { node, reason, elsewhere } = asked.choice;
        let Ok(flight) = node.begin() else { return false };
        let statements: Vec<&Statement> = indexes.iter().map(|index| &reads[*index].statement).collect();
        let mut ended: Vec<Option<Ended>> = indexes.iter().map(|_| None).collect();
        let span =
            self.span(|| info_span!("replica.together", node = &*node.name, n_reads = statements.len()));
        let run = async {
            let lease = node.reads().lease().await?;
            statements.iter().for_each(|statement| statement.stopwatch.start(&node.name));
            let road = Road { node: &node.name, pgbouncer: node.pgbouncer };
            read_together(lease, road, &statements, first.until.left(), budget, &mut ended).await
        };
        let connection = tokio::select! {
            biased;
            connection = timeout_at(first.until.at, run.instrument(span)) => connection,
            () = self.fleet.wait_replaceable(node.id, &needs) => {
                Ok(Err(QueryError::Broken { node: node.name.to_string(), source: None }))
            }
        };
        match &connection {
            Ok(connection) => flight.end_of(ended.iter().flatten().count().max(1), connection),
            // The time of all is over; that says nothing about the node.
            Err(_) => {
                let within = first.until.within;
                let late = || (Err(QueryError::Deadline { within, committing: false }), Instant::now());
                ended.iter_mut().for_each(|ended| _ = ended.get_or_insert_with(late));
            }
        }
        let staleness = asked.proven.map(|proven| proven + asked.at.elapsed());
        let served = Served {
            node: Arc::clone(&node.name),
            is_primary: asked.is_primary,
            staleness,
            reason,
            attempts: 1,
            hedged: false,
        };
        let (mut before, mut any) = (begun_at, false);
        for (index, ended) in indexes.iter().zip(ended) {
            let Some((answer, at)) = ended else { continue };
            any = true;
            self.metrics.routed(reason);
            if elsewhere {
                self.metrics.other_zone.inc();
            }
            // Each takes the time since the one before it, the first that of the way to the node too.
            let took = at.saturating_duration_since(std::mem::replace(&mut before, at));
            self.metrics.answered(Kind::Query, answer.as_ref().err().map(QueryError::code), took);
            let done = answer.as_ref().map(|answer| (&served, answer.n_rows()));
            self.note(Kind::Query, &reads[*index].statement, took, done, trace::trace_id);
            let answered =
                |answer| Answered { answer, served: served.clone(), token: None, shown: asked.shown };
            results[*index] = Some(answer.map(answered));
        }
        any
    }
}
