//! What the end-to-end and fault tests stand on: a real stack, a REST client, a Centrifuge client, an OTLP receiver.
//!
//! It refuses to contain fakes of Redis, PostgreSQL or a service: every test talks to the real thing on loopback.

#![expect(clippy::disallowed_methods, reason = "tests own their tasks and read the real clock")]

mod binaries;
mod browser;
mod centrifuge;
mod checks;
mod churn;
mod failover;
mod house;
mod otlp;
mod process;
mod rest;
mod wait;
mod watcher;

pub use binaries::{Finished, binary, run_to_end};
pub use browser::Browser;
pub use centrifuge::Centrifuge;
pub use checks::{Checked, run_checks};
pub use churn::{ChurnOutcome, ChurnPlan, Overhead};
pub use failover::{FailoverEvent, FailoverOutcome, FailoverPlan};
pub use house::{House, shared, unix_s};
pub use mainstay_devstack::{ChaosProxy, Component, Devstack, Direction, Service};
pub use otlp::{OtlpReceiver, Span};
pub use process::{cpu_time, most_resident_bytes, resident_bytes};
pub use rest::{Answer, Rest};
pub use wait::eventually;
pub use watcher::{Event, Watcher};
