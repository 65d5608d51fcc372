#![doc = include_str!("../README.md")]

mod args;
mod background;
mod clock;
mod component;
mod config;
mod context;
mod fingerprint;
mod healthcheck;
mod identity;
mod internal;
mod introspect;
mod lifecycle;
mod metrics;
mod probes;
mod readiness;
mod run;
mod telemetry;

pub use background::{Activate, Schedule, Trigger};
pub use clock::{Clock, ClockHandle};
pub use component::{Component, ComponentKind, Health};
pub use config::{LogFormat, Problems, ServiceConfig, TelemetryConfig};
pub use context::{Context, Listening};
pub use identity::Identity;
pub use mainstay_rpc::{Secret, ServerConfig, UpstreamConfig};
pub use readiness::Latch;
pub use run::run;
