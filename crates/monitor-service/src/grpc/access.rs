//! API keys and recorded changes on the wire.

use std::sync::Arc;
use std::time::Duration;

use mainstay_proto::monitor::v1 as pb;
use mainstay_proto::monitor::v1::access_service_server::{AccessService, AccessServiceServer};
use mainstay_rpc::{ErrorCode, Failure, Reply, Request, Response};

use super::rules::all;
use super::{by, decode, failure, rules};
use crate::access::{Access, ApiKey, ChangeFilter, ChangeKind, Digest, KeyError, NewKey, RecordedChange};

/// Serves `mainstay.monitor.v1.AccessService`.
pub(crate) struct AccessGrpc {
    access: Arc<Access>,
}

/// Longest time that a rotated secret stays good.
const GRACE_MAX: Duration = Duration::from_hours(24 * 30);
/// Changes in one call.
const CHANGES_MAX: usize = 1_000;
/// Longest text of a recorded change, in bytes.
const TEXT_BYTES_MAX: usize = 2_048;

impl AccessGrpc {
    pub(crate) fn new(access: Arc<Access>) -> Self {
        Self { access }
    }

    pub(crate) fn into_server(self) -> AccessServiceServer<Self> {
        AccessServiceServer::new(self)
    }
}

#[tonic::async_trait]
impl AccessService for AccessGrpc {
    async fn list_api_keys(
        &self,
        request: Request<pb::ListApiKeysRequest>,
    ) -> Reply<pb::ListApiKeysResponse> {
        let (revision, keys) = self.access.keys(request.into_inner().known_revision);
        let unchanged = keys.is_none();
        let keys = keys.unwrap_or_default().into_iter().map(encode_key).collect();
        Ok(Response::new(pb::ListApiKeysResponse { keys, revision, unchanged }))
    }

    async fn create_api_key(
        &self,
        request: Request<pb::CreateApiKeyRequest>,
    ) -> Reply<pb::CreateApiKeyResponse> {
        let by = by(&request);
        let key = self.access.create(new_key(request.into_inner())?, by).await.map_err(not_changed)?;
        Ok(Response::new(pb::CreateApiKeyResponse { key: Some(encode_key(key)) }))
    }

    async fn rotate_api_key(
        &self,
        request: Request<pb::RotateApiKeyRequest>,
    ) -> Reply<pb::RotateApiKeyResponse> {
        let pb::RotateApiKeyRequest { name, sha256, grace } = request.into_inner();
        let sha256 = digest(&sha256)?;
        let grace = decode::duration("grace", grace)?.unwrap_or_default();
        if grace > GRACE_MAX {
            return Err(Failure::invalid("grace", "must be at most 30days").into());
        }
        let key = self.access.rotate(&name, sha256, grace).await.map_err(not_changed)?;
        Ok(Response::new(pb::RotateApiKeyResponse { key: Some(encode_key(key)) }))
    }

    async fn revoke_api_key(
        &self,
        request: Request<pb::RevokeApiKeyRequest>,
    ) -> Reply<pb::RevokeApiKeyResponse> {
        self.access.revoke(&request.into_inner().name).await.map_err(not_changed)?;
        Ok(Response::new(pb::RevokeApiKeyResponse {}))
    }

    async fn record_changes(
        &self,
        request: Request<pb::RecordChangesRequest>,
    ) -> Reply<pb::RecordChangesResponse> {
        let changes = request.into_inner().changes;
        if changes.len() > CHANGES_MAX {
            return Err(Failure::invalid("changes", "must be at most 1000").into());
        }
        let changes = changes.into_iter().map(change).collect::<Result<Vec<_>, _>>()?;
        self.access.record(changes).await.map_err(|error| {
            let message = "the changes are not on record yet; telling them again does no harm";
            Failure::new(ErrorCode::Unavailable, "NOT_STORED", message).caused_by(error)
        })?;
        Ok(Response::new(pb::RecordChangesResponse {}))
    }

    async fn list_changes(&self, request: Request<pb::ListChangesRequest>) -> Reply<pb::ListChangesResponse> {
        let request = request.into_inner();
        let some = |text: String| Some(text).filter(|text| !text.is_empty());
        let filter = ChangeFilter {
            kind: kind(request.kind()),
            subject: some(request.subject),
            route: some(request.route),
            failed: request.failed,
            from: decode::time("from", request.from)?,
            to: decode::time("to", request.to)?,
            before: (request.before > 0).then_some(request.before),
            limit: decode::limited(request.limit, (100, 1_000)),
        };
        let changes = self.access.changes(filter).await.map_err(failure::not_read)?;
        let changes = changes.into_iter().map(encode_change).collect();
        Ok(Response::new(pb::ListChangesResponse { changes }))
    }
}

