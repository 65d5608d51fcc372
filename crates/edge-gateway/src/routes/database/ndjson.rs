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
use serde::Serialize;
use serde_json::json;

use super::answer::{Served, SqlColumn};
use crate::error::Problem;
use crate::routes::sql_json::{self, Rows};

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
/// `{"last": true, ...}`, with the members of a problem document, and one that has neither was cut off.
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
                let line = json!({ "error": Problem::from(Failure::from(status)).members() });
                Some((Bytes::from(format!("{line}\n")), None))
            }
        }
    });
    let mut response = Response::new(Body::from_stream(lines.map(Ok::<_, Infallible>)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(NDJSON));
    response
}

/// The first line.
#[derive(Serialize)]
struct Head {
    columns: Vec<SqlColumn>,
    served: Served,
}

fn lines(chunk: QueryChunk) -> Bytes {
    let mut text = Vec::new();
    if let Some(served) = chunk.served {
        line(&mut text, &Head { columns: sql_json::columns(chunk.columns), served: served.into() });
    }
    for row in Rows(chunk.rows).each() {
        line(&mut text, &row);
    }
    if chunk.last {
        let last = json!({ "last": true, "rowsTotal": chunk.rows_total, "truncated": chunk.truncated });
        line(&mut text, &last);
    }
    text.into()
}

/// Adds a value. A document of type json may be written over several lines; there a line break is only white space.
fn line(text: &mut Vec<u8>, value: &impl Serialize) {
    let begin = text.len();
    serde_json::to_writer(&mut *text, value).expect("rows are written to memory");
    for byte in &mut text[begin..] {
        *byte = if matches!(*byte, b'\n' | b'\r') { b' ' } else { *byte };
    }
    text.push(b'\n');
}

#[cfg(test)]
mod tests {
    use mainstay_proto::replica::v1::value::Kind;
    use mainstay_proto::replica::v1::{Row, Value as SqlValue};

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

    #[test]
    fn a_document_of_several_lines_is_one_line() {
        let kind = Kind::Json("{\"a\":\r\n [1e400,\"b\\n\"]}".to_owned());
        let row = Row { values: vec![SqlValue { kind: Some(kind), r#type: String::new() }] };
        let chunk = QueryChunk { rows: vec![row], last: true, ..QueryChunk::default() };
        let text = String::from_utf8(lines(chunk).into()).unwrap();
        let told: Vec<&str> = text.lines().collect();
        let last = r#"{"last":true,"rowsTotal":0,"truncated":false}"#;
        assert_eq!(told, ["[{\"a\":   [1e400,\"b\\n\"]}]", last]);
    }
}
