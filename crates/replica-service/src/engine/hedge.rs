use std::{pin::pin, sync::Arc, time::Duration};

use mainstay_resilience::budget::RetryBudget;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use super::{Engine, Read};
use crate::{
    config::HedgeConfig,
    error::QueryError,
    fleet::Choice,
    insight::Insight,
    lsn::Position,
    route::{ReadNeeds, Reason},
    session::Answer,
};

/// Decides when a second replica is asked because the first one is slow.
///
/// Slow is what the same kind of statement hardly ever takes, so a statement that always takes long is not asked
/// twice. The second questions stay below a share of all reads of the last seconds, however slow everything is.
/// The idea is that of Dean and Barroso, "The Tail at Scale", 2013.
pub(crate) struct Hedge {
    budget: Mutex<RetryBudget>,
    least: Duration,
}

/// One node that is asked, and what was known about it before.
pub(super) struct Asked {
    pub choice: Choice,
    pub is_primary: bool,
    /// Proven upper bound of its staleness then.
    pub proven: Option<Duration>,
    pub shown: Option<Position>,
    pub at: Instant,
    /// Whether another one was asked beside it.
    pub hedged: bool,
}

/// How unusual it is to take so long.
const QUANTILE: f64 = 0.95;
/// Calls of a kind of statement below which its times say nothing.
const MIN_CALLS: u64 = 20;
const WINDOW: Duration = Duration::from_secs(10);

impl Hedge {
    /// Returns none where no second question is allowed.
    pub(crate) fn new(config: &HedgeConfig) -> Option<Self> {
        (config.max_ratio > 0.0).then(|| Self {
            budget: Mutex::new(RetryBudget::new(config.max_ratio, 0.0, WINDOW)),
            least: config.min_delay,
        })
    }

    /// Counts a read, and returns how long it may take before another node is asked.
    fn patience(&self, sql: &str, insight: &Insight) -> Option<Duration> {
        self.budget.lock().deposit(Instant::now().into_std());
        insight.quantile(sql, QUANTILE, MIN_CALLS).map(|usual| usual.max(self.least))
    }

    fn is_affordable(&self) -> bool {
        self.budget.lock().try_withdraw(Instant::now().into_std())
    }
}

impl Engine {
    pub(super) fn asked(&self, choice: Choice, read: &Read, hedged: bool) -> Asked {
        let (is_primary, proven) = self.standing(choice.node.id);
        let shown = self.shown(choice.node.id, read.written);
        Asked { choice, is_primary, proven, shown, at: Instant::now(), hedged }
    }

    /// Asks one node, and another replica too when that one is slow; who answers first is returned.
    ///
    /// Dropping the slower question cancels its statement in the database.
    pub(super) async fn ask_hedged(
        &self,
        choice: Choice,
        read: &Read,
        needs: &ReadNeeds,
    ) -> (Asked, Result<Answer, QueryError>) {
        let node = Arc::clone(&choice.node);
        let mut first = self.asked(choice, read, false);
        let mut run_first = pin!(self.read_on(&node, read, needs));
        let patience = match &self.hedge {
            Some(hedge) if first.choice.reason == Reason::Replica => {
                hedge.patience(&read.statement.sql, &self.insight).map(|patience| (hedge, patience))
            }
            _ => None,
        };
        let Some((hedge, patience)) = patience else { return (first, run_first.await) };
        if let Ok(result) = timeout(patience, &mut run_first).await {
            return (first, result);
        }
        let other = self.fleet.choose(needs, Some(node.id)).choice.ok();
        let other = other.filter(|other| other.reason == Reason::Replica && hedge.is_affordable());
        let Some(other) = other else { return (first, run_first.await) };
        first.hedged = true;
        let other_node = Arc::clone(&other.node);
        let second = self.asked(other, read, true);
        let mut run_second = pin!(self.read_on(&other_node, read, needs));
        let hopeless =
            |result: &Result<_, QueryError>| result.as_ref().is_err_and(QueryError::may_succeed_elsewhere);
        let (first_won, result) = tokio::select! {
            result = &mut run_first => {
                if hopeless(&result) { (false, run_second.await) } else { (true, result) }
            }
            result = &mut run_second => {
                if hopeless(&result) { (true, run_first.await) } else { (false, result) }
            }
        };
        self.metrics.hedged(!first_won);
        (if first_won { first } else { second }, result)
    }
}
