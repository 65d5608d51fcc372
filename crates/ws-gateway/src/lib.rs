#![doc = include_str!("../README.md")]

mod channel;
mod codes;
mod config;
mod conn;
mod door;
mod drain;
mod error;
mod grpc;
mod hub;
mod metrics;
mod open_files;
mod origin;
mod outbox;
mod protocol;
mod publication;
mod service;
mod session;

pub use config::{AuthConfig, ChannelsConfig, GatewayConfig, WebSocketConfig};
pub use service::start;
