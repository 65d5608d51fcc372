#![doc = include_str!("../README.md")]

mod alert;
mod collect;
pub mod config;
mod grpc;
mod metrics;
mod monitor;
mod roster;
mod rule;
mod series;
mod service;
mod target;

pub use config::Config;
pub use service::start;
