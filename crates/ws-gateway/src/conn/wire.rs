use std::ops::DerefMut;
use std::task::{Context, Poll, Waker, ready};

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};

use super::{BATCH, BATCH_BYTES, BATCH_MESSAGES, Form};
use crate::codec::{Ended, Lost, Message, Socket};
use crate::hub::Connection;
use crate::metrics::Metrics;

/// The socket of a connection. Its task reads and writes; couriers only write what can be written at once.
///
/// The lock is held while the kernel is asked, never while anybody waits, and whoever holds it may take locks of the hub:
/// nobody may ask for it under one of those.
pub(crate) struct Wire(Mutex<Line>);

struct Line {
    form: Form,
    socket: Socket<TokioIo<Upgraded>>,
    /// Nothing can be written any more.
    is_lost: bool,
}

impl Wire {
    pub(super) fn new(stream: Upgraded, max_message_bytes: usize, form: Form) -> Self {
        let socket = Socket::new(TokioIo::new(stream), max_message_bytes);
        Self(Mutex::new(Line { form, socket, is_lost: false }))
    }

    /// Writes what is queued, batch by batch; is ready when all of it is with the kernel.
    pub(super) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        connection: &Connection,
        metrics: &Metrics,
    ) -> Poll<Result<(), Lost>> {
        self.0.lock().poll_write(cx, connection, metrics)
    }

    /// Writes what is queued as far as the client reads, and has the connection's task do the rest.
    pub(crate) fn write_now(&self, connection: &Connection, metrics: &Metrics) {
        // Whom the kernel wakes is set by the task, which is woken for all that is left.
        let mut cx = Context::from_waker(Waker::noop());
        let is_done = loop {
            // Whoever has it may have looked into the outbox already.
            let Some(mut line) = self.0.try_lock() else { break false };
            match line.poll_write(&mut cx, connection, metrics) {
                Poll::Ready(Ok(())) if connection.outbox.rest() => break true,
                Poll::Ready(Ok(())) if connection.outbox.closing().is_none() => {}
                Poll::Ready(Err(Lost)) => {
                    line.is_lost = true;
                    break false;
                }
                _ => break false,
            }
        };
        if !is_done {
            connection.outbox.wake();
        }
    }

    /// Reads once and gives every message to `take`.
    pub(super) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        mut take: impl FnMut(Form, Message<'_>),
    ) -> Poll<Result<(), Ended>> {
        let Line { form, socket, .. } = &mut *self.0.lock();
        socket.poll_read(cx, |message| take(*form, message))
    }

    /// Returns the socket, for the end of the connection.
    pub(super) fn socket(&self) -> impl DerefMut<Target = Socket<TokioIo<Upgraded>>> {
        MutexGuard::map(self.0.lock(), |line| &mut line.socket) as MappedMutexGuard<'_, _>
    }
}

impl Line {
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        connection: &Connection,
        metrics: &Metrics,
    ) -> Poll<Result<(), Lost>> {
        if self.is_lost {
            return Poll::Ready(Err(Lost));
        }
        loop {
            ready!(self.socket.poll_flush(cx))?;
            let written = BATCH.with_borrow_mut(|batch| {
                connection.outbox.take(BATCH_MESSAGES, BATCH_BYTES, batch);
                self.form.translate(batch);
                let messages = batch.len() as u64;
                let bytes = batch.iter().map(|message| message.len() as u64).sum();
                let outcome = match messages {
                    0 => Ok(()),
                    _ => self.socket.start_send(cx, self.form.kind(), batch, self.form.separator()),
                };
                batch.clear();
                outcome.map(|()| (messages, bytes))
            });
            let (messages, bytes) = written?;
            if messages == 0 {
                return Poll::Ready(Ok(()));
            }
            connection.traffic.sent(messages, bytes);
            metrics.messages_sent.inc_by(messages);
            metrics.bytes_sent.inc_by(bytes);
        }
    }
}
