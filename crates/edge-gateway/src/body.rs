//! Reads requests: a bad one becomes a problem that names the field.

use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use mainstay_auth::Principal;
use mainstay_rpc::Caller;
use serde::de::DeserializeOwned;

use crate::error::Problem;

/// A JSON request body.
pub(crate) struct Json<T>(pub(crate) T);

/// A raw request body within the size limit.
pub(crate) struct Raw(pub(crate) Bytes);

/// Query parameters.
pub(crate) struct Params<T>(pub(crate) T);

/// Who asks; present behind the authorisation middleware.
pub(crate) struct Who(pub(crate) Caller);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            let detail = "the body must be JSON, with content-type application/json";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "CONTENT_TYPE_NOT_JSON", detail));
        }
        let Raw(bytes) = Raw::from_request(request, state).await?;
        let deserializer = &mut serde_json::Deserializer::from_slice(&bytes);
        let value = serde_path_to_error::deserialize(deserializer).map_err(|error| {
            let path = error.path().to_string();
            let field = if path == "." { "body".to_owned() } else { path };
            Problem::invalid(&field, error.inner().to_string())
        })?;
        Ok(Self(value))
    }
}

impl<S: Send + Sync> FromRequest<S> for Raw {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        Bytes::from_request(request, state).await.map(Self).map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Problem::for_bare_status(StatusCode::PAYLOAD_TOO_LARGE),
            _ => Problem::invalid("body", "could not be read to its end"),
        })
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        query
            .map(|Query(value)| Self(value))
            .map_err(|rejection| Problem::invalid("query", rejection.body_text()))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Who {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let principal = parts.extensions.get::<Principal>().ok_or_else(|| {
            Problem::new(StatusCode::UNAUTHORIZED, "CREDENTIALS_MISSING", "this path needs credentials")
        })?;
        Ok(Self(caller(principal)))
    }
}

/// Names a caller to the services behind.
pub(crate) fn caller(principal: &Principal) -> Caller {
    Caller {
        subject: principal.subject.clone(),
        role: principal.role.to_string(),
        scopes: principal.scopes.clone(),
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return false };
    let essence = kind.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}
