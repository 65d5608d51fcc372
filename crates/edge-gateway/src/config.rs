//! The edge's configuration.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::Context as _;
use mainstay_auth::api_key::{ApiKey, ApiKeys, StoredKeys};
use mainstay_auth::jwt::{RotatingKeys, Verifier, VerifierConfig};
use mainstay_auth::scope::Scope;
use mainstay_auth::{Authenticator, Role};
use mainstay_jwks::JwksConfig;
use mainstay_runtime::{Problems, Secret, ServerConfig, ServiceConfig, TelemetryConfig, UpstreamConfig};
use serde::{Deserialize, Serialize};

mod cache_stream;
mod deprecation;
mod http;
mod idempotency;
mod limits;
mod stored_keys;

pub(crate) use self::http::HttpConfig;
pub(crate) use cache_stream::CacheStreamConfig;
pub(crate) use deprecation::DeprecationConfig;
pub(crate) use idempotency::IdempotencyConfig;
pub(crate) use limits::LimitsConfig;
pub(crate) use stored_keys::StoredKeysConfig;

/// The whole configuration; every section has working defaults for one machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EdgeConfig {
    pub server: ServerConfig,
    pub telemetry: TelemetryConfig,
    pub http: HttpConfig,
    pub auth: AuthConfig,
    pub limits: LimitsConfig,
    pub idempotency: IdempotencyConfig,
    pub cache_stream: CacheStreamConfig,
    pub upstreams: UpstreamsConfig,
}

/// Who may come in.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// HS256 secret of bearer tokens, at least 32 bytes; empty means none.
    pub jwt_secret: Secret,
    /// PEM files with public keys of bearer tokens: RSA for RS256, P-256 for ES256, Ed25519 for EdDSA.
    pub jwt_public_keys: Vec<PathBuf>,
    /// A key set that is read again and again.
    pub jwks: JwksConfig,
    /// Demanded `iss`; empty means any.
    pub issuer: String,
    /// Demanded `aud`; empty means any.
    pub audience: String,
    /// API keys by id; only their SHA-256 is kept.
    pub api_keys: BTreeMap<String, ApiKeyConfig>,
    /// API keys that are made over REST.
    pub stored_keys: StoredKeysConfig,
}

/// One API key.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiKeyConfig {
    /// SHA-256 of the key, 64 hex digits. A secret only so that it may come from a file, as others do in containers.
    pub sha256: Secret,
    pub role: Role,
    #[serde(default)]
    pub scopes: Vec<String>,
}

/// The four services behind the edge.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpstreamsConfig {
    pub cache: UpstreamConfig,
    pub realtime: UpstreamConfig,
    pub replica: UpstreamConfig,
    pub monitor: UpstreamConfig,
}

impl Default for EdgeConfig {
    fn default() -> Self {
        Self {
            server: ServerConfig { listen: loopback(4001), ..ServerConfig::default() },
            telemetry: TelemetryConfig::default(),
            http: HttpConfig::default(),
            auth: AuthConfig::default(),
            limits: LimitsConfig::default(),
            idempotency: IdempotencyConfig::default(),
            cache_stream: CacheStreamConfig::default(),
            upstreams: UpstreamsConfig::default(),
        }
    }
}

impl Default for UpstreamsConfig {
    fn default() -> Self {
        let at = |port| UpstreamConfig {
            endpoints: vec![format!("http://127.0.0.1:{port}")].into(),
            ..UpstreamConfig::default()
        };
        Self { cache: at(4010), realtime: at(4020), replica: at(4030), monitor: at(4040) }
    }
}

impl UpstreamsConfig {
    /// Names every section with the service it leads to.
    pub(crate) fn each(&self) -> [(&'static str, &'static str, &UpstreamConfig); 4] {
        [
            ("cache", "cache-service", &self.cache),
            ("realtime", "ws-gateway", &self.realtime),
            ("replica", "replica-service", &self.replica),
            ("monitor", "monitor-service", &self.monitor),
        ]
    }
}

impl AuthConfig {
    /// Says whether any bearer token can be good.
    pub(crate) fn takes_tokens(&self) -> bool {
        !self.jwt_secret.is_empty() || !self.jwt_public_keys.is_empty() || self.jwks.is_configured()
    }

    /// Builds what checks credentials; `rotating` are the keys of [`Self::jwks`], kept by somebody else.
    pub(crate) fn authenticator(
        &self,
        rotating: &RotatingKeys,
        stored: StoredKeys,
    ) -> anyhow::Result<Authenticator> {
        let verifier = self.takes_tokens().then(|| self.verifier(rotating)).transpose()?;
        let keys = ApiKeys::try_new(self.configured_keys()).context("reading auth.api_keys")?;
        Ok(Authenticator::new(verifier, keys).with_stored(stored))
    }

    /// Lists the keys of the configuration.
    pub(crate) fn configured_keys(&self) -> Vec<ApiKey> {
        let key = |(id, key): (&String, &ApiKeyConfig)| ApiKey {
            id: id.clone(),
            sha256: key.sha256.expose().to_owned(),
            role: key.role,
            scopes: key.scopes.clone(),
        };
        self.api_keys.iter().map(key).collect()
    }

