use std::time::Duration;

use mainstay_proto::replica::v1::{ExecuteRequest, Prefer as WirePrefer, QueryRequest, Value};

use super::value;
use crate::{
    config::LimitsConfig,
    engine::{Read, Until, Write},
    error::QueryError,
    route::Prefer,
    session::Statement,
    sql::param::Param,
    token::Token,
};

/// What the protocol can count.
const MAX_PARAMS: usize = 65_535;

pub(super) fn read(request: QueryRequest, until: Until, limits: &LimitsConfig) -> Result<Read, QueryError> {
    let max_rows = match request.max_rows {
        0 => limits.default_rows,
        rows if rows > limits.max_rows => {
            return Err(invalid("max_rows", format!("must be at most {}", limits.max_rows)));
        }
        rows => rows,
    };
    let prefer = match WirePrefer::try_from(request.prefer) {
        Ok(WirePrefer::Unspecified | WirePrefer::Replica) => Prefer::Replica,
        Ok(WirePrefer::Primary) => Prefer::Primary,
        Err(_) => return Err(invalid("prefer", "is not a known preference")),
    };
    let max_staleness = request.max_staleness.map(duration).transpose()?;
    let after = match request.after.as_str() {
        "" => None,
        text => Some(Token::decode(text).map_err(|error| QueryError::Token(error.to_string().into()))?),
    };
    let statement = statement(request.sql, request.params, max_rows, limits)?;
    Ok(Read { statement, max_staleness, after, prefer, until })
}

pub(super) fn write(
    request: ExecuteRequest,
    until: Until,
    limits: &LimitsConfig,
) -> Result<Write, QueryError> {
    let statement = statement(request.sql, request.params, limits.max_rows, limits)?;
    Ok(Write { statement, until })
}

fn statement(
    sql: String,
    params: Vec<Value>,
    max_rows: u32,
    limits: &LimitsConfig,
) -> Result<Statement, QueryError> {
    if sql.trim().is_empty() {
        return Err(invalid("sql", "must not be empty"));
    }
    if sql.len() as u64 > limits.max_sql_size.as_u64() {
        return Err(invalid("sql", format!("must be at most {} bytes", limits.max_sql_size.as_u64())));
    }
    if sql.contains('\0') {
        return Err(invalid("sql", "must not contain a zero byte"));
    }
    if params.len() > MAX_PARAMS {
        return Err(invalid("params", format!("must be at most {MAX_PARAMS}, are {}", params.len())));
    }
    let param = |(index, value)| value::param(value, &format!("params[{index}]"));
    let params = params.into_iter().enumerate().map(param).collect::<Result<Vec<Param>, _>>()?;
    Ok(Statement { sql, params, max_rows, max_bytes: limits.max_result_size.as_u64() })
}

fn duration(wire: prost_types::Duration) -> Result<Duration, QueryError> {
    Duration::try_from(wire).map_err(|_| invalid("max_staleness", "must not be negative"))
}

pub(super) fn invalid(field: impl Into<String>, message: impl Into<String>) -> QueryError {
    QueryError::Invalid { field: field.into(), message: message.into() }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn until() -> Until {
        Until { at: Instant::now(), within: Duration::ZERO }
    }

    fn refused(request: QueryRequest) -> String {
        read(request, until(), &LimitsConfig::default()).unwrap_err().to_string()
    }

    #[test]
    fn requests_beyond_the_limits_are_refused_with_the_field() {
        let sql = || "SELECT 1".to_owned();
        for (request, wanted) in [
            (QueryRequest::default(), "invalid sql: must not be empty"),
            (
                QueryRequest { sql: " ".repeat(2 << 20) + "x", ..QueryRequest::default() },
                "invalid sql: must be at most 1048576 bytes",
            ),
            (
                QueryRequest { sql: "a\0b".to_owned(), ..QueryRequest::default() },
                "invalid sql: must not contain a zero byte",
            ),
            (
                QueryRequest { sql: sql(), max_rows: 10_001, ..QueryRequest::default() },
                "invalid max_rows: must be at most 10000",
            ),
            (
                QueryRequest { sql: sql(), prefer: 9, ..QueryRequest::default() },
                "invalid prefer: is not a known preference",
            ),
            (
                QueryRequest { sql: sql(), after: "garbage".to_owned(), ..QueryRequest::default() },
                "token refused: not a token of this service",
            ),
            (
                QueryRequest {
                    sql: sql(),
                    max_staleness: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
                    ..QueryRequest::default()
                },
                "invalid max_staleness: must not be negative",
            ),
            (
                QueryRequest {
                    sql: sql(),
                    params: vec![Value::default(); 65_536],
                    ..QueryRequest::default()
                },
                "invalid params: must be at most 65535, are 65536",
            ),
        ] {
            assert_eq!(refused(request), wanted);
        }
    }

    #[test]
    fn what_is_left_out_takes_the_defaults() {
        let request = QueryRequest { sql: "SELECT 1".to_owned(), ..QueryRequest::default() };
        let read = read(request, until(), &LimitsConfig::default()).unwrap();
        assert_eq!(
            (read.statement.max_rows, read.max_staleness, read.prefer),
            (1_000, None, Prefer::Replica)
        );
    }
}
