use std::time::Duration;

use mainstay_proto::replica::v1::{
    ExecuteRequest, Isolation as WireIsolation, Prefer as WirePrefer, QueryRequest, QueryStreamRequest,
    SqlStatement, TransactionRequest, Value,
};

use super::value;
use crate::{
    config::LimitsConfig,
    engine::{Read, StreamRead, Transaction, Until, Write},
    error::QueryError,
    insight::Shape,
    route::Prefer,
    session::{Statement, Stopwatch, stream::StreamLimits, transaction::Isolation},
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
    let prefer = prefer(request.prefer)?;
    let max_staleness = request.max_staleness.map(duration).transpose()?;
    let after = after(&request.after)?;
    let statement = statement(request.sql, request.params, max_rows, limits)?;
    let QueryRequest { zone, max_lag_bytes, .. } = request;
    Ok(Read { statement, max_staleness, max_lag_bytes, after, written: None, prefer, zone, until })
}

pub(super) fn write(
    request: ExecuteRequest,
    until: Until,
    limits: &LimitsConfig,
) -> Result<Write, QueryError> {
    let statement = statement(request.sql, request.params, limits.max_rows, limits)?;
    Ok(Write { statement, until })
}

pub(super) fn stream(
    request: QueryStreamRequest,
    until: Until,
    limits: &LimitsConfig,
) -> Result<StreamRead, QueryError> {
    let prefer = prefer(request.prefer)?;
    let max_staleness = request.max_staleness.map(duration).transpose()?;
    let after = after(&request.after)?;
    let statement = statement(request.sql, request.params, limits.max_rows, limits)?;
    let bound = |limit| if limit == 0 { u64::MAX } else { limit };
    let limits = StreamLimits { max_rows: bound(request.max_rows), max_bytes: bound(request.max_bytes) };
    let QueryStreamRequest { zone, max_lag_bytes, .. } = request;
    let read = Read { statement, max_staleness, max_lag_bytes, after, written: None, prefer, zone, until };
    Ok(StreamRead { read, limits })
}

pub(super) fn transaction(
    request: TransactionRequest,
    until: Until,
    limits: &LimitsConfig,
) -> Result<Transaction, QueryError> {
    let most = limits.max_statements as usize;
    if request.statements.is_empty() || request.statements.len() > most {
        return Err(invalid("statements", format!("must be 1 to {most}, are {}", request.statements.len())));
    }
    let isolation = match WireIsolation::try_from(request.isolation) {
        Ok(WireIsolation::Unspecified | WireIsolation::ReadCommitted) => Isolation::ReadCommitted,
        Ok(WireIsolation::RepeatableRead) => Isolation::RepeatableRead,
        Ok(WireIsolation::Serializable) => Isolation::Serializable,
        Err(_) => return Err(invalid("isolation", "is not a known isolation level")),
    };
    let one = |(number, wire): (usize, SqlStatement)| {
        let at = |error| match error {
            QueryError::Invalid { field, message } => {
                invalid(format!("statements[{number}].{field}"), message)
            }
            other => other,
        };
        if controls_transaction(&wire.sql) {
            return Err(at(invalid("sql", "must not begin or end the transaction")));
        }
        statement(wire.sql, wire.params, limits.max_rows, limits).map_err(at)
    };
    let statements = request.statements.into_iter().enumerate().map(one).collect::<Result<_, _>>()?;
    Ok(Transaction { statements, isolation, idempotent: request.idempotent, until })
}

/// Tells whether a statement would end the transaction that it runs in: its first word says so, always.
fn controls_transaction(sql: &str) -> bool {
    let text = Shape::of(sql).sql;
    let word = text.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or("");
    ["begin", "start", "commit", "end", "rollback", "abort", "prepare"]
        .iter()
        .any(|control| word.eq_ignore_ascii_case(control))
}

fn prefer(wire: i32) -> Result<Prefer, QueryError> {
    match WirePrefer::try_from(wire) {
        Ok(WirePrefer::Unspecified | WirePrefer::Replica) => Ok(Prefer::Replica),
        Ok(WirePrefer::Primary) => Ok(Prefer::Primary),
        Err(_) => Err(invalid("prefer", "is not a known preference")),
    }
}

fn after(token: &str) -> Result<Option<Token>, QueryError> {
    match token {
        "" => Ok(None),
        text => Token::decode(text).map(Some).map_err(|error| QueryError::Token(error.to_string().into())),
    }
}

pub(super) fn statement(
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
    let max_bytes = limits.max_result_size.as_u64();
    Ok(Statement { sql, params, max_rows, max_bytes, stopwatch: Stopwatch::default() })
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
    fn a_statement_that_controls_the_transaction_is_refused_by_its_number() {
        for sql in
            ["COMMIT", "  end", "/* x */ Rollback to a", "-- y\nBEGIN", "prepare transaction 'x'", "abort;"]
        {
            let statements = ["SELECT 1", sql]
                .map(|sql| SqlStatement { sql: sql.to_owned(), params: Vec::new() })
                .to_vec();
            let request = TransactionRequest { statements, ..TransactionRequest::default() };
            let error = transaction(request, until(), &LimitsConfig::default()).unwrap_err().to_string();
            assert_eq!(error, "invalid statements[1].sql: must not begin or end the transaction", "{sql}");
        }
        assert!(!controls_transaction("SELECT 1") && !controls_transaction("endless"));
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
