//! The service in this process against real Redis servers and Sentinels.
#![expect(clippy::unwrap_used, reason = "a test may fail")]

mod disk;
mod doors;
mod http_origin;
mod insight;
mod invalidation;
mod node;
mod origin;
mod sentinel;
mod session;
mod shared;
mod single;
