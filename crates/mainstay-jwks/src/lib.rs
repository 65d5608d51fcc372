#![doc = include_str!("../README.md")]

mod config;
mod fetch;
mod keeper;

pub use config::{JwksConfig, public_keys};
pub use keeper::keep;
