#![doc = include_str!("../README.md")]

mod body;
mod config;
mod error;
mod etag;
mod figures;
mod limits;
mod live;
mod map;
mod middleware;
mod openapi;
mod part;
mod recent;
mod router;
mod routes;
mod service;
mod state;
mod upstream;

pub use config::EdgeConfig;
pub use service::start;