fn new_key(request: pb::CreateApiKeyRequest) -> Result<NewKey, Failure> {
    let key = NewKey {
        name: request.name,
        role: request.role,
        scopes: request.scopes,
        sha256: digest(&request.sha256)?,
        expires_in: decode::duration("expires_in", request.expires_in)?,
    };
    let problems = key.check().into_iter();
    let problems = problems.map(|(field, message)| (field.to_owned(), message.to_owned())).collect();
    all(problems).map_or(Ok(key), Err)
}

fn digest(bytes: &[u8]) -> Result<Digest, Failure> {
    bytes.try_into().map(Digest).map_err(|_| Failure::invalid("sha256", "must be 32 bytes"))
}

fn not_changed(error: KeyError) -> Failure {
    let (code, reason) = match &error {
        KeyError::Exists => (ErrorCode::Conflict, "API_KEY_EXISTS"),
        KeyError::NotFound => (ErrorCode::NotFound, "API_KEY_NOT_FOUND"),
        KeyError::TooMany => (ErrorCode::ResourceExhausted, "TOO_MANY_API_KEYS"),
        KeyError::NotStored(_) => {
            let message = "the key could not be stored; nothing was changed";
            return Failure::new(ErrorCode::Unavailable, "NOT_STORED", message).caused_by(error);
        }
    };
    Failure::new(code, reason, error.to_string())
}

fn encode_key(key: ApiKey) -> pb::ApiKey {
    let previous = key.previous;
    pb::ApiKey {
        name: key.name,
        role: key.role,
        scopes: key.scopes,
        sha256: key.sha256.0.to_vec().into(),
        previous_until: previous.as_ref().map(|previous| previous.until.into()),
        previous_sha256: previous.map(|previous| previous.sha256.0.to_vec().into()).unwrap_or_default(),
        created_at: Some(key.created_at.into()),
        created_by: key.created_by,
        rotated_at: key.rotated_at.map(Into::into),
        expires_at: key.expires_at.map(Into::into),
    }
}

fn kind(kind: pb::ChangeKind) -> Option<ChangeKind> {
    match kind {
        pb::ChangeKind::Control => Some(ChangeKind::Control),
        pb::ChangeKind::Data => Some(ChangeKind::Data),
        pb::ChangeKind::Unspecified => None,
    }
}

fn change(change: pb::RecordedChange) -> Result<RecordedChange, Failure> {
    let kind =
        kind(change.kind()).ok_or_else(|| Failure::invalid("changes.kind", "must be control or data"))?;
    let at = decode::time("changes.at", change.at)?;
    let recorded = RecordedChange {
        id: rules::id("changes.id", &change.id)?,
        at: at.ok_or_else(|| Failure::invalid("changes.at", "must be there"))?,
        kind,
        subject: change.subject,
        method: change.method,
        role: change.role,
        address: change.address,
        agent: change.agent,
        verb: change.verb,
        route: change.route,
        target: change.target,
        status: u16::try_from(change.status)
            .map_err(|_| Failure::invalid("changes.status", "must be a status of HTTP"))?,
        code: change.code,
        request_id: change.request_id,
        edge: change.edge,
    };
    let texts = [
        &recorded.subject,
        &recorded.method,
        &recorded.role,
        &recorded.address,
        &recorded.agent,
        &recorded.verb,
        &recorded.route,
        &recorded.target,
        &recorded.code,
        &recorded.request_id,
        &recorded.edge,
    ];
    if texts.iter().any(|text| text.len() > TEXT_BYTES_MAX) {
        return Err(Failure::invalid("changes", "must have texts of at most 2048 bytes"));
    }
    Ok(recorded)
}

fn encode_change((number, change): (u64, RecordedChange)) -> pb::RecordedChange {
    let kind = match change.kind {
        ChangeKind::Control => pb::ChangeKind::Control,
        ChangeKind::Data => pb::ChangeKind::Data,
    };
    pb::RecordedChange {
        id: change.id.to_string(),
        at: Some(change.at.into()),
        kind: kind.into(),
        subject: change.subject,
        method: change.method,
        role: change.role,
        address: change.address,
        agent: change.agent,
        verb: change.verb,
        route: change.route,
        target: change.target,
        status: change.status.into(),
        code: change.code,
        request_id: change.request_id,
        edge: change.edge,
        number,
    }
}
