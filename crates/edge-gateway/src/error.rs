//! The only place that knows problem+json (RFC 9457).

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use mainstay_rpc::{ErrorCode, Failure};
use serde::Serialize;

/// Media type of every error.
pub(crate) const MEDIA_TYPE: &str = "application/problem+json";

/// An answer that says what went wrong.
///
/// A handler returns it; [`Problem::render`] gives it its body once the request id is known.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    code: String,
    detail: String,
    retry_after: Option<Duration>,
    errors: Vec<FieldError>,
    extensions: Vec<(String, String)>,
}

/// One field that is wrong, and what would be right.
#[derive(Clone, Debug, Serialize)]
struct FieldError {
    field: String,
    message: String,
}

/// The document as it goes over the wire.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    code: &'a str,
    detail: &'a str,
    instance: &'a str,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
    #[serde(skip_serializing_if = "<[FieldError]>::is_empty")]
    errors: &'a [FieldError],
    #[serde(flatten)]
    extensions: serde_json::Map<String, serde_json::Value>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, code: &str, detail: impl Into<String>) -> Self {
        Self {
            status,
            code: code.to_owned(),
            detail: detail.into(),
            retry_after: None,
            errors: Vec::new(),
            extensions: Vec::new(),
        }
    }

    /// Says that one field of the request is wrong.
    pub(crate) fn invalid(field: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        let mut problem = Self::new(StatusCode::BAD_REQUEST, "INVALID_FIELD", format!("{field}: {message}"));
        problem.errors.push(FieldError { field: field.to_owned(), message });
        problem
    }

    /// Gives fields of a gRPC request the names they have in JSON; `prefix` is that of the message they are in.
    pub(crate) fn camel_case_fields(mut self, prefix: &str) -> Self {
        for error in &mut self.errors {
            let name = error.field.strip_prefix(prefix).unwrap_or(&error.field);
            let mut words = name.split('_');
            let mut camel = words.next().unwrap_or_default().to_owned();
            for word in words {
                let (first, rest) = word.split_at(word.chars().next().map_or(0, char::len_utf8));
                camel.push_str(&first.to_uppercase());
                camel.push_str(rest);
            }
            if self.detail.starts_with(&error.field) {
                self.detail = format!("{camel}{}", &self.detail[error.field.len()..]);
            }
            error.field = camel;
        }
        self
    }

    pub(crate) fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Adds something for programs, under a name of its own.
    pub(crate) fn extension(mut self, name: &str, value: &str) -> Self {
        self.extensions.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    pub(crate) fn code(&self) -> &str {
        &self.code
    }

    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    fn retry_after_seconds(&self) -> Option<u64> {
        self.retry_after.map(|wait| wait.as_secs_f64().ceil().max(1.0) as u64)
    }

    /// Turns the problem into its final answer.
    pub(crate) fn render(&self, instance: &str, request_id: &str) -> Response {
        let retry_after = self.retry_after_seconds();
        let document = Document {
            r#type: format!("urn:mainstay:problem:{}", self.code.to_ascii_lowercase().replace('_', "-")),
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            code: &self.code,
            detail: &self.detail,
            instance,
            request_id,
            retry_after,
            errors: &self.errors,
            extensions: self
                .extensions
                .iter()
                .map(|(key, value)| (key.clone(), value.clone().into()))
                .collect(),
        };
        let body = serde_json::to_vec(&document).expect("strings and numbers always serialize");
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        if let Some(seconds) = retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }

    /// Gives what the document says besides the path and the status, for an answer whose status was sent before it failed.
    pub(crate) fn members(&self) -> serde_json::Value {
        let mut members = serde_json::json!({ "code": self.code, "detail": self.detail });
        if let Some(seconds) = self.retry_after_seconds() {
            members["retryAfter"] = seconds.into();
        }
        if !self.errors.is_empty() {
            members["errors"] = serde_json::json!(self.errors);
        }
        for (name, value) in &self.extensions {
            members[name] = value.as_str().into();
        }
        members
    }

    /// Gives a problem for an error answer that was made without one: an unknown path, a wrong method.
    pub(crate) fn for_bare_status(status: StatusCode) -> Self {
        let (code, detail) = match status {
            StatusCode::NOT_FOUND => ("PATH_NOT_FOUND", "there is nothing at this path"),
            StatusCode::METHOD_NOT_ALLOWED => ("METHOD_NOT_ALLOWED", "this path does not take this method"),
            StatusCode::PAYLOAD_TOO_LARGE => ("BODY_TOO_LARGE", "the request body is too large"),
            StatusCode::BAD_REQUEST => ("BAD_REQUEST", "the request cannot be read"),
            _ => ("INTERNAL", "the request could not be answered"),
        };
        Self::new(status, code, detail)
    }
}

