//! PostgreSQL's extended protocol, as reads need it.
//!
//! A read is several statements: one begins a read-only transaction, one is the caller's, and two leave nothing behind. The
//! driver ends each with a Sync, which the server answers with a flush of its own. Here all of them travel before one Sync, so
//! there is one message there and one back; and after an error the server skips the rest, so nothing runs whose BEGIN failed.
//! Who has the connection reads and writes the socket himself: no task stands between him and the database, and rows that he
//! does not take yet wait in the socket.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::{Buf as _, BytesMut};
use fallible_iterator::FallibleIterator as _;
use postgres_protocol::{
    IsNull,
    message::{
        backend::{DATA_ROW_TAG, DataRowBody, Header, Message, RowDescriptionBody},
        frontend,
    },
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::{
    CancelToken,
    types::{Oid, Type},
};
use tokio_util::io::poll_read_buf;

use crate::sql::param::{Body, Param};

mod commands;
mod error;
mod loan;
mod login;
mod types;

pub(crate) use error::WireError;
pub(crate) use login::Login;

use crate::error::ServerError;
use commands::Commands;

/// A connection that is logged in.
pub(crate) struct Wire {
    stream: Box<dyn Stream>,
    incoming: BytesMut,
    outgoing: BytesMut,
    /// Whether all that was written is on its way; under TLS some may wait.
    flushed: bool,
    /// How much is read at once; more while more comes.
    read_bytes: usize,
    /// What is still to come of a row that is dropped.
    n_to_drop: usize,
    /// Received since everything was answered last.
    n_received: usize,
    /// Sent since then.
    n_sent: usize,
    /// Syncs that the server has not answered.
    unanswered: u32,
    token: CancelToken,
    commands: Commands,
    /// Types that the database's users made.
    types: HashMap<Oid, Type>,
    /// Of the next named statement.
    next_name: u32,
}

/// What carries bytes to the server: TCP, or TLS on top of it.
trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for S {}

/// What the server says next, as far as it matters here.
pub(crate) enum Event {
    Columns(RowDescriptionBody),
    Row(DataRowBody),
    /// A row that is longer than [wanted](Wire::next_within), and is dropped as it comes.
    LongRow,
    /// A statement has ended.
    Done,
    /// A statement was refused; everything up to the next [`Ready`](Self::Ready) is skipped.
    Refused(Box<ServerError>),
    /// Everything up to a Sync is answered.
    Ready {
        /// One was begun and has not ended.
        in_transaction: bool,
    },
}

/// The text of a statement that is sent, or the name of one that the server has.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Text<'a> {
    /// Forgotten with the next one.
    Once(&'a str),
    /// Stays in the session under this name.
    Kept { name: &'a str, sql: &'a str },
    /// Stands there already.
    Named(&'a str),
}

const READ_BYTES: usize = 8 << 10;
const MOST_READ_BYTES: usize = 64 << 10;
/// Length of a row and number of its values, which are no part of what it holds.
const ROW_HEADER_BYTES: u64 = 6;
/// Values come in their binary format.
const BINARY: [i16; 1] = [1];

impl Wire {
    /// Appends one statement, whose answer is not described unless asked for.
    ///
    /// # Errors
    ///
    /// It does not fit into a message. Nothing was sent.
    pub(crate) fn put(&mut self, text: Text<'_>, params: &[Param], describe: bool) -> Result<(), WireError> {
        let out = &mut self.outgoing;
        let name = match text {
            Text::Once(sql) => {
                parse("", sql, params, out)?;
                ""
            }
            Text::Kept { name, sql } => {
                parse(name, sql, params, out)?;
                name
            }
            Text::Named(name) => name,
        };
        bind(name, params, out)?;
        if describe {
            frontend::describe(b'P', "", out)?;
        }
        frontend::execute("", 0, out)?;
        Ok(())
    }

    /// Asks for the columns of a statement that is not run.
    pub(crate) fn put_question(&mut self, sql: &str, params: &[Param]) -> Result<(), WireError> {
        parse("", sql, params, &mut self.outgoing)?;
        frontend::describe(b'S', "", &mut self.outgoing)?;
        Ok(())
    }

    /// Makes the server forget a named statement, if it has it.
    pub(crate) fn put_close(&mut self, name: &str) -> Result<(), WireError> {
        Ok(frontend::close(b'S', name, &mut self.outgoing)?)
    }

    /// Ends what travels together.
    pub(crate) fn put_sync(&mut self) {
        frontend::sync(&mut self.outgoing);
        self.unanswered += 1;
    }

    /// Appends the beginning of a read-only transaction; statements in it may take `left` each.
    pub(crate) fn put_begin(&mut self, left: Duration) -> Result<(), WireError> {
        commands::put_begin(self, left)
    }

    /// Appends the end of a read: settings are undone by rollback, advisory locks by name.
    pub(crate) fn put_end(&mut self) -> Result<(), WireError> {
        commands::put_end(self)
    }

    /// Returns how many statements [`put_begin`](Self::put_begin) has put, for `left`.
    pub(crate) fn n_begin(&self, left: Duration) -> usize {
        self.commands.n_begin(left)
    }

    /// Tells whether the session has statements prepared of its own.
    pub(crate) fn has_commands(&self) -> bool {
        self.commands.is_named()
    }

    /// Goes on without what the session had prepared of its own; somebody has deallocated all.
    pub(crate) fn forget_commands(&mut self) {
        self.commands.forget();
    }

    /// Returns a name that no statement of this session has had.
    pub(crate) fn new_name(&mut self) -> Arc<str> {
        self.next_name += 1;
        format!("m{}", self.next_name).into()
    }

    /// Returns what the server says next; sends what was put.
    ///
    /// # Errors
    ///
    /// The connection is not to be used again.
    pub(crate) async fn next(&mut self) -> Result<Event, WireError> {
        self.next_within(u64::MAX).await
    }

    /// Does the same, and keeps no row in memory that is longer than `most_bytes`.
    pub(crate) async fn next_within(&mut self, most_bytes: u64) -> Result<Event, WireError> {
        std::future::poll_fn(|cx| self.poll_next(cx, most_bytes)).await
    }

    /// Reads on to the end of what was sent; returns whether a transaction is open then, and the first error.
    pub(crate) async fn finish(&mut self) -> Result<(bool, Option<Box<ServerError>>), WireError> {
        let mut refused = None;
        loop {
            match self.next().await? {
                Event::Ready { in_transaction } => return Ok((in_transaction, refused)),
                Event::Refused(error) => refused = refused.or(Some(error)),
                Event::Columns(_) | Event::Row(_) | Event::LongRow | Event::Done => {}
            }
        }
    }

    /// Runs a text of one or more statements without parameters, and returns the first column of its rows.
    pub(crate) async fn simple(&mut self, sql: &str) -> Result<Vec<String>, WireError> {
        self.ensure_idle()?;
        frontend::query(sql, &mut self.outgoing)?;
        self.unanswered += 1;
        self.first_column().await
    }

    /// Runs one statement, and returns the first column of its rows, which must be text.
    pub(crate) async fn one(&mut self, sql: &str, params: &[Param]) -> Result<Vec<String>, WireError> {
        self.ensure_idle()?;
        self.put(Text::Once(sql), params, false)?;
        self.put_sync();
        self.first_column().await
    }

    async fn first_column(&mut self) -> Result<Vec<String>, WireError> {
        let (mut texts, mut refused) = (Vec::new(), None);
        loop {
            match self.next().await? {
                Event::Row(row) => texts.extend(first_text(&row)?),
                Event::Refused(error) => refused = refused.or(Some(error)),
                Event::Columns(_) | Event::LongRow | Event::Done => {}
                Event::Ready { .. } => {
                    return refused.map_or(Ok(texts), |error| Err(WireError::Server(error)));
                }
            }
        }
    }

    /// Waits until nothing runs any more, whatever came of it.
    pub(crate) async fn settle(&mut self) {
        while self.unanswered > 0 && self.next_within(MOST_READ_BYTES as u64).await.is_ok() {}
    }

    /// The answer to something else must not be taken for that to what is asked next.
    pub(super) fn ensure_idle(&self) -> Result<(), WireError> {
        if self.unanswered == 0 { Ok(()) } else { Err(WireError::out_of_turn()) }
    }

    pub(crate) fn cancel_token(&self) -> CancelToken {
        self.token.clone()
    }

    /// Tells whether the server has kept the connection open while nobody used it.
    pub(crate) async fn is_open(&mut self) -> bool {
        if self.unanswered > 0 || !self.outgoing.is_empty() {
            return false;
        }
        // What is said unasked and matters is a goodbye.
        std::future::poll_fn(|cx| Poll::Ready(self.poll_next(cx, u64::MAX).is_pending())).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>, most_bytes: u64) -> Poll<Result<Event, WireError>> {
        self.poll_send(cx);
        loop {
            if self.drop_long_row(most_bytes)? {
                return Poll::Ready(Ok(Event::LongRow));
            }
            while self.n_to_drop == 0
                && let Some(message) = Message::parse(&mut self.incoming)?
            {
                if let Some(event) = self.take(message)? {
                    return Poll::Ready(Ok(event));
                }
                if self.drop_long_row(most_bytes)? {
                    return Poll::Ready(Ok(Event::LongRow));
                }
            }
            if ready!(self.poll_receive(cx))? == 0 {
                return Poll::Ready(Err(WireError::Closed));
            }
        }
    }

    /// Drops what there is of a row that is too long; returns whether one begins. The driver's parser would make room for all of it.
    fn drop_long_row(&mut self, most_bytes: u64) -> io::Result<bool> {
        let mut begins = false;
        if self.n_to_drop == 0
            && let Some(header) = Header::parse(&self.incoming)?
            && header.tag() == DATA_ROW_TAG
        {
            // The length does not count the tag.
            let n_bytes = usize::try_from(header.len()).unwrap_or(0) + 1;
            begins = n_bytes as u64 > most_bytes.saturating_add(ROW_HEADER_BYTES + 1);
            self.n_to_drop = if begins { n_bytes } else { 0 };
        }
        let here = self.n_to_drop.min(self.incoming.len());
        self.incoming.advance(here);
        self.n_to_drop -= here;
        Ok(begins)
    }

    /// Sends as much as the socket takes. The server may have much to say before it has read all, so nobody waits here.
    fn poll_send(&mut self, cx: &mut Context<'_>) {
        while !self.outgoing.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.outgoing) {
                Poll::Pending => return,
                Poll::Ready(Ok(n)) if n > 0 => {
                    self.outgoing.advance(n);
                    self.n_sent += n;
                }
                // It said why before it closed, or reading fails too.
                Poll::Ready(_) => self.outgoing.clear(),
            }
            self.flushed = false;
        }
        if !self.flushed {
            // An error shows when reading.
            self.flushed = Pin::new(&mut self.stream).poll_flush(cx).is_ready();
        }
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.incoming.reserve(self.read_bytes);
        let n = ready!(poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.incoming))?;
        self.n_received += n;
        if n >= self.read_bytes {
            self.read_bytes = (self.read_bytes * 2).min(MOST_READ_BYTES);
        }
        Poll::Ready(Ok(n))
    }

    /// Gives memory back that a large question or answer took: a connection that waits for the next one keeps little.
    fn shrink(&mut self) {
        self.read_bytes = READ_BYTES;
        if std::mem::take(&mut self.n_received) > MOST_READ_BYTES && self.incoming.is_empty() {
            self.incoming = BytesMut::new();
        }
        if std::mem::take(&mut self.n_sent) > MOST_READ_BYTES && self.outgoing.is_empty() {
            self.outgoing = BytesMut::new();
        }
    }

    fn take(&mut self, message: Message) -> Result<Option<Event>, WireError> {
        Ok(Some(match message {
            Message::DataRow(row) => Event::Row(row),
            Message::RowDescription(columns) => Event::Columns(columns),
            Message::CommandComplete(_) | Message::EmptyQueryResponse => Event::Done,
            Message::ReadyForQuery(ready) => {
                self.unanswered = self.unanswered.saturating_sub(1);
                self.shrink();
                Event::Ready { in_transaction: ready.status() != b'I' }
            }
            Message::ErrorResponse(error) => {
                let error = Box::new(ServerError::read(&error)?);
                if error.is_fatal() {
                    return Err(WireError::Server(error));
                }
                Event::Refused(error)
            }
            Message::CopyInResponse(_)
            | Message::CopyOutResponse(_)
            | Message::CopyData(_)
            | Message::CopyDone => {
                return Err(WireError::Copy);
            }
            _ => return Ok(None),
        }))
    }
}

