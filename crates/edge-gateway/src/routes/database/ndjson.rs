//! Rows of a read as lines of JSON, as they come: nothing is collected here.

use std::convert::Infallible;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use mainstay_proto::replica::v1::QueryChunk;
use mainstay_rpc::{Failure, Status};
use serde_json::json;

use super::answer::Served;
use crate::routes::sql_json;

/// Media type of lines of JSON.
pub(super) const NDJSON: &str = "application/x-ndjson";

/// Tells whether the caller would rather have lines than one document.
pub(super) fn is_wanted(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|kind| {
        let essence = kind.split(';').next().unwrap_or_default().trim();
        essence.eq_ignore_ascii_case(NDJSON)
    })
}

/// Answers with one line about the columns, one for each row (an array), and a last one.
///
/// A chunk is taken from the service when the caller has taken the one before, so a slow caller holds the database back.
/// By the status the rows were not there yet: a stream that fails half-way ends with a line `{"error": ...}` instead of
/// `{"last": true, ...}`, and one that has neither was cut off.
pub(super) fn answer<S>(chunks: S) -> Response
where
    S: Stream<Item = Result<QueryChunk, Status>> + Send + 'static,
{
    let lines = stream::unfold(Some(chunks.boxed()), |chunks| async move {
        let mut chunks = chunks?;
        match chunks.next().await? {
            Ok(chunk) => {
                let rest = (!chunk.last).then_some(chunks);
                Some((lines(chunk), rest))
            }
            Err(status) => {
                let failure = Failure::from(status);
                let line = json!({ "error": { "code": failure.reason(), "detail": failure.message() } });
                Some((Bytes::from(format!("{line}\n")), None))
            }
        }
    });
    let mut response = Response::new(Body::from_stream(lines.map(Ok::<_, Infallible>)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(NDJSON));
    response
}

fn lines(chunk: QueryChunk) -> Bytes {
    let mut text = String::new();
    let mut line = |value: serde_json::Value| {
        text.push_str(&value.to_string());
        text.push('\n');
    };
    if let Some(served) = chunk.served {
        line(json!({ "columns": sql_json::columns(chunk.columns), "served": Served::from(served) }));
    }
    for row in sql_json::rows(chunk.rows) {
        line(serde_json::Value::Array(row));
    }
    if chunk.last {
        line(json!({ "last": true, "rowsTotal": chunk.rows_total, "truncated": chunk.truncated }));
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_wanted_where_the_caller_names_them() {
        for (accept, wanted) in [
            ("application/x-ndjson", true),
            ("text/html, Application/X-NDJSON;q=0.9", true),
            ("application/json", false),
            ("*/*", false),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]);
            assert_eq!(is_wanted(&headers), wanted, "{accept}");
        }
    }
}
