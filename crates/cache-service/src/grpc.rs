//! The gRPC door.

pub(crate) mod cache;
