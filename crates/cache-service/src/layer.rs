//! Where entries are kept.

pub(crate) mod disk;
pub(crate) mod memory;
pub(crate) mod redis;