impl Drop for Wire {
    /// Says goodbye if that can be said at once.
    fn drop(&mut self) {
        if self.unanswered == 0 && self.outgoing.is_empty() {
            frontend::terminate(&mut self.outgoing);
            self.poll_send(&mut Context::from_waker(Waker::noop()));
        }
    }
}

/// Reads the first column of a row that holds text.
fn first_text(row: &DataRowBody) -> io::Result<Option<String>> {
    let range = row.ranges().next()?.flatten();
    Ok(range.map(|range| String::from_utf8_lossy(&row.buffer()[range]).into_owned()))
}

fn parse(name: &str, sql: &str, params: &[Param], out: &mut BytesMut) -> Result<(), WireError> {
    Ok(frontend::parse(name, sql, params.iter().map(|param| param.ty.oid()), out)?)
}

fn bind(name: &str, params: &[Param], out: &mut BytesMut) -> Result<(), WireError> {
    let formats = params.iter().map(|param| i16::from(matches!(param.body, Body::Bytes(_))));
    let value = |param: &Param, out: &mut BytesMut| {
        let bytes: &[u8] = match &param.body {
            Body::Null => return Ok(IsNull::Yes),
            Body::Text(text) | Body::Array(text) => text.as_bytes(),
            Body::Bytes(bytes) => bytes,
        };
        out.extend_from_slice(bytes);
        Ok(IsNull::No)
    };
    frontend::bind("", name, formats, params, value, BINARY, out).map_err(|error| match error {
        frontend::BindError::Conversion(error) => io::Error::other(error).into(),
        frontend::BindError::Serialization(error) => error.into(),
    })
}
