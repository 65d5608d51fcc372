//! The service in this process against real Redis servers and Sentinels.
#![expect(clippy::unwrap_used, reason = "a test may fail")]

mod node;
mod sentinel;
mod single;
