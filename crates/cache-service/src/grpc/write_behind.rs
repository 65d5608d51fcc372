use std::sync::Arc;

use mainstay_proto::cache::v1 as pb;
use mainstay_proto::cache::v1::write_behind_service_server::WriteBehindService;
use mainstay_rpc::{Failure, Reply, Request, Response};

use super::cache::time_left;
use super::codec::refused;
use crate::error::CacheError;
use crate::key::Namespace;
use crate::layer::redis::LayerError;
use crate::write_behind::{DeadLetter, Queues};

const MOST_AT_ONCE: usize = 1_000;

/// Shows queues and dead letters, and settles dead letters.
#[derive(Debug, Clone)]
pub(crate) struct WriteBehindGrpc {
    /// None without Redis.
    queues: Option<Arc<Queues>>,
}

impl WriteBehindGrpc {
    pub(crate) fn new(queues: Option<Arc<Queues>>) -> Self {
        Self { queues }
    }

    fn queues(&self) -> Result<&Queues, Failure> {
        self.queues.as_deref().ok_or_else(|| CacheError::NoQueue.into())
    }
}

#[tonic::async_trait]
impl WriteBehindService for WriteBehindGrpc {
    async fn list_queues(&self, _: Request<pb::ListQueuesRequest>) -> Reply<pb::ListQueuesResponse> {
        let queues = self.queues()?;
        let mut names = queues.names().await.map_err(unreachable)?;
        names.sort();
        let mut shown = Vec::new();
        for namespace in names {
            let status = queues.status(&namespace).await.map_err(unreachable)?;
            shown.push(pb::WriteBehindQueue {
                namespace,
                queued: status.n_queued,
                oldest_age: status.oldest_age.try_into().ok(),
                dead_letters: status.n_dead,
                owner: status.owner,
            });
        }
        Ok(Response::new(pb::ListQueuesResponse { queues: shown }))
    }

    async fn list_dead_letters(
        &self,
        request: Request<pb::ListDeadLettersRequest>,
    ) -> Reply<pb::ListDeadLettersResponse> {
        let left = time_left(&request);
        let pb::ListDeadLettersRequest { namespace, after, limit } = request.into_inner();
        Namespace::try_new(&namespace).map_err(refused)?;
        check_id("after", &after, true)?;
        let limit = match limit {
            0 => 100,
            1..=1_000 => limit,
            _ => return Err(Failure::invalid("limit", "must be at most 1000").into()),
        };
        let letters = self.queues()?.dead(&namespace, &after, limit, left).await.map_err(unreachable)?;
        let dead_letters = letters.into_iter().map(encode).collect();
        Ok(Response::new(pb::ListDeadLettersResponse { dead_letters }))
    }

    async fn replay_dead_letters(
        &self,
        request: Request<pb::ReplayDeadLettersRequest>,
    ) -> Reply<pb::ReplayDeadLettersResponse> {
        let left = time_left(&request);
        let pb::ReplayDeadLettersRequest { namespace, ids } = request.into_inner();
        check(&namespace, &ids)?;
        let replayed = self.queues()?.replay(&namespace, &ids, left).await.map_err(unreachable)?;
        tracing::info!(namespace, replayed, "dead letters replayed");
        Ok(Response::new(pb::ReplayDeadLettersResponse { replayed }))
    }

    async fn drop_dead_letters(
        &self,
        request: Request<pb::DropDeadLettersRequest>,
    ) -> Reply<pb::DropDeadLettersResponse> {
        let left = time_left(&request);
        let pb::DropDeadLettersRequest { namespace, ids } = request.into_inner();
        check(&namespace, &ids)?;
        let dropped = self.queues()?.drop_dead(&namespace, &ids, left).await.map_err(unreachable)?;
        tracing::info!(namespace, dropped, "dead letters dropped");
        Ok(Response::new(pb::DropDeadLettersResponse { dropped }))
    }
}

fn check(namespace: &str, ids: &[String]) -> Result<(), Failure> {
    Namespace::try_new(namespace).map_err(refused)?;
    if !(1..=MOST_AT_ONCE).contains(&ids.len()) {
        let message = format!("must be 1 to {MOST_AT_ONCE}, are {}", ids.len());
        return Err(Failure::invalid("ids", message));
    }
    ids.iter().try_for_each(|id| check_id("ids", id, false))
}

/// Ids are those of a stream: two numbers and a dash.
fn check_id(field: &'static str, id: &str, may_be_empty: bool) -> Result<(), Failure> {
    let is_id =
        id.split_once('-').is_some_and(|(ms, n)| ms.parse::<u64>().is_ok() && n.parse::<u64>().is_ok());
    if is_id || (may_be_empty && id.is_empty()) {
        return Ok(());
    }
    Err(Failure::invalid(field, "must be ids of dead letters"))
}

fn encode(letter: DeadLetter) -> pb::DeadLetter {
    pb::DeadLetter {
        id: letter.id,
        key: letter.key,
        version: letter.version,
        delete: letter.is_delete,
        bytes: letter.value_bytes,
        reason: letter.reason,
        attempts: letter.attempts,
    }
}

fn unreachable(error: LayerError) -> Failure {
    CacheError::QueueUnreachable(error).into()
}
