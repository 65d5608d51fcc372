//! The gRPC door.

pub(crate) mod admin;
mod batch;
pub(crate) mod cache;
mod codec;
pub(crate) mod counter;
pub(crate) mod door;
pub(crate) mod figures;
pub(crate) mod insight;
pub(crate) mod lock;
mod operation;
pub(crate) mod policy;
pub(crate) mod pubsub;
pub(crate) mod quick;
pub(crate) mod rate_limit;
pub(crate) mod session;
mod stream;
pub(crate) mod warming;
mod wire;
pub(crate) mod write_behind;
