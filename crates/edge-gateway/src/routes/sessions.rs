//! Sessions of users. An id is a secret, told once; lists name sessions by handle.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use http::HeaderMap;
use http::header::{ETAG, IF_MATCH};
use mainstay_proto::cache::v1 as wire;
use mainstay_proto::cache::v1::revoke_session_request::Which;
use mainstay_proto::cache::v1::session_service_client::SessionServiceClient;
use mainstay_rpc::{Call, Lane};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::cache::version_tag;
use super::words::{duration_of, rfc3339};
use crate::body::{Json, Params, Who};
use crate::error::Problem;
use crate::state::App;

const CREATE: &str = "mainstay.cache.v1.SessionService/Create";
const GET: &str = "mainstay.cache.v1.SessionService/Get";
const UPDATE: &str = "mainstay.cache.v1.SessionService/Update";
const ROTATE: &str = "mainstay.cache.v1.SessionService/Rotate";
const REVOKE: &str = "mainstay.cache.v1.SessionService/Revoke";
const LIST: &str = "mainstay.cache.v1.SessionService/ListByUser";
const REVOKE_USER: &str = "mainstay.cache.v1.SessionService/RevokeUser";

type Client = SessionServiceClient<Lane>;

/// A session to begin. Times like `30m`; without them those of the configuration.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct NewSession {
    user: String,
    #[serde(default)]
    fields: HashMap<String, String>,
    /// Time after which an unseen session ends.
    ttl: Option<String>,
    /// Time after which it ends however often it is seen.
    max_age: Option<String>,
}

/// Fields to set and to remove.
#[derive(Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[derive(Default)]
pub(crate) struct SessionChange {
    set: HashMap<String, String>,
    remove: Vec<String>,
}

/// How long the old id leads to the session.
#[derive(Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Rotation {
    /// Like `30s`; at most 10 min; without it that of the configuration.
    grace: Option<String>,
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct SessionQuery {
    /// True extends the session by its ttl.
    #[serde(default)]
    touch: bool,
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
pub(crate) struct RevokeQuery {
    /// Handle of a session to spare.
    #[serde(default)]
    except_handle: String,
}

/// A session.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Session {
    /// Names the session without being a credential.
    handle: String,
    user: String,
    created_at: Option<String>,
    seen_at: Option<String>,
    expires_at: Option<String>,
    absolute_expires_at: Option<String>,
    version: u64,
    fields: HashMap<String, String>,
    /// True when the id was replaced and is in its grace time.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    rotated: bool,
}

/// A session with its id, which is told here and never again.
#[derive(Serialize, ToSchema)]
pub(crate) struct SessionWithId {
    id: String,
    session: Session,
    /// Sessions of the user that ended to make room.
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked: Option<u32>,
}

/// The sessions of a user, the one that ends first first.
#[derive(Serialize, ToSchema)]
pub(crate) struct Sessions {
    sessions: Vec<Session>,
}

/// How many sessions ended.
#[derive(Serialize, ToSchema)]
pub(crate) struct Revoked {
    revoked: u32,
}

/// Begins a session.
#[utoipa::path(post, path = "/sessions", tag = "sessions", request_body = NewSession, responses(
    (status = 200, description = "begun", body = SessionWithId),
    (status = 409, description = "the user has too many, and the configuration refuses one more"),
))]
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    Who(caller): Who,
    Json(body): Json<NewSession>,
) -> Result<Answer<SessionWithId>, Problem> {
    let request = wire::CreateSessionRequest {
        user: body.user,
        fields: body.fields,
        ttl: duration_of("ttl", body.ttl)?,
        max_age: duration_of("maxAge", body.max_age)?,
    };
    let send = async |mut client: Client, request| client.create(request).await;
    let made = app.upstreams.sessions(Call::write(CREATE).by(caller), request, send).await?;
    let session = Session::new(made.session, false);
    Ok(Answer(SessionWithId { id: made.id, session, revoked: Some(made.revoked) }))
}

/// Reads a session.
#[utoipa::path(get, path = "/sessions/{id}", tag = "sessions", params(("id" = String, Path, description = "the id"), SessionQuery), responses(
    (status = 200, description = "the session", body = Session, headers(("etag" = String, description = "its version"))),
    (status = 404, description = "unknown, ended or revoked: not told apart"),
))]
pub(crate) async fn get(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Who(caller): Who,
    Params(query): Params<SessionQuery>,
) -> Result<Response, Problem> {
    let call = if query.touch { Call::write(GET) } else { Call::read(GET) };
    let request = wire::GetSessionRequest { id, touch: query.touch };
    let send = async |mut client: Client, request| client.get(request).await;
    let found = app.upstreams.sessions(call.by(caller), request, send).await?;
    Ok(Session::new(found.session, found.rotated).with_tag())
}

/// Extends a session by its ttl.
#[utoipa::path(post, path = "/sessions/{id}/touch", tag = "sessions", params(("id" = String, Path, description = "the id")), responses(
    (status = 200, description = "the session", body = Session, headers(("etag" = String, description = "its version"))),
    (status = 404, description = "unknown, ended or revoked: not told apart"),
))]
pub(crate) async fn touch(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Who(caller): Who,
) -> Result<Response, Problem> {
    let request = wire::GetSessionRequest { id, touch: true };
    let send = async |mut client: Client, request| client.get(request).await;
    let found = app.upstreams.sessions(Call::write(GET).by(caller), request, send).await?;
    Ok(Session::new(found.session, found.rotated).with_tag())
}

