//! What a server says of an error.

use std::io;

use fallible_iterator::FallibleIterator as _;
use postgres_protocol::message::backend::ErrorResponseBody;
use tokio_postgres::error::{DbError, ErrorPosition, SqlState};

/// An error as the server described it; each field is as PostgreSQL names it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{severity}: {message}{}{}", line("DETAIL", .detail), line("HINT", .hint))]
pub struct ServerError {
    pub severity: String,
    pub code: SqlState,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    /// Where in the text of the statement, in characters from 1.
    pub position: Option<u32>,
    pub schema: Option<String>,
    pub table: Option<String>,
    pub column: Option<String>,
    pub datatype: Option<String>,
    pub constraint: Option<String>,
}

impl ServerError {
    /// Reads it from its message.
    pub(crate) fn read(body: &ErrorResponseBody) -> io::Result<Self> {
        let (mut error, mut localized) = (Self::empty(), String::new());
        let mut fields = body.fields();
        while let Some(field) = fields.next()? {
            let text = String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                b'S' => localized = text,
                b'V' => error.severity = text,
                b'C' => error.code = SqlState::from_code(&text),
                b'M' => error.message = text,
                b'D' => error.detail = Some(text),
                b'H' => error.hint = Some(text),
                b'P' => error.position = text.parse().ok(),
                b's' => error.schema = Some(text),
                b't' => error.table = Some(text),
                b'c' => error.column = Some(text),
                b'd' => error.datatype = Some(text),
                b'n' => error.constraint = Some(text),
                _ => {}
            }
        }
        // A `PgBouncer` says it in one way only.
        if error.severity.is_empty() {
            error.severity = localized;
        }
        Ok(error)
    }

    /// Tells whether the connection is over. `PgBouncer` says it with 08P01, the server's own 08P01 is a plain error.
    pub(crate) fn is_fatal(&self) -> bool {
        matches!(&*self.severity, "FATAL" | "PANIC")
            || matches!(
                self.code,
                SqlState::ADMIN_SHUTDOWN | SqlState::CRASH_SHUTDOWN | SqlState::CANNOT_CONNECT_NOW
            )
            || (self.code.code().starts_with("08") && self.code != SqlState::PROTOCOL_VIOLATION)
    }

    /// Tells whether the server does not have a named statement, or has another one of that name.
    pub(crate) fn is_of_lost_statement(&self) -> bool {
        matches!(self.code, SqlState::INVALID_SQL_STATEMENT_NAME | SqlState::DUPLICATE_PSTATEMENT)
    }

    /// Tells whether a statement that was prepared earlier may be refused only because it was: the tables are others now, or
    /// the server has lost it. `inferred` where the database chose types for parameters then.
    pub(crate) fn is_of_outdated_statement(&self, inferred: bool) -> bool {
        self.code == SqlState::FEATURE_NOT_SUPPORTED
            || self.is_of_lost_statement()
            || self.code.code().starts_with("42")
            || (inferred && self.code.code().starts_with("22"))
    }

    fn empty() -> Self {
        Self {
            severity: String::new(),
            code: SqlState::SUCCESSFUL_COMPLETION,
            message: String::new(),
            detail: None,
            hint: None,
            position: None,
            schema: None,
            table: None,
            column: None,
            datatype: None,
            constraint: None,
        }
    }
}

impl From<&DbError> for ServerError {
    fn from(error: &DbError) -> Self {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let position = match error.position() {
            Some(ErrorPosition::Original(position)) => Some(*position),
            Some(ErrorPosition::Internal { .. }) | None => None,
        };
        Self {
            severity: error
                .parsed_severity()
                .map_or_else(|| error.severity().to_owned(), |it| it.to_string()),
            code: error.code().clone(),
            message: error.message().to_owned(),
            detail: owned(error.detail()),
            hint: owned(error.hint()),
            position,
            schema: owned(error.schema()),
            table: owned(error.table()),
            column: owned(error.column()),
            datatype: owned(error.datatype()),
            constraint: owned(error.constraint()),
        }
    }
}

fn line(title: &str, text: &Option<String>) -> String {
    text.as_ref().map(|text| format!("\n{title}: {text}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use postgres_protocol::message::backend::Message;

    use super::*;

    fn read(fields: &[u8]) -> ServerError {
        let mut message = BytesMut::from(&b"E"[..]);
        message.extend_from_slice(&u32::try_from(fields.len() + 5).unwrap().to_be_bytes());
        message.extend_from_slice(fields);
        message.extend_from_slice(b"\0");
        match Message::parse(&mut message) {
            Ok(Some(Message::ErrorResponse(body))) => ServerError::read(&body).unwrap(),
            _ => panic!("no error"),
        }
    }

    #[test]
    fn every_field_is_read_and_foreign_bytes_do_no_harm() {
        let error = read(
            b"SFEHLER\0VERROR\0C23505\0Mduplicate \xff key\0DKey (id)=(1)\0Htry another\0P17\0spublic\0tbench\0cid\0dint4\0nbench_pkey\0Fnbtinsert.c\0",
        );
        let some = |text: &str| Some(text.to_owned());
        let wanted = ServerError {
            severity: "ERROR".to_owned(),
            code: SqlState::UNIQUE_VIOLATION,
            message: "duplicate \u{fffd} key".to_owned(),
            detail: some("Key (id)=(1)"),
            hint: some("try another"),
            position: Some(17),
            schema: some("public"),
            table: some("bench"),
            column: some("id"),
            datatype: some("int4"),
            constraint: some("bench_pkey"),
        };
        assert_eq!(error, wanted);
        assert_eq!(
            error.to_string(),
            "ERROR: duplicate \u{fffd} key\nDETAIL: Key (id)=(1)\nHINT: try another"
        );
        assert!(!error.is_fatal());
    }

    #[test]
    fn who_says_goodbye_is_fatal_in_every_dialect() {
        for (fields, fatal) in [
            (&b"SFATAL\0C08P01\0Mserver conn crashed?\0"[..], true),
            (b"SFATAL\0VFATAL\0C57P01\0Mterminating connection\0", true),
            (b"SERROR\0VERROR\0C08P01\0Mbind message supplies 1 parameters\0", false),
            (b"SERROR\0VERROR\0C57014\0Mcanceling statement\0", false),
        ] {
            assert_eq!(read(fields).is_fatal(), fatal, "{fields:?}");
        }
    }
}
