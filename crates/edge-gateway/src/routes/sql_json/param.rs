use std::fmt;

use mainstay_proto::replica::v1::value::Kind;
use mainstay_proto::replica::v1::{Array, Value as SqlValue};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Arrays inside arrays that PostgreSQL allows.
const MAX_DEPTH: u8 = 6;

/// One parameter of a statement.
///
/// `null`, booleans, numbers, strings and arrays of these stand for themselves; any other type is written as
/// `{"type": "numeric", "value": "12.50"}`. Numbers of type numeric and documents of type json and jsonb are passed on
/// as they are written.
pub(in crate::routes) struct SqlParam(SqlValue);

impl From<SqlParam> for SqlValue {
    fn from(SqlParam(value): SqlParam) -> Self {
        value
    }
}

impl<'de> Deserialize<'de> for SqlParam {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Written { depth: 0, exact: false }.deserialize(deserializer).map(Self)
    }
}

/// Reads one value.
#[derive(Clone, Copy)]
struct Written {
    /// Arrays and named types around it.
    depth: u8,
    /// Numbers in it are numeric, so they keep their digits.
    exact: bool,
}

impl Written {
    fn deeper<E: Error>(self) -> Result<Self, E> {
        if self.depth == MAX_DEPTH {
            return Err(E::custom(format_args!("arrays may be nested {MAX_DEPTH} deep")));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }

    fn typed(self, name: &str, value: Box<RawValue>) -> serde_json::Result<Kind> {
        let is = |known: &str| name.trim().eq_ignore_ascii_case(known);
        let is_numeric = is("numeric") || is("decimal");
        Ok(match value.get().as_bytes().first() {
            Some(b'n') => Kind::Null(true),
            _ if is("json") || is("jsonb") => Kind::Json(text_of(value)),
            Some(b'-' | b'0'..=b'9') if is_numeric => Kind::Numeric(text_of(value)),
            Some(b'"') if is_numeric => Kind::Numeric(serde_json::from_str(value.get())?),
            Some(b'"') if is("uuid") => Kind::Uuid(serde_json::from_str(value.get())?),
            Some(b'{') => return Err(Error::custom("only json and jsonb take an object as value")),
            _ => {
                let exact = is("numeric[]") || is("decimal[]");
                Self { exact, ..self }.read(&value)?.kind.unwrap_or(Kind::Null(true))
            }
        })
    }

    fn read(self, text: &RawValue) -> serde_json::Result<SqlValue> {
        self.deserialize(&mut serde_json::Deserializer::from_str(text.get()))
    }

    fn read_exact(self, value: Box<RawValue>) -> serde_json::Result<SqlValue> {
        match value.get().as_bytes().first() {
            Some(b'-' | b'0'..=b'9') => Ok(plain(Kind::Numeric(text_of(value)))),
            _ => self.read(&value),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Written {
    type Value = SqlValue;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<SqlValue, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Written {
    type Value = SqlValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("null, a boolean, a number, a string, an array or {\"type\": \"...\", \"value\": ...}")
    }

    fn visit_unit<E>(self) -> Result<SqlValue, E> {
        Ok(plain(Kind::Null(true)))
    }

    fn visit_bool<E>(self, flag: bool) -> Result<SqlValue, E> {
        Ok(plain(Kind::Bool(flag)))
    }

    fn visit_i64<E>(self, int: i64) -> Result<SqlValue, E> {
        Ok(plain(Kind::Int(int)))
    }

    fn visit_u64<E: Error>(self, int: u64) -> Result<SqlValue, E> {
        const TOO_LARGE: &str =
            "is above the largest bigint; write it as {\"type\": \"numeric\", \"value\": ...}";
        i64::try_from(int).map(|int| plain(Kind::Int(int))).map_err(|_| E::custom(TOO_LARGE))
    }

    fn visit_f64<E>(self, float: f64) -> Result<SqlValue, E> {
        Ok(plain(Kind::Float(float)))
    }

    fn visit_str<E>(self, text: &str) -> Result<SqlValue, E> {
        Ok(plain(Kind::Text(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<SqlValue, A::Error> {
        let element = self.deeper()?;
        let mut values = Vec::new();
        if self.exact {
            while let Some(item) = items.next_element()? {
                values.push(element.read_exact(item).map_err(A::Error::custom)?);
            }
        } else {
            while let Some(value) = items.next_element_seed(element)? {
                values.push(value);
            }
        }
        Ok(plain(Kind::Array(Array { values })))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<SqlValue, A::Error> {
        const FORM: &str = "an object must be of the form {\"type\": \"...\", \"value\": ...}";
        let inner = self.deeper()?;
        let (mut name, mut value) = (None::<String>, None);
        while let Some(member) = members.next_key::<String>()? {
            match member.as_str() {
                "type" if name.is_none() => name = Some(members.next_value()?),
                "value" if value.is_none() => value = Some(members.next_value()?),
                _ => return Err(A::Error::custom(FORM)),
            }
        }
        let (Some(name), Some(value)) = (name, value) else { return Err(A::Error::custom(FORM)) };
        let kind = inner.typed(&name, value).map_err(A::Error::custom)?;
        Ok(SqlValue { kind: Some(kind), r#type: name })
    }
}

fn plain(kind: Kind) -> SqlValue {
    SqlValue { kind: Some(kind), r#type: String::new() }
}

fn text_of(value: Box<RawValue>) -> String {
    Box::<str>::from(value).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> serde_json::Result<SqlValue> {
        serde_json::from_str::<SqlParam>(json).map(SqlValue::from)
    }

    fn text(text: &str) -> String {
        text.to_owned()
    }

    #[test]
    fn params_are_read_by_their_json_kind_or_their_named_type() {
        let digits = || Kind::Numeric(text("0.12345678901234567890"));
        let array =
            |values: Vec<Kind>| Kind::Array(Array { values: values.into_iter().map(plain).collect() });
        for (json, name, kind) in [
            ("null", "", Kind::Null(true)),
            ("true", "", Kind::Bool(true)),
            ("-7", "", Kind::Int(-7)),
            ("1.5", "", Kind::Float(1.5)),
            (r#""a\n""#, "", Kind::Text(text("a\n"))),
            ("[1, null]", "", array(vec![Kind::Int(1), Kind::Null(true)])),
            (r#"{"type": "numeric", "value": "1.50"}"#, "numeric", Kind::Numeric(text("1.50"))),
            (r#"{"type": "numeric", "value": 0.12345678901234567890}"#, "numeric", digits()),
            (r#"{"value": -1e400, "type": "decimal"}"#, "decimal", Kind::Numeric(text("-1e400"))),
            (
                r#"{"type": "numeric[]", "value": [[0.12345678901234567890, null], ["1"]]}"#,
                "numeric[]",
                array(vec![array(vec![digits(), Kind::Null(true)]), array(vec![Kind::Text(text("1"))])]),
            ),
            (
                r#"{"type": "jsonb", "value": {"a":  1e400, "a": 12345678901234567890.123}}"#,
                "jsonb",
                Kind::Json(text(r#"{"a":  1e400, "a": 12345678901234567890.123}"#)),
            ),
            (r#"{"type": "json", "value": "a"}"#, "json", Kind::Json(text(r#""a""#))),
            (r#"{"type": "jsonb", "value": null}"#, "jsonb", Kind::Null(true)),
            (r#"{"type": "uuid", "value": "a"}"#, "uuid", Kind::Uuid(text("a"))),
            (r#"{"type": "date", "value": "2026-01-31"}"#, "date", Kind::Text(text("2026-01-31"))),
            (r#"{"type": "int4", "value": null}"#, "int4", Kind::Null(true)),
        ] {
            let value = read(json).unwrap();
            assert_eq!((value.r#type.as_str(), value.kind), (name, Some(kind)), "{json}");
        }
    }

    #[test]
    fn params_that_no_type_fits_are_refused() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        let named = |n: usize| format!("{}1{}", r#"{"type": "a", "value": ["#.repeat(n), "]}".repeat(n));
        for (json, why) in [
            (r#"{"a": 1}"#, "must be of the form"),
            (r#"{"type": "int4"}"#, "must be of the form"),
            (r#"{"type": "int4", "value": 1, "value": 2}"#, "must be of the form"),
            (r#"{"type": "int4", "value": {}}"#, "only json and jsonb"),
            ("9223372036854775808", "above the largest bigint"),
            ("1e400", "out of range"),
            (&nested(7), "nested 6 deep"),
            (&nested(10_000), "nested 6 deep"),
            (&named(10_000), "nested 6 deep"),
        ] {
            let error = read(json).unwrap_err().to_string();
            assert!(error.contains(why), "{json}: {error}");
        }
        read(&nested(6)).unwrap();
    }
}
