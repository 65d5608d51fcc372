//! What is kept on disk, and what is read of the host.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use mainstay_runtime::Problems;
use serde::{Deserialize, Serialize};

use crate::store::Retention;

/// Configures what survives a restart: section `store`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// The SQLite file; empty means memory only.
    pub path: PathBuf,
    /// How far back steps of 10 s reach.
    #[serde(with = "humantime_serde")]
    pub keep_10s: Duration,
    /// How far back steps of a minute reach.
    #[serde(with = "humantime_serde")]
    pub keep_1m: Duration,
    /// How far back steps of an hour reach.
    #[serde(with = "humantime_serde")]
    pub keep_1h: Duration,
    /// How large what is stored may be: history goes earlier then, the oldest of the finest steps first; 0 means no bound.
    pub max_size: ByteSize,
    /// Where a copy for backups is kept; empty means none.
    pub copy_to: PathBuf,
    /// How often that copy is made anew.
    #[serde(with = "humantime_serde")]
    pub copy_every: Duration,
}

/// Configures the figures of the host: section `host`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HostConfig {
    /// Whether they are read, once every `collect.every`.
    pub enabled: bool,
    /// File systems whose fill is read.
    pub mounts: Vec<String>,
}

const DAY: Duration = Duration::from_hours(24);

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            keep_10s: DAY,
            keep_1m: DAY * 14,
            keep_1h: DAY * 400,
            max_size: ByteSize::gib(8),
            copy_to: PathBuf::new(),
            copy_every: Duration::from_hours(1),
        }
    }
}

impl Default for HostConfig {
    fn default() -> Self {
        Self { enabled: true, mounts: vec!["/".to_owned()] }
    }
}

impl StoreConfig {
    /// Tells whether nothing survives a restart.
    pub fn is_memory(&self) -> bool {
        self.path.as_os_str().is_empty()
    }

    /// Tells whether copies for backups are made.
    pub(crate) fn is_copied(&self) -> bool {
        !self.copy_to.as_os_str().is_empty()
    }

    /// Returns how many bytes may be stored, where there is a bound.
    pub(crate) fn max_size(&self) -> Option<u64> {
        Some(self.max_size.as_u64()).filter(|max| *max > 0)
    }

    pub(crate) fn retention(&self) -> Retention {
        Retention { ten_seconds: self.keep_10s, minute: self.keep_1m, hour: self.keep_1h }
    }

    pub(super) fn check(&self, problems: &mut Problems) {
        let hour = Duration::from_hours(1);
        problems.duration("store.keep_10s", self.keep_10s, hour..=DAY * 31);
        problems.duration("store.keep_1m", self.keep_1m, self.keep_10s.max(hour)..=DAY * 400);
        problems.duration("store.keep_1h", self.keep_1h, self.keep_1m.max(hour)..=DAY * 4_000);
        let is_bound = self.max_size().is_some();
        let least = if is_bound { ByteSize::mib(16) } else { ByteSize::b(0) };
        problems.range("store.max_size", self.max_size, least..=ByteSize::tib(16));
        problems.duration("store.copy_every", self.copy_every, Duration::from_secs(1)..=DAY * 31);
        let apart = !self.is_copied() || (!self.is_memory() && self.copy_to != self.path);
        problems.ensure(
            apart,
            "store.copy_to",
            "must be another file than store.path, which must be set too",
        );
    }
}

impl HostConfig {
    pub(super) fn check(&self, problems: &mut Problems) {
        let absolute = self.mounts.iter().all(|mount| mount.starts_with('/'));
        problems.ensure(absolute, "host.mounts", "must be absolute paths");
        problems.ensure(self.mounts.len() <= 100, "host.mounts", "must be at most 100");
    }
}