/// Describes the document for the OpenAPI.
pub(crate) fn schema() -> serde_json::Value {
    serde_json::json!({
        "type": "object",
        "description": "What went wrong (RFC 9457).",
        "required": ["type", "title", "status", "code", "detail", "instance", "requestId"],
        "properties": {
            "type": { "type": "string", "description": "a URN made from `code`" },
            "title": { "type": "string" },
            "status": { "type": "integer" },
            "code": { "type": "string", "description": "stable word for programs, like KEY_NOT_FOUND" },
            "detail": { "type": "string", "description": "one line for a person" },
            "instance": { "type": "string", "description": "path of the request" },
            "requestId": { "type": "string" },
            "retryAfter": { "type": "integer", "description": "seconds" },
            "scope": { "type": "string", "description": "a scope that would do, like cache.write:orders" },
            "sqlState": { "type": "string", "description": "PostgreSQL's error code" },
            "errors": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["field", "message"],
                    "properties": { "field": { "type": "string" }, "message": { "type": "string" } },
                },
            },
        },
    })
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        Self {
            status: http_status(&failure),
            code: failure.reason().to_owned(),
            detail: failure.message().to_owned(),
            retry_after: failure.retry_delay(),
            errors: failure
                .fields()
                .iter()
                .map(|violation| FieldError {
                    field: camel_case(&violation.field),
                    message: violation.message.clone(),
                })
                .collect(),
            extensions: failure.details().iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
        }
    }
}

/// Writes a field of a gRPC message as JSON bodies have it: `alert_id` becomes `alertId`.
fn camel_case(field: &str) -> String {
    let mut after_underscore = false;
    let mut name = String::with_capacity(field.len());
    for letter in field.chars() {
        match letter {
            '_' if !name.is_empty() && !after_underscore => after_underscore = true,
            letter if std::mem::take(&mut after_underscore) => name.extend(letter.to_uppercase()),
            letter => name.push(letter),
        }
    }
    name
}

/// Gives the HTTP status of a failure. It is the code's own, save where HTTP has a finer word.
fn http_status(failure: &Failure) -> StatusCode {
    match (failure.code(), failure.reason()) {
        (ErrorCode::InvalidArgument, "VALUE_TOO_LARGE" | "DATA_TOO_LARGE" | "SQL_TOO_LARGE") => {
            StatusCode::PAYLOAD_TOO_LARGE
        }
        (ErrorCode::Conflict, "VERSION_MISMATCH") => StatusCode::PRECONDITION_FAILED,
        // Overload of a service behind the edge is not the caller's quota.
        (ErrorCode::ResourceExhausted, "OVERLOADED") => StatusCode::SERVICE_UNAVAILABLE,
        (code, _) => code.http(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_named_as_json_bodies_have_them() {
        for (field, shown) in [
            ("alert_id", "alertId"),
            ("sql", "sql"),
            ("keys[3].max_rows", "keys[3].maxRows"),
            ("if-none-match", "if-none-match"),
        ] {
            assert_eq!(camel_case(field), shown);
        }
    }
}
