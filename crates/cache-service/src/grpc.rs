//! The gRPC door.

pub(crate) mod admin;
mod batch;
pub(crate) mod cache;
mod codec;
pub(crate) mod counter;
pub(crate) mod figures;
pub(crate) mod insight;
pub(crate) mod lock;
mod operation;
pub(crate) mod policy;
pub(crate) mod rate_limit;
pub(crate) mod session;
mod stream;
