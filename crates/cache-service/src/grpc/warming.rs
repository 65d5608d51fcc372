use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use mainstay_proto::cache::v1 as pb;
use mainstay_proto::cache::v1::warming_service_server::WarmingService;
use mainstay_rpc::{Caller, Failure, Reply, Request, Response};

use super::admin::timestamp;
use super::codec::refused;
use crate::config::{WarmPlan, WarmSource};
use crate::key::Namespace;
use crate::warming::{Run, Trigger, Warming};

/// Decodes, asks for runs, encodes.
#[derive(Debug, Clone)]
pub(crate) struct WarmingGrpc {
    warming: Arc<Warming>,
}

impl WarmingGrpc {
    pub(crate) fn new(warming: Arc<Warming>) -> Self {
        Self { warming }
    }
}

#[tonic::async_trait]
impl WarmingService for WarmingGrpc {
    async fn start_warming(&self, request: Request<pb::StartWarmingRequest>) -> Reply<pb::WarmingRun> {
        let by = Caller::of(&request).map(|caller| caller.subject).unwrap_or_default();
        let pb::StartWarmingRequest { namespace, plan } = request.into_inner();
        let namespace = Namespace::try_new(&namespace).map_err(refused)?;
        let planned = self.warming.plan(namespace.as_str()).map_err(Failure::from)?;
        let plan = decode_plan("plan", plan.unwrap_or_default(), planned)?;
        let run = self.warming.start(namespace.as_str(), Trigger::Demand, by, plan);
        let run = run.map_err(Failure::from)?;
        Ok(Response::new(encode_run(&run)))
    }

    async fn warming_status(
        &self,
        request: Request<pb::WarmingStatusRequest>,
    ) -> Reply<pb::WarmingStatusResponse> {
        let name = request.into_inner().namespace;
        let wanted = (!name.is_empty()).then(|| Namespace::try_new(&name).map_err(refused)).transpose()?;
        let runs = self.warming.runs(wanted.map(Namespace::as_str));
        Ok(Response::new(pb::WarmingStatusResponse {
            runs: runs.iter().map(|run| encode_run(run)).collect(),
            access_log_keys: self.warming.n_logged(),
            expected_hit_ratio: self.warming.expected_hit_ratio(),
        }))
    }

    async fn cancel_warming(&self, request: Request<pb::CancelWarmingRequest>) -> Reply<pb::WarmingRun> {
        let by = Caller::of(&request).map(|caller| caller.subject).unwrap_or_default();
        let name = request.into_inner().namespace;
        let namespace = Namespace::try_new(&name).map_err(refused)?;
        let run = self.warming.cancel(namespace.as_str(), &by).map_err(Failure::from)?;
        Ok(Response::new(encode_run(&run)))
    }
}

/// Reads a plan; what it leaves out is as in `base`.
pub(super) fn decode_plan(field: &str, plan: pb::WarmPlan, base: WarmPlan) -> Result<WarmPlan, Failure> {
    let duration = |name: &str, given: Option<prost_types::Duration>, base: Duration| {
        let given = given.map(Duration::try_from).transpose();
        let given = given.map_err(|_| Failure::invalid(format!("{field}.{name}"), "must not be negative"))?;
        Ok::<Duration, Failure>(given.unwrap_or(base))
    };
    let source = |name: &String| {
        let known = "must each be access_log, file or origin";
        WarmSource::from_name(name).ok_or_else(|| Failure::invalid(format!("{field}.sources"), known))
    };
    let sources: Result<Vec<WarmSource>, Failure> = plan.sources.iter().map(source).collect();
    Ok(WarmPlan {
        sources: if plan.sources.is_empty() { base.sources } else { sources? },
        file: if plan.file.is_empty() { base.file } else { plan.file },
        on_start: plan.on_start.unwrap_or(base.on_start),
        every: duration("every", plan.every, base.every)?,
        max_size: plan.max_bytes.map_or(base.max_size, ByteSize::b),
        max_time: duration("max_time", plan.max_time, base.max_time)?,
        keys_per_second: plan.keys_per_second.unwrap_or(base.keys_per_second),
        concurrency: plan.concurrency.unwrap_or(base.concurrency),
    })
}

pub(super) fn encode_plan(plan: &WarmPlan) -> pb::WarmPlan {
    pb::WarmPlan {
        sources: plan.sources.iter().map(|source| source.as_str().to_owned()).collect(),
        file: plan.file.clone(),
        on_start: Some(plan.on_start),
        every: plan.every.try_into().ok(),
        max_bytes: Some(plan.max_size.as_u64()),
        max_time: plan.max_time.try_into().ok(),
        keys_per_second: Some(plan.keys_per_second),
        concurrency: Some(plan.concurrency),
    }
}

fn encode_run(run: &Run) -> pb::WarmingRun {
    let figures = run.figures();
    pb::WarmingRun {
        id: run.id,
        namespace: run.namespace.to_string(),
        trigger: run.trigger.as_str().to_owned(),
        by: run.by.clone(),
        plan: Some(encode_plan(&run.plan)),
        state: figures.state.to_owned(),
        started_at: figures.started_at_unix_ms.map(timestamp),
        ended_at: figures.ended_at_unix_ms.map(timestamp),
        loaded: figures.loaded,
        present: figures.present,
        absent: figures.absent,
        failed: figures.failed,
        refused: figures.refused,
        bytes: figures.bytes,
        stood_aside: figures.stood_aside.try_into().ok(),
        problems: figures.problems,
    }
}
