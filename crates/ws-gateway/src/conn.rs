//! One connection: the task that moves bytes between a socket, a session and the hub.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::ws::{Utf8Bytes, WebSocket};
use mainstay_runtime::Clock;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use crate::codes::Disconnect;
use crate::hub::Seat;
use crate::session::{Action, Now, Session};

mod socket;

pub(crate) use socket::sized;
use socket::{Incoming, Lost, Socket};

/// Messages written with one call when many wait.
const BATCH_MESSAGES: usize = 16;
/// Bytes written with one call, unless a single message is larger.
const BATCH_BYTES: usize = 64 << 10;
/// Time for a peer to read what is left and to answer a close frame.
const CLOSE_WITHIN: Duration = Duration::from_secs(3);

/// A client's socket with all that belongs to it. Dropping it at any point leaves nothing in the hub.
pub(crate) struct Conn {
    socket: Socket,
    seat: Seat,
    session: Session,
    clock: Clock,
    max_message_bytes: usize,
    is_writing: bool,
    timer: Pin<Box<Sleep>>,
    /// When the timer goes off; none once it has.
    armed_at: Option<Instant>,
}

enum Event {
    Text(Utf8Bytes),
    Binary,
    Timer,
    End(End),
}

/// How a connection ends.
enum End {
    /// We close it and say why.
    Close(Disconnect),
    /// The peer closes it.
    Leaving,
    /// There is nobody left to talk to.
    Gone(Disconnect),
}

impl Conn {
    pub(crate) fn new(
        socket: WebSocket,
        seat: Seat,
        session: Session,
        clock: Clock,
        max_message_bytes: usize,
    ) -> Self {
        let armed_at = session.next_at().unwrap_or_else(Instant::now);
        Self {
            socket: Socket::new(socket),
            seat,
            session,
            clock,
            max_message_bytes,
            is_writing: false,
            timer: Box::pin(sleep_until(armed_at)),
            armed_at: Some(armed_at),
        }
    }

    /// Serves the client until either side ends it.
    pub(crate) async fn run(mut self) {
        let end = self.live().await;
        // First out of the hub: from here on nobody spends anything on this client.
        self.seat.retire();
        let disconnect = match end {
            End::Close(disconnect) | End::Gone(disconnect) => disconnect,
            End::Leaving => Disconnect::CLOSED,
        };
        self.seat.hub().metrics().disconnected(disconnect);
        let client = self.seat.connection().client;
        tracing::debug!(%client, code = disconnect.code, reason = disconnect.reason, "connection ends");
        // Whoever does not take part in the farewell is left without one.
        let _ = match end {
            End::Close(disconnect) => timeout(CLOSE_WITHIN, self.close(disconnect)).await,
            End::Leaving => timeout(CLOSE_WITHIN, self.wait_for_end()).await,
            End::Gone(_) => return,
        };
    }

    async fn live(&mut self) -> End {
        loop {
            let event = poll_fn(|cx| self.poll_event(cx)).await;
            let mut actions = Vec::new();
            match event {
                Event::Text(text) if text.len() > self.max_message_bytes => {
                    actions.push(Action::Close(Disconnect::MESSAGE_SIZE_LIMIT));
                }
                Event::Text(text) => self.read(&text, &mut actions),
                Event::Binary => self.session.on_binary(&mut actions),
                Event::Timer => self.session.on_timer(self.now(), &mut actions),
                Event::End(end) => return end,
            }
            self.carry_out(actions);
            self.arm();
        }
    }

    fn read(&mut self, text: &str, actions: &mut Vec<Action>) {
        let n_commands = self.session.on_text(text, self.now(), actions);
        let (connection, metrics) = (self.seat.connection(), self.seat.hub().metrics());
        connection.traffic.received(n_commands, text.len() as u64);
        metrics.messages_received.inc_by(n_commands);
        metrics.bytes_received.inc_by(text.len() as u64);
    }

