//! SQL values as JSON and back.

use mainstay_proto::replica::v1::value::Kind;
use mainstay_proto::replica::v1::{Array, Column, Row, Value as SqlValue};
use serde_json::{Map, Value};

use super::database::SqlColumn;
use super::words::rfc3339;
use crate::error::Problem;

/// Reads the parameters of a statement.
///
/// `null`, booleans, numbers, strings and arrays of these stand for themselves; any other type is written as
/// `{"type": "numeric", "value": "12.50"}`.
pub(super) fn params(values: Vec<Value>) -> Result<Vec<SqlValue>, Problem> {
    let each = values.into_iter().enumerate();
    each.map(|(index, value)| {
        param(value).map_err(|message| Problem::invalid(&format!("params[{index}]"), message))
    })
    .collect()
}

fn param(value: Value) -> Result<SqlValue, String> {
    let kind = match value {
        Value::Null => Kind::Null(true),
        Value::Bool(flag) => Kind::Bool(flag),
        Value::Number(number) => number_kind(&number)?,
        Value::String(text) => Kind::Text(text),
        Value::Array(items) => {
            Kind::Array(Array { values: items.into_iter().map(param).collect::<Result<_, _>>()? })
        }
        Value::Object(object) => return typed(object),
    };
    Ok(SqlValue { kind: Some(kind), r#type: String::new() })
}

fn number_kind(number: &serde_json::Number) -> Result<Kind, String> {
    if let Some(int) = number.as_i64() {
        return Ok(Kind::Int(int));
    }
    if number.is_u64() {
        return Err(
            "is above the largest bigint; write it as {\"type\": \"numeric\", \"value\": \"...\"}".to_owned()
        );
    }
    number.as_f64().map(Kind::Float).ok_or_else(|| "is not a number PostgreSQL knows".to_owned())
}

fn typed(mut object: Map<String, Value>) -> Result<SqlValue, String> {
    const FORM: &str = "an object must be of the form {\"type\": \"...\", \"value\": ...}";
    let (Some(Value::String(name)), Some(value), true) =
        (object.remove("type"), object.remove("value"), object.is_empty())
    else {
        return Err(FORM.to_owned());
    };
    let kind = match (name.as_str(), value) {
        (_, Value::Null) => Kind::Null(true),
        ("json" | "jsonb", document) => Kind::Json(document.to_string()),
        ("numeric", Value::Number(number)) => Kind::Numeric(number.to_string()),
        ("numeric", Value::String(text)) => Kind::Numeric(text),
        ("uuid", Value::String(text)) => Kind::Uuid(text),
        (_, plain @ (Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_))) => {
            param(plain)?.kind.ok_or(FORM)?
        }
        (_, Value::Object(_)) => return Err("only json and jsonb take an object as value".to_owned()),
    };
    Ok(SqlValue { kind: Some(kind), r#type: name })
}

/// Gives the columns as `[{name, type}]`.
pub(super) fn columns(columns: Vec<Column>) -> Vec<SqlColumn> {
    columns.into_iter().map(|column| SqlColumn { name: column.name, r#type: column.r#type }).collect()
}

/// Gives each row as an array, in column order: two columns may have one name.
pub(super) fn rows(rows: Vec<Row>) -> Vec<Vec<Value>> {
    rows.into_iter().map(|row| row.values.into_iter().map(json_of).collect()).collect()
}

fn json_of(value: SqlValue) -> Value {
    match value.kind {
        None | Some(Kind::Null(_)) => Value::Null,
        Some(Kind::Bool(flag)) => flag.into(),
        Some(Kind::Int(int)) => int.into(),
        // JSON has no NaN and no infinity; PostgreSQL has both.
        Some(Kind::Float(float)) if float.is_finite() => float.into(),
        Some(Kind::Float(float)) => float.to_string().into(),
        Some(Kind::Text(text) | Kind::Numeric(text) | Kind::Uuid(text)) => text.into(),
        Some(Kind::Bytes(bytes)) => hex(&bytes).into(),
        Some(Kind::Json(text)) => serde_json::from_str(&text).unwrap_or(Value::String(text)),
        Some(Kind::Timestamp(at)) => rfc3339(Some(at)).map_or(Value::Null, Value::String),
        Some(Kind::Array(array)) => Value::Array(array.values.into_iter().map(json_of).collect()),
    }
}

/// Writes bytea as PostgreSQL does: `\x` and hex digits.
fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;

    let mut text = String::with_capacity(2 + bytes.len() * 2);
    text.push_str("\\x");
    for byte in bytes {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn params_are_read_by_their_json_kind_or_their_named_type() {
        let table = [
            (json!(null), "", Kind::Null(true)),
            (json!(true), "", Kind::Bool(true)),
            (json!(-7), "", Kind::Int(-7)),
            (json!(1.5), "", Kind::Float(1.5)),
            (json!("a"), "", Kind::Text("a".to_owned())),
            (json!({"type": "numeric", "value": "1.50"}), "numeric", Kind::Numeric("1.50".to_owned())),
            (json!({"type": "jsonb", "value": {"a": 1}}), "jsonb", Kind::Json("{\"a\":1}".to_owned())),
            (json!({"type": "date", "value": "2026-01-31"}), "date", Kind::Text("2026-01-31".to_owned())),
            (json!({"type": "int4", "value": null}), "int4", Kind::Null(true)),
        ];
        for (json, name, kind) in table {
            let read = params(vec![json.clone()]).unwrap().remove(0);
            assert_eq!((read.r#type.as_str(), read.kind), (name, Some(kind)), "{json}");
        }
    }

    #[test]
    fn params_that_no_type_fits_are_refused_by_position() {
        for json in
            [json!({"a": 1}), json!({"type": "int4"}), json!({"type": "int4", "value": {}}), json!(u64::MAX)]
        {
            let problem = params(vec![json!(1), json.clone()]).unwrap_err();
            assert_eq!(problem.code(), "INVALID_FIELD", "{json}");
        }
    }

    #[test]
    fn values_keep_what_json_cannot_say_as_text() {
        let value = |kind| SqlValue { kind: Some(kind), r#type: String::new() };
        assert_eq!(json_of(value(Kind::Float(f64::NAN))), json!("NaN"));
        assert_eq!(json_of(value(Kind::Numeric("12.50".to_owned()))), json!("12.50"));
        assert_eq!(json_of(value(Kind::Bytes(vec![0, 255].into()))), json!("\\x00ff"));
        assert_eq!(json_of(value(Kind::Json("{\"a\":[1]}".to_owned()))), json!({"a": [1]}));
    }
}
