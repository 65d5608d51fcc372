//! Rules, silences, channels and the record of what was done, over REST.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json as Answer;
use axum::extract::{Path, State};
use http::StatusCode;
use mainstay_proto::monitor::v1 as wire;
use mainstay_proto::monitor::v1::monitor_service_client::MonitorServiceClient;
use mainstay_rpc::{Call, Caller, Lane};
use serde::Deserialize;
use utoipa::ToSchema;

mod answer;
pub(super) mod rule;

use answer::{Channels, ErrorGroups, Events, Silence, Silences, Tested};
use rule::{RuleBody, RulePut, RuleStatus, Rules};

use super::words::{time, wire_duration};
use crate::body::{Json, Params, Who};
use crate::error::Problem;
use crate::state::App;

type Client = MonitorServiceClient<Lane>;

const LIST_RULES: &str = "mainstay.monitor.v1.MonitorService/ListRules";
const PUT_RULE: &str = "mainstay.monitor.v1.MonitorService/PutRule";
const DELETE_RULE: &str = "mainstay.monitor.v1.MonitorService/DeleteRule";
const LIST_SILENCES: &str = "mainstay.monitor.v1.MonitorService/ListSilences";
const CREATE_SILENCE: &str = "mainstay.monitor.v1.MonitorService/CreateSilence";
const DELETE_SILENCE: &str = "mainstay.monitor.v1.MonitorService/DeleteSilence";
const LIST_CHANNELS: &str = "mainstay.monitor.v1.MonitorService/ListChannels";
const TEST_CHANNEL: &str = "mainstay.monitor.v1.MonitorService/TestChannel";
const LIST_EVENTS: &str = "mainstay.monitor.v1.MonitorService/ListAlertEvents";
const LIST_ERRORS: &str = "mainstay.monitor.v1.MonitorService/ListErrorGroups";

/// Nothing but the fact that it is gone.
#[derive(serde::Serialize, ToSchema)]
pub(crate) struct Removed {
    deleted: bool,
}

async fn list_rules(app: &App, caller: Caller) -> Result<Vec<RuleStatus>, Problem> {
    let send = async |mut client: Client, request| client.list_rules(request).await;
    let call = Call::read(LIST_RULES).by(caller);
    let answer = app.upstreams.monitor(call, wire::ListRulesRequest {}, send).await?;
    Ok(answer.rules.into_iter().map(RuleStatus::from).collect())
}

/// Lists the rules about figures: stock ones, configured ones and those set at run time.
///
/// Each says how many series it matches now, and which can never fire.
#[utoipa::path(get, path = "/monitoring/alerts/rules", tag = "monitoring", responses((status = 200, description = "all rules, by name", body = Rules)))]
pub(crate) async fn rules(State(app): State<Arc<App>>, Who(caller): Who) -> Result<Answer<Rules>, Problem> {
    Ok(Answer(Rules { rules: list_rules(&app, caller).await? }))
}

/// Gives one rule.
#[utoipa::path(get, path = "/monitoring/alerts/rules/{name}", tag = "monitoring", params(("name" = String, Path, description = "name of the rule", pattern = "^[a-z0-9_]{1,64}$")), responses(
    (status = 200, description = "the rule", body = RuleStatus),
    (status = 404, description = "there is no such rule"),
))]
pub(crate) async fn rule(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    Who(caller): Who,
) -> Result<Answer<RuleStatus>, Problem> {
    let found = list_rules(&app, caller).await?.into_iter().find(|status| status.is(&name));
    let missing = || Problem::new(StatusCode::NOT_FOUND, "RULE_NOT_FOUND", "there is no rule of that name");
    found.map(Answer).ok_or_else(missing)
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
pub(crate) struct PutRuleQuery {
    /// Store nothing; tell what the rule would have done over the history in memory.
    #[serde(default)]
    dry_run: bool,
}

/// Sets a rule at run time; it replaces one of the same name, a stock or configured one included.
#[utoipa::path(put, path = "/monitoring/alerts/rules/{name}", tag = "monitoring", params(
    ("name" = String, Path, description = "name of the rule", pattern = "^[a-z0-9_]{1,64}$"),
    PutRuleQuery,
), request_body = RuleBody, responses(
    (status = 200, description = "the rule, stored; of a dry run the episodes it would have given", body = RulePut),
    (status = 429, description = "there are too many rules already"),
))]
pub(crate) async fn put_rule(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    Params(query): Params<PutRuleQuery>,
    Who(caller): Who,
    Json(body): Json<RuleBody>,
) -> Result<Answer<RulePut>, Problem> {
    let request = wire::PutRuleRequest { rule: Some(body.into_wire(name)?), dry_run: query.dry_run };
    let send = async |mut client: Client, request| client.put_rule(request).await;
    let answer = app.upstreams.monitor(Call::write(PUT_RULE).by(caller), request, send).await;
    let answer = answer.map_err(|failure| Problem::from(failure).camel_case_fields("rule."))?;
    Ok(Answer(RulePut::new(answer, query.dry_run)))
}