    /// Looks at everything that can happen, in order of urgency.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let outbox = &self.seat.connection().outbox;
        outbox.register(cx);
        if let Some(disconnect) = outbox.closing() {
            return Poll::Ready(Event::End(End::Close(disconnect)));
        }
        if let Poll::Ready(Err(Lost)) = self.poll_write(cx) {
            return Poll::Ready(Event::End(End::Gone(Disconnect::WRITE_ERROR)));
        }
        if let Poll::Ready(incoming) = self.socket.poll_read(cx) {
            return Poll::Ready(match incoming {
                Incoming::Text(text) => Event::Text(text),
                Incoming::Binary => Event::Binary,
                Incoming::Leaving => Event::End(End::Leaving),
                Incoming::Broken(disconnect) => Event::End(End::Close(disconnect)),
                Incoming::Gone => Event::End(End::Gone(Disconnect::CLOSED)),
            });
        }
        if self.armed_at.is_some() && self.timer.as_mut().poll(cx).is_ready() {
            self.armed_at = None;
            return Poll::Ready(Event::Timer);
        }
        Poll::Pending
    }

    /// Writes what is queued, batch by batch; is ready when all of it is with the kernel.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        loop {
            if self.is_writing {
                match self.socket.poll_flush(cx) {
                    Poll::Ready(Ok(())) => self.is_writing = false,
                    other => return other,
                }
            }
            let connection = self.seat.connection();
            let mut batch = Vec::new();
            connection.outbox.take(BATCH_MESSAGES, BATCH_BYTES, &mut batch);
            if batch.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let (messages, bytes) =
                (batch.len() as u64, batch.iter().map(|message| message.len() as u64).sum());
            self.socket.start_batch(batch)?;
            self.is_writing = true;
            connection.traffic.sent(messages, bytes);
            let metrics = self.seat.hub().metrics();
            metrics.messages_sent.inc_by(messages);
            metrics.bytes_sent.inc_by(bytes);
        }
    }

    fn carry_out(&self, actions: Vec<Action>) {
        let (hub, connection) = (self.seat.hub(), self.seat.connection());
        for action in actions {
            match action {
                Action::Admit(profile) => {
                    if !hub.admit(connection, profile) {
                        connection.outbox.close(Disconnect::CONNECTION_LIMIT);
                        return;
                    }
                }
                Action::Reply { frame, method, code } => {
                    hub.metrics().answered(method, code);
                    hub.send(connection, frame);
                }
                Action::Send(message) => {
                    hub.send(connection, message);
                }
                Action::Join(channel) => hub.join(connection, channel),
                Action::Leave(channel) => hub.leave(connection, &channel),
                Action::Publish { channel, push } => {
                    hub.publish(&channel, &push);
                }
                Action::RoundTrip(took) => connection.traffic.round_trip(took),
                Action::Close(disconnect) => {
                    connection.outbox.close(disconnect);
                }
            }
        }
    }

    /// Moves the timer only when it would go off too late: going off early costs less than moving it on every frame.
    fn arm(&mut self) {
        let Some(next_at) = self.session.next_at() else { return };
        if self.armed_at.is_none_or(|armed_at| next_at < armed_at) {
            self.timer.as_mut().reset(next_at);
            self.armed_at = Some(next_at);
        }
    }

    /// Writes what was queued before the end, then the reason, and waits for the peer to go.
    async fn close(&mut self, disconnect: Disconnect) -> Result<(), Lost> {
        poll_fn(|cx| self.poll_write(cx)).await?;
        self.socket.start_close(disconnect)?;
        poll_fn(|cx| self.socket.poll_flush(cx)).await?;
        self.wait_for_end().await
    }

    async fn wait_for_end(&mut self) -> Result<(), Lost> {
        loop {
            match poll_fn(|cx| self.socket.poll_read(cx)).await {
                Incoming::Text(_) | Incoming::Binary | Incoming::Leaving => {}
                Incoming::Broken(_) | Incoming::Gone => return Ok(()),
            }
        }
    }

    fn now(&self) -> Now {
        Now { at: Instant::now(), unix_s: self.clock.unix_s() }
    }
}
