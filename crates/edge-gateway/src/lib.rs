#![doc = include_str!("../README.md")]

mod audit;
mod body;
mod cache_stream;
mod config;
mod error;
mod etag;
mod figures;
mod front;
mod keyring;
mod limits;
mod live;
mod map;
mod middleware;
mod openapi;
mod part;
mod recent;
mod router;
mod routes;
mod scope;
mod service;
mod state;
mod upstream;

pub use config::EdgeConfig;
pub use service::start;
