//! SQL values as JSON and back.

use mainstay_proto::replica::v1::value::Kind;
use mainstay_proto::replica::v1::{Column, Row, Value as SqlValue};
use serde::ser::{Serialize, SerializeSeq as _, Serializer};
use serde_json::value::RawValue;

mod param;

pub(super) use param::SqlParam;

use super::database::SqlColumn;
use super::words::rfc3339_micros;

/// Gives the parameters of a statement as the services take them.
pub(super) fn params(params: Vec<SqlParam>) -> Vec<SqlValue> {
    params.into_iter().map(SqlValue::from).collect()
}

/// Gives the columns as `[{name, type}]`.
pub(super) fn columns(columns: Vec<Column>) -> Vec<SqlColumn> {
    columns.into_iter().map(|column| SqlColumn { name: column.name, r#type: column.r#type }).collect()
}

/// Rows as they came, each an array in column order: two columns may have one name.
pub(super) struct Rows(pub(super) Vec<Row>);

impl Rows {
    /// Gives each row by itself.
    pub(super) fn each(&self) -> impl Iterator<Item = impl Serialize> {
        self.0.iter().map(|row| Values(&row.values))
    }
}

impl Serialize for Rows {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.each())
    }
}

struct Values<'a>(&'a [SqlValue]);

impl Serialize for Values<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut values = serializer.serialize_seq(Some(self.0.len()))?;
        for value in self.0 {
            values.serialize_element(&Cell(value))?;
        }
        values.end()
    }
}

struct Cell<'a>(&'a SqlValue);

impl Serialize for Cell<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0.kind {
            None | Some(Kind::Null(_)) => serializer.serialize_unit(),
            Some(Kind::Bool(flag)) => serializer.serialize_bool(*flag),
            Some(Kind::Int(int)) => serializer.serialize_i64(*int),
            // JSON has no NaN and no infinity; PostgreSQL has both.
            Some(Kind::Float(float)) if float.is_finite() => serializer.serialize_f64(*float),
            Some(Kind::Float(float)) => serializer.collect_str(float),
            Some(Kind::Text(text) | Kind::Numeric(text) | Kind::Uuid(text)) => serializer.serialize_str(text),
            Some(Kind::Bytes(bytes)) => serializer.serialize_str(&hex(bytes)),
            // As it was written: numbers of a document have any length.
            Some(Kind::Json(text)) => match serde_json::from_str::<&RawValue>(text) {
                Ok(document) => document.serialize(serializer),
                Err(_) => serializer.serialize_str(text),
            },
            Some(Kind::Timestamp(at)) => serializer.serialize_str(&rfc3339_micros(*at)),
            Some(Kind::Array(array)) => Values(&array.values).serialize(serializer),
        }
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
    use mainstay_proto::replica::v1::Array;
    use prost_types::Timestamp;

    use super::*;

    #[test]
    fn values_keep_what_json_cannot_say_as_text() {
        let value = |kind| SqlValue { kind: Some(kind), r#type: String::new() };
        let array = Array { values: vec![value(Kind::Int(1)), value(Kind::Null(true))] };
        for (kind, json) in [
            (Kind::Float(f64::NAN), r#""NaN""#),
            (Kind::Float(1.5), "1.5"),
            (Kind::Numeric("12.50".to_owned()), r#""12.50""#),
            (Kind::Bytes(vec![0, 255].into()), r#""\\x00ff""#),
            (Kind::Timestamp(Timestamp { seconds: -1, nanos: 1_000 }), r#""1969-12-31T23:59:59.000001Z""#),
            (Kind::Array(array), "[1,null]"),
            (Kind::Json("no document".to_owned()), r#""no document""#),
        ] {
            assert_eq!(serde_json::to_string(&Cell(&value(kind))).unwrap(), json);
        }
    }

    #[test]
    fn documents_come_as_they_are_written() {
        let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
        for text in ["{\"a\": 12345678901234567890.123,\n \"a\": 1e400}", "\"\\ud800\"", " 1.0 ", &deep] {
            let value = SqlValue { kind: Some(Kind::Json(text.to_owned())), r#type: String::new() };
            let rows = Rows(vec![Row { values: vec![value] }]);
            assert_eq!(serde_json::to_string(&rows).unwrap(), format!("[[{}]]", text.trim()));
        }
    }
}
