use std::time::Duration;

use bytesize::ByteSize;
use http::{HeaderValue, Uri};
use mainstay_resilience::breaker::BreakerConfig;
use mainstay_rpc::{BreakerSection, ClientTls};
use mainstay_runtime::{Problems, Secret, UpstreamConfig};
use serde::{Deserialize, Serialize};

use super::HooksConfig;

/// The application behind the gateway: over `grpc` a service that implements `mainstay.realtime.v1.RealtimeBackend`, or
/// over `http` a plain HTTP server.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BackendConfig {
    /// Lets clients call it (`rpc`).
    pub rpc: bool,
    /// Time for an answer.
    #[serde(with = "humantime_serde")]
    pub within: Duration,
    /// Calls under way at once, of all clients and of one; more are refused.
    pub max_in_flight: u32,
    pub max_in_flight_per_client: u32,
    /// Largest answer.
    pub max_answer: ByteSize,
    pub grpc: UpstreamConfig,
    pub http: HttpBackendConfig,
    pub hooks: HooksConfig,
}

/// How a backend is reached that speaks plain HTTP.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpBackendConfig {
    /// Where calls of clients are posted to; empty: nowhere.
    pub rpc_url: String,
    /// What the application decides is posted to `/connect`, `/refresh`, `/subscribe`, `/sub_refresh` and `/publish` below it,
    /// on the host of `rpc_url`; empty: nowhere.
    pub hooks_url: String,
    /// The header `authorization`; empty: none.
    pub authorization: Secret,
    /// Time for name resolution, TCP and TLS handshakes together.
    #[serde(with = "humantime_serde")]
    pub connect_within: Duration,
    pub tls: ClientTls,
    /// When calls are held back.
    pub breaker: BreakerSection,
}

impl Default for BackendConfig {
    fn default() -> Self {
        Self {
            rpc: false,
            within: Duration::from_secs(1),
            max_in_flight: 1_000,
            max_in_flight_per_client: 8,
            max_answer: ByteSize::kib(64),
            grpc: UpstreamConfig::default(),
            http: HttpBackendConfig::default(),
            hooks: HooksConfig::default(),
        }
    }
}

impl Default for HttpBackendConfig {
    fn default() -> Self {
        Self {
            rpc_url: String::new(),
            hooks_url: String::new(),
            authorization: Secret::default(),
            connect_within: Duration::from_millis(500),
            tls: ClientTls::default(),
            breaker: BreakerSection::default(),
        }
    }
}

impl BackendConfig {
    /// Reports what cannot be; `asked` says whether the application is asked about channels, `anonymous` whether clients come
    /// in that nobody knows.
    pub(super) fn check(&self, asked: bool, anonymous: bool, problems: &mut Problems) {
        let ms = Duration::from_millis;
        problems.duration("backend.within", self.within, ms(1)..=ms(60_000));
        problems.range("backend.max_in_flight", self.max_in_flight, 1..=100_000);
        problems.range("backend.max_in_flight_per_client", self.max_in_flight_per_client, 1..=1_000);
        problems.range("backend.max_answer", self.max_answer, ByteSize::b(1)..=ByteSize::mib(4));
        let (by_grpc, http) = (!self.grpc.endpoints.is_empty(), &self.http);
        let by_http = !http.rpc_url.is_empty() || !http.hooks_url.is_empty();
        problems.ensure(
            !self.rpc || by_grpc || !http.rpc_url.is_empty(),
            "backend.rpc",
            "needs backend.grpc.endpoints or backend.http.rpc_url",
        );
        let decides = asked || !self.hooks.ask.is_empty();
        problems.ensure(
            !decides || by_grpc || !http.hooks_url.is_empty(),
            "backend.hooks",
            "needs backend.grpc.endpoints or backend.http.hooks_url",
        );
        problems.ensure(
            !(by_grpc && by_http),
            "backend.grpc.endpoints",
            "must be empty where a URL of backend.http is given",
        );
        self.hooks.check(anonymous, problems);
        if by_grpc {
            problems.under("backend.grpc", |report| self.grpc.check(report));
        }
        if by_http {
            self.http.check(problems);
        }
    }
}

impl HttpBackendConfig {
    fn check(&self, problems: &mut Problems) {
        let mut hosts = Vec::new();
        for (key, url) in [("rpc_url", &self.rpc_url), ("hooks_url", &self.hooks_url)] {
            let parsed = url.parse::<Uri>().ok();
            let url_is_good = parsed.as_ref().is_some_and(|url| {
                matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some()
            });
            problems.ensure(
                url.is_empty() || url_is_good,
                &format!("backend.http.{key}"),
                "must be an absolute http or https URL",
            );
            hosts.extend(parsed.map(|url| (url.scheme().cloned(), url.authority().cloned())));
        }
        let plain = self.hooks_url.parse::<Uri>().is_ok_and(|url| url.query().is_some());
        problems.ensure(!plain, "backend.http.hooks_url", "must have no query: paths are added to it");
        problems.ensure(
            hosts.windows(2).all(|pair| pair[0] == pair[1]),
            "backend.http.hooks_url",
            "must be on the host of backend.http.rpc_url",
        );
        problems.ensure(
            HeaderValue::try_from(self.authorization.expose()).is_ok(),
            "backend.http.authorization",
            "is no legal value of a header",
        );
        let (ms, minute) = (Duration::from_millis(1), Duration::from_secs(60));
        problems.duration("backend.http.connect_within", self.connect_within, ms..=minute);
        if let Err(wrong) = BreakerConfig::try_new(self.breaker.clone().into()) {
            problems.add("backend.http.breaker", wrong.to_string());
        }
    }
}
