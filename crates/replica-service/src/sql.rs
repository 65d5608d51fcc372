//! SQL values: from a caller's parameter to PostgreSQL, and from PostgreSQL's binary format to a caller's value.

pub(crate) mod decode;
pub(crate) mod param;
pub(crate) mod types;

/// One value of a result.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Bytes(Vec<u8>),
    /// Decimal notation without loss; also `NaN`, `Infinity`, `-Infinity`.
    Numeric(String),
    Uuid(String),
    Json(String),
    /// A timestamptz between the years 1 and 9999; others are [`Text`](Self::Text).
    Timestamp {
        seconds: i64,
        nanos: i32,
    },
    Array(Vec<Value>),
}
