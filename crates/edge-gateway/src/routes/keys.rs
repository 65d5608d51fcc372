//! API keys over REST: made, listed, rotated, revoked. A secret is shown once, in the answer that makes it.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use http::header::CACHE_CONTROL;
use http::{HeaderValue, StatusCode};
use mainstay_auth::scope::{self, Scope};
use mainstay_auth::{Role, api_key};
use mainstay_proto::monitor::v1 as wire;
use mainstay_proto::monitor::v1::access_service_client::AccessServiceClient;
use mainstay_rpc::{Call, Caller, Lane};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;

use super::words::{duration_of, rfc3339};
use crate::body::{Json, Who};
use crate::error::Problem;
use crate::state::App;

type Client = AccessServiceClient<Lane>;

const LIST: &str = "mainstay.monitor.v1.AccessService/ListApiKeys";
const CREATE: &str = "mainstay.monitor.v1.AccessService/CreateApiKey";
const ROTATE: &str = "mainstay.monitor.v1.AccessService/RotateApiKey";
const REVOKE: &str = "mainstay.monitor.v1.AccessService/RevokeApiKey";
/// How long the secret before a rotation stays good when nobody says how long.
const GRACE: &str = "1h";

/// All API keys, without their secrets.
#[derive(Serialize, ToSchema)]
pub(crate) struct ApiKeyList {
    keys: Vec<ApiKeyInfo>,
}

/// An API key, without its secret.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ApiKeyInfo {
    name: String,
    role: String,
    /// What it reaches; empty: all that its role does.
    scopes: Vec<String>,
    /// `stored` for keys made here, `config` for those of the configuration, which only the configuration changes.
    source: &'static str,
    created_at: Option<String>,
    created_by: Option<String>,
    rotated_at: Option<String>,
    /// Until when the secret before the last rotation is good.
    previous_until: Option<String>,
    /// Null: never.
    expires_at: Option<String>,
}

/// An API key that is to be made.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ApiKeyBody {
    /// Names the holder, in limits and in the record of changes.
    #[schema(pattern = "^[a-z0-9-]{1,64}$", example = "ci")]
    name: String,
    #[schema(value_type = String, example = "operator", pattern = "^(viewer|operator|admin)$")]
    role: Role,
    /// Like `cache:orders`, `realtime.write:news:*` or `database.read:*`; none: all that the role reaches.
    #[serde(default)]
    #[schema(max_items = 32)]
    scopes: Vec<String>,
    /// Between `1m` and `3650days`; without it the key never ends.
    #[schema(example = "90days")]
    expires_in: Option<String>,
}

/// How an API key is rotated.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RotationBody {
    /// How long the secret until now stays good, at most `30days`; `1h` without it, `0s` ends it at once.
    #[schema(example = "1h")]
    grace: Option<String>,
}

/// An API key with its secret: nobody can ask for it again.
#[derive(Serialize, ToSchema)]
pub(crate) struct ApiKeySecret {
    /// What its holder sends as `x-api-key`.
    secret: String,
    key: ApiKeyInfo,
}

/// Nothing but the fact that the key is gone.
#[derive(Serialize, ToSchema)]
pub(crate) struct ApiKeyRevoked {
    revoked: bool,
}

/// A text for a key, and what is stored of it.
struct Secret {
    text: String,
    sha256: Vec<u8>,
}

impl Secret {
    fn new(name: &str) -> Self {
        let text = api_key::text(name, &rand::random());
        let sha256 = Sha256::digest(&text).to_vec();
        Self { text, sha256 }
    }

    /// Shows it. No copy of this answer may be kept, not even for a repetition of the request.
    fn shown(self, key: Option<wire::ApiKey>) -> Response {
        let key = key.unwrap_or_default().into();
        let no_copy = [(CACHE_CONTROL, HeaderValue::from_static("no-store"))];
        (no_copy, Answer(ApiKeySecret { secret: self.text, key })).into_response()
    }
}

/// Lists API keys: those made here, and those of the configuration of the edge that answers.
#[utoipa::path(get, path = "/api-keys", tag = "access", responses((status = 200, description = "the keys, by name", body = ApiKeyList)))]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Who(caller): Who,
) -> Result<Answer<ApiKeyList>, Problem> {
    let configured = app.configured_keys.iter().map(|key| ApiKeyInfo {
        name: key.id.clone(),
        role: key.role.to_string(),
        scopes: key.scopes.clone(),
        source: "config",
        created_at: None,
        created_by: None,
        rotated_at: None,
        previous_until: None,
        expires_at: None,
    });
    let mut keys: Vec<ApiKeyInfo> = configured.collect();
    keys.extend(stored(&app, caller).await?.into_iter().map(ApiKeyInfo::from));
    keys.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(Answer(ApiKeyList { keys }))
}

