//! WebSocket itself (RFC 6455), the server's side: bytes to messages and messages to bytes.
//!
//! [`Decoder`] is a pure machine: whatever pieces the network cuts a stream into, the same messages come out, and the
//! first byte that breaks a rule ends it. [`Socket`] puts it on a stream, without a buffer of its own while nothing
//! is going on. Extensions are not negotiated, so reserved bits are an error.
//!
//! The module is public for the conformance program (`examples/codec_echo.rs`); nothing else outside of the crate needs it.

mod decoder;
mod handshake;
mod head;
mod socket;
#[cfg(test)]
mod tests;

pub use decoder::{Decoder, Message, Violation};
pub use handshake::{NotWebSocket, accept_key, check_request};
pub use head::Kind;
pub use socket::{Ended, Lost, Socket};
