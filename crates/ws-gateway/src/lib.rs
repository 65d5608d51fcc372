#![doc = include_str!("../README.md")]

mod channel;
pub mod codec;
mod codes;
mod config;
mod conn;
mod desk;
mod door;
mod drain;
mod emulation;
mod engine;
mod error;
mod filter;
mod fossil;
mod grpc;
mod hub;
mod metrics;
mod namespace;
mod open_files;
mod origin;
mod outbox;
mod protocol;
mod publication;
mod service;
mod session;
mod watch;

pub use config::{
    AuthConfig, ChannelsConfig, GatewayConfig, NamespaceConfig, RateConfig, RatesConfig, Recovery, Slow,
    WebSocketConfig, Who,
};
pub use service::start;
