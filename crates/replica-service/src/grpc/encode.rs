use mainstay_proto::replica::v1::{
    Column, ExecuteResponse, QueryChunk, QueryResponse, Role, Row, Served as WireServed, StatementResult,
    TransactionResponse,
};

use super::value;
use crate::{
    engine::{Answered, Served, TransactionDone},
    session::{self, stream::Chunk},
    sql::{Value, types},
    token::Token,
};

pub(super) fn query(answered: Answered) -> QueryResponse {
    let Answered { answer, served, .. } = answered;
    QueryResponse {
        columns: columns(&answer.columns),
        rows: rows(answer.rows),
        truncated: answer.truncated,
        served: Some(wire_served(&served)),
        cache: None,
    }
}

pub(super) fn execute(answered: Answered) -> ExecuteResponse {
    let Answered { answer, served, token, .. } = answered;
    ExecuteResponse {
        rows_affected: answer.n_affected,
        columns: columns(&answer.columns),
        rows: rows(answer.rows),
        token: token.as_ref().map(Token::encode).unwrap_or_default(),
        served: Some(wire_served(&served)),
        invalidation_pending: false,
    }
}

pub(super) fn transaction(done: TransactionDone) -> TransactionResponse {
    let result = |answer: session::Answer| StatementResult {
        rows_affected: answer.n_affected,
        columns: columns(&answer.columns),
        rows: rows(answer.rows),
    };
    TransactionResponse {
        results: done.answers.into_iter().map(result).collect(),
        token: done.token.as_ref().map(Token::encode).unwrap_or_default(),
        served: Some(wire_served(&done.served)),
        invalidation_pending: false,
    }
}

pub(super) fn chunk(chunk: Chunk) -> QueryChunk {
    QueryChunk {
        columns: columns(&chunk.columns),
        served: chunk.served.as_ref().map(wire_served),
        rows: rows(chunk.rows),
        last: chunk.last,
        truncated: chunk.truncated,
        rows_total: if chunk.last { chunk.rows_total } else { 0 },
    }
}

fn columns(columns: &[session::Column]) -> Vec<Column> {
    columns
        .iter()
        .map(|column| Column { name: column.name.clone(), r#type: types::name_of(&column.ty) })
        .collect()
}

fn rows(rows: Vec<Vec<Value>>) -> Vec<Row> {
    rows.into_iter().map(|values| Row { values: values.into_iter().map(value::wire).collect() }).collect()
}

/// An answer that says who gave it.
pub(super) trait Telling {
    fn served(&mut self) -> Option<&mut WireServed>;
}

impl Telling for QueryResponse {
    fn served(&mut self) -> Option<&mut WireServed> {
        self.served.as_mut()
    }
}

impl Telling for QueryChunk {
    fn served(&mut self) -> Option<&mut WireServed> {
        self.served.as_mut()
    }
}

/// Adds what `{table}` stood for.
pub(super) fn of_table<T: Telling>(mut answer: T, table: String) -> T {
    if let Some(served) = answer.served() {
        served.table = table;
    }
    answer
}

fn wire_served(served: &Served) -> WireServed {
    WireServed {
        node: served.node.to_string(),
        role: if served.is_primary { Role::Primary } else { Role::Replica }.into(),
        staleness: served.staleness.and_then(|staleness| staleness.try_into().ok()),
        reason: served.reason.as_str().to_owned(),
        attempts: served.attempts,
        hedged: served.hedged,
        table: String::new(),
    }
}
