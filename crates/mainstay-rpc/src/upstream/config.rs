use std::fmt;
use std::ops::Deref;
use std::time::Duration;

use http::Uri;
use humantime::format_duration;
use mainstay_resilience::breaker::BreakerConfig;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::identity::Secret;
use crate::tls::ClientTls;

/// Configures the calls to one service: sections such as `upstreams.cache`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpstreamConfig {
    /// Instances of the service, e.g. `http://127.0.0.1:4010`; `https` needs `tls.ca`.
    pub endpoints: EndpointList,
    /// Time for one call with all its attempts, unless the call names its own.
    #[serde(with = "humantime_serde")]
    pub deadline: Duration,
    /// Time for name resolution, TCP and TLS handshakes together.
    #[serde(with = "humantime_serde")]
    pub connect_within: Duration,
    /// How often an open connection is pinged, also while idle.
    #[serde(with = "humantime_serde")]
    pub keepalive_every: Duration,
    /// Time for the answer to a ping, after which the connection is given up.
    #[serde(with = "humantime_serde")]
    pub keepalive_within: Duration,
    /// Service token shown to the service; empty means none.
    pub token: Secret,
    /// Certificates for `https` endpoints.
    pub tls: ClientTls,
    /// Retries per call over the last ten seconds, on top of one per second.
    pub retry_ratio: f64,
    /// When calls to an endpoint are held back.
    pub breaker: BreakerSection,
}

impl Default for UpstreamConfig {
    fn default() -> Self {
        Self {
            endpoints: EndpointList::default(),
            deadline: Duration::from_secs(2),
            connect_within: Duration::from_millis(500),
            keepalive_every: Duration::from_secs(10),
            keepalive_within: Duration::from_secs(5),
            token: Secret::default(),
            tls: ClientTls::default(),
            retry_ratio: 0.1,
            breaker: BreakerSection::default(),
        }
    }
}

impl UpstreamConfig {
    /// Starts from the defaults with these endpoints.
    pub fn of<S: Into<String>>(endpoints: impl IntoIterator<Item = S>) -> Self {
        Self { endpoints: endpoints.into_iter().collect(), ..Self::default() }
    }

    /// Reports every impossible value with its key relative to this section.
    pub fn check(&self, report: &mut dyn FnMut(&str, String)) {
        if self.endpoints.is_empty() {
            report("endpoints", "names no endpoint; give one such as http://127.0.0.1:4010".to_owned());
        }
        for (n, endpoint) in self.endpoints.iter().enumerate() {
            match parse_endpoint(endpoint) {
                Err(error) => report(&format!("endpoints.{n}"), error.to_string()),
                Ok(uri) if uri.scheme_str() == Some("https") && self.tls.ca.is_none() => {
                    report("tls.ca", format!("is needed for {endpoint}"));
                }
                Ok(_) => {}
            }
        }
        if self.tls.cert.is_some() != self.tls.key.is_some() {
            report("tls", "cert and key are needed together".to_owned());
        }
        if let Err(error) = self.token.check() {
            report("token", error.to_owned());
        }
        for (key, value, min_ms, max_s) in [
            ("deadline", self.deadline, 1, 3_600),
            ("connect_within", self.connect_within, 1, 60),
            ("keepalive_every", self.keepalive_every, 100, 3_600),
            ("keepalive_within", self.keepalive_within, 10, 600),
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
        if !(0.0..=1.0).contains(&self.retry_ratio) {
            report("retry_ratio", format!("must be between 0 and 1, is {}", self.retry_ratio));
        }
        if let Err(error) = BreakerConfig::try_new(self.breaker.clone().into()) {
            report("breaker", error.to_string());
        }
    }
}

/// Reads an endpoint as scheme, host and port.
pub(super) fn parse_endpoint(endpoint: &str) -> Result<Uri, InvalidEndpoint> {
    let invalid = || InvalidEndpoint(endpoint.to_owned());
    let uri: Uri = endpoint.parse().map_err(|_| invalid())?;
    let scheme = matches!(uri.scheme_str(), Some("http" | "https"));
    let bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
    let authority = uri.authority().ok_or_else(invalid)?;
    if scheme && bare && authority.port_u16().is_some() && !authority.as_str().contains('@') {
        Ok(uri)
    } else {
        Err(invalid())
    }
}

/// Says that a text is not an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not of the form http://host:port or https://host:port")]
pub struct InvalidEndpoint(pub(super) String);

/// Lists endpoints; reads an array or one text with commas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct EndpointList(Vec<String>);

impl Deref for EndpointList {
    type Target = [String];

