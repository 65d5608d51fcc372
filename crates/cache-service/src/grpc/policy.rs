use std::sync::Arc;

use mainstay_proto::cache::v1 as pb;
use mainstay_proto::cache::v1::policy_service_server::PolicyService;
use mainstay_rpc::{Failure, Reply, Request, Response};

use super::admin::{encode_policy, encode_view, timestamp};
use super::cache::time_left;
use super::codec::refused;
use crate::engine::{Engine, PolicyChange};
use crate::key::Namespace;

/// Decodes, calls the engine, encodes.
#[derive(Debug, Clone)]
pub(crate) struct PolicyGrpc {
    engine: Arc<Engine>,
}

impl PolicyGrpc {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }
}

#[tonic::async_trait]
impl PolicyService for PolicyGrpc {
    async fn list_namespaces(
        &self,
        _: Request<pb::ListNamespacesRequest>,
    ) -> Reply<pb::ListNamespacesResponse> {
        let named = self.engine.namespaces.all().into_iter();
        // The sum of those that are not counted by name has no policy of its own.
        let views = named.filter_map(|(name, _)| {
            let view = self.engine.policy(&name).ok().filter(|_| Namespace::try_new(&name).is_ok())?;
            Some(encode_view(name, view))
        });
        Ok(Response::new(pb::ListNamespacesResponse { namespaces: views.collect() }))
    }

    async fn policy_history(
        &self,
        request: Request<pb::PolicyHistoryRequest>,
    ) -> Reply<pb::PolicyHistoryResponse> {
        let left = time_left(&request);
        let name = request.into_inner().namespace;
        let wanted = (!name.is_empty()).then(|| Namespace::try_new(&name).map_err(refused)).transpose()?;
        let wanted = wanted.map(Namespace::as_str);
        let changes = self.engine.policy_history(wanted, left).await.map_err(Failure::from)?;
        let changes = changes.into_iter().map(encode_change).collect();
        Ok(Response::new(pb::PolicyHistoryResponse { changes }))
    }
}

fn encode_change(change: PolicyChange) -> pb::PolicyChange {
    pb::PolicyChange {
        changed: change.changed(),
        namespace: change.namespace,
        version: change.after.version,
        put_at: Some(timestamp(change.after.put_at_unix_ms)),
        put_by: change.after.put_by,
        before: change.before.map(encode_policy),
        after: Some(encode_policy(change.after.overrides)),
    }
}
