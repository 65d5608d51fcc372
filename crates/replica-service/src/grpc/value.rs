use mainstay_proto::replica::v1::{Array, Value as Wire, value::Kind};
use tokio_postgres::types::Type;

use super::decode::invalid;
use crate::{
    error::QueryError,
    sql::{
        Value,
        param::{Body, Param},
        types,
    },
};

/// Arrays inside arrays that PostgreSQL allows.
const MAX_DEPTH: u32 = 6;

/// Turns a caller's value into a parameter; `field` names it in errors.
pub(super) fn param(value: Wire, field: &str) -> Result<Param, QueryError> {
    nested_param(value, field, 0)
}

fn nested_param(value: Wire, field: &str, depth: u32) -> Result<Param, QueryError> {
    let named = match value.r#type.as_str() {
        "" => None,
        name => Some(types::by_name(name).ok_or_else(|| unknown_type(field, name))?),
    };
    let param = match value.kind {
        None => return Err(invalid(field, "has no kind; NULL is the kind null")),
        Some(Kind::Null(_)) => Param::null(named.clone().unwrap_or(Type::UNKNOWN)),
        Some(Kind::Bool(value)) => Param::text(Type::BOOL, if value { "t" } else { "f" }),
        Some(Kind::Int(value)) => Param::int(value),
        Some(Kind::Float(value)) => Param::float(value),
        Some(Kind::Text(value)) => Param::text(Type::UNKNOWN, value),
        Some(Kind::Bytes(value)) => match named {
            None | Some(Type::BYTEA) => Param::bytes(value),
            Some(_) => return Err(invalid(field, "the kind bytes is for bytea only")),
        },
        Some(Kind::Numeric(value)) => Param::text(Type::NUMERIC, value),
        Some(Kind::Uuid(value)) => Param::text(Type::UUID, value),
        Some(Kind::Json(value)) => Param::text(Type::JSONB, value),
        Some(Kind::Timestamp(at)) => Param::timestamp(at.seconds, at.nanos).ok_or_else(|| {
            invalid(field, "must be between the years 1 and 9999, with 0 to 999999999 nanos")
        })?,
        Some(Kind::Array(_)) if depth >= MAX_DEPTH => {
            return Err(invalid(field, format!("arrays may be nested {MAX_DEPTH} deep")));
        }
        Some(Kind::Array(Array { values })) => {
            let element = |(index, value)| nested_param(value, &format!("{field}[{index}]"), depth + 1);
            let elements = values.into_iter().enumerate().map(element).collect::<Result<Vec<_>, _>>()?;
            Param::array(&elements, named.clone()).map_err(|error| invalid(field, error.to_string()))?
        }
    };
    Ok(match (named, param.body) {
        (Some(ty), body @ (Body::Null | Body::Text(_) | Body::Array(_))) => Param { ty, body },
        (_, body) => Param { ty: param.ty, body },
    })
}

fn unknown_type(field: &str, name: &str) -> QueryError {
    let shown: String = name.chars().take(64).collect();
    invalid(
        format!("{field}.type"),
        format!(
            "{shown:?} is not a built-in type; leave it out and the database infers it, or cast in the statement"
        ),
    )
}

/// Turns a result's value into the wire form.
pub(super) fn wire(value: Value) -> Wire {
    let kind = match value {
        Value::Null => Kind::Null(true),
        Value::Bool(value) => Kind::Bool(value),
        Value::Int(value) => Kind::Int(value),
        Value::Float(value) => Kind::Float(value),
        Value::Text(value) => Kind::Text(value),
        Value::Bytes(value) => Kind::Bytes(value.into()),
        Value::Numeric(value) => Kind::Numeric(value),
        Value::Uuid(value) => Kind::Uuid(value),
        Value::Json(value) => Kind::Json(value),
        Value::Timestamp { seconds, nanos } => Kind::Timestamp(prost_types::Timestamp { seconds, nanos }),
        Value::Array(values) => Kind::Array(Array { values: values.into_iter().map(wire).collect() }),
    };
    Wire { kind: Some(kind), r#type: String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::param::float_text;

    fn value(kind: Kind, ty: &str) -> Wire {
        Wire { kind: Some(kind), r#type: ty.to_owned() }
    }

    #[test]
    fn a_kind_says_its_type_and_a_named_type_wins() {
        for (wire, wanted) in [
            (value(Kind::Int(7), ""), Param::text(Type::INT4, "7")),
            (value(Kind::Int(7), "int2"), Param::text(Type::INT2, "7")),
            (value(Kind::Text("2026-01-02".to_owned()), "date"), Param::text(Type::DATE, "2026-01-02")),
            (value(Kind::Text("x".to_owned()), ""), Param::text(Type::UNKNOWN, "x")),
            (value(Kind::Null(true), "bigint"), Param::null(Type::INT8)),
            (value(Kind::Json("{}".to_owned()), ""), Param::text(Type::JSONB, "{}")),
            (value(Kind::Float(0.5), "numeric"), Param::text(Type::NUMERIC, float_text(0.5))),
        ] {
            assert_eq!(param(wire, "p").unwrap(), wanted);
        }
    }

    #[test]
    fn values_that_mean_nothing_are_refused_with_their_place() {
        let mixed = vec![value(Kind::Int(1), ""), value(Kind::Bool(true), "")];
        let mut deep = value(Kind::Int(1), "");
        for _ in 0..7 {
            deep = value(Kind::Array(Array { values: vec![deep] }), "");
        }
        for (wire, wanted) in [
            (Wire::default(), "invalid p: has no kind; NULL is the kind null"),
            (value(Kind::Bytes(bytes::Bytes::new()), "text"), "invalid p: the kind bytes is for bytea only"),
            (
                value(Kind::Array(Array { values: mixed }), ""),
                "invalid p: the elements of an array must be of one kind; give the array a type to say which",
            ),
            (deep, "invalid p[0][0][0][0][0][0]: arrays may be nested 6 deep"),
        ] {
            assert_eq!(param(wire, "p").unwrap_err().to_string(), wanted);
        }
        let error = param(value(Kind::Int(1), "mood"), "params[3]").unwrap_err().to_string();
        assert!(error.starts_with("invalid params[3].type: \"mood\" is not a built-in type"), "{error}");
    }
}
