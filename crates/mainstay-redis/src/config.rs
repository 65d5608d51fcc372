use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use mainstay_rpc::{ClientTls, client_tls};
use mainstay_runtime::{Problems, Secret};
use rustls_pki_types::ServerName;
use serde::{Deserialize, Serialize};

/// Configures the way to Redis: the section `[redis]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RedisConfig {
    /// How Redis is reached.
    pub mode: RedisMode,
    /// Server of mode `single`, `host:port`.
    pub address: String,
    /// Some nodes of mode `cluster`, each `host:port`; they tell of the others.
    pub nodes: Vec<String>,
    /// Into how many parts the keys are cut in mode `cluster`; 1 to 256. All processes must have the same number, and keys are
    /// not found again after it was changed.
    pub partitions: u16,
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
    /// How the servers are known, and this client proves itself; without `ca` there is no TLS.
    pub tls: ClientTls,
    /// The same for the Sentinels.
    pub sentinel_tls: ClientTls,
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
}

/// How Redis is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RedisMode {
    /// Not at all.
    None,
    /// One server at a fixed address.
    Single,
    /// The primary that Sentinels name.
    Sentinel,
    /// The primaries of a Redis Cluster.
    Cluster,
}

impl RedisMode {
    /// Returns `none`, `single`, `sentinel` or `cluster`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Single => "single",
            Self::Sentinel => "sentinel",
            Self::Cluster => "cluster",
        }
    }
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            mode: RedisMode::None,
            address: "127.0.0.1:6379".to_owned(),
            nodes: Vec::new(),
            partitions: 16,
            sentinels: Vec::new(),
            master_name: "mainstay".to_owned(),
            username: String::new(),
            password: Secret::default(),
            sentinel_password: Secret::default(),
            tls: ClientTls::default(),
            sentinel_tls: ClientTls::default(),
            database: 0,
            prefix: "mainstay:".to_owned(),
            connect_within: Duration::from_millis(500),
            command_within: Duration::from_millis(500),
            max_in_flight: 10_000,
        }
    }
}

impl RedisConfig {
    /// Adds what is wrong with it.
    pub fn check(&self, problems: &mut Problems) {
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
            RedisMode::Cluster => self.check_cluster(problems),
        }
        problems.ensure(
            self.nodes.is_empty() || matches!(self.mode, RedisMode::Cluster | RedisMode::None),
            "redis.nodes",
            "must be empty unless redis.mode is cluster",
        );
        problems.ensure(
            self.prefix.len() <= 64 && self.prefix.bytes().all(|byte| byte.is_ascii_graphic()),
            "redis.prefix",
            "must have at most 64 visible ASCII characters",
        );
        if self.mode != RedisMode::None {
            check_tls("redis.tls", &self.tls, problems);
            check_tls("redis.sentinel_tls", &self.sentinel_tls, problems);
        }
        let ms = Duration::from_millis;
        problems.duration("redis.connect_within", self.connect_within, ms(10)..=ms(10_000));
        problems.duration("redis.command_within", self.command_within, ms(1)..=ms(10_000));
        problems.range("redis.max_in_flight", self.max_in_flight, 1..=1_000_000);
    }

    fn check_cluster(&self, problems: &mut Problems) {
        problems.ensure(!self.nodes.is_empty(), "redis.nodes", "must name at least one host:port");
        for node in &self.nodes {
            check_address("redis.nodes", node, problems);
        }
        problems.range("redis.partitions", self.partitions, 1..=256);
        problems.ensure(
            self.sentinels.is_empty(),
            "redis.sentinels",
            "must be empty with redis.mode cluster: a cluster has no Sentinels",
        );
        problems.ensure(self.database == 0, "redis.database", "must be 0 with redis.mode cluster");
        problems.ensure(
            !self.prefix.contains(['{', '}']),
            "redis.prefix",
            "must not contain braces with redis.mode cluster: they decide where keys lie",
        );
    }
}

fn check_tls(key: &str, tls: &ClientTls, problems: &mut Problems) {
    if let Err(error) = client_tls(tls) {
        let source = std::error::Error::source(&error);
        problems.add(key, source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}")));
    } else if ServerName::try_from(tls.domain.as_str()).is_err() && !tls.domain.is_empty() {
        problems.add(key, format!("domain must be a host name or an address, is {:?}", tls.domain));
    }
}

fn check_address(key: &str, address: &str, problems: &mut Problems) {
    if address.parse::<Address>().is_err() {
        problems.add(key, format!("must be host:port, is {address:?}"));
    }
}

/// A host, by name or number, and a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// Name or number, without brackets.
    pub host: String,
    /// Never 0.
    pub port: u16,
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
pub struct InvalidAddress;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contradictions_of_a_cluster_are_refused() {
        let cluster = RedisConfig {
            mode: RedisMode::Cluster,
            nodes: vec!["10.0.0.1:7000".to_owned()],
            ..RedisConfig::default()
        };
        let refused = |change: fn(&mut RedisConfig)| {
            let mut config = cluster.clone();
            change(&mut config);
            let mut problems = Problems::default();
            config.check(&mut problems);
            problems.lines()
        };
        assert_eq!(refused(|_| {}), Vec::<String>::new());
        for (change, key) in [
            ((|c| c.nodes.clear()) as fn(&mut RedisConfig), "redis.nodes"),
            (|c| c.nodes = vec!["nowhere".to_owned()], "redis.nodes"),
            (|c| c.mode = RedisMode::Single, "redis.nodes"),
            (|c| c.sentinels = vec!["10.0.0.1:26379".to_owned()], "redis.sentinels"),
            (|c| c.database = 1, "redis.database"),
            (|c| c.partitions = 0, "redis.partitions"),
            (|c| "a{b}".clone_into(&mut c.prefix), "redis.prefix"),
        ] {
            let problems = refused(change);
            assert!(problems.len() == 1 && problems[0].starts_with(key), "{key}: {problems:?}");
        }
    }

    #[test]
    fn addresses_are_host_and_port() {
        for (text, host, port) in
            [("redis:6379", "redis", 6379), ("[::1]:1", "::1", 1), ("10.0.0.7:65535", "10.0.0.7", 65535)]
        {
            let address: Address = text.parse().unwrap();
            assert_eq!((address.host.as_str(), address.port), (host, port));
            assert_eq!(address.to_string(), text);
        }
        for text in ["", "redis", ":1", "redis:0", "redis:65536", "redis://h:1", "a b:1"] {
            assert!(text.parse::<Address>().is_err(), "{text:?}");
        }
    }
}
