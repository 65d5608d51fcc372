//! Sends the clients of this node, or of another, away.

use mainstay_proto::realtime::v1::{DrainRequest, DrainResponse};

use super::RealtimeApi;
use crate::config::DrainConfig;
use crate::error::Refusal;
use crate::mesh::{Answers, Method};

impl RealtimeApi {
    /// Does it if this node is meant; else the answer names no node.
    pub(super) fn drain_here(&self, asked: &DrainRequest) -> Result<DrainResponse, Refusal> {
        if asked.node != self.node.id {
            return Ok(DrainResponse::default());
        }
        let node = self.node.id.clone();
        if asked.cancel {
            let n_connections = self.drain.cancel().ok_or(Refusal::Stopping)?;
            return Ok(DrainResponse { node, connections: n_connections as u64, takes: None });
        }
        let (n_connections, takes) = self.drain.begin(asked.connections_per_second);
        Ok(DrainResponse { node, connections: n_connections as u64, takes: takes.try_into().ok() })
    }

    /// Finds the node that is meant.
    pub(super) async fn drain_somewhere(&self, asked: &DrainRequest) -> Result<DrainResponse, Refusal> {
        let (per_second, max) = (asked.connections_per_second, DrainConfig::MAX_PER_SECOND);
        if per_second > max {
            return Err(Refusal::PaceInvalid { per_second, max });
        }
        let here = self.drain_here(asked)?;
        if !here.node.is_empty() {
            return Ok(here);
        }
        let others: Answers<DrainResponse> = self.others(Method::Drain, asked).await;
        match others.given.into_iter().find(|answer| !answer.node.is_empty()) {
            Some(there) => Ok(there),
            None if others.missing.is_empty() => Err(Refusal::NodeUnknown),
            None => Err(Refusal::NodesMissing(others.missing)),
        }
    }
}
