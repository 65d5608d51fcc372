use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use mainstay_runtime::Problems;
use serde::{Deserialize, Serialize};

use super::CacheConfig;

/// Configures what all warming of this process shares. What a namespace is warmed with is its [`WarmPlan`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WarmingConfig {
    /// Directory of the access log; empty: `disk.path`, and where that is empty too, no log is kept.
    pub path: PathBuf,
    /// Directory in which plans find their files; empty: no plan may name one.
    pub files: PathBuf,
    /// Keys that the access log has at most, those that were read most; at most 1,000,000. 0: no log is kept.
    pub log_keys: u32,
    /// How often the access log is written; 100 ms to 1 h.
    #[serde(with = "humantime_serde")]
    pub log_every: Duration,
    /// A run ends when memory is filled to so many percent, so that it pushes nothing out; 1 to 100.
    pub memory_percent: u8,
    /// A run stands aside while more than so many commands to Redis, or loads, are under way for callers; 0 to 10,000.
    pub yield_above: u32,
    /// Part of the reads of the last run, as far as its access log tells, that must find their key in memory before the
    /// process is ready; 0: it does not wait, at most 1. It is ready too once the runs on start have ended.
    pub ready_hit_ratio: f64,
    /// How long the process waits for that at most; 100 ms to 1 h.
    #[serde(with = "humantime_serde")]
    pub ready_within: Duration,
}

/// Says what a namespace is warmed with, when, and how much of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WarmPlan {
    /// Where the keys come from, in this order; empty: the namespace is warmed on demand only.
    pub sources: Vec<WarmSource>,
    /// Name of the file, in `warming.files`.
    pub file: String,
    /// Whether the namespace is warmed when the process starts.
    pub on_start: bool,
    /// Time between two runs by schedule, up to a tenth more or less; 0: none, or 1 s to 30 days.
    #[serde(with = "humantime_serde")]
    pub every: Duration,
    /// Keys and values that one run brings at most; 1 KiB to 1 TiB.
    pub max_size: ByteSize,
    /// Time of one run; 100 ms to 24 h.
    #[serde(with = "humantime_serde")]
    pub max_time: Duration,
    /// Keys that are looked at in a second; 1 to 1,000,000.
    pub keys_per_second: u32,
    /// Keys that are under way at once; 1 to 256.
    pub concurrency: u32,
}

/// Where the keys of a run come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WarmSource {
    /// What was read most in the last run of this process.
    AccessLog,
    /// A file of keys, some with values.
    File,
    /// The key list of the namespace's origin.
    Origin,
}

impl WarmSource {
    /// Returns `access_log`, `file` or `origin`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AccessLog => "access_log",
            Self::File => "file",
            Self::Origin => "origin",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        [Self::AccessLog, Self::File, Self::Origin].into_iter().find(|source| source.as_str() == name)
    }
}

impl Default for WarmingConfig {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            files: PathBuf::new(),
            log_keys: 10_000,
            log_every: Duration::from_secs(30),
            memory_percent: 80,
            yield_above: 64,
            ready_hit_ratio: 0.0,
            ready_within: Duration::from_secs(30),
        }
    }
}

impl Default for WarmPlan {
    fn default() -> Self {
        Self {
            sources: Vec::new(),
            file: String::new(),
            on_start: true,
            every: Duration::ZERO,
            max_size: ByteSize::mib(256),
            max_time: Duration::from_mins(1),
            keys_per_second: 1_000,
            concurrency: 16,
        }
    }
}

impl WarmingConfig {
    /// Returns the directory of the access log; none where none is kept.
    pub(crate) fn log_directory<'a>(&'a self, config: &'a CacheConfig) -> Option<&'a Path> {
        let path = if self.path.as_os_str().is_empty() { &config.disk.path } else { &self.path };
        (self.log_keys > 0 && !path.as_os_str().is_empty()).then_some(path)
    }

    pub(super) fn check(&self, problems: &mut Problems) {
        let ms = Duration::from_millis;
        problems.range("warming.log_keys", self.log_keys, 0..=1_000_000);
        problems.duration("warming.log_every", self.log_every, ms(100)..=Duration::from_hours(1));
        problems.range("warming.memory_percent", self.memory_percent, 1..=100);
        problems.range("warming.yield_above", self.yield_above, 0..=10_000);
        problems.range("warming.ready_hit_ratio", self.ready_hit_ratio, 0.0..=1.0);
        problems.duration("warming.ready_within", self.ready_within, ms(100)..=Duration::from_hours(1));
    }
}

