use std::collections::BTreeMap;
use std::time::Duration;

use bytesize::ByteSize;
use http::{HeaderName, HeaderValue};
use mainstay_resilience::breaker::BreakerConfig;
use mainstay_rpc::{BreakerSection, ClientTls};
use mainstay_runtime::{Problems, Secret};
use serde::{Deserialize, Serialize};

use crate::origin::{KeysUrl, Template};

/// Configures a source of values that speaks plain HTTP: GET loads, PUT stores, DELETE removes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpOriginConfig {
    /// Where a key lies, e.g. `https://shop.internal/v1/{namespace}/{key}`; `{key}` is needed.
    pub url: String,
    /// Where the keys of a namespace are listed, one a line, for warming: on the same host as `url`, e.g.
    /// `https://shop.internal/v1/{namespace}`; empty: nowhere.
    pub keys_url: String,
    /// Sent with every request.
    pub headers: BTreeMap<String, String>,
    /// The header `authorization`, e.g. `Bearer ...`; empty: none.
    pub authorization: Secret,
    /// Time for name resolution, TCP and TLS handshakes together; 1 ms to 1 min.
    #[serde(with = "humantime_serde")]
    pub connect_within: Duration,
    /// Requests under way at once; more wait, within their deadline. 1 to 10,000.
    pub max_in_flight: u32,
    /// Largest value that is read; a larger one is a failure. 1 byte to 16 MiB.
    pub max_answer: ByteSize,
    /// For `https`: without `ca`, whom the host trusts is trusted.
    pub tls: ClientTls,
    /// When requests are held back.
    pub breaker: BreakerSection,
}

impl Default for HttpOriginConfig {
    fn default() -> Self {
        Self {
            url: String::new(),
            keys_url: String::new(),
            headers: BTreeMap::new(),
            authorization: Secret::default(),
            connect_within: Duration::from_millis(500),
            max_in_flight: 256,
            max_answer: ByteSize::mib(16),
            tls: ClientTls::default(),
            breaker: BreakerSection::default(),
        }
    }
}

impl HttpOriginConfig {
    pub(super) fn check(&self, section: &str, problems: &mut Problems) {
        let key = |name: &str| format!("{section}.{name}");
        match Template::try_new(&self.url) {
            Err(wrong) => problems.add(key("url"), wrong.to_string()),
            Ok(template) => {
                if let Err(wrong) = KeysUrl::try_new(&self.keys_url, &template) {
                    problems.add(key("keys_url"), wrong.to_string());
                }
            }
        }
        for (name, value) in &self.headers {
            let legal = HeaderName::try_from(name).is_ok() && HeaderValue::try_from(value).is_ok();
            problems.ensure(legal, &key(&format!("headers.{name}")), "is no legal header");
        }
        problems.ensure(
            HeaderValue::try_from(self.authorization.expose()).is_ok(),
            &key("authorization"),
            "is no legal value of a header",
        );
        let (ms, minute) = (Duration::from_millis(1), Duration::from_mins(1));
        problems.duration(&key("connect_within"), self.connect_within, ms..=minute);
        problems.range(&key("max_in_flight"), self.max_in_flight, 1..=10_000);
        problems.range(&key("max_answer"), self.max_answer, ByteSize::b(1)..=ByteSize::mib(16));
        if let Err(wrong) = BreakerConfig::try_new(self.breaker.clone().into()) {
            problems.add(key("breaker"), wrong.to_string());
        }
    }
}
