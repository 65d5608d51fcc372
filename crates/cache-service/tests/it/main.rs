//! The service in this process against real Redis servers and Sentinels.
#![expect(clippy::unwrap_used, reason = "a test may fail")]

mod commands;
mod disk;
mod doors;
mod faults;
mod fences;
mod figures;
mod http_origin;
mod insight;
mod invalidation;
mod node;
mod origin;
mod policies;
mod sentinel;
mod session;
mod shared;
mod single;
