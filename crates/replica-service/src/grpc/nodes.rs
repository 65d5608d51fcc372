use std::sync::Arc;

use mainstay_proto::replica::v1::{
    DrainNodeRequest, DrainNodeResponse, Node, ResumeNodeRequest, ResumeNodeResponse,
    node_service_server::NodeService,
};
use mainstay_rpc::{Caller, ErrorCode, Failure, Reply, Request, Response, Status};

use super::{tell, topology::describe_node};
use crate::fleet::Fleet;

/// Takes nodes out of reads and back.
pub(crate) struct NodeDoor {
    fleet: Arc<Fleet>,
}

impl NodeDoor {
    pub(crate) fn new(fleet: Arc<Fleet>) -> Self {
        Self { fleet }
    }

    fn set(&self, name: &str, drained: bool, caller: Option<Caller>) -> Result<Node, Status> {
        let unknown =
            || tell(Failure::new(ErrorCode::NotFound, "NODE_UNKNOWN", "no node of this name is configured"));
        let topology = self.fleet.topology();
        let node = &topology.named(name).ok_or_else(unknown)?.node;
        if node.set_drained(drained) {
            let by = caller.map(|caller| caller.subject).unwrap_or_default();
            tracing::warn!(node = name, drained, by, "node taken out of reads, or back");
        }
        describe_node(&self.fleet, name).ok_or_else(unknown)
    }
}

#[tonic::async_trait]
impl NodeService for NodeDoor {
    async fn drain_node(&self, request: Request<DrainNodeRequest>) -> Reply<DrainNodeResponse> {
        let node = self.set(&request.get_ref().node, true, Caller::of(&request))?;
        Ok(Response::new(DrainNodeResponse { node: Some(node) }))
    }

    async fn resume_node(&self, request: Request<ResumeNodeRequest>) -> Reply<ResumeNodeResponse> {
        let node = self.set(&request.get_ref().node, false, Caller::of(&request))?;
        Ok(Response::new(ResumeNodeResponse { node: Some(node) }))
    }
}
