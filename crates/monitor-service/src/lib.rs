#![doc = include_str!("../README.md")]

mod access;
mod alert;
pub mod analysis;
mod calendar;
mod collect;
pub mod config;
mod grpc;
mod host;
mod journal;
mod metrics;
mod monitor;
mod notify;
mod quiet;
pub mod rehearsal;
mod roster;
mod rule;
mod said;
mod series;
mod service;
mod silence;
mod store;
mod target;

pub use config::Config;
pub use service::start;
