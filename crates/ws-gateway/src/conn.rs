//! One connection: the task that moves bytes between a socket, a session and the hub.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use hyper::upgrade::Upgraded;
use mainstay_runtime::Clock;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use crate::codec::{Ended, Lost, Violation};
use crate::codes::Disconnect;
use crate::desk::carry_out;
use crate::hub::Seat;
use crate::session::{Now, Session};

mod form;
mod stream;
mod wire;

pub(crate) use form::Form;
pub(crate) use stream::{Framing, StreamConn};
pub(crate) use wire::Wire;

/// Messages written with one call when many wait.
const BATCH_MESSAGES: usize = 16;
/// Bytes written with one call, unless a single message is larger.
const BATCH_BYTES: usize = 64 << 10;
/// Time for a peer to read what is left and to answer a close frame.
const CLOSE_WITHIN: Duration = Duration::from_secs(3);

thread_local! {
    /// What is taken from an outbox and not yet in a frame.
    static BATCH: RefCell<Vec<Bytes>> = const { RefCell::new(Vec::new()) };
}

/// A client's socket with all that belongs to it. Dropping it at any point leaves nothing in the hub.
///
/// An idle one owns no buffer: what is read and what is written stays in memory shared by all tasks of the thread.
pub(crate) struct Conn {
    wire: Arc<Wire>,
    seat: Seat,
    session: Session,
    clock: Clock,
    timer: Pin<Box<Sleep>>,
    /// When the timer goes off; none once it has.
    armed_at: Option<Instant>,
}

/// How a connection ends.
#[derive(Clone, Copy)]
enum End {
    /// We close it and say why.
    Close(Disconnect),
    /// The peer broke the rules of WebSocket: we say which and listen no more.
    Broken(Disconnect),
    /// The peer closes it, with this code.
    Leaving(Option<u16>),
    /// There is nobody left to talk to.
    Gone(Disconnect),
}

impl Conn {
    pub(crate) fn new(
        (stream, max_message_bytes): (Upgraded, usize),
        form: Form,
        seat: Seat,
        session: Session,
        clock: Clock,
    ) -> Self {
        let armed_at = session.next_at().unwrap_or_else(Instant::now);
        let wire = Arc::new(Wire::new(stream, max_message_bytes, form));
        seat.connection().written_by(&wire);
        Self { wire, seat, session, clock, timer: Box::pin(sleep_until(armed_at)), armed_at: Some(armed_at) }
    }

    /// Serves the client until either side ends it.
    pub(crate) async fn run(mut self) {
        let end = poll_fn(|cx| self.poll_live(cx)).await;
        // First out of the hub: from here on nobody spends anything on this client.
        self.seat.retire();
        let disconnect = match end {
            End::Close(disconnect) | End::Broken(disconnect) | End::Gone(disconnect) => disconnect,
            End::Leaving(_) => Disconnect::CLOSED,
        };
        self.seat.hub().ended(self.seat.connection(), disconnect);
        // Whoever does not take part in the farewell is left without one. In a box, so that the task of a living
        // connection has no room for it.
        let _ = Box::pin(timeout(CLOSE_WITHIN, self.farewell(end))).await;
    }

