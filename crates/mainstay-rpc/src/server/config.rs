use std::net::SocketAddr;
use std::time::Duration;

use humantime::format_duration;
use serde::{Deserialize, Serialize};

use crate::identity::Secret;
use crate::tls::ServerTls;

/// Configures the internal port of a service: section `server`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerConfig {
    /// Address of the port; anything but loopback needs `token` or `tls.client_ca`.
    pub listen: SocketAddr,
    /// Name of this process among its peers; empty means a new one at every start.
    pub instance: String,
    /// Service token that callers must show; empty means none is asked for.
    pub token: Secret,
    /// Certificates; empty means plain text.
    pub tls: ServerTls,
    /// Requests handled at once; more are refused with `RESOURCE_EXHAUSTED`.
    pub max_in_flight: u32,
    /// Connections held at once; more are closed as soon as they are accepted.
    pub max_connections: u32,
    /// Time for a request whose caller names no deadline.
    #[serde(with = "humantime_serde")]
    pub default_deadline: Duration,
    /// Time for a client to send the head of a request, and for a TLS handshake.
    #[serde(with = "humantime_serde")]
    pub header_within: Duration,
    /// Time between "not ready" and the end of accepting, for balancers to notice.
    #[serde(with = "humantime_serde")]
    pub drain_delay: Duration,
    /// Time for accepted requests to finish once accepting has ended.
    #[serde(with = "humantime_serde")]
    pub grace: Duration,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            instance: String::new(),
            token: Secret::default(),
            tls: ServerTls::default(),
            max_in_flight: 1024,
            max_connections: 4096,
            default_deadline: Duration::from_secs(10),
            header_within: Duration::from_secs(5),
            drain_delay: Duration::from_millis(200),
            grace: Duration::from_secs(8),
        }
    }
}

impl ServerConfig {
    /// Reports every impossible value with its key relative to this section.
    pub fn check(&self, report: &mut dyn FnMut(&str, String)) {
        if !self.listen.ip().is_loopback() && self.token.is_empty() && self.tls.client_ca.is_none() {
            report(
                "listen",
                format!(
                    "{} is reachable from outside this host: set token or tls.client_ca, or listen on loopback",
                    self.listen
                ),
            );
        }
        if self.instance.len() > 128 || self.instance.chars().any(|c| c.is_control() || c.is_whitespace()) {
            report("instance", "must be at most 128 bytes without spaces".to_owned());
        }
        if let Err(error) = self.token.check() {
            report("token", error.to_owned());
        }
        if self.tls.cert.is_some() != self.tls.key.is_some() {
            report("tls", "cert and key are needed together".to_owned());
        } else if self.tls.client_ca.is_some() && self.tls.cert.is_none() {
            report("tls.client_ca", "is of no use without cert and key".to_owned());
        }
        for (key, value) in [("max_in_flight", self.max_in_flight), ("max_connections", self.max_connections)]
        {
            if !(1..=1_000_000).contains(&value) {
                report(key, format!("must be between 1 and 1000000, is {value}"));
            }
        }
        for (key, value, min_ms, max_s) in [
            ("default_deadline", self.default_deadline, 10, 3_600),
            ("header_within", self.header_within, 100, 60),
            ("drain_delay", self.drain_delay, 0, 300),
            ("grace", self.grace, 0, 3_600),
        ] {
            let (min, max) = (Duration::from_millis(min_ms), Duration::from_secs(max_s));
            if !(min..=max).contains(&value) {
                report(
                    key,
                    format!(
                        "must be between {} and {}, is {}",
                        format_duration(min),
                        format_duration(max),
                        format_duration(value)
                    ),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn problems(config: &ServerConfig) -> Vec<String> {
        let mut keys = Vec::new();
        config.check(&mut |key, _| keys.push(key.to_owned()));
        keys
    }

    #[test]
    fn the_default_is_legal() {
        assert_eq!(problems(&ServerConfig::default()), [""; 0]);
    }

    #[test]
    fn only_loopback_may_listen_without_identity() {
        let open = ServerConfig { listen: "0.0.0.0:4010".parse().unwrap(), ..ServerConfig::default() };
        assert_eq!(problems(&open), ["listen"]);
        let with_token = ServerConfig { token: Secret::from("s3cret-s3cret-s3cret"), ..open.clone() };
        assert_eq!(problems(&with_token), [""; 0]);
        let file = Some(PathBuf::from("x.pem"));
        let tls = ServerTls { cert: file.clone(), key: file.clone(), client_ca: file };
        assert_eq!(problems(&ServerConfig { tls, ..open }), [""; 0]);
        let v6 = ServerConfig { listen: "[::1]:4010".parse().unwrap(), ..ServerConfig::default() };
        assert_eq!(problems(&v6), [""; 0]);
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let config = ServerConfig {
            instance: "a b".to_owned(),
            token: Secret::from("line\nbreak"),
            tls: ServerTls { cert: Some(PathBuf::from("x.pem")), ..ServerTls::default() },
            max_in_flight: 0,
            max_connections: 0,
            default_deadline: Duration::ZERO,
            header_within: Duration::ZERO,
            grace: Duration::MAX,
            ..ServerConfig::default()
        };
        assert_eq!(
            problems(&config),
            [
                "instance",
                "token",
                "tls",
                "max_in_flight",
                "max_connections",
                "default_deadline",
                "header_within",
                "grace"
            ]
        );
    }
}
