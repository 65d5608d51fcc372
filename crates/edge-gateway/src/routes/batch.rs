//! Many operations of one namespace in one request.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::{Path, State};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use mainstay_proto::cache::v1 as wire;
use mainstay_proto::cache::v1::cache_service_client::CacheServiceClient;
use mainstay_proto::cache::v1::operation::Action;
use mainstay_proto::cache::v1::outcome::Result as Ended;
use mainstay_rpc::{Call, Lane};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::cache::{cache_word, outcome_word};
use super::words::{seconds, wire_duration};
use crate::body::{Json, Who};
use crate::error::Problem;
use crate::state::App;

const BATCH: &str = "mainstay.cache.v1.CacheService/Batch";

/// What to do, in no order: do not name a key twice unless all of them read it.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BatchBody {
    #[schema(min_items = 1, max_items = 1000)]
    operations: Vec<Operation>,
}

/// One operation.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", tag = "op")]
enum Operation {
    Get {
        key: String,
    },
    #[serde(rename_all = "camelCase")]
    Set {
        key: String,
        value: String,
        /// `utf8`, or `base64` for any bytes.
        #[serde(default)]
        encoding: Encoding,
        /// Like `30s`; without it the namespace's own.
        ttl: Option<String>,
        #[serde(default)]
        content_type: String,
        #[serde(default)]
        tags: Vec<String>,
        /// Store only if the entry has this version; 0: only if there is none.
        if_version: Option<u64>,
        /// The operation is made once: sent again with the same key within 10 minutes it gets the outcome of the first.
        #[serde(default)]
        idempotency_key: String,
    },
    #[serde(rename_all = "camelCase")]
    Delete {
        key: String,
        /// As of a set.
        #[serde(default)]
        idempotency_key: String,
    },
}

/// How the bytes of a value stand in JSON.
#[derive(Clone, Copy, Default, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    #[default]
    Utf8,
    Base64,
}

/// How each operation ended, in their order.
#[derive(Serialize, ToSchema)]
pub(crate) struct BatchOutcomes {
    outcomes: Vec<Outcome>,
}

/// How one operation ended: `found`, `stored` or `existed` says which, `error` that it was not done.
#[derive(Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    #[serde(skip_serializing_if = "Option::is_none")]
    found: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entry: Option<Entry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stored: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    existed: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    /// True when Redis could not be asked or did not confirm.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    degraded: bool,
    /// Of a set, what became of it in Redis: `applied`, `notApplied` or `unknown`.
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    /// True when it had been made before, under its idempotency key.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    replayed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<OperationProblem>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Entry {
    value: String,
    encoding: Encoding,
    content_type: String,
    ttl_seconds: Option<f64>,
    age_seconds: Option<f64>,
    /// `l1`, `l2`, `l3`, `origin` or `stale`.
    layer: &'static str,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct OperationProblem {
    /// Stable word for programs, like `KEY_TOO_LONG`.
    code: String,
    detail: String,
    /// Facts for programs, like `version` with `VERSION_MISMATCH`.
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    facts: HashMap<String, String>,
}

/// Does up to 1,000 operations of one namespace at once; each ends by itself.
#[utoipa::path(post, path = "/cache/{namespace}/batch", tag = "cache", params(
    ("namespace" = String, Path, description = "letters, digits, `_` and `-`, starting with a letter", pattern = "^[a-z][a-z0-9_-]{0,63}$"),
), request_body = BatchBody, responses((status = 200, description = "each was answered, some perhaps with an error", body = BatchOutcomes)))]
pub(crate) async fn batch(
    State(app): State<Arc<App>>,
    Path(namespace): Path<String>,
    Who(caller): Who,
    Json(body): Json<BatchBody>,
) -> Result<Answer<BatchOutcomes>, Problem> {
    let encode = |(index, operation)| encode(index, operation);
    let operations: Result<Vec<wire::Operation>, Problem> =
        body.operations.into_iter().enumerate().map(encode).collect();
    let request = wire::BatchRequest { namespace, operations: operations? };
    let send = async |mut client: CacheServiceClient<Lane>, request| client.batch(request).await;
    let answer = app.upstreams.cache(Call::write(BATCH).by(caller), request, send).await?;
    Ok(Answer(BatchOutcomes { outcomes: answer.outcomes.into_iter().map(decode).collect() }))
}

fn encode(index: usize, operation: Operation) -> Result<wire::Operation, Problem> {
    let invalid = |field: &str, form: &str| Problem::invalid(&format!("operations[{index}].{field}"), form);
    let (key, action) = match operation {
        Operation::Get { key } => (key, Action::Get(wire::GetAction {})),
        Operation::Delete { key, idempotency_key } => {
            (key, Action::Delete(wire::DeleteAction { idempotency_key, ..wire::DeleteAction::default() }))
        }
        Operation::Set { key, value, encoding, ttl, content_type, tags, if_version, idempotency_key } => {
            let value = match encoding {
                Encoding::Utf8 => Bytes::from(value),
                Encoding::Base64 => {
                    let decoded = BASE64.decode(value);
                    decoded.map_err(|_| invalid("value", "must be base64 with padding"))?.into()
                }
            };
            let ttl = ttl.map(|ttl| humantime::parse_duration(&ttl).map(wire_duration)).transpose();
            let ttl = ttl.map_err(|_| invalid("ttl", "must be a duration like 500ms, 30s, 5m or 1h"))?;
            (
                key,
                Action::Set(wire::SetAction {
                    value,
                    ttl,
                    content_type,
                    if_version,
                    tags,
                    idempotency_key,
                    ..wire::SetAction::default()
                }),
            )
        }
    };
    Ok(wire::Operation { key, action: Some(action) })
}

fn decode(outcome: wire::Outcome) -> Outcome {
    match outcome.result {
        Some(Ended::Get(get)) => {
            let layer = cache_word(&get);
            Outcome {
                found: Some(get.entry.is_some()),
                version: get.entry.as_ref().map(|entry| entry.version),
                entry: get.entry.map(|entry| Entry::new(entry, layer)),
                degraded: get.degraded,
                ..Outcome::default()
            }
        }
        Some(Ended::Set(set)) => Outcome {
            stored: Some(true),
            version: Some(set.version),
            degraded: set.degraded,
            outcome: Some(outcome_word(set.outcome())),
            replayed: set.replayed,
            ..Outcome::default()
        },
        Some(Ended::Delete(delete)) => {
            Outcome { existed: Some(delete.existed), replayed: delete.replayed, ..Outcome::default() }
        }
        Some(Ended::Error(error)) => Outcome {
            error: Some(OperationProblem { code: error.reason, detail: error.message, facts: error.details }),
            ..Outcome::default()
        },
        None => Outcome::default(),
    }
}

impl Entry {
    fn new(entry: wire::Entry, layer: &'static str) -> Self {
        let (value, encoding) = match std::str::from_utf8(&entry.value) {
            Ok(text) => (text.to_owned(), Encoding::Utf8),
            Err(_) => (BASE64.encode(&entry.value), Encoding::Base64),
        };
        Self {
            value,
            encoding,
            content_type: entry.content_type,
            ttl_seconds: seconds(entry.ttl),
            age_seconds: seconds(entry.age),
            layer,
        }
    }
}
