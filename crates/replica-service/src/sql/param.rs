//! One parameter of a statement.

use std::{error::Error, fmt::Write as _};

use bytes::{BufMut, BytesMut};
use tokio_postgres::types::{Format, IsNull, ToSql, Type, to_sql_checked};

use super::types;

/// A parameter: its type and its text, which the database parses.
///
/// Everything but `bytea` travels in PostgreSQL's text format, so a value of any type needs no encoder here and means
/// exactly what the same literal means in SQL. `Type::UNKNOWN` lets the database infer the type from where the
/// parameter stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Param {
    pub ty: Type,
    pub body: Body,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Body {
    Null,
    Text(String),
    /// An array literal, made here; inside another array it stands unquoted.
    Array(String),
    Bytes(bytes::Bytes),
}

impl Param {
    pub(crate) fn null(ty: Type) -> Self {
        Self { ty, body: Body::Null }
    }

    pub(crate) fn text(ty: Type, text: impl Into<String>) -> Self {
        Self { ty, body: Body::Text(text.into()) }
    }

    /// Types an integer as PostgreSQL types the literal: `int4` when it fits, else `int8`.
    pub(crate) fn int(value: i64) -> Self {
        let ty = if i32::try_from(value).is_ok() { Type::INT4 } else { Type::INT8 };
        Self::text(ty, value.to_string())
    }

    pub(crate) fn float(value: f64) -> Self {
        Self::text(Type::FLOAT8, float_text(value))
    }

    pub(crate) fn bytes(value: bytes::Bytes) -> Self {
        Self { ty: Type::BYTEA, body: Body::Bytes(value) }
    }

    /// Types an instant as `timestamptz`; `None` when it is outside the years 1 to 9999 or has illegal nanoseconds.
    pub(crate) fn timestamp(seconds: i64, nanos: i32) -> Option<Self> {
        let text = super::decode::timestamptz_text(seconds, nanos)?;
        Some(Self::text(Type::TIMESTAMPTZ, text))
    }

    /// Makes one array parameter of its elements.
    ///
    /// Its type is `ty` when given, else that of the elements: integers of both widths together are `int8[]`, texts,
    /// nulls and nothing are inferred by the database. `Err` when the elements differ otherwise.
    pub(crate) fn array(elements: &[Self], ty: Option<Type>) -> Result<Self, MixedArray> {
        let ty = match ty {
            Some(ty) => ty,
            None => element_type(elements)?,
        };
        let mut text = String::from("{");
        for (index, element) in elements.iter().enumerate() {
            if index > 0 {
                text.push(',');
            }
            write_element(&mut text, element);
        }
        text.push('}');
        Ok(Self { ty, body: Body::Array(text) })
    }
}

/// Says that the elements of an array are of different kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the elements of an array must be of one kind; give the array a type to say which")]
pub(crate) struct MixedArray;

/// Writes a number so that PostgreSQL reads back the same one.
pub(crate) fn float_text(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "Infinity".to_owned() } else { "-Infinity".to_owned() }
    } else {
        format!("{value:e}")
    }
}

fn element_type(elements: &[Param]) -> Result<Type, MixedArray> {
    let mut common: Option<Type> = None;
    for element in elements.iter().filter(|element| element.body != Body::Null) {
        let ty = if matches!(element.body, Body::Array(_)) || element.ty == Type::UNKNOWN {
            element.ty.clone()
        } else {
            types::array_of(&element.ty).ok_or(MixedArray)?
        };
        common = Some(match common {
            None => ty,
            Some(common) if common == ty => ty,
            Some(Type::INT4_ARRAY | Type::INT8_ARRAY)
                if matches!(ty, Type::INT4_ARRAY | Type::INT8_ARRAY) =>
            {
                Type::INT8_ARRAY
            }
            Some(_) => return Err(MixedArray),
        });
    }
    Ok(common.unwrap_or(Type::UNKNOWN))
}

fn write_element(text: &mut String, element: &Param) {
    match &element.body {
        Body::Null => text.push_str("NULL"),
        Body::Array(inner) => text.push_str(inner),
        Body::Text(inner) => write_quoted(text, inner),
        Body::Bytes(inner) => {
            text.push_str("\"\\\\x");
            for byte in inner {
                let _ = write!(text, "{byte:02x}");
            }
            text.push('"');
        }
    }
}

fn write_quoted(text: &mut String, inner: &str) {
    text.push('"');
    for c in inner.chars() {
        if matches!(c, '"' | '\\') {
            text.push('\\');
        }
        text.push(c);
    }
    text.push('"');
}

impl ToSql for Param {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match &self.body {
            Body::Null => return Ok(IsNull::Yes),
            Body::Text(text) | Body::Array(text) => out.put_slice(text.as_bytes()),
            Body::Bytes(bytes) => out.put_slice(bytes),
        }
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        match self.body {
            Body::Bytes(_) => Format::Binary,
            Body::Null | Body::Text(_) | Body::Array(_) => Format::Text,
        }
    }

    to_sql_checked!();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(elements: &[Param]) -> Param {
        Param::array(elements, None).unwrap()
    }

    #[test]
    fn integers_are_typed_like_literals() {
        assert_eq!(Param::int(2_147_483_647).ty, Type::INT4);
        assert_eq!(Param::int(2_147_483_648).ty, Type::INT8);
        assert_eq!(Param::int(-2_147_483_649).ty, Type::INT8);
    }

    #[test]
    fn arrays_are_written_as_literals() {
        let text = |text: &str| Param::text(Type::UNKNOWN, text);
        for (param, ty, literal) in [
            (array(&[]), Type::UNKNOWN, "{}"),
            (array(&[Param::int(1), Param::int(5_000_000_000)]), Type::INT8_ARRAY, "{\"1\",\"5000000000\"}"),
            (
                array(&[text("a\"b\\c,}"), Param::null(Type::UNKNOWN), text("NULL")]),
                Type::UNKNOWN,
                r#"{"a\"b\\c,}",NULL,"NULL"}"#,
            ),
            (
                array(&[array(&[Param::int(1)]), array(&[Param::int(2)])]),
                Type::INT4_ARRAY,
                r#"{{"1"},{"2"}}"#,
            ),
            (array(&[array(&[text("x")])]), Type::UNKNOWN, r#"{{"x"}}"#),
            (
                array(&[Param::bytes(bytes::Bytes::from_static(b"\x00\xff"))]),
                Type::BYTEA_ARRAY,
                r#"{"\\x00ff"}"#,
            ),
        ] {
            assert_eq!(param, Param { ty, body: Body::Array(literal.to_owned()) });
        }
    }

    #[test]
    fn elements_of_different_kinds_need_a_type() {
        let mixed = [Param::int(1), Param::float(1.5)];
        assert_eq!(Param::array(&mixed, None), Err(MixedArray));
        assert!(Param::array(&mixed, Some(Type::FLOAT8_ARRAY)).is_ok());
    }

    #[test]
    fn floats_are_written_so_that_they_read_back() {
        for value in [0.0, -0.0, 1.5, 1e300, 5e-324, f64::MAX, 0.1] {
            assert_eq!(float_text(value).parse::<f64>().map(f64::to_bits), Ok(value.to_bits()));
        }
        assert_eq!(float_text(f64::NEG_INFINITY), "-Infinity");
    }
}