/// Removes a rule that was set at run time; a stock or configured one of that name holds again.
#[utoipa::path(delete, path = "/monitoring/alerts/rules/{name}", tag = "monitoring", params(("name" = String, Path, description = "name of the rule", pattern = "^[a-z0-9_]{1,64}$")), responses(
    (status = 200, description = "it is gone", body = Removed),
    (status = 404, description = "no rule of that name was set at run time"),
))]
pub(crate) async fn delete_rule(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    Who(caller): Who,
) -> Result<Answer<Removed>, Problem> {
    let send = async |mut client: Client, request| client.delete_rule(request).await;
    let call = Call::write(DELETE_RULE).by(caller);
    app.upstreams.monitor(call, wire::DeleteRuleRequest { name }, send).await?;
    Ok(Answer(Removed { deleted: true }))
}

/// Lists silences that have not ended, the one that ends first before the others.
#[utoipa::path(get, path = "/monitoring/alerts/silences", tag = "monitoring", responses((status = 200, description = "the silences", body = Silences)))]
pub(crate) async fn silences(
    State(app): State<Arc<App>>,
    Who(caller): Who,
) -> Result<Answer<Silences>, Problem> {
    let send = async |mut client: Client, request| client.list_silences(request).await;
    let call = Call::read(LIST_SILENCES).by(caller);
    let answer = app.upstreams.monitor(call, wire::ListSilencesRequest {}, send).await?;
    Ok(Answer(Silences { silences: answer.silences.into_iter().map(Silence::from).collect() }))
}

/// Which alerts people are not told of, and for how long.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct SilenceBody {
    /// 1 to 10 exact values an alert must have: `rule`, `source`, `subject`, `severity`, or a label of it.
    matchers: HashMap<String, String>,
    /// When it begins, like 2026-01-31T12:00:00Z; now without it.
    #[serde(default)]
    starts_at: String,
    /// How long it holds, at most 90 days.
    #[serde(with = "humantime_serde")]
    #[schema(value_type = String, example = "2h")]
    duration: Duration,
    /// Why.
    #[schema(min_length = 1, max_length = 1000)]
    comment: String,
}

/// Keeps notifications of matching alerts from being sent for a time; the alerts themselves go on.
#[utoipa::path(post, path = "/monitoring/alerts/silences", tag = "monitoring", request_body = SilenceBody, responses(
    (status = 200, description = "the silence, stored", body = Silence),
    (status = 429, description = "there are too many silences already"),
))]
pub(crate) async fn create_silence(
    State(app): State<Arc<App>>,
    Who(caller): Who,
    Json(body): Json<SilenceBody>,
) -> Result<Answer<Silence>, Problem> {
    let request = wire::CreateSilenceRequest {
        matchers: body.matchers,
        starts_at: time("startsAt", &body.starts_at)?,
        duration: Some(wire_duration(body.duration)),
        comment: body.comment,
    };
    let send = async |mut client: Client, request| client.create_silence(request).await;
    let answer = app.upstreams.monitor(Call::write(CREATE_SILENCE).by(caller), request, send).await;
    let answer = answer.map_err(|failure| Problem::from(failure).camel_case_fields(""))?;
    Ok(Answer(answer.silence.unwrap_or_default().into()))
}

/// Ends a silence now.
#[utoipa::path(delete, path = "/monitoring/alerts/silences/{id}", tag = "monitoring", params(("id" = String, Path, description = "UUID of the silence", format = "uuid")), responses(
    (status = 200, description = "it is gone", body = Removed),
    (status = 404, description = "there is no such silence, or it has ended"),
))]
pub(crate) async fn delete_silence(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Who(caller): Who,
) -> Result<Answer<Removed>, Problem> {
    let send = async |mut client: Client, request| client.delete_silence(request).await;
    let call = Call::write(DELETE_SILENCE).by(caller);
    app.upstreams.monitor(call, wire::DeleteSilenceRequest { id }, send).await?;
    Ok(Answer(Removed { deleted: true }))
}

