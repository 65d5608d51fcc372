//! Types by name, as callers write them and as answers show them.

use tokio_postgres::types::{Kind, Type};

/// Finds a built-in type by the name that PostgreSQL or the SQL standard gives it; `name[]` is its array.
///
/// Enums, domains and other types made by the user have no fixed number and are not found: a parameter of such a type
/// is sent without a type, and the database infers it.
pub(crate) fn by_name(name: &str) -> Option<Type> {
    let name = name.trim().to_ascii_lowercase();
    match name.strip_suffix("[]") {
        Some(element) => array_of(&scalar(element.trim_end())?),
        None => scalar(&name),
    }
}

/// Returns the array type of a built-in scalar type.
pub(crate) fn array_of(element: &Type) -> Option<Type> {
    Some(match *element {
        Type::BOOL => Type::BOOL_ARRAY,
        Type::BYTEA => Type::BYTEA_ARRAY,
        Type::BPCHAR => Type::BPCHAR_ARRAY,
        Type::CIDR => Type::CIDR_ARRAY,
        Type::DATE => Type::DATE_ARRAY,
        Type::FLOAT4 => Type::FLOAT4_ARRAY,
        Type::FLOAT8 => Type::FLOAT8_ARRAY,
        Type::INET => Type::INET_ARRAY,
        Type::INT2 => Type::INT2_ARRAY,
        Type::INT4 => Type::INT4_ARRAY,
        Type::INT8 => Type::INT8_ARRAY,
        Type::INTERVAL => Type::INTERVAL_ARRAY,
        Type::JSON => Type::JSON_ARRAY,
        Type::JSONB => Type::JSONB_ARRAY,
        Type::MACADDR => Type::MACADDR_ARRAY,
        Type::NAME => Type::NAME_ARRAY,
        Type::NUMERIC => Type::NUMERIC_ARRAY,
        Type::OID => Type::OID_ARRAY,
        Type::PG_LSN => Type::PG_LSN_ARRAY,
        Type::TEXT => Type::TEXT_ARRAY,
        Type::TIME => Type::TIME_ARRAY,
        Type::TIMETZ => Type::TIMETZ_ARRAY,
        Type::TIMESTAMP => Type::TIMESTAMP_ARRAY,
        Type::TIMESTAMPTZ => Type::TIMESTAMPTZ_ARRAY,
        Type::UUID => Type::UUID_ARRAY,
        Type::VARCHAR => Type::VARCHAR_ARRAY,
        _ => return None,
    })
}

/// Names a type the way callers write it: `int8`, `timestamptz`, `int4[]`.
pub(crate) fn name_of(ty: &Type) -> String {
    match ty.kind() {
        Kind::Array(element) => format!("{}[]", element.name()),
        _ => ty.name().to_owned(),
    }
}

fn scalar(name: &str) -> Option<Type> {
    Some(match name {
        "bool" | "boolean" => Type::BOOL,
        "bytea" => Type::BYTEA,
        "bpchar" | "char" | "character" => Type::BPCHAR,
        "cidr" => Type::CIDR,
        "date" => Type::DATE,
        "float4" | "real" => Type::FLOAT4,
        "float8" | "double precision" => Type::FLOAT8,
        "inet" => Type::INET,
        "int2" | "smallint" => Type::INT2,
        "int4" | "int" | "integer" => Type::INT4,
        "int8" | "bigint" => Type::INT8,
        "interval" => Type::INTERVAL,
        "json" => Type::JSON,
        "jsonb" => Type::JSONB,
        "macaddr" => Type::MACADDR,
        "name" => Type::NAME,
        "numeric" | "decimal" => Type::NUMERIC,
        "oid" => Type::OID,
        "pg_lsn" => Type::PG_LSN,
        "text" => Type::TEXT,
        "time" | "time without time zone" => Type::TIME,
        "timetz" | "time with time zone" => Type::TIMETZ,
        "timestamp" | "timestamp without time zone" => Type::TIMESTAMP,
        "timestamptz" | "timestamp with time zone" => Type::TIMESTAMPTZ,
        "unknown" => Type::UNKNOWN,
        "uuid" => Type::UUID,
        "varchar" | "character varying" => Type::VARCHAR,
        "xml" => Type::XML,
        "regclass" => Type::REGCLASS,
        "regtype" => Type::REGTYPE,
        "int4range" => Type::INT4_RANGE,
        "int8range" => Type::INT8_RANGE,
        "numrange" => Type::NUM_RANGE,
        "daterange" => Type::DATE_RANGE,
        "tsrange" => Type::TS_RANGE,
        "tstzrange" => Type::TSTZ_RANGE,
        "tsvector" => Type::TS_VECTOR,
        "tsquery" => Type::TSQUERY,
        "point" => Type::POINT,
        "bit" => Type::BIT,
        "varbit" | "bit varying" => Type::VARBIT,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_any_spelling() {
        for (name, wanted) in [
            ("int8", Type::INT8),
            ("BIGINT", Type::INT8),
            (" timestamp with time zone ", Type::TIMESTAMPTZ),
            ("int4[]", Type::INT4_ARRAY),
            ("double precision[]", Type::FLOAT8_ARRAY),
        ] {
            assert_eq!(by_name(name), Some(wanted), "{name}");
        }
        for name in ["", "mood", "int4[][]", "[]", "unknown[]"] {
            assert_eq!(by_name(name), None, "{name}");
        }
    }

    #[test]
    fn shown_names_are_found_again() {
        for ty in [Type::INT4, Type::TEXT_ARRAY, Type::TIMESTAMPTZ_ARRAY, Type::NUMERIC, Type::BPCHAR] {
            assert_eq!(by_name(&name_of(&ty)), Some(ty));
        }
    }
}