    /// Does everything there is to do, in order of urgency.
    fn poll_live(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.seat.connection().outbox.attend(cx);
        loop {
            if let Some(disconnect) = self.seat.connection().outbox.closing() {
                return Poll::Ready(End::Close(disconnect));
            }
            let written = self.poll_write(cx);
            if let Poll::Ready(Err(Lost)) = written {
                return Poll::Ready(End::Gone(Disconnect::WRITE_ERROR));
            }
            self.hear();
            match self.poll_read(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(ended)) => return Poll::Ready(End::from(ended)),
                Poll::Pending if self.armed_at.is_some() && self.timer.as_mut().poll(cx).is_ready() => {
                    self.armed_at = None;
                    let mut actions = Vec::new();
                    self.session.on_timer(now(&self.clock), &mut actions);
                    carry_out(&self.seat, actions);
                }
                // What the client does not read waits until it does.
                Poll::Pending if written.is_pending() || self.seat.connection().outbox.rest() => {
                    return Poll::Pending;
                }
                Poll::Pending => {}
            }
            self.arm();
        }
    }

    /// Lets the session hear what others than the client say.
    fn hear(&mut self) {
        for word in self.seat.connection().take_words() {
            let mut actions = Vec::new();
            self.session.on_word(word, now(&self.clock), &mut actions);
            carry_out(&self.seat, actions);
            self.arm();
        }
    }

    /// Reads once and lets the session answer.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        let Self { wire, seat, session, clock, .. } = self;
        wire.poll_read(cx, |form, message| {
            let (connection, metrics) = (seat.connection(), seat.hub().metrics());
            if connection.outbox.closing().is_some() {
                return;
            }
            let mut actions = Vec::new();
            match form.read(&message) {
                Some(text) => {
                    let n_commands = session.on_text(&text, now(clock), &mut actions);
                    let n_bytes = message.len() as u64;
                    connection.traffic.received(n_commands, n_bytes);
                    metrics.messages_received.inc_by(n_commands);
                    metrics.bytes_received.inc_by(n_bytes);
                }
                None => session.on_binary(&mut actions),
            }
            carry_out(seat, actions);
        })
    }

    /// Writes what is queued; is ready when all of it is with the kernel.
    fn poll_write(&self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        self.wire.poll_write(cx, self.seat.connection(), self.seat.hub().metrics())
    }

    /// Moves the timer only when it would go off too late: going off early costs less than moving it on every frame.
    fn arm(&mut self) {
        let Some(next_at) = self.session.next_at() else { return };
        if self.armed_at.is_none_or(|armed_at| next_at < armed_at) {
            let at = together(next_at, Instant::now(), self.clock.now());
            self.timer.as_mut().reset(at);
            self.armed_at = Some(at);
        }
    }

    /// Ends the WebSocket as RFC 6455 says, section 7.1: both close frames, then our end of the stream, then the peer's.
    async fn farewell(&mut self, end: End) -> Result<(), Lost> {
        let wire = &self.wire;
        match end {
            End::Gone(_) => return Ok(()),
            End::Leaving(code) => wire.socket().start_close(code, ""),
            End::Close(disconnect) | End::Broken(disconnect) => {
                // What was queued before the end is still written.
                poll_fn(|cx| self.poll_write(cx)).await?;
                wire.socket().start_close(Some(disconnect.code), disconnect.reason);
            }
        }
        poll_fn(|cx| wire.socket().poll_flush(cx)).await?;
        if matches!(end, End::Close(_)) {
            while poll_fn(|cx| wire.socket().poll_read(cx, |_| {})).await.is_ok() {}
        }
        poll_fn(|cx| wire.socket().poll_shutdown(cx)).await?;
        poll_fn(|cx| wire.socket().poll_drain(cx)).await;
        Ok(())
    }
}

impl From<Ended> for End {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Leaving(code) => Self::Leaving(code),
            Ended::Broken(Violation::NotUtf8) => Self::Broken(Disconnect::NOT_UTF8),
            Ended::Broken(Violation::TooLarge) => Self::Broken(Disconnect::MESSAGE_SIZE_LIMIT),
            Ended::Broken(_) => Self::Broken(Disconnect::PROTOCOL_ERROR),
            Ended::Gone => Self::Gone(Disconnect::CLOSED),
        }
    }
}

/// Puts a time off by less than a thirty-second of the wait, to a moment at which timers of other connections go off
/// too: waking up for a hundred pings costs little more than for one.
fn together(at: Instant, now: Instant, wall: SystemTime) -> Instant {
    let left_ms = at.saturating_duration_since(now).as_millis() as u64;
    let Some(step_ms) = (left_ms / 32).checked_ilog2().map(|log| 1 << log) else { return at };
    let wall_ms = wall.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    at + Duration::from_millis((wall_ms + left_ms).wrapping_neg() % step_ms)
}

fn now(clock: &Clock) -> Now {
    Now { at: Instant::now(), unix_s: clock.unix_s() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn long_waits_end_together_and_short_ones_on_time() {
        let (now, wall) = (Instant::now(), SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_007));
        let ends_ms = |wait_ms, later_ms| {
            let later = Duration::from_millis(later_ms);
            let at = now + later + Duration::from_millis(wait_ms);
            (together(at, now + later, wall + later) - now).as_millis()
        };
        assert_eq!((ends_ms(31, 0), ends_ms(0, 0)), (31, 0));
        let ends: BTreeSet<_> = (0..1_024).map(|later_ms| ends_ms(20_000, later_ms)).collect();
        assert!(ends.len() <= 3, "{ends:?}");
        for wait_ms in [32, 100, 8_000, 25_000, 86_400_000] {
            let late_ms = ends_ms(wait_ms, 5) - u128::from(wait_ms) - 5;
            assert!(late_ms < u128::from(wait_ms / 32), "{wait_ms}: {late_ms} late");
        }
    }
}
