//! The public port.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytesize::ByteSize;
use mainstay_rpc::{ServerTls, server_tls};
use mainstay_runtime::Problems;
use serde::{Deserialize, Serialize};

use super::DeprecationConfig;
use crate::router;

/// The public port.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    pub listen: SocketAddr,
    pub tls: ServerTls,
    /// Largest request body, in bytes.
    pub max_body_size: ByteSize,
    /// Requests under way at once; the next one is answered 503 at once.
    pub max_in_flight: u32,
    /// Connections open at once.
    pub max_connections: u32,
    /// Time a client has for sending its request head.
    #[serde(with = "humantime_serde")]
    pub header_within: Duration,
    /// Time a whole request may take.
    #[serde(with = "humantime_serde")]
    pub request_within: Duration,
    /// Time a merged answer waits for each of its parts.
    #[serde(with = "humantime_serde")]
    pub part_within: Duration,
    /// Sends bodies compressed to clients that take it.
    pub compress: bool,
    /// Logs one line per request, at level info and with the target `access`.
    pub access_log: bool,
    /// How long browsers must come by TLS only, once they did; 0 says nothing. Has no effect without TLS.
    #[serde(with = "humantime_serde")]
    pub hsts: Duration,
    pub cors: CorsConfig,
    /// Paths that will go.
    pub deprecated: BTreeMap<String, DeprecationConfig>,
}

/// Which pages of other origins may ask this door from a browser.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CorsConfig {
    /// Like `https://app.example.org`; `*` for all. Credentials are headers here, never cookies.
    pub allowed_origins: Vec<String>,
    /// How long a browser may remember the permission.
    #[serde(with = "humantime_serde")]
    pub max_age: Duration,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: super::loopback(4000),
            tls: ServerTls::default(),
            max_body_size: ByteSize::mib(2),
            max_in_flight: 2048,
            max_connections: 16_384,
            header_within: Duration::from_secs(5),
            request_within: Duration::from_secs(5),
            part_within: Duration::from_millis(800),
            compress: true,
            access_log: false,
            hsts: Duration::from_secs(365 * 24 * 3_600),
            cors: CorsConfig::default(),
            deprecated: BTreeMap::new(),
        }
    }
}

impl Default for CorsConfig {
    fn default() -> Self {
        Self { allowed_origins: Vec::new(), max_age: Duration::from_secs(600) }
    }
}

impl HttpConfig {
    pub(super) fn check(&self, problems: &mut Problems) {
        let body = self.max_body_size.as_u64();
        problems.ensure(
            (1..=64 << 20).contains(&body),
            "http.max_body_size",
            format!("must be between 1 B and 64 MiB, is {}", self.max_body_size),
        );
        problems.range("http.max_in_flight", self.max_in_flight, 1..=100_000);
        problems.range("http.max_connections", self.max_connections, 1..=100_000);
        let (millisecond, minute) = (Duration::from_millis(1), Duration::from_secs(60));
        problems.duration("http.header_within", self.header_within, millisecond..=minute);
        problems.duration("http.request_within", self.request_within, millisecond..=minute);
        problems.duration(
            "http.part_within",
            self.part_within,
            millisecond..=self.request_within.max(millisecond),
        );
        if let Err(error) = server_tls(&self.tls) {
            problems.add("http.tls", error.to_string());
        }
        if !self.deprecated.is_empty() {
            let paths = router::map().paths();
            for (path, deprecation) in &self.deprecated {
                deprecation.check(problems, path, paths.contains(&path.as_str()));
            }
        }
        let day = Duration::from_secs(24 * 3_600);
        problems.duration("http.hsts", self.hsts, Duration::ZERO..=730 * day);
        problems.duration("http.cors.max_age", self.cors.max_age, Duration::ZERO..=day);
        for origin in &self.cors.allowed_origins {
            problems.ensure(
                is_origin(origin),
                "http.cors.allowed_origins",
                format!("must be scheme and host like https://app.example.org, or *, is {origin:?}"),
            );
        }
    }
}

/// Tells whether a text is an origin as browsers send it: no path, no slash at the end.
fn is_origin(text: &str) -> bool {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    text == "*" || host.is_some_and(|host| !host.is_empty() && !host.contains(['/', '*', ' ', '@', '?', '#']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_browsers_send_is_an_origin() {
        for (text, good) in [
            ("*", true),
            ("https://app.example.org", true),
            ("http://localhost:3000", true),
            ("https://app.example.org/", false),
            ("https://*.example.org", false),
            ("app.example.org", false),
            ("https://", false),
            ("", false),
        ] {
            assert_eq!(is_origin(text), good, "{text:?}");
        }
    }
}
