use std::sync::Arc;
use std::time::Duration;

use mainstay_proto::cache::v1 as pb;
use mainstay_proto::cache::v1::lock_service_server::LockService;
use mainstay_rpc::{Failure, Reply, Request, Response};

use super::cache::time_left;
use crate::lock::{Acquired, Claim, Locks};
use crate::metrics::{Outcome, SharedMetrics};
use crate::shared::{BadField, Name, SharedError, duration};

/// Decodes, asks for locks, encodes.
#[derive(Debug, Clone)]
pub(crate) struct LockGrpc {
    locks: Arc<Locks>,
    metrics: Arc<SharedMetrics>,
}

const LONGEST_NAME: usize = 256;
const LONGEST_OWNER: usize = 128;
const SHORTEST_TTL: Duration = Duration::from_millis(10);
const LONGEST_TTL: Duration = Duration::from_hours(24);

impl LockGrpc {
    pub(crate) fn new(locks: Arc<Locks>, metrics: Arc<SharedMetrics>) -> Self {
        Self { locks, metrics }
    }

    fn tell<T>(
        &self,
        op: &'static str,
        done: Result<T, SharedError>,
        is_done: impl FnOnce(&T) -> bool,
    ) -> Result<T, Failure> {
        let outcome = match &done {
            Ok(answer) if is_done(answer) => Outcome::Done,
            Ok(_) => Outcome::Refused,
            Err(_) => Outcome::Failed,
        };
        self.metrics.operation("lock", op, outcome);
        done.map_err(Failure::from)
    }
}

#[tonic::async_trait]
impl LockService for LockGrpc {
    async fn acquire(&self, request: Request<pb::AcquireLockRequest>) -> Reply<pb::AcquireLockResponse> {
        let left = time_left(&request);
        let request = request.into_inner();
        let claim = claim(&request.name, &request.owner).map_err(Failure::from)?;
        let ttl = ttl(request.ttl).map_err(Failure::from)?;
        let wait = duration("wait_within", request.wait_within, Duration::ZERO, Locks::LONGEST_WAIT);
        let wait = wait.map_err(Failure::from)?.unwrap_or_default();
        let acquired = self.locks.acquire(&claim, ttl, wait, left).await;
        let acquired = self.tell("acquire", acquired, |acquired| matches!(acquired, Acquired::Yes { .. }))?;
        let (token, retry_after) = match acquired {
            Acquired::Yes { token } => (token, None),
            Acquired::No { retry_after } => (0, retry_after.try_into().ok()),
        };
        let source = self.locks.source().to_pb();
        Ok(Response::new(pb::AcquireLockResponse { acquired: token != 0, token, retry_after, source }))
    }

    async fn renew(&self, request: Request<pb::RenewLockRequest>) -> Reply<pb::RenewLockResponse> {
        let left = time_left(&request);
        let request = request.into_inner();
        let claim = claim(&request.name, &request.owner).map_err(Failure::from)?;
        let ttl = ttl(request.ttl).map_err(Failure::from)?;
        let renewed = self.locks.renew(&claim, request.token, ttl, left).await;
        let renewed = self.tell("renew", renewed, |renewed| *renewed)?;
        Ok(Response::new(pb::RenewLockResponse { renewed, source: self.locks.source().to_pb() }))
    }

    async fn release(&self, request: Request<pb::ReleaseLockRequest>) -> Reply<pb::ReleaseLockResponse> {
        let left = time_left(&request);
        let request = request.into_inner();
        let claim = claim(&request.name, &request.owner).map_err(Failure::from)?;
        let released = self.locks.release(&claim, request.token, left).await;
        let released = self.tell("release", released, |released| *released)?;
        Ok(Response::new(pb::ReleaseLockResponse { released, source: self.locks.source().to_pb() }))
    }

    async fn check(&self, request: Request<pb::CheckLockRequest>) -> Reply<pb::CheckLockResponse> {
        let left = time_left(&request);
        let request = request.into_inner();
        let name = Name::try_new("name", &request.name, LONGEST_NAME).map_err(Failure::from)?;
        let checked = self.locks.check(&name, request.token, left).await;
        let checked = self.tell("check", checked, |checked| checked.current)?;
        Ok(Response::new(pb::CheckLockResponse {
            current: checked.current,
            ttl: checked.ttl.and_then(|ttl| ttl.try_into().ok()),
            source: self.locks.source().to_pb(),
        }))
    }
}

fn claim(name: &str, owner: &str) -> Result<Claim, BadField> {
    Ok(Claim {
        name: Name::try_new("name", name, LONGEST_NAME)?,
        owner: Name::try_new("owner", owner, LONGEST_OWNER)?,
    })
}

fn ttl(given: Option<prost_types::Duration>) -> Result<Duration, BadField> {
    let ttl = duration("ttl", given, SHORTEST_TTL, LONGEST_TTL)?;
    ttl.ok_or_else(|| BadField::new("ttl", "must be given"))
}
