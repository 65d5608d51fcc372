//! From PostgreSQL's binary format to values.

use std::error::Error;

use tokio_postgres::types::{FromSql, Kind, Type};

use super::Value;

mod array;
mod bits;
mod datetime;
mod network;
mod numeric;
mod read;

pub(crate) use datetime::timestamptz_text;

use read::Reader;

/// Reads the values of one column; chosen once per result, before the first row is looked at.
///
/// What has no form of its own among [`Value`]s becomes the text that PostgreSQL itself would print
/// (`DateStyle` ISO, `IntervalStyle` postgres).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decoder {
    Void,
    Bool,
    Int2,
    Int4,
    Int8,
    Oid,
    Float4,
    Float8,
    Text,
    Char,
    Bytea,
    Numeric,
    Uuid,
    Json,
    Jsonb,
    Timestamptz,
    Timestamp,
    Date,
    Time,
    Timetz,
    Interval,
    Inet,
    Macaddr,
    Lsn,
    Bits,
    Array(Scalar),
}

/// A decoder that reads no array; arrays hold one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scalar(&'static Decoder);

impl Decoder {
    /// Returns the decoder for a type; `None` when values of it cannot be read.
    pub(crate) fn of(ty: &Type) -> Option<Self> {
        match ty.kind() {
            Kind::Array(element) => Some(Self::Array(Scalar(Self::scalar(element)?))),
            _ => Self::scalar(ty).copied(),
        }
    }

    /// Reads one value that is not NULL.
    pub(crate) fn read(self, raw: &[u8]) -> Result<Value, Malformed> {
        let mut reader = Reader::new(raw);
        let value = match self {
            Self::Array(element) => return array::read(*element.0, &mut reader),
            Self::Void => Value::Text(String::new()),
            Self::Bool => Value::Bool(reader.u8()? != 0),
            Self::Int2 => Value::Int(reader.i16()?.into()),
            Self::Int4 => Value::Int(reader.i32()?.into()),
            Self::Int8 => Value::Int(reader.i64()?),
            Self::Oid => Value::Int(reader.u32()?.into()),
            Self::Float4 => Value::Float(widen(f32::from_bits(reader.u32()?))),
            Self::Float8 => Value::Float(f64::from_bits(reader.u64()?)),
            Self::Text => Value::Text(reader.text()?),
            Self::Char => Value::Text(bits::char_text(reader.u8()?)),
            Self::Bytea => Value::Bytes(reader.rest().to_vec()),
            Self::Numeric => Value::Numeric(numeric::text(&mut reader)?),
            Self::Uuid => Value::Uuid(uuid::Uuid::from_bytes(*reader.bytes()?).to_string()),
            Self::Json => Value::Json(reader.text()?),
            Self::Jsonb => match reader.u8()? {
                1 => Value::Json(reader.text()?),
                _ => return Err(Malformed),
            },
            Self::Timestamptz => datetime::timestamptz(reader.i64()?),
            Self::Timestamp => Value::Text(datetime::timestamp_text(reader.i64()?)),
            Self::Date => Value::Text(datetime::date_text(reader.i32()?)),
            Self::Time => Value::Text(datetime::time_text(reader.i64()?)),
            Self::Timetz => Value::Text(datetime::timetz_text(reader.i64()?, reader.i32()?)),
            Self::Interval => {
                Value::Text(datetime::interval_text(reader.i64()?, reader.i32()?, reader.i32()?))
            }
            Self::Inet => Value::Text(network::inet_text(&mut reader)?),
            Self::Macaddr => Value::Text(network::macaddr_text(reader.rest())),
            Self::Lsn => Value::Text(crate::lsn::Lsn(reader.u64()?).to_string()),
            Self::Bits => Value::Text(bits::bit_text(&mut reader)?),
        };
        Ok(value)
    }

