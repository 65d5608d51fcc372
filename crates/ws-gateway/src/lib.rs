#![doc = include_str!("../README.md")]

mod backend;
mod broker;
mod channel;
pub mod codec;
mod codes;
mod config;
mod conn;
mod courier;
mod desk;
mod door;
mod drain;
mod emulation;
mod engine;
mod errand;
mod error;
mod feed;
mod filter;
mod fossil;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod grpc;
mod hub;
mod journey;
mod mesh;
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
    AuthConfig, Away, BackendConfig, BrokerConfig, ChannelHook, ChannelsConfig, ConnectionHook, DrainConfig,
    FeedConfig, GatewayConfig, HookConfig, HooksConfig, HttpBackendConfig, JourneysConfig, NamespaceConfig,
    RateConfig, RatesConfig, Recovery, RunTimeFeedsConfig, Slow, WebSocketConfig, Who,
};
pub use mainstay_redis::{RedisConfig, RedisMode};
pub use service::start;
