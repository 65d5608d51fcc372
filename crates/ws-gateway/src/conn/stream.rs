//! A connection over HTTP, for networks that let no WebSocket through: an answer that does not end carries what the
//! client is told, and requests of their own bring what it says.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{BufMut as _, Bytes, BytesMut};
use mainstay_runtime::Clock;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{BATCH, BATCH_BYTES, BATCH_MESSAGES, Form, now};
use crate::codec::Message;
use crate::codes::Disconnect;
use crate::desk::carry_out;
use crate::emulation::{Emulated, Inbox};
use crate::hub::Seat;
use crate::protocol::{self, Push};
use crate::session::{Action, Session};

/// How messages stand in the body of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// One line each, or in Protobuf each behind its length.
    Stream,
    /// One event each (`text/event-stream`).
    Events,
}

/// The server's half of such a connection, driven by whoever reads the body of the answer. Dropping it at any point
/// leaves nothing in the hub.
pub(crate) struct StreamConn {
    form: Form,
    framing: Framing,
    seat: Seat,
    session: Session,
    clock: Clock,
    emulated: Emulated,
    inbox: Arc<Inbox>,
    timer: Pin<Box<Sleep>>,
    /// Why it ended; the body ends after the client was told.
    ended: Option<Disconnect>,
}

impl StreamConn {
    pub(crate) fn new(
        (form, framing): (Form, Framing),
        seat: Seat,
        session: Session,
        clock: Clock,
        (emulated, inbox): (Emulated, Arc<Inbox>),
    ) -> Self {
        let timer = Box::pin(sleep_until(session.next_at().unwrap_or_else(Instant::now)));
        Self { form, framing, seat, session, clock, emulated, inbox, timer, ended: None }
    }

    /// Returns the next piece of the body; none at its end.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        if self.ended.is_some() {
            return Poll::Ready(None);
        }
        self.seat.connection().outbox.attend(cx);
        loop {
            while self.seat.connection().outbox.closing().is_none()
                && let Some(frame) = self.inbox.take()
            {
                self.hear(&frame);
            }
            for word in self.seat.connection().take_words() {
                let mut actions = Vec::new();
                self.session.on_word(word, now(&self.clock), &mut actions);
                self.carry_out(actions);
            }
            let piece = self.take();
            if !piece.is_empty() {
                return Poll::Ready(Some(Ok(piece)));
            }
            if let Some(disconnect) = self.seat.connection().outbox.closing() {
                return Poll::Ready(Some(Ok(self.end(disconnect))));
            }
            if self.poll_timer(cx).is_pending() && self.seat.connection().outbox.rest() {
                return Poll::Pending;
            }
        }
    }

    /// Lets the session answer what the client says.
    fn hear(&mut self, frame: &Bytes) {
        let metrics = self.seat.hub().metrics();
        let mut actions = Vec::new();
        let message = match self.form {
            Form::Json => str::from_utf8(frame).ok().map(|text| Message::Text(text.into())),
            Form::Protobuf => Some(Message::Binary((&frame[..]).into())),
        };
        match message.as_ref().and_then(|message| self.form.read(message)) {
            Some(text) => {
                let n_commands = self.session.on_text(&text, now(&self.clock), &mut actions);
                self.seat.connection().traffic.received(n_commands, frame.len() as u64);
                metrics.messages_received.inc_by(n_commands);
                metrics.bytes_received.inc_by(frame.len() as u64);
            }
            None => self.session.on_binary(&mut actions),
        }
        self.carry_out(actions);
    }

    /// Does what the session asks for. A client that comes over HTTP has to know where its requests go.
    fn carry_out(&mut self, mut actions: Vec<Action>) {
        for action in &mut actions {
            if let Action::Open(open) = action {
                open.emulated = Some(self.emulated.clone());
            }
        }
        carry_out(&self.seat, actions);
    }

    /// Takes what is queued, as much as goes into one piece.
    fn take(&mut self) -> Bytes {
        BATCH.with_borrow_mut(|batch| {
            let connection = self.seat.connection();
            connection.outbox.take(BATCH_MESSAGES, BATCH_BYTES, batch);
            self.form.translate(batch);
            let piece = self.framed(batch);
            if !batch.is_empty() {
                let (messages, bytes) = (batch.len() as u64, piece.len() as u64);
                connection.traffic.sent(messages, bytes);
                let metrics = self.seat.hub().metrics();
                metrics.messages_sent.inc_by(messages);
                metrics.bytes_sent.inc_by(bytes);
            }
            batch.clear();
            piece
        })
    }

    fn framed(&self, messages: &[Bytes]) -> Bytes {
        let mut piece = BytesMut::with_capacity(messages.iter().map(|message| message.len() + 8).sum());
        for message in messages {
            match (self.framing, self.form) {
                (Framing::Stream, Form::Protobuf) => piece.put_slice(message),
                (Framing::Stream, Form::Json) => {
                    piece.put_slice(message);
                    piece.put_u8(b'\n');
                }
                (Framing::Events, _) => {
                    piece.put_slice(b"data: ");
                    // A carriage return would end the line; inside JSON it stands only between tokens.
                    piece.extend(message.iter().map(|&byte| if byte == b'\r' { b' ' } else { byte }));
                    piece.put_slice(b"\n\n");
                }
            }
        }
        piece.freeze()
    }

    /// Takes the connection out of the hub and says why.
    fn end(&mut self, disconnect: Disconnect) -> Bytes {
        self.finish(disconnect);
        let mut farewell = [protocol::push("", &Push::Disconnect(disconnect.into()))];
        self.form.translate(&mut farewell);
        self.framed(&farewell)
    }

    fn finish(&mut self, disconnect: Disconnect) {
        if self.ended.is_some() {
            return;
        }
        self.ended = Some(disconnect);
        self.inbox.close();
        self.seat.retire();
        self.seat.hub().ended(self.seat.connection(), disconnect);
    }

    /// Does what is due, or waits for it.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(next_at) = self.session.next_at() else { return Poll::Pending };
        if self.timer.deadline() != next_at {
            self.timer.as_mut().reset(next_at);
        }
        ready!(self.timer.as_mut().poll(cx));
        let mut actions = Vec::new();
        self.session.on_timer(now(&self.clock), &mut actions);
        self.carry_out(actions);
        Poll::Ready(())
    }
}

impl Drop for StreamConn {
    fn drop(&mut self) {
        let closing = self.seat.connection().outbox.closing();
        self.finish(closing.unwrap_or(Disconnect::CLOSED));
    }
}