/// Lists the configured notification channels and how their deliveries go.
#[utoipa::path(get, path = "/monitoring/alerts/channels", tag = "monitoring", responses((status = 200, description = "the channels, by name", body = Channels)))]
pub(crate) async fn channels(
    State(app): State<Arc<App>>,
    Who(caller): Who,
) -> Result<Answer<Channels>, Problem> {
    let send = async |mut client: Client, request| client.list_channels(request).await;
    let call = Call::read(LIST_CHANNELS).by(caller);
    let answer = app.upstreams.monitor(call, wire::ListChannelsRequest {}, send).await?;
    Ok(Answer(answer.into()))
}

/// Sends a test notification through a channel, at once, and tells how it went.
#[utoipa::path(post, path = "/monitoring/alerts/channels/{name}/test", tag = "monitoring", params(("name" = String, Path, description = "name of the channel")), responses(
    (status = 200, description = "it arrived", body = Tested),
    (status = 404, description = "there is no such channel"),
    (status = 503, description = "it did not arrive; `detail` says why"),
))]
pub(crate) async fn test_channel(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    Who(caller): Who,
) -> Result<Answer<Tested>, Problem> {
    let send = async |mut client: Client, request| client.test_channel(request).await;
    let call = Call::write(TEST_CHANNEL).by(caller);
    let answer = app.upstreams.monitor(call, wire::TestChannelRequest { name }, send).await?;
    Ok(Answer(answer.into()))
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
pub(crate) struct AuditQuery {
    /// Only what happened to this alert.
    #[serde(default)]
    alert_id: String,
    /// The `nextBefore` of the page before.
    #[serde(default)]
    before: u64,
    /// Most entries; 0 means 100, at most 1000.
    #[serde(default)]
    limit: u32,
}

/// Lists what happened to alerts, newest first: every transition and acknowledgement, with who did it.
#[utoipa::path(get, path = "/monitoring/alerts/audit", tag = "monitoring", params(AuditQuery), responses((status = 200, description = "one page", body = Events)))]
pub(crate) async fn audit(
    State(app): State<Arc<App>>,
    Who(caller): Who,
    Params(query): Params<AuditQuery>,
) -> Result<Answer<Events>, Problem> {
    let AuditQuery { alert_id, before, limit } = query;
    let request = wire::ListAlertEventsRequest { alert_id, before, limit };
    let send = async |mut client: Client, request| client.list_alert_events(request).await;
    let answer = app.upstreams.monitor(Call::read(LIST_EVENTS).by(caller), request, send).await;
    let answer = answer.map_err(|failure| Problem::from(failure).camel_case_fields(""))?;
    Ok(Answer(answer.into()))
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ErrorsQuery {
    /// Only errors of this service.
    #[serde(default)]
    service: String,
    /// Most groups; 0 means 100, at most 1000.
    #[serde(default)]
    limit: u32,
}

async fn error_groups(
    app: &App,
    caller: Caller,
    request: wire::ListErrorGroupsRequest,
) -> Result<ErrorGroups, Problem> {
    let send = async |mut client: Client, request| client.list_error_groups(request).await;
    Ok(app.upstreams.monitor(Call::read(LIST_ERRORS).by(caller), request, send).await?.into())
}

/// Lists internal errors of all services, grouped by fingerprint, the latest first.
#[utoipa::path(get, path = "/monitoring/errors", tag = "monitoring", params(ErrorsQuery), responses((status = 200, description = "the groups; counts are since the processes started", body = ErrorGroups)))]
pub(crate) async fn errors(
    State(app): State<Arc<App>>,
    Who(caller): Who,
    Params(query): Params<ErrorsQuery>,
) -> Result<Answer<ErrorGroups>, Problem> {
    let ErrorsQuery { service, limit } = query;
    let request = wire::ListErrorGroupsRequest { service, limit, fingerprint: String::new() };
    Ok(Answer(error_groups(&app, caller, request).await?))
}

/// Gives the groups of one fingerprint: one per service that reported it.
#[utoipa::path(get, path = "/monitoring/errors/{fingerprint}", tag = "monitoring", params(("fingerprint" = String, Path, description = "as in the list")), responses(
    (status = 200, description = "the groups", body = ErrorGroups),
    (status = 404, description = "no service reports such an error any more"),
))]
pub(crate) async fn error_group(
    State(app): State<Arc<App>>,
    Path(fingerprint): Path<String>,
    Who(caller): Who,
) -> Result<Answer<ErrorGroups>, Problem> {
    let request = wire::ListErrorGroupsRequest { fingerprint, ..Default::default() };
    let groups = error_groups(&app, caller, request).await?;
    if groups.is_empty() {
        let detail = "no service reports an error of that fingerprint";
        return Err(Problem::new(StatusCode::NOT_FOUND, "ERROR_GROUP_NOT_FOUND", detail));
    }
    Ok(Answer(groups))
}
