//! The service in this process against real Redis servers and Sentinels.
#![expect(clippy::unwrap_used, reason = "a test may fail")]

mod adaptive;
mod cluster;
mod commands;
mod deadlines;
mod disk;
mod doors;
mod durability;
mod faults;
mod fences;
mod figures;
mod hot_keys;
mod http_origin;
mod insight;
mod invalidation;
mod layers;
mod node;
mod origin;
mod outcomes;
mod policies;
mod pubsub;
mod sentinel;
mod session;
mod shared;
mod single;
mod through;
mod tls;
mod warming;
mod write_behind;
