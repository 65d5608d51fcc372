use std::sync::Arc;

use mainstay_proto::replica::v1::{
    Configuration, GetConfigurationRequest, LastReload, ReloadRequest,
    configuration_service_server::ConfigurationService,
};
use mainstay_rpc::{Caller, ErrorCode, Failure, Reply, Request, Response};

use super::tell;
use crate::reload::{Outcome, Reload, Reloader, Standing};

/// Tells which configuration is followed, and has another one followed.
pub(crate) struct ConfigurationDoor {
    reloader: Arc<Reloader>,
    instance: String,
}

impl ConfigurationDoor {
    pub(crate) fn new(reloader: Arc<Reloader>, instance: String) -> Self {
        Self { reloader, instance }
    }

    fn wire(&self, standing: Standing) -> Configuration {
        Configuration {
            instance: self.instance.clone(),
            generation: standing.generation,
            since: Some(standing.since.into()),
            needs_restart: standing.needs_restart,
            last_reload: standing.last.map(last_reload),
        }
    }
}

#[tonic::async_trait]
impl ConfigurationService for ConfigurationDoor {
    async fn reload(&self, request: Request<ReloadRequest>) -> Reply<Configuration> {
        let caller = Caller::of(&request);
        // A service that asks on its own behalf has no role; a person needs one.
        if caller.as_ref().is_some_and(|caller| caller.role != "admin") {
            let text = "the configuration is for the role admin to reload";
            return Err(tell(Failure::new(ErrorCode::PermissionDenied, "ROLE_TOO_LOW", text)));
        }
        let by = caller.map_or_else(|| "unknown".to_owned(), |caller| caller.subject);
        let standing = self.reloader.reload(&by).await;
        if let Some(Reload { outcome: Outcome::Refused, problems, .. }) = &standing.last {
            let text = format!("nothing was changed: {}", problems.join("; "));
            return Err(tell(Failure::new(ErrorCode::FailedPrecondition, "CONFIGURATION_REFUSED", text)));
        }
        Ok(Response::new(self.wire(standing)))
    }

    async fn get_configuration(&self, _: Request<GetConfigurationRequest>) -> Reply<Configuration> {
        Ok(Response::new(self.wire(self.reloader.standing())))
    }
}

fn last_reload(reload: Reload) -> LastReload {
    LastReload {
        at: Some(reload.at.into()),
        by: reload.by,
        outcome: reload.outcome.as_str().to_owned(),
        applied: reload.applied,
        problems: reload.problems,
    }
}
