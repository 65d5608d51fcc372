use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use mainstay_proto::cache::v1 as pb;
use mainstay_proto::cache::v1::revoke_session_request::Which;
use mainstay_proto::cache::v1::session_service_server::SessionService;
use mainstay_rpc::{Failure, Reply, Request, Response};

use super::cache::time_left;
use crate::config::SessionConfig;
use crate::metrics::{Outcome, SharedMetrics};
use crate::session::{Change, Draft, Handle, Session, SessionError, SessionId, Sessions};
use crate::shared::{BadField, Name, duration};

/// Decodes, asks for sessions, encodes.
#[derive(Debug, Clone)]
pub(crate) struct SessionGrpc {
    sessions: Arc<Sessions>,
    metrics: Arc<SharedMetrics>,
}

const LONGEST_USER: usize = 256;
const LONGEST_FIELD_NAME: usize = 64;

impl SessionGrpc {
    pub(crate) fn new(sessions: Arc<Sessions>, metrics: Arc<SharedMetrics>) -> Self {
        Self { sessions, metrics }
    }

    fn tell<T>(&self, op: &'static str, done: Result<T, SessionError>) -> Result<T, Failure> {
        let outcome = match &done {
            Ok(_) => Outcome::Done,
            Err(SessionError::Damaged | SessionError::Shared(_)) => Outcome::Failed,
            Err(_) => Outcome::Refused,
        };
        self.metrics.operation("session", op, outcome);
        done.map_err(Failure::from)
    }

    fn source(&self) -> i32 {
        self.sessions.source().to_pb()
    }
}

#[tonic::async_trait]
impl SessionService for SessionGrpc {
    async fn create(&self, request: Request<pb::CreateSessionRequest>) -> Reply<pb::CreateSessionResponse> {
        let left = time_left(&request);
        let draft = decode_draft(request.into_inner()).map_err(Failure::from)?;
        let created = self.sessions.create(draft, left).await;
        let (id, session, revoked) = self.tell("create", created)?;
        let (id, session, source) = (id.into_secret(), Some(encode(session)), self.source());
        Ok(Response::new(pb::CreateSessionResponse { id, session, revoked, source }))
    }

    async fn get(&self, request: Request<pb::GetSessionRequest>) -> Reply<pb::GetSessionResponse> {
        let left = time_left(&request);
        let pb::GetSessionRequest { id, touch } = request.into_inner();
        let found = self.sessions.get(&SessionId::shown(id), touch, left).await;
        let (session, rotated) = self.tell("get", found)?;
        let (session, source) = (Some(encode(session)), self.source());
        Ok(Response::new(pb::GetSessionResponse { session, rotated, source }))
    }

    async fn update(&self, request: Request<pb::UpdateSessionRequest>) -> Reply<pb::UpdateSessionResponse> {
        let left = time_left(&request);
        let pb::UpdateSessionRequest { id, set, remove, if_version } = request.into_inner();
        if remove.len() > Sessions::MOST_FIELDS {
            return Err(Failure::from(BadField::new("remove", "must be at most 64")).into());
        }
        let change = Change { set: fields("set", set).map_err(Failure::from)?, remove, if_version };
        let updated = self.sessions.update(&SessionId::shown(id), &change, left).await;
        let session = Some(encode(self.tell("update", updated)?));
        Ok(Response::new(pb::UpdateSessionResponse { session, source: self.source() }))
    }

    async fn rotate(&self, request: Request<pb::RotateSessionRequest>) -> Reply<pb::RotateSessionResponse> {
        let left = time_left(&request);
        let pb::RotateSessionRequest { id, grace } = request.into_inner();
        let grace = duration("grace", grace, Duration::ZERO, SessionConfig::LONGEST_GRACE);
        let grace = grace.map_err(Failure::from)?;
        let rotated = self.sessions.rotate(&SessionId::shown(id), grace, left).await;
        let (id, session) = self.tell("rotate", rotated)?;
        let (id, session, source) = (id.into_secret(), Some(encode(session)), self.source());
        Ok(Response::new(pb::RotateSessionResponse { id, session, source }))
    }

    async fn revoke(&self, request: Request<pb::RevokeSessionRequest>) -> Reply<pb::RevokeSessionResponse> {
        let left = time_left(&request);
        let handle = match request.into_inner().which {
            Some(Which::Id(id)) => SessionId::shown(id).handle(),
            Some(Which::Handle(text)) => handle("handle", &text).map_err(Failure::from)?,
            None => return Err(Failure::from(BadField::new("id", "or handle must be given")).into()),
        };
        let revoked = self.sessions.revoke(&handle, left).await;
        let revoked = self.tell("revoke", revoked)?;
        Ok(Response::new(pb::RevokeSessionResponse { revoked, source: self.source() }))
    }

    async fn list_by_user(
        &self,
        request: Request<pb::ListUserSessionsRequest>,
    ) -> Reply<pb::ListUserSessionsResponse> {
        let left = time_left(&request);
        let user = user(&request.into_inner().user).map_err(Failure::from)?;
        let listed = self.sessions.list(&user, left).await;
        let sessions = self.tell("list", listed)?.into_iter().map(encode).collect();
        Ok(Response::new(pb::ListUserSessionsResponse { sessions, source: self.source() }))
    }

    async fn revoke_user(
        &self,
        request: Request<pb::RevokeUserSessionsRequest>,
    ) -> Reply<pb::RevokeUserSessionsResponse> {
        let left = time_left(&request);
        let request = request.into_inner();
        let user = user(&request.user).map_err(Failure::from)?;
        let except = Some(request.except_handle).filter(|text| !text.is_empty());
        let except = except.map(|text| handle("except_handle", &text)).transpose().map_err(Failure::from)?;
        let revoked = self.sessions.revoke_user(&user, except.as_ref(), left).await;
        let revoked = self.tell("revoke_user", revoked)?;
        Ok(Response::new(pb::RevokeUserSessionsResponse { revoked, source: self.source() }))
    }
}

fn decode_draft(request: pb::CreateSessionRequest) -> Result<Draft, BadField> {
    let time = |field, given| duration(field, given, SessionConfig::SHORTEST, SessionConfig::LONGEST);
    Ok(Draft {
        user: user(&request.user)?,
        fields: fields("fields", request.fields)?,
        ttl: time("ttl", request.ttl)?,
        max_age: time("max_age", request.max_age)?,
    })
}

fn fields(field: &'static str, given: HashMap<String, String>) -> Result<BTreeMap<String, String>, BadField> {
    for name in given.keys() {
        Name::try_new(field, name, LONGEST_FIELD_NAME)
            .map_err(|bad| BadField::new(field, format!("a name {}", bad.message)))?;
    }
    Ok(given.into_iter().collect())
}

fn user(text: &str) -> Result<Name, BadField> {
    Name::try_new("user", text, LONGEST_USER)
}

fn handle(field: &'static str, text: &str) -> Result<Handle, BadField> {
    Handle::try_new(text).ok_or_else(|| BadField::new(field, "must be 64 hexadecimal digits"))
}

fn encode(session: Session) -> pb::Session {
    let at = |unix_ms| Some((UNIX_EPOCH + Duration::from_millis(unix_ms)).into());
    pb::Session {
        handle: session.handle.as_str().to_owned(),
        created_at: at(session.created_at_ms),
        seen_at: at(session.seen_at_ms),
        expires_at: at(session.ends_at_ms()),
        absolute_expires_at: at(session.ends_at_latest_ms),
        version: session.version,
        fields: session.fields.into_iter().collect(),
        user: session.user,
    }
}
