use std::path::PathBuf;

use bytesize::ByteSize;
use mainstay_runtime::Problems;
use serde::{Deserialize, Serialize};

/// Configures L3, the local disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiskConfig {
    /// Directory for the entries, of this process alone; empty: no disk is used.
    pub path: PathBuf,
    /// Bytes of files; 16 MiB to 1 TiB. The oldest entries leave when it is full.
    pub capacity: ByteSize,
}

impl Default for DiskConfig {
    fn default() -> Self {
        Self { path: PathBuf::new(), capacity: ByteSize::gib(1) }
    }
}

impl DiskConfig {
    pub(super) fn check(&self, problems: &mut Problems) {
        problems.range("disk.capacity", self.capacity, ByteSize::mib(16)..=ByteSize::tib(1));
    }
}
