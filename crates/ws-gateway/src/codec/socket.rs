use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::head::Head;
use super::{Decoder, Kind, Message, Violation};

/// Bytes read with one call.
const READ_BYTES: usize = 32 << 10;
/// A message up to this size is put together in one place and written at once; a larger one is written from where it is.
const COPIED_BYTES: usize = 16 << 10;
/// Pieces given to the kernel with one call.
const SLICES: usize = 32;
/// A peer that pings without reading the answers gets no more of them beyond this many pieces.
const MAX_PENDING: usize = 64;

thread_local! {
    /// What was read last, for whichever socket of this thread is polled.
    static READ: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
    /// What is about to be written.
    static WRITE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// An open WebSocket. Reading and writing are polled side by side by the one task that owns it.
///
/// It holds no bytes but the unfinished: what came and is not a whole message, what the kernel did not take.
pub struct Socket<S> {
    stream: S,
    decoder: Decoder,
    pending: VecDeque<Bytes>,
}

/// Why nothing more is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The peer has sent a close frame, with this code.
    Leaving(Option<u16>),
    /// The peer broke the rules.
    Broken(Violation),
    /// The stream has ended.
    Gone,
}

/// Says that nothing can be written any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost;

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    /// Takes over a stream behind its handshake.
    pub const fn new(stream: S, max_message_bytes: usize) -> Self {
        Self { stream, decoder: Decoder::new(max_message_bytes), pending: VecDeque::new() }
    }

    /// Reads once and gives every text and binary message to `take`. Pings are answered with the next flush.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        mut take: impl FnMut(Message<'_>),
    ) -> Poll<Result<(), Ended>> {
        READ.with_borrow_mut(|scratch| {
            let mut input = match ready!(poll_bytes(&mut self.stream, cx, scratch)) {
                [] => return Poll::Ready(Err(Ended::Gone)),
                input => input,
            };
            let ended = loop {
                match self.decoder.next(&mut input) {
                    Ok(Some(Message::Ping(payload))) => self.answer(&payload),
                    Ok(Some(Message::Pong)) => {}
                    Ok(Some(Message::Close(code))) => break Ended::Leaving(code),
                    Ok(Some(message)) => take(message),
                    Ok(None) => return Poll::Ready(Ok(())),
                    Err(violation) => break Ended::Broken(violation),
                }
            };
            Poll::Ready(Err(ended))
        })
    }

    /// Reads to the end of the stream without looking, so that what was written last can arrive: closing a stream that
    /// holds unread bytes resets it.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        READ.with_borrow_mut(|scratch| {
            while !ready!(poll_bytes(&mut self.stream, cx, scratch)).is_empty() {}
            Poll::Ready(())
        })
    }

    /// Writes what is pending; is ready once the kernel has all of it.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        while !self.pending.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let mut n_slices = 0;
            for (slice, bytes) in slices.iter_mut().zip(&self.pending) {
                *slice = IoSlice::new(bytes);
                n_slices += 1;
            }
            let written = Pin::new(&mut self.stream).poll_write_vectored(cx, &slices[..n_slices]);
            match ready!(written) {
                Ok(0) | Err(_) => return Poll::Ready(Err(Lost)),
                Ok(n_bytes) => self.forget(n_bytes),
            }
        }
        Pin::new(&mut self.stream).poll_flush(cx).map_err(|_| Lost)
    }

    /// Begins to write one message made of `parts` with `separator` between them. The one before must have been flushed.
    ///
    /// # Errors
    /// Fails when the stream takes nothing any more.
    pub fn start_send(
        &mut self,
        cx: &mut Context<'_>,
        kind: Kind,
        parts: &[Bytes],
        separator: &'static [u8],
    ) -> Result<(), Lost> {
        let separators = separator.len() * parts.len().saturating_sub(1);
        let payload_bytes = parts.iter().map(Bytes::len).sum::<usize>() + separators;
        let head = Head::new(kind, payload_bytes);
        if payload_bytes <= COPIED_BYTES {
            return WRITE.with_borrow_mut(|frame| {
                frame.clear();
                frame.extend_from_slice(head.as_bytes());
                for (index, part) in parts.iter().enumerate() {
                    frame.extend_from_slice(if index == 0 { &[] } else { separator });
                    frame.extend_from_slice(part);
                }
                self.write(cx, frame)
            });
        }
        self.pending.push_back(Bytes::copy_from_slice(head.as_bytes()));
        for (index, part) in parts.iter().enumerate() {
            if index > 0 && !separator.is_empty() {
                self.pending.push_back(Bytes::from_static(separator));
            }
            if !part.is_empty() {
                self.pending.push_back(part.clone());
            }
        }
        match self.poll_flush(cx) {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => Ok(()),
        }
    }

    /// Begins to write a close frame, behind whatever is pending. Without a code it is empty.
    pub fn start_close(&mut self, code: Option<u16>, reason: &str) {
        let mut payload = Vec::new();
        if let Some(code) = code {
            payload.extend_from_slice(&code.to_be_bytes());
            // A control frame has at most 125 bytes.
            payload.extend_from_slice(&reason.as_bytes()[..reason.floor_char_boundary(123)]);
        }
        self.queue(Kind::Close, &payload);
    }

    /// Tells the peer that nothing more comes.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        Pin::new(&mut self.stream).poll_shutdown(cx).map_err(|_| Lost)
    }

    fn answer(&mut self, ping: &[u8]) {
        if self.pending.len() < MAX_PENDING {
            self.queue(Kind::Pong, ping);
        }
    }

    fn queue(&mut self, kind: Kind, payload: &[u8]) {
        let head = Head::new(kind, payload.len());
        self.pending.push_back([head.as_bytes(), payload].concat().into());
    }

    /// Writes a frame and keeps what the kernel does not take now.
    fn write(&mut self, cx: &mut Context<'_>, frame: &[u8]) -> Result<(), Lost> {
        if self.pending.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, frame) {
                Poll::Ready(Ok(n_bytes)) if n_bytes == frame.len() => return Ok(()),
                Poll::Ready(Ok(0) | Err(_)) => return Err(Lost),
                Poll::Ready(Ok(n_bytes)) => {
                    self.pending.push_back(Bytes::copy_from_slice(&frame[n_bytes..]));
                    return Ok(());
                }
                Poll::Pending => {}
            }
        }
        self.pending.push_back(Bytes::copy_from_slice(frame));
        Ok(())
    }

    /// Drops the first `n_bytes` of what is pending, and its room when nothing is left.
    fn forget(&mut self, mut n_bytes: usize) {
        while let Some(first) = self.pending.front_mut() {
            if n_bytes < first.len() {
                first.advance(n_bytes);
                return;
            }
            n_bytes -= first.len();
            self.pending.pop_front();
        }
        self.pending = VecDeque::new();
    }
}

/// Reads once; nothing means the end, also that by an error.
fn poll_bytes<'a, S: AsyncRead + Unpin>(
    stream: &mut S,
    cx: &mut Context<'_>,
    scratch: &'a mut [u8],
) -> Poll<&'a mut [u8]> {
    let mut buf = ReadBuf::new(scratch);
    let outcome = ready!(Pin::new(stream).poll_read(cx, &mut buf));
    let n_bytes = if outcome.is_ok() { buf.filled().len() } else { 0 };
    Poll::Ready(&mut scratch[..n_bytes])
}