impl WarmPlan {
    /// `origin` is that of the namespace.
    pub(crate) fn check(&self, section: &str, origin: &str, config: &CacheConfig, problems: &mut Problems) {
        let key = |name: &str| format!("{section}.{name}");
        let has = |source| self.sources.contains(&source);
        let mut all = self.sources.iter().enumerate();
        let is_twice = all.any(|(place, source)| self.sources[..place].contains(source));
        problems.ensure(!is_twice, &key("sources"), "must name each source once");
        if has(WarmSource::AccessLog) {
            problems.ensure(
                config.warming.log_directory(config).is_some(),
                &key("sources"),
                "must not name the access log where none is kept: it needs warming.path or disk.path, and warming.log_keys",
            );
        }
        if has(WarmSource::File) || !self.file.is_empty() {
            problems.ensure(is_file_name(&self.file), &key("file"), FILE_NAME);
            problems.ensure(
                !config.warming.files.as_os_str().is_empty(),
                &key("file"),
                "can be named only where warming.files is given",
            );
        }
        if has(WarmSource::Origin) {
            problems.ensure(
                config.origins.contains_key(origin),
                &key("sources"),
                format!(
                    "must not name the origin of a namespace whose origin {origin:?} is not one of `origins`"
                ),
            );
        }
        if !self.every.is_zero() {
            let longest = Duration::from_hours(30 * 24);
            problems.duration(&key("every"), self.every, Duration::from_secs(1)..=longest);
        }
        problems.range(&key("max_size"), self.max_size, ByteSize::kib(1)..=ByteSize::tib(1));
        let (ms, day) = (Duration::from_millis(100), Duration::from_hours(24));
        problems.duration(&key("max_time"), self.max_time, ms..=day);
        problems.range(&key("keys_per_second"), self.keys_per_second, 1..=1_000_000);
        problems.range(&key("concurrency"), self.concurrency, 1..=256);
    }
}

const FILE_NAME: &str = "must be 1 to 128 characters of [A-Za-z0-9._-], the first a letter or digit";

/// A plan may be put at run time, so it names a file of one directory and cannot leave that.
fn is_file_name(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let starts_well = name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
    starts_well && name.len() <= 128 && name.bytes().all(legal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_names_a_file_of_its_directory_and_an_origin_that_is_there() {
        let check = |plan: &WarmPlan, config: &CacheConfig| {
            let mut problems = Problems::default();
            plan.check("warm", "shop", config, &mut problems);
            problems.lines()
        };
        let mut config = CacheConfig::default();
        let plan = |sources: &[WarmSource], file: &str| WarmPlan {
            sources: sources.to_vec(),
            file: file.to_owned(),
            ..WarmPlan::default()
        };
        assert_eq!(check(&plan(&[WarmSource::AccessLog], ""), &config).len(), 1);
        config.disk.path = "/srv/l3".into();
        assert!(check(&plan(&[WarmSource::AccessLog], ""), &config).is_empty());
        assert_eq!(check(&plan(&[WarmSource::File], "keys.ndjson"), &config).len(), 1);
        config.warming.files = "/srv/warm".into();
        assert!(check(&plan(&[WarmSource::File], "keys.ndjson"), &config).is_empty());
        for name in ["", "../keys", "a/b", ".hidden", "a\0b"] {
            let problems = check(&plan(&[WarmSource::File], name), &config);
            assert!(problems[0].starts_with("warm.file: must be 1 to 128"), "{name:?}: {problems:?}");
        }
        assert_eq!(check(&plan(&[WarmSource::Origin], ""), &config).len(), 1);
        config.origins.insert("shop".to_owned(), crate::config::OriginConfig::default());
        assert!(check(&plan(&[WarmSource::Origin], ""), &config).is_empty());
        assert_eq!(check(&plan(&[WarmSource::Origin, WarmSource::Origin], ""), &config).len(), 1);
    }
}