/// Makes an API key. Its secret is shown now and never again.
///
/// It is good on this edge at once, on others within `auth.stored_keys.refresh_every`. When no answer comes, the key may be
/// there without anybody knowing its secret: rotate or revoke it.
#[utoipa::path(post, path = "/api-keys", tag = "access", request_body = ApiKeyBody, responses(
    (status = 200, description = "the key and its secret", body = ApiKeySecret),
    (status = 409, description = "there is a key of that name, or the idempotency key is taken"),
    (status = 429, description = "there are 1000 keys already"),
))]
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    Who(caller): Who,
    Json(body): Json<ApiKeyBody>,
) -> Result<Response, Problem> {
    let ApiKeyBody { name, role, scopes, expires_in } = body;
    if !api_key::is_name(&name) {
        return Err(Problem::invalid("name", "must be 1 to 64 of a-z, 0-9 and hyphens"));
    }
    for (position, text) in scopes.iter().enumerate() {
        let field = format!("scopes[{position}]");
        text.parse::<Scope>().map_err(|error| Problem::invalid(&field, error.to_string()))?;
    }
    let expires_in = duration_of("expiresIn", expires_in)?;
    may_give(&caller, &scopes)?;
    if app.configured_keys.iter().any(|key| key.id == name) {
        let detail = "there is a key of that name in the configuration";
        return Err(Problem::new(StatusCode::CONFLICT, "API_KEY_EXISTS", detail));
    }
    let secret = Secret::new(&name);
    let sha256 = secret.sha256.clone().into();
    let request = wire::CreateApiKeyRequest { name, role: role.to_string(), scopes, sha256, expires_in };
    let send = async |mut client: Client, request| client.create_api_key(request).await;
    let answer = app.upstreams.access(Call::write(CREATE).by(caller), request, send).await;
    let answer = answer.map_err(|failure| Problem::from(failure).camel_case_fields(""))?;
    look(&app).await;
    Ok(secret.shown(answer.key))
}

/// Gives an API key another secret; the one until now stays good for a time.
#[utoipa::path(post, path = "/api-keys/{name}/rotate", tag = "access", params(("name" = String, Path, description = "name of the key")), request_body = RotationBody, responses(
    (status = 200, description = "the key and its new secret", body = ApiKeySecret),
    (status = 404, description = "no key of that name was made here"),
))]
pub(crate) async fn rotate(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    Who(caller): Who,
    Json(body): Json<RotationBody>,
) -> Result<Response, Problem> {
    let grace = duration_of("grace", Some(body.grace.unwrap_or_else(|| GRACE.to_owned())))?;
    if scope::are_limiting(&caller.scopes) {
        // Whoever rotates a key can then act as its holder.
        let held = stored(&app, caller.clone()).await?.into_iter().find(|key| key.name == name);
        may_give(&caller, &held.map(|key| key.scopes).unwrap_or_default())?;
    }
    let secret = Secret::new(&name);
    let request = wire::RotateApiKeyRequest { name, sha256: secret.sha256.clone().into(), grace };
    let send = async |mut client: Client, request| client.rotate_api_key(request).await;
    let answer = app.upstreams.access(Call::write(ROTATE).by(caller), request, send).await?;
    look(&app).await;
    Ok(secret.shown(answer.key))
}

/// Revokes an API key, with the secret before its last rotation.
///
/// This edge refuses it at once, others within `auth.stored_keys.refresh_every`.
#[utoipa::path(delete, path = "/api-keys/{name}", tag = "access", params(("name" = String, Path, description = "name of the key")), responses(
    (status = 200, description = "it is gone", body = ApiKeyRevoked),
    (status = 404, description = "no key of that name was made here"),
))]
pub(crate) async fn revoke(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    Who(caller): Who,
) -> Result<Answer<ApiKeyRevoked>, Problem> {
    let send = async |mut client: Client, request| client.revoke_api_key(request).await;
    let call = Call::write(REVOKE).by(caller);
    app.upstreams.access(call, wire::RevokeApiKeyRequest { name }, send).await?;
    look(&app).await;
    Ok(Answer(ApiKeyRevoked { revoked: true }))
}

async fn stored(app: &App, caller: Caller) -> Result<Vec<wire::ApiKey>, Problem> {
    let send = async |mut client: Client, request| client.list_api_keys(request).await;
    let request = wire::ListApiKeysRequest::default();
    Ok(app.upstreams.access(Call::read(LIST).by(caller), request, send).await?.keys)
}

fn may_give(caller: &Caller, scopes: &[String]) -> Result<(), Problem> {
    if scope::may_give(&caller.scopes, scopes) {
        return Ok(());
    }
    let detail = "the key would reach what the credentials do not; nobody gives more than he has";
    Err(Problem::new(StatusCode::FORBIDDEN, "SCOPES_TOO_WIDE", detail))
}

/// Has the change count here at once; where that fails the background job does it.
async fn look(app: &App) {
    if let Err(failure) = app.keyring.look(&app.upstreams).await {
        tracing::warn!(error = %failure, "a change of api keys counts here only after the next look");
    }
}

impl From<wire::ApiKey> for ApiKeyInfo {
    fn from(key: wire::ApiKey) -> Self {
        Self {
            name: key.name,
            role: key.role,
            scopes: key.scopes,
            source: "stored",
            created_at: rfc3339(key.created_at),
            created_by: Some(key.created_by),
            rotated_at: rfc3339(key.rotated_at),
            previous_until: rfc3339(key.previous_until),
            expires_at: rfc3339(key.expires_at),
        }
    }
}
