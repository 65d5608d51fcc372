use std::sync::Arc;

use mainstay_proto::cache::v1 as pb;
use mainstay_proto::cache::v1::figures_service_server::FiguresService;
use mainstay_rpc::{Caller, Reply, Request, Response};

use crate::engine::Engine;

/// Decodes, calls the engine, encodes.
#[derive(Debug, Clone)]
pub(crate) struct FiguresGrpc {
    engine: Arc<Engine>,
}

impl FiguresGrpc {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }
}

#[tonic::async_trait]
impl FiguresService for FiguresGrpc {
    async fn reset_window(&self, request: Request<pb::ResetWindowRequest>) -> Reply<pb::ResetWindowResponse> {
        let by = Caller::of(&request).map(|caller| caller.subject).unwrap_or_default();
        let metrics = &self.engine.metrics;
        let windows = [&metrics.get, &metrics.set, &metrics.delete, &metrics.invalidate];
        let windows = windows.map(|operation| &operation.recent);
        let operations = windows.iter().map(|window| window.figures().n_operations).sum();
        for window in windows {
            window.reset();
        }
        tracing::info!(by, operations, "window of figures reset");
        Ok(Response::new(pb::ResetWindowResponse { operations }))
    }
}