    fn deref(&self) -> &[String] {
        &self.0
    }
}

impl<S: Into<String>> FromIterator<S> for EndpointList {
    fn from_iter<I: IntoIterator<Item = S>>(endpoints: I) -> Self {
        Self(endpoints.into_iter().map(Into::into).collect())
    }
}

impl From<Vec<String>> for EndpointList {
    fn from(endpoints: Vec<String>) -> Self {
        Self(endpoints)
    }
}

impl<'de> Deserialize<'de> for EndpointList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = EndpointList;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of endpoints or one text with commas")
            }

            fn visit_str<E>(self, text: &str) -> Result<EndpointList, E> {
                Ok(text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<EndpointList, A::Error> {
                let mut endpoints = Vec::new();
                while let Some(endpoint) = seq.next_element::<String>()? {
                    endpoints.push(endpoint);
                }
                Ok(EndpointList(endpoints))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// Configures the breaker of each endpoint: section `breaker`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BreakerSection {
    /// Time over which calls are counted.
    #[serde(with = "humantime_serde")]
    pub window: Duration,
    /// Calls within the window below which no rate is looked at.
    pub min_calls: u32,
    /// Share of failed calls at which the breaker opens.
    pub failure_rate: f64,
    /// Failures in a row that open it at once; 0 turns this rule off.
    pub consecutive_failures: u32,
    /// A call that took this long is slow. The default is out of reach of the default deadline.
    #[serde(with = "humantime_serde")]
    pub slow_after: Duration,
    /// Share of slow calls at which the breaker opens.
    pub slow_rate: f64,
    /// How long the first opening lasts; doubles with each failed probing.
    #[serde(with = "humantime_serde")]
    pub open_for: Duration,
    /// How long an opening lasts at most: an endpoint that is back is used again within this time.
    #[serde(with = "humantime_serde")]
    pub open_for_max: Duration,
    /// Probes let through at once while half-open, and successes needed to close.
    pub probes: u32,
}

impl Default for BreakerSection {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(10),
            min_calls: 20,
            failure_rate: 0.5,
            consecutive_failures: 5,
            slow_after: Duration::from_secs(10),
            slow_rate: 1.0,
            open_for: Duration::from_millis(250),
            open_for_max: Duration::from_secs(2),
            probes: 2,
        }
    }
}

impl From<BreakerSection> for BreakerConfig {
    fn from(section: BreakerSection) -> Self {
        Self {
            window: section.window,
            min_calls: section.min_calls,
            failure_rate: section.failure_rate,
            slow_after: section.slow_after,
            slow_rate: section.slow_rate,
            open_for: section.open_for,
            open_for_max: section.open_for_max,
            probes: section.probes,
            consecutive_failures: section.consecutive_failures,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn problems(config: &UpstreamConfig) -> Vec<String> {
        let mut keys = Vec::new();
        config.check(&mut |key, _| keys.push(key.to_owned()));
        keys
    }

    #[test]
    fn endpoints_are_read_from_a_list_and_from_a_text_with_commas() {
        let expected = EndpointList::from_iter(["http://a:1", "http://b:2"]);
        for json in [r#"["http://a:1","http://b:2"]"#, r#""http://a:1, http://b:2,""#] {
            assert_eq!(serde_json::from_str::<EndpointList>(json).unwrap(), expected, "{json}");
        }
        assert_eq!(serde_json::to_string(&expected).unwrap(), r#"["http://a:1","http://b:2"]"#);
    }

    #[test]
    fn only_scheme_host_and_port_make_an_endpoint() {
        for good in ["http://127.0.0.1:4010", "https://cache.internal:443/", "http://[::1]:4010"] {
            assert!(parse_endpoint(good).is_ok(), "{good}");
        }
        for bad in
            ["", "127.0.0.1:4010", "http://cache", "ftp://cache:1", "http://cache:1/v1", "http://u:p@cache:1"]
        {
            assert_eq!(parse_endpoint(bad), Err(InvalidEndpoint(bad.to_owned())), "{bad}");
        }
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        assert_eq!(problems(&UpstreamConfig::of(["http://127.0.0.1:4010"])), [""; 0]);
        let mut bad = UpstreamConfig::of(["nonsense", "https://cache:4010"]);
        bad.deadline = Duration::ZERO;
        bad.retry_ratio = f64::NAN;
        bad.breaker.probes = 0;
        bad.tls.cert = Some(PathBuf::from("x.pem"));
        assert_eq!(problems(&bad), ["endpoints.0", "tls.ca", "tls", "deadline", "retry_ratio", "breaker"]);
        assert_eq!(problems(&UpstreamConfig::default()), ["endpoints"]);
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let error = serde_json::from_str::<UpstreamConfig>(r#"{"deadlin":"1s"}"#).unwrap_err();
        assert!(error.to_string().contains("unknown field `deadlin`"), "{error}");
    }
}