/// Changes fields of a session.
#[utoipa::path(patch, path = "/sessions/{id}", tag = "sessions", params(
    ("id" = String, Path, description = "the id"),
    ("if-match" = Option<String>, Header, description = "the `etag` of the version to change; another one is 412"),
), request_body = SessionChange, responses(
    (status = 200, description = "changed", body = Session, headers(("etag" = String, description = "its version"))),
    (status = 404, description = "unknown, ended or revoked: not told apart"),
    (status = 412, description = "another version is there than `if-match` names"),
))]
pub(crate) async fn update(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Who(caller): Who,
    headers: HeaderMap,
    Json(change): Json<SessionChange>,
) -> Result<Response, Problem> {
    let if_version = match headers.get(IF_MATCH) {
        None => None,
        Some(tag) => {
            let version = tag
                .to_str()
                .ok()
                .and_then(|tag| tag.trim().strip_prefix('"')?.strip_suffix('"')?.parse().ok());
            let form = "must be the etag that a read gave";
            Some(version.ok_or_else(|| Problem::invalid("if-match", form))?)
        }
    };
    let request = wire::UpdateSessionRequest { id, set: change.set, remove: change.remove, if_version };
    let send = async |mut client: Client, request| client.update(request).await;
    let updated = app.upstreams.sessions(Call::write(UPDATE).by(caller), request, send).await?;
    Ok(Session::new(updated.session, false).with_tag())
}

/// Gives a session a new id; the old one leads to it for a grace time.
#[utoipa::path(post, path = "/sessions/{id}/rotate", tag = "sessions", params(("id" = String, Path, description = "the id")), request_body = Rotation, responses(
    (status = 200, description = "rotated", body = SessionWithId),
    (status = 404, description = "unknown, ended or revoked: not told apart"),
    (status = 409, description = "this id was replaced already"),
))]
pub(crate) async fn rotate(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Who(caller): Who,
    Json(body): Json<Rotation>,
) -> Result<Answer<SessionWithId>, Problem> {
    let request = wire::RotateSessionRequest { id, grace: duration_of("grace", body.grace)? };
    let send = async |mut client: Client, request| client.rotate(request).await;
    let rotated = app.upstreams.sessions(Call::write(ROTATE).by(caller), request, send).await?;
    let session = Session::new(rotated.session, false);
    Ok(Answer(SessionWithId { id: rotated.id, session, revoked: None }))
}

/// Ends a session, named by its id or its handle.
#[utoipa::path(delete, path = "/sessions/{id}", tag = "sessions", params(("id" = String, Path, description = "the id, or the handle that a list gave")), responses(
    (status = 200, description = "there is no such session any more", body = Revoked),
))]
pub(crate) async fn revoke(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Who(caller): Who,
) -> Result<Answer<Revoked>, Problem> {
    // An id has 48 digits and a handle 64: what is neither is refused as an id.
    let which = if id.len() == HANDLE_DIGITS { Which::Handle(id) } else { Which::Id(id) };
    let request = wire::RevokeSessionRequest { which: Some(which) };
    let send = async |mut client: Client, request| client.revoke(request).await;
    let ended = app.upstreams.sessions(Call::write(REVOKE).by(caller), request, send).await?;
    Ok(Answer(Revoked { revoked: ended.revoked.into() }))
}

/// A SHA-256 in hex.
const HANDLE_DIGITS: usize = 64;

/// Lists the sessions of a user.
#[utoipa::path(get, path = "/users/{user}/sessions", tag = "sessions", params(("user" = String, Path, description = "whose")), responses((status = 200, description = "by handle, without ids", body = Sessions)))]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Path(user): Path<String>,
    Who(caller): Who,
) -> Result<Answer<Sessions>, Problem> {
    let request = wire::ListUserSessionsRequest { user };
    let send = async |mut client: Client, request| client.list_by_user(request).await;
    let listed = app.upstreams.sessions(Call::read(LIST).by(caller), request, send).await?;
    let sessions = listed.sessions.into_iter().map(|session| Session::new(Some(session), false));
    Ok(Answer(Sessions { sessions: sessions.collect() }))
}

/// Ends all sessions of a user.
#[utoipa::path(delete, path = "/users/{user}/sessions", tag = "sessions", params(("user" = String, Path, description = "whose"), RevokeQuery), responses((status = 200, description = "they ended, on all nodes", body = Revoked)))]
pub(crate) async fn revoke_user(
    State(app): State<Arc<App>>,
    Path(user): Path<String>,
    Who(caller): Who,
    Params(query): Params<RevokeQuery>,
) -> Result<Answer<Revoked>, Problem> {
    let request = wire::RevokeUserSessionsRequest { user, except_handle: query.except_handle };
    let send = async |mut client: Client, request| client.revoke_user(request).await;
    let ended = app.upstreams.sessions(Call::write(REVOKE_USER).by(caller), request, send).await?;
    Ok(Answer(Revoked { revoked: ended.revoked }))
}

impl Session {
    fn new(session: Option<wire::Session>, rotated: bool) -> Self {
        let session = session.unwrap_or_default();
        Self {
            handle: session.handle,
            user: session.user,
            created_at: rfc3339(session.created_at),
            seen_at: rfc3339(session.seen_at),
            expires_at: rfc3339(session.expires_at),
            absolute_expires_at: rfc3339(session.absolute_expires_at),
            version: session.version,
            fields: session.fields,
            rotated,
        }
    }

    fn with_tag(self) -> Response {
        ([(ETAG, version_tag(self.version))], Answer(self)).into_response()
    }
}
