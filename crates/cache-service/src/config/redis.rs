use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use mainstay_runtime::{Problems, Secret};
use serde::{Deserialize, Serialize};

/// Configures L2.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RedisConfig {
    /// How Redis is reached.
    pub mode: RedisMode,
    /// Server of mode `single`, `host:port`.
    pub address: String,
    /// Sentinels of mode `sentinel`, each `host:port`.
    pub sentinels: Vec<String>,
    /// Name of the primary as the Sentinels know it.
    pub master_name: String,
    /// ACL user; empty means the default user.
    pub username: String,
    /// Password of the servers.
    pub password: Secret,
    /// Password of the Sentinels.
    pub sentinel_password: Secret,
    /// Number of the database.
    pub database: u8,
    /// What every key in Redis begins with; at most 64 visible ASCII characters.
    pub prefix: String,
    /// Time for a connection to be made; 10 ms to 10 s.
    #[serde(with = "humantime_serde")]
    pub connect_within: Duration,
    /// Time for one command; 1 ms to 10 s.
    #[serde(with = "humantime_serde")]
    pub command_within: Duration,
    /// Commands in flight at most; more are refused at once. 1 to 1,000,000.
    pub max_in_flight: u32,
    /// Changes kept for nodes that were cut off; more are found by asking anew. 1,000 to 10,000,000.
    pub log_length: u64,
    /// How long memory may answer alone without proof that no change was missed; 100 ms to 1 min.
    #[serde(with = "humantime_serde")]
    pub current_for: Duration,
}

/// How Redis is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RedisMode {
    /// Not at all: memory only.
    None,
    /// One server at a fixed address.
    Single,
    /// The primary that Sentinels name.
    Sentinel,
}

impl RedisMode {
    /// Returns `none`, `single` or `sentinel`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Single => "single",
            Self::Sentinel => "sentinel",
        }
    }
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            mode: RedisMode::None,
            address: "127.0.0.1:6379".to_owned(),
            sentinels: Vec::new(),
            master_name: "mainstay".to_owned(),
            username: String::new(),
            password: Secret::default(),
            sentinel_password: Secret::default(),
            database: 0,
            prefix: "mainstay:".to_owned(),
            connect_within: Duration::from_millis(500),
            command_within: Duration::from_millis(500),
            max_in_flight: 10_000,
            log_length: 100_000,
            current_for: Duration::from_secs(2),
        }
    }
}

impl RedisConfig {
    pub(super) fn check(&self, problems: &mut Problems) {
        match self.mode {
            RedisMode::None => {}
            RedisMode::Single => check_address("redis.address", &self.address, problems),
            RedisMode::Sentinel => {
                problems.ensure(
                    !self.sentinels.is_empty(),
                    "redis.sentinels",
                    "must name at least one host:port",
                );
                for sentinel in &self.sentinels {
                    check_address("redis.sentinels", sentinel, problems);
                }
                problems.ensure(!self.master_name.is_empty(), "redis.master_name", "must not be empty");
            }
        }
        problems.ensure(
            self.prefix.len() <= 64 && self.prefix.bytes().all(|byte| byte.is_ascii_graphic()),
            "redis.prefix",
            "must have at most 64 visible ASCII characters",
        );
        let ms = Duration::from_millis;
        problems.duration("redis.connect_within", self.connect_within, ms(10)..=ms(10_000));
        problems.duration("redis.command_within", self.command_within, ms(1)..=ms(10_000));
        problems.range("redis.max_in_flight", self.max_in_flight, 1..=1_000_000);
        problems.range("redis.log_length", self.log_length, 1_000..=10_000_000);
        problems.duration("redis.current_for", self.current_for, ms(100)..=ms(60_000));
    }
}

fn check_address(key: &str, address: &str, problems: &mut Problems) {
    if address.parse::<Address>().is_err() {
        problems.add(key, format!("must be host:port, is {address:?}"));
    }
}

/// A host, by name or number, and a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let (host, port) = text.rsplit_once(':').ok_or(InvalidAddress)?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let port: u16 = port.parse().map_err(|_| InvalidAddress)?;
        let illegal = |c: char| c.is_whitespace() || c.is_control() || "[]/@".contains(c);
        if host.is_empty() || host.contains(illegal) || port == 0 {
            return Err(InvalidAddress);
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Says that a text is not `host:port`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not host:port")]
pub(crate) struct InvalidAddress;