    fn scalar(ty: &Type) -> Option<&'static Self> {
        Some(match *ty {
            Type::VOID => &Self::Void,
            Type::BOOL => &Self::Bool,
            Type::INT2 => &Self::Int2,
            Type::INT4 => &Self::Int4,
            Type::INT8 => &Self::Int8,
            // The reg types print as names, but travel as numbers.
            Type::OID
            | Type::XID
            | Type::CID
            | Type::REGCLASS
            | Type::REGTYPE
            | Type::REGPROC
            | Type::REGPROCEDURE
            | Type::REGROLE
            | Type::REGNAMESPACE => &Self::Oid,
            Type::FLOAT4 => &Self::Float4,
            Type::FLOAT8 => &Self::Float8,
            Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::XML | Type::UNKNOWN => &Self::Text,
            Type::CHAR => &Self::Char,
            Type::BYTEA => &Self::Bytea,
            Type::NUMERIC => &Self::Numeric,
            Type::UUID => &Self::Uuid,
            Type::JSON => &Self::Json,
            Type::JSONB => &Self::Jsonb,
            Type::TIMESTAMPTZ => &Self::Timestamptz,
            Type::TIMESTAMP => &Self::Timestamp,
            Type::DATE => &Self::Date,
            Type::TIME => &Self::Time,
            Type::TIMETZ => &Self::Timetz,
            Type::INTERVAL => &Self::Interval,
            Type::INET | Type::CIDR => &Self::Inet,
            Type::MACADDR | Type::MACADDR8 => &Self::Macaddr,
            Type::PG_LSN => &Self::Lsn,
            Type::BIT | Type::VARBIT => &Self::Bits,
            _ => return Self::made_by_user(ty),
        })
    }

    fn made_by_user(ty: &Type) -> Option<&'static Self> {
        match ty.kind() {
            Kind::Enum(_) => Some(&Self::Text),
            Kind::Domain(base) => Self::scalar(base),
            _ if ty.name() == "citext" => Some(&Self::Text),
            _ => None,
        }
    }
}

/// Says that the server sent bytes that are not of the type it announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the value is not in the binary format of its type")]
pub(crate) struct Malformed;

/// The bytes of one value as they came; lets the driver hand out any column.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Raw<'a>(pub &'a [u8]);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(raw))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// Widens so that the shortest decimal form stays: 0.1 becomes 0.1, not 0.10000000149011612.
fn widen(value: f32) -> f64 {
    if value.is_finite() { value.to_string().parse().unwrap_or_else(|_| value.into()) } else { value.into() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [Decoder; 26] = [
        Decoder::Void,
        Decoder::Bool,
        Decoder::Int2,
        Decoder::Int4,
        Decoder::Int8,
        Decoder::Oid,
        Decoder::Float4,
        Decoder::Float8,
        Decoder::Text,
        Decoder::Char,
        Decoder::Bytea,
        Decoder::Numeric,
        Decoder::Uuid,
        Decoder::Json,
        Decoder::Jsonb,
        Decoder::Timestamptz,
        Decoder::Timestamp,
        Decoder::Date,
        Decoder::Time,
        Decoder::Timetz,
        Decoder::Interval,
        Decoder::Inet,
        Decoder::Macaddr,
        Decoder::Lsn,
        Decoder::Bits,
        Decoder::Array(Scalar(&Decoder::Numeric)),
    ];

    proptest! {
        #[test]
        fn no_bytes_make_a_decoder_panic(raw in prop::collection::vec(any::<u8>(), 0..64), index in 0..ALL.len()) {
            let _ = ALL[index].read(&raw);
        }

        #[test]
        fn extreme_headers_make_no_decoder_panic(
            raw in prop::collection::vec(prop_oneof![Just(0_u8), Just(1), Just(0x7f), Just(0x80), Just(0xff)], 0..40),
            index in 0..ALL.len(),
        ) {
            let _ = ALL[index].read(&raw);
        }
    }

    #[test]
    fn a_float4_keeps_its_shortest_form() {
        assert_eq!(Decoder::Float4.read(&0.1_f32.to_be_bytes()), Ok(Value::Float(0.1)));
    }
}
