use std::{sync::Arc, time::Duration};

use mainstay_proto::replica::v1::{
    GetSwitchoverRequest, ReadFigures, RunStepRequest, SwitchoverEntry, SwitchoverStage, SwitchoverState,
    SwitchoverStep, switchover_service_server::SwitchoverService,
};
use mainstay_rpc::{Caller, Deadline, Failure, Reply, Request, Response, Status};
use mainstay_runtime::Trigger;
use tokio::time::timeout;

use super::{named::unknown, tell};
use crate::{
    error::QueryError,
    switchover::{Entry, Job, ReadStats, Stage, Step, Steps, Told},
};

/// Takes the steps of the configured pairs for whoever asks.
pub(crate) struct SwitchoverDoor {
    pairs: Vec<Stepping>,
}

/// The steps of one pair, and what wakes their background work.
pub(crate) struct Stepping {
    pub steps: Arc<Steps>,
    pub trigger: Trigger,
}

/// For a caller who does not say how long they wait.
const STEP_WITHIN: Duration = Duration::from_secs(30);
/// Asked for by nobody that we know.
const NOBODY: &str = "anonymous";

impl SwitchoverDoor {
    pub(crate) fn new(pairs: Vec<Stepping>) -> Self {
        Self { pairs }
    }

    fn pair(&self, name: &str) -> Result<&Stepping, Status> {
        let found = self.pairs.iter().find(|stepping| stepping.steps.name() == name);
        found.ok_or_else(|| tell(unknown()))
    }
}

#[tonic::async_trait]
impl SwitchoverService for SwitchoverDoor {
    async fn run_step(&self, request: Request<RunStepRequest>) -> Reply<SwitchoverState> {
        let actor = Caller::of(&request).map_or_else(|| NOBODY.to_owned(), |caller| caller.subject);
        let within = Deadline::of(&request).map_or(STEP_WITHIN, |deadline| deadline.left());
        let request = request.into_inner();
        let stepping = self.pair(&request.pair)?;
        let step = step(&request).map_err(tell)?;
        // A step that is given up half-way is undone.
        let told = timeout(within, async {
            stepping.steps.take(step, &actor).await?;
            stepping.trigger.fire();
            stepping.steps.told().await
        });
        let told = match told.await {
            Ok(told) => told.map_err(|error| tell(error.into()))?,
            Err(_) => return Err(super::refuse(QueryError::Deadline { within, committing: true })),
        };
        Ok(Response::new(state(&stepping.steps, told)))
    }

    async fn get_switchover(&self, request: Request<GetSwitchoverRequest>) -> Reply<SwitchoverState> {
        let stepping = self.pair(&request.get_ref().pair)?;
        let told = stepping.steps.told().await.map_err(|error| tell(error.into()))?;
        Ok(Response::new(state(&stepping.steps, told)))
    }
}

fn step(request: &RunStepRequest) -> Result<Step, Failure> {
    let step = match request.step() {
        SwitchoverStep::InstallTriggers => Step::InstallTriggers,
        SwitchoverStep::CreatePartitions => Step::CreatePartitions,
        SwitchoverStep::Backfill => Step::Backfill,
        SwitchoverStep::Verify => Step::Verify,
        SwitchoverStep::Advance => Step::Advance(request.percent),
        SwitchoverStep::Swap => Step::Swap,
        SwitchoverStep::Rollback => Step::Rollback,
        SwitchoverStep::Finish => Step::Finish,
        SwitchoverStep::Unspecified => return Err(Failure::invalid("step", "must name a step")),
    };
    if request.percent.is_some() && !matches!(step, Step::Advance(_)) {
        return Err(Failure::invalid("percent", "belongs to an advance only"));
    }
    Ok(step)
}

fn state(steps: &Steps, told: Told) -> SwitchoverState {
    let Told { record, journal } = told;
    let [legacy, partitioned] = steps.pair.read_stats();
    SwitchoverState {
        pair: steps.name().to_owned(),
        stage: match record.stage {
            Stage::None => SwitchoverStage::None,
            Stage::DualWrite => SwitchoverStage::DualWrite,
            Stage::Swapped => SwitchoverStage::Swapped,
            Stage::Finished => SwitchoverStage::Finished,
        }
        .into(),
        job: match record.job {
            None => SwitchoverStep::Unspecified,
            Some(Job::Backfill) => SwitchoverStep::Backfill,
            Some(Job::Verify) => SwitchoverStep::Verify,
        }
        .into(),
        read_percent: record.read_percent,
        backfilled: record.backfilled,
        rows_copied: record.rows_copied,
        backfill_progress: record.backfill_progress(),
        verified_at: record.verified_at.map(Into::into),
        rows_verified: record.rows_verified,
        rows_repaired: record.rows_repaired,
        held_up: steps.pair.held_up(),
        stepped_back: record.stepped_back,
        journal: journal.into_iter().map(entry).collect(),
        legacy_reads: Some(figures(legacy)),
        partitioned_reads: Some(figures(partitioned)),
    }
}

fn entry(entry: Entry) -> SwitchoverEntry {
    let Entry { at, step, actor, outcome, detail } = entry;
    SwitchoverEntry { at: Some(at.into()), step, actor, outcome, detail }
}

fn figures(stats: ReadStats) -> ReadFigures {
    ReadFigures {
        calls: stats.calls,
        errors: stats.errors,
        p95: stats.p95.and_then(|p95| p95.try_into().ok()),
    }
}
