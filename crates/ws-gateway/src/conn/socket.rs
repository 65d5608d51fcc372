//! The one place that knows which WebSocket library is in use.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::{Sink as _, Stream as _};
use tokio_tungstenite::tungstenite::Error as WireError;
use tokio_tungstenite::tungstenite::error::ProtocolError;

use crate::codes::Disconnect;

/// Held by every connection for as long as it lives. The library's own 128 KiB would be the price of a connection.
const READ_BUFFER_BYTES: usize = 1024;

/// A batch, a large message or a close frame may wait in the write buffer together; it is given back when empty.
const WRITE_HEADROOM_BYTES: usize = 256 << 10;

/// An open WebSocket. Reading and writing are polled side by side by the one task that owns it.
pub(super) struct Socket {
    inner: WebSocket,
}

/// What came from the peer.
#[derive(Debug)]
pub(super) enum Incoming {
    Text(Utf8Bytes),
    Binary,
    /// The peer has sent a close frame; the answer goes out with the next read.
    Leaving,
    /// The peer broke the rules. Nothing more can be read.
    Broken(Disconnect),
    /// Nothing more comes.
    Gone,
}

/// Says that nothing can be written any more.
#[derive(Debug)]
pub(super) struct Lost;

/// Sets sizes so that an idle connection stays small and a message cannot be larger than twice `max_message_bytes`.
/// What is larger than `max_message_bytes` is read all the same, so that the peer can be told.
pub(crate) fn sized(upgrade: WebSocketUpgrade, max_message_bytes: usize) -> WebSocketUpgrade {
    upgrade
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(2 * max_message_bytes + WRITE_HEADROOM_BYTES)
        .max_frame_size(2 * max_message_bytes)
        .max_message_size(2 * max_message_bytes)
}

impl Socket {
    pub(super) fn new(inner: WebSocket) -> Self {
        Self { inner }
    }

    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        loop {
            let incoming = match ready!(Pin::new(&mut self.inner).poll_next(cx)) {
                Some(Ok(Message::Text(text))) => Incoming::Text(text),
                Some(Ok(Message::Binary(_))) => Incoming::Binary,
                Some(Ok(Message::Close(_))) => Incoming::Leaving,
                // The library answers pings by itself.
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                Some(Err(error)) => broken(error),
                None => Incoming::Gone,
            };
            return Poll::Ready(incoming);
        }
    }

    /// Is ready once everything that was started has been handed to the kernel.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        Pin::new(&mut self.inner).poll_flush(cx).map_err(|_| Lost)
    }

    /// Begins to write messages as one frame, joined by line feeds. The previous one must have been flushed.
    pub(super) fn start_batch(&mut self, batch: Vec<Bytes>) -> Result<(), Lost> {
        let frame = Utf8Bytes::try_from(joined(batch)).expect("messages are JSON, which is UTF-8");
        Pin::new(&mut self.inner).start_send(Message::Text(frame)).map_err(|_| Lost)
    }

    /// Begins to write a close frame, behind whatever is still being written.
    pub(super) fn start_close(&mut self, disconnect: Disconnect) -> Result<(), Lost> {
        let frame = CloseFrame { code: disconnect.code, reason: Utf8Bytes::from_static(disconnect.reason) };
        Pin::new(&mut self.inner).start_send(Message::Close(Some(frame))).map_err(|_| Lost)
    }
}

/// A single message is passed on by reference.
fn joined(mut batch: Vec<Bytes>) -> Bytes {
    if batch.len() == 1 {
        return batch.swap_remove(0);
    }
    let mut frame = BytesMut::with_capacity(batch.iter().map(|message| message.len() + 1).sum());
    for (index, message) in batch.iter().enumerate() {
        if index > 0 {
            frame.put_u8(b'\n');
        }
        frame.extend_from_slice(message);
    }
    frame.freeze()
}

fn broken(error: axum::Error) -> Incoming {
    let error = error.into_inner();
    match error.downcast_ref::<WireError>() {
        Some(WireError::Capacity(_)) => Incoming::Broken(Disconnect::MESSAGE_SIZE_LIMIT),
        Some(WireError::Utf8(_)) => Incoming::Broken(Disconnect::NOT_UTF8),
        Some(WireError::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => Incoming::Gone,
        Some(WireError::Protocol(_)) => Incoming::Broken(Disconnect::PROTOCOL_ERROR),
        _ => Incoming::Gone,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_joined_by_line_feeds() {
        let message = |text: &'static str| Bytes::from_static(text.as_bytes());
        assert_eq!(joined(vec![message("{}")]), "{}");
        assert_eq!(joined(vec![message("{\"a\":1}"), message("{}"), message("3")]), "{\"a\":1}\n{}\n3");
    }
}
