#![doc = include_str!("../README.md")]

mod body;
mod config;
mod error;
mod figures;
mod middleware;
mod part;
mod router;
mod routes;
mod service;
mod state;
mod upstream;

pub use config::EdgeConfig;
pub use service::start;