    fn verifier(&self, rotating: &RotatingKeys) -> anyhow::Result<Verifier> {
        let secret = self.jwt_secret.expose().as_bytes();
        let config = VerifierConfig {
            hs256_secrets: (!secret.is_empty()).then(|| secret.to_vec()).into_iter().collect(),
            public_keys: mainstay_jwks::public_keys(&self.jwt_public_keys).context("auth.jwt_public_keys")?,
            rotating_keys: self.jwks.is_configured().then(|| rotating.clone()),
            issuer: some(&self.issuer),
            audience: some(&self.audience),
            ..VerifierConfig::default()
        };
        Verifier::try_new(config).context("reading auth.jwt_secret")
    }
}

impl ServiceConfig for EdgeConfig {
    fn server(&self) -> &ServerConfig {
        &self.server
    }

    fn telemetry(&self) -> &TelemetryConfig {
        &self.telemetry
    }

    fn check(&self, problems: &mut Problems) {
        self.http.check(problems);
        self.auth.check(problems);
        self.limits.check(problems);
        self.idempotency.check(problems);
        self.cache_stream.check(problems);
        // A service without endpoints is left out on purpose.
        let configured =
            self.upstreams.each().into_iter().filter(|(_, _, upstream)| !upstream.endpoints.is_empty());
        for (name, _, upstream) in configured {
            problems.under(&format!("upstreams.{name}"), |report| upstream.check(report));
        }
    }
}

impl AuthConfig {
    fn check(&self, problems: &mut Problems) {
        let secret_bytes = self.jwt_secret.expose().len();
        problems.ensure(
            secret_bytes == 0 || secret_bytes >= 32,
            "auth.jwt_secret",
            format!("must be empty or at least 32 bytes, is {secret_bytes}"),
        );
        if let Err(error) = mainstay_jwks::public_keys(&self.jwt_public_keys) {
            problems.add("auth.jwt_public_keys", format!("{error:#}"));
        }
        self.jwks.check(problems, "auth.jwks", &self.audience);
        self.stored_keys.check(problems);
        for (id, key) in &self.api_keys {
            for scope in &key.scopes {
                if let Err(error) = scope.parse::<Scope>() {
                    problems.add(format!("auth.api_keys.{id}.scopes"), format!("{error}, is {scope:?}"));
                }
            }
            let digest = key.sha256.expose();
            let is_digest = digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
            problems.ensure(
                is_digest,
                &format!("auth.api_keys.{id}.sha256"),
                "must be the SHA-256 of the key, 64 hex digits",
            );
        }
    }
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytesize::ByteSize;

    use super::*;

    #[test]
    fn commented_file_holds_exactly_the_defaults() {
        let text = include_str!("../../../deploy/config/edge-gateway.toml");
        let from_file: EdgeConfig = toml::from_str(text).expect("the shipped file parses");
        let expected = toml::Value::try_from(EdgeConfig::default()).expect("defaults serialize");
        assert_eq!(toml::Value::try_from(from_file).expect("the file serializes"), expected);
    }

    #[test]
    fn every_problem_names_its_key() {
        let mut config = EdgeConfig::default();
        config.http.max_in_flight = 0;
        config.http.max_body_size = ByteSize::gib(1);
        config.http.part_within = Duration::from_secs(9);
        config.idempotency.keep = Duration::ZERO;
        config.idempotency.namespace = "Edge".to_owned();
        config.limits.read.quota = 2_000_000;
        config.cache_stream.max_in_flight = 0;
        config.limits.shared_within = Duration::from_secs(2);
        config.auth.jwt_secret = serde_json::from_str("\"short\"").expect("a secret is a string");
        let sha256 = serde_json::from_str("\"abc\"").expect("a secret is a string");
        config.auth.jwt_public_keys = vec!["/nowhere/key.pem".into()];
        config.auth.jwks.source = "http://id.example.org/jwks".to_owned();
        let key = ApiKeyConfig { sha256, role: Role::Viewer, scopes: vec!["cache".to_owned()] };
        config.auth.stored_keys.refresh_every = Duration::ZERO;
        config.auth.api_keys.insert("ci".to_owned(), key);
        config.upstreams.cache.endpoints = vec!["ftp://nowhere".to_owned()].into();

        let mut problems = Problems::default();
        config.check(&mut problems);
        let lines = problems.lines().join("\n");
        for key in [
            "http.max_in_flight",
            "http.max_body_size",
            "http.part_within",
            "limits.read.quota",
            "limits.shared_within",
            "cache_stream.max_in_flight",
            "idempotency.keep",
            "idempotency.namespace",
            "auth.jwt_secret",
            "auth.jwt_public_keys",
            "auth.jwks.source",
            "auth.api_keys.ci.sha256",
            "auth.api_keys.ci.scopes",
            "auth.stored_keys.refresh_every",
            "upstreams.cache.endpoints",
        ] {
            assert!(lines.contains(key), "{key} is missing from\n{lines}");
        }
    }
}
