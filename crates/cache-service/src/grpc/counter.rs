use std::sync::Arc;
use std::time::Duration;

use mainstay_proto::cache::v1 as pb;
use mainstay_proto::cache::v1::counter_service_server::CounterService;
use mainstay_rpc::{Failure, Reply, Request, Response};

use super::cache::time_left;
use crate::counter::{Count, CounterError, Counters, Increment};
use crate::key::Ttl;
use crate::metrics::{Outcome, SharedMetrics};
use crate::shared::{BadField, Name, duration};

/// Decodes, counts, encodes.
#[derive(Debug, Clone)]
pub(crate) struct CounterGrpc {
    counters: Arc<Counters>,
    metrics: Arc<SharedMetrics>,
}

const LONGEST_NAME: usize = 256;
const LONGEST_IDEMPOTENCY_KEY: usize = 128;

impl CounterGrpc {
    pub(crate) fn new(counters: Arc<Counters>, metrics: Arc<SharedMetrics>) -> Self {
        Self { counters, metrics }
    }

    fn tell(&self, op: &'static str, done: Result<Count, CounterError>) -> Result<Count, Failure> {
        let outcome = match &done {
            Ok(_) => Outcome::Done,
            Err(CounterError::OutOfRange { .. }) => Outcome::Refused,
            Err(CounterError::Shared(_)) => Outcome::Failed,
        };
        self.metrics.operation("counter", op, outcome);
        done.map_err(Failure::from)
    }
}

#[tonic::async_trait]
impl CounterService for CounterGrpc {
    async fn increment(
        &self,
        request: Request<pb::IncrementCounterRequest>,
    ) -> Reply<pb::IncrementCounterResponse> {
        let left = time_left(&request);
        let increment = decode(request.into_inner()).map_err(Failure::from)?;
        let count = self.counters.increment(&increment, left).await;
        let count = self.tell("increment", count)?;
        Ok(Response::new(pb::IncrementCounterResponse {
            value: count.value,
            ttl: count.ttl.and_then(|ttl| ttl.try_into().ok()),
            replayed: count.replayed,
            source: self.counters.source().to_pb(),
        }))
    }

    async fn get(&self, request: Request<pb::GetCounterRequest>) -> Reply<pb::GetCounterResponse> {
        let left = time_left(&request);
        let name = name(&request.into_inner().name).map_err(Failure::from)?;
        let count = self.counters.get(&name, left).await;
        let count = self.tell("get", count)?;
        Ok(Response::new(pb::GetCounterResponse {
            value: count.value,
            exists: count.exists,
            ttl: count.ttl.and_then(|ttl| ttl.try_into().ok()),
            source: self.counters.source().to_pb(),
        }))
    }

    async fn reset(&self, request: Request<pb::ResetCounterRequest>) -> Reply<pb::ResetCounterResponse> {
        let left = time_left(&request);
        let name = name(&request.into_inner().name).map_err(Failure::from)?;
        let count = self.counters.reset(&name, left).await;
        let count = self.tell("reset", count)?;
        let source = self.counters.source().to_pb();
        Ok(Response::new(pb::ResetCounterResponse { value: count.value, existed: count.exists, source }))
    }
}

fn decode(request: pb::IncrementCounterRequest) -> Result<Increment, BadField> {
    let by = request.by.unwrap_or(1);
    if by.unsigned_abs() > Counters::MOST.unsigned_abs() {
        return Err(BadField::new("by", "must be between -(2^53-1) and 2^53-1"));
    }
    let ttl = duration("ttl", request.ttl, Duration::from_millis(1), Ttl::MAX)?;
    if request.extend && ttl.is_none() {
        return Err(BadField::new("ttl", "must be given with extend"));
    }
    let once = Some(request.idempotency_key).filter(|key| !key.is_empty());
    let once = once.map(|key| Name::try_new("idempotency_key", &key, LONGEST_IDEMPOTENCY_KEY));
    Ok(Increment { name: name(&request.name)?, by, ttl, extend: request.extend, once: once.transpose()? })
}

fn name(text: &str) -> Result<Name, BadField> {
    Name::try_new("name", text, LONGEST_NAME)
}
