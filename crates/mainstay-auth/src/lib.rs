#![doc = include_str!("../README.md")]

pub mod api_key;
mod authenticator;
pub mod jwt;
mod principal;
mod role;
pub mod scope;

pub use authenticator::{AuthError, Authenticator, Credential};
pub use principal::{Method, Principal};
pub use role::{Role, UnknownRole};
