//! The record of changes over REST.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use mainstay_proto::monitor::v1 as wire;
use mainstay_proto::monitor::v1::access_service_client::AccessServiceClient;
use mainstay_rpc::{Call, Lane};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::words::{rfc3339, time};
use crate::body::{Params, Who};
use crate::error::Problem;
use crate::state::App;

const LIST: &str = "mainstay.monitor.v1.AccessService/ListChanges";

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ChangesQuery {
    /// `control`: how the house is run; `data`: what passes through it, and what was refused at the door. Both without it.
    #[serde(default)]
    #[param(pattern = "^(control|data)?$")]
    kind: String,
    /// Only what this one asked for.
    #[serde(default)]
    subject: String,
    /// Only of this path, as a template: `/api-keys/{name}`.
    #[serde(default)]
    route: String,
    /// Only what was refused or failed.
    #[serde(default)]
    failed: bool,
    /// From this time on, like 2026-01-31T12:00:00Z.
    #[serde(default)]
    from: String,
    /// Before this time.
    #[serde(default)]
    to: String,
    /// The `nextBefore` of the page before.
    #[serde(default)]
    before: u64,
    /// Most entries; 0 means 100, at most 1000.
    #[serde(default)]
    limit: u32,
}

/// Changes that were asked for, newest first.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RecordedChanges {
    changes: Vec<RecordedChange>,
    /// Goes into `before` for the next page; null when there is nothing older.
    next_before: Option<u64>,
}

/// A change that was asked for.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct RecordedChange {
    number: u64,
    at: Option<String>,
    kind: &'static str,
    /// Who: the `sub` of a token, the name of an API key.
    subject: String,
    /// `jwt` or `api_key`.
    method: String,
    role: String,
    /// From where.
    address: String,
    agent: String,
    verb: String,
    route: String,
    /// The path, save where it holds a secret.
    target: String,
    /// How it ended; 0 with the code `NOT_FINISHED` when the answer was not waited for.
    status: u32,
    /// Of the problem; empty for a success.
    code: String,
    request_id: String,
    /// Instance that it went through.
    edge: String,
}

/// Lists what was changed through all edges, or was asked for and refused: who, what, when, from where, and how it ended.
///
/// An entry is here about a second after its answer. The newest 100,000 of each kind are kept.
#[utoipa::path(get, path = "/audit", tag = "access", params(ChangesQuery), responses((status = 200, description = "one page", body = RecordedChanges)))]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Who(caller): Who,
    Params(query): Params<ChangesQuery>,
) -> Result<Answer<RecordedChanges>, Problem> {
    let kind = match query.kind.as_str() {
        "" => wire::ChangeKind::Unspecified,
        "control" => wire::ChangeKind::Control,
        "data" => wire::ChangeKind::Data,
        _ => return Err(Problem::invalid("kind", "must be control or data")),
    };
    let request = wire::ListChangesRequest {
        kind: kind.into(),
        subject: query.subject,
        route: query.route,
        failed: query.failed,
        from: time("from", &query.from)?,
        to: time("to", &query.to)?,
        before: query.before,
        limit: query.limit,
    };
    let send = async |mut client: AccessServiceClient<Lane>, request| client.list_changes(request).await;
    let answer = app.upstreams.access(Call::read(LIST).by(caller), request, send).await?;
    let changes: Vec<RecordedChange> = answer.changes.into_iter().map(RecordedChange::from).collect();
    let next_before = changes.last().map(|change| change.number).filter(|number| *number > 1);
    Ok(Answer(RecordedChanges { changes, next_before }))
}

impl From<wire::RecordedChange> for RecordedChange {
    fn from(change: wire::RecordedChange) -> Self {
        let kind = if change.kind() == wire::ChangeKind::Control { "control" } else { "data" };
        Self {
            number: change.number,
            at: rfc3339(change.at),
            kind,
            subject: change.subject,
            method: change.method,
            role: change.role,
            address: change.address,
            agent: change.agent,
            verb: change.verb,
            route: change.route,
            target: change.target,
            status: change.status,
            code: change.code,
            request_id: change.request_id,
            edge: change.edge,
        }
    }
}
