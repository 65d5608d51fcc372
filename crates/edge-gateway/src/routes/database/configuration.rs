//! The configuration that replica-service follows.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use mainstay_proto::replica::v1 as wire;
use mainstay_proto::replica::v1::configuration_service_client::ConfigurationServiceClient;
use mainstay_proto::replica::v1::{GetConfigurationRequest, ReloadRequest};
use mainstay_rpc::{Call, Lane};
use serde::Serialize;
use utoipa::ToSchema;

use crate::body::Who;
use crate::error::Problem;
use crate::routes::words::rfc3339;
use crate::state::App;

type Client = ConfigurationServiceClient<Lane>;

const GET: &str = "mainstay.replica.v1.ConfigurationService/GetConfiguration";
const RELOAD: &str = "mainstay.replica.v1.ConfigurationService/Reload";

/// Which configuration a process of replica-service follows.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DatabaseConfiguration {
    /// The process that answered: each one reads its own file and environment.
    instance: String,
    /// Configurations that it has followed since it started; the first is 1.
    generation: u64,
    since: Option<String>,
    /// Keys that have changed where the configuration is kept, and wait for a restart.
    needs_restart: Vec<String>,
    /// The last attempt to follow another one; null before the first.
    last_reload: Option<DatabaseReload>,
}

/// How an attempt to follow another configuration ended.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct DatabaseReload {
    at: Option<String>,
    /// Who asked for it: a caller, or `SIGHUP`.
    by: String,
    /// `applied`, `unchanged` or `refused`.
    outcome: String,
    /// Keys that are followed since.
    applied: Vec<String>,
    /// Everything that was wrong with one that was refused.
    problems: Vec<String>,
}

impl From<wire::Configuration> for DatabaseConfiguration {
    fn from(configuration: wire::Configuration) -> Self {
        let reload = |reload: wire::LastReload| DatabaseReload {
            at: rfc3339(reload.at),
            by: reload.by,
            outcome: reload.outcome,
            applied: reload.applied,
            problems: reload.problems,
        };
        Self {
            instance: configuration.instance,
            generation: configuration.generation,
            since: rfc3339(configuration.since),
            needs_restart: configuration.needs_restart,
            last_reload: configuration.last_reload.map(reload),
        }
    }
}

/// Which configuration replica-service follows, and how the last attempt to change it ended.
#[utoipa::path(get, path = "/database/configuration", tag = "database", responses(
    (status = 200, description = "the configuration in force", body = DatabaseConfiguration),
))]
pub(crate) async fn configuration(
    State(app): State<Arc<App>>,
    Who(caller): Who,
) -> Result<Answer<DatabaseConfiguration>, Problem> {
    let send = async |mut client: Client, request| client.get_configuration(request).await;
    let call = Call::read(GET).by(caller);
    let answer = app.upstreams.configuration(call, GetConfigurationRequest {}, send).await?;
    Ok(Answer(answer.into()))
}

/// Has replica-service read its configuration again, and follow what needs no restart: nodes, weights, zones, pools,
/// health, breakers, routing, the log-in. Statements under way end where they began.
#[utoipa::path(post, path = "/database/configuration/reload", tag = "database", responses(
    (status = 200, description = "what is followed since, and what waits for a restart", body = DatabaseConfiguration),
    (status = 412, description = "something is wrong with it, which is told; nothing was changed"),
))]
pub(crate) async fn reload(
    State(app): State<Arc<App>>,
    Who(caller): Who,
) -> Result<Answer<DatabaseConfiguration>, Problem> {
    let send = async |mut client: Client, request| client.reload(request).await;
    let answer = app.upstreams.configuration(Call::write(RELOAD).by(caller), ReloadRequest {}, send).await?;
    Ok(Answer(answer.into()))
}
