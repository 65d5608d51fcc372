//! The gateway's configuration.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use bytesize::ByteSize;
use mainstay_auth::jwt::{RotatingKeys, Verifier, VerifierConfig};
use mainstay_jwks::JwksConfig;
use mainstay_redis::RedisConfig;
use mainstay_rpc::ServerTls;
use mainstay_runtime::{Problems, Secret, ServerConfig, ServiceConfig, TelemetryConfig};
use serde::{Deserialize, Serialize};

use crate::channel::Channel;
use crate::namespace::Namespaces;
use crate::origin::OriginPattern;

mod backend;
mod broker;
mod channels;
mod drain;
mod feeds;
mod hooks;
mod journeys;
mod limits;

pub use backend::{BackendConfig, HttpBackendConfig};
pub use broker::BrokerConfig;
pub use channels::{ChannelsConfig, NamespaceConfig, Recovery, Slow, Who};
pub use drain::DrainConfig;
pub use feeds::{FeedConfig, RunTimeFeedsConfig};
pub use hooks::{Away, ChannelHook, ConnectionHook, HookConfig, HooksConfig};
pub use journeys::JourneysConfig;
pub use limits::{RateConfig, RatesConfig};

/// The whole configuration; every section has working defaults for one machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GatewayConfig {
    pub server: ServerConfig,
    pub telemetry: TelemetryConfig,
    pub websocket: WebSocketConfig,
    pub auth: AuthConfig,
    pub channels: ChannelsConfig,
    /// The way to the other nodes; mode `none`: there are none.
    pub redis: RedisConfig,
    pub broker: BrokerConfig,
    pub drain: DrainConfig,
    pub journeys: JourneysConfig,
    pub backend: BackendConfig,
    /// Sources elsewhere that are published into channels, by name.
    pub feeds: BTreeMap<String, FeedConfig>,
    pub run_time_feeds: RunTimeFeedsConfig,
}

/// The port of the clients, and what one connection may cost.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebSocketConfig {
    pub listen: SocketAddr,
    /// Certificates; empty means plain text, e.g. behind a balancer that ends TLS.
    pub tls: ServerTls,
    /// Where clients reach this node, as told by `Nodes` and by the edge.
    pub public_url: String,
    /// Web pages that may connect; requests without `Origin` do not come from a web page and pass.
    pub allowed_origins: Vec<String>,
    /// How often a client hears from us; the first ping comes at a random point of the second half.
    #[serde(with = "humantime_serde")]
    pub ping_every: Duration,
    /// Time for the pong.
    #[serde(with = "humantime_serde")]
    pub pong_within: Duration,
    /// Time from the handshake to the `connect` command.
    #[serde(with = "humantime_serde")]
    pub connect_within: Duration,
    /// Time for the head of the handshake request.
    #[serde(with = "humantime_serde")]
    pub header_within: Duration,
    /// Time beyond the expiry of a connection for the client to refresh it.
    #[serde(with = "humantime_serde")]
    pub refresh_within: Duration,
    /// Connections held at once; the next handshake is answered 503.
    pub max_connections: u32,
    /// Connections of one user at once; 0 means any number.
    pub max_connections_per_user: u32,
    /// Connections from one address at once (of IPv6: from one /64 network); 0 means any number.
    pub max_connections_per_address: u32,
    /// How often a client may ask for what.
    pub rates: RatesConfig,
    /// Largest frame of a client and largest data of a publication.
    pub max_message_size: ByteSize,
    /// What may wait for one client; more and it is disconnected as slow.
    pub outbox_size: ByteSize,
    /// Serves streams over HTTP too, for networks that let no WebSocket through.
    pub fallbacks: bool,
    /// Channels of one connection at once.
    pub max_channels_per_client: u32,
}

/// Who may connect.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// HS256 secret of tokens, at least 32 bytes; empty means that no such token is accepted.
    pub jwt_secret: Secret,
    /// PEM files with public keys of tokens: RSA for RS256, P-256 for ES256, Ed25519 for EdDSA.
    pub jwt_public_keys: Vec<PathBuf>,
    /// A key set that is read again and again.
    pub jwks: JwksConfig,
    /// Demanded `iss`; empty means any.
    pub issuer: String,
    /// Demanded `aud`; empty means any.
    pub audience: String,
    /// Refuses tokens that never expire.
    pub require_exp: bool,
    /// Lets clients in that show no token, or a token without `sub`.
    pub allow_anonymous: bool,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            server: ServerConfig { listen: loopback(4020), ..ServerConfig::default() },
            telemetry: TelemetryConfig::default(),
            websocket: WebSocketConfig::default(),
            auth: AuthConfig::default(),
            channels: ChannelsConfig::default(),
            redis: RedisConfig::default(),
            broker: BrokerConfig::default(),
            drain: DrainConfig::default(),
            journeys: JourneysConfig::default(),
            backend: BackendConfig::default(),
            feeds: BTreeMap::new(),
            run_time_feeds: RunTimeFeedsConfig::default(),
        }
    }
}

impl Default for WebSocketConfig {
    fn default() -> Self {
        Self {
            listen: loopback(4021),
            tls: ServerTls::default(),
            public_url: "ws://127.0.0.1:4021/connection/websocket".to_owned(),
            allowed_origins: Vec::new(),
            ping_every: Duration::from_secs(25),
            pong_within: Duration::from_secs(8),
            connect_within: Duration::from_secs(10),
            header_within: Duration::from_secs(5),
            refresh_within: Duration::from_secs(25),
            max_connections: 20_000,
            max_connections_per_user: 0,
            max_connections_per_address: 0,
            rates: RatesConfig::default(),
            max_message_size: ByteSize::kib(64),
            outbox_size: ByteSize::mib(1),
            fallbacks: true,
            max_channels_per_client: 128,
        }
    }
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            jwt_secret: Secret::default(),
            jwt_public_keys: Vec::new(),
            jwks: JwksConfig::default(),
            issuer: String::new(),
            audience: String::new(),
            require_exp: true,
            allow_anonymous: false,
        }
    }
}

impl WebSocketConfig {
    pub(crate) fn origins(&self) -> anyhow::Result<Vec<OriginPattern>> {
        let patterns = self.allowed_origins.iter().map(|pattern| pattern.parse());
        patterns.collect::<Result<_, _>>().context("websocket.allowed_origins")
    }

    pub(crate) fn max_message_bytes(&self) -> usize {
        bytes(self.max_message_size)
    }

    pub(crate) fn outbox_bytes(&self) -> usize {
        bytes(self.outbox_size)
    }

    fn check(&self, problems: &mut Problems) {
        let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3_600));
        problems.duration("websocket.ping_every", self.ping_every, second..=hour);
        problems.duration("websocket.pong_within", self.pong_within, Duration::from_millis(10)..=hour);
        problems.ensure(
            self.pong_within < self.ping_every,
            "websocket.pong_within",
            "must be shorter than websocket.ping_every",
        );
        problems.duration("websocket.connect_within", self.connect_within, Duration::from_millis(10)..=hour);
        problems.duration("websocket.header_within", self.header_within, Duration::from_millis(10)..=hour);
        problems.duration("websocket.refresh_within", self.refresh_within, Duration::ZERO..=hour);
        problems.range("websocket.max_connections", self.max_connections, 1..=1_000_000);
        problems.range("websocket.max_channels_per_client", self.max_channels_per_client, 1..=100_000);
        self.rates.check(problems);
        let (smallest, largest) = (ByteSize::b(64), ByteSize::mib(16));
        problems.range("websocket.max_message_size", self.max_message_size, smallest..=largest);
        problems.ensure(
            self.outbox_size.as_u64() >= 2 * self.max_message_size.as_u64()
                && self.outbox_size <= ByteSize::gib(1),
            "websocket.outbox_size",
            format!("must be between twice websocket.max_message_size and 1 GiB, is {}", self.outbox_size),
        );
        let known_scheme = ["ws://", "wss://"].iter().any(|scheme| self.public_url.starts_with(scheme));
        problems.ensure(
            known_scheme,
            "websocket.public_url",
            format!("must start with ws:// or wss://, is {:?}", self.public_url),
        );
        for pattern in &self.allowed_origins {
            if let Err(error) = pattern.parse::<OriginPattern>() {
                problems.add("websocket.allowed_origins", format!("{error}, is {pattern:?}"));
            }
        }
        problems.ensure(
            self.tls.cert.is_some() == self.tls.key.is_some()
                && (self.tls.client_ca.is_none() || self.tls.cert.is_some()),
            "websocket.tls",
            "needs cert and key together, and both for client_ca",
        );
    }
}

impl AuthConfig {
    /// Builds what checks tokens; none when no key is given. `rotating` are the keys of [`Self::jwks`], kept by somebody
    /// else.
    pub(crate) fn verifier(&self, rotating: &RotatingKeys) -> anyhow::Result<Option<Verifier>> {
        let secret = self.jwt_secret.expose().as_bytes();
        if secret.is_empty() && self.jwt_public_keys.is_empty() && !self.jwks.is_configured() {
            return Ok(None);
        }
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let config = VerifierConfig {
            hs256_secrets: (!secret.is_empty()).then(|| secret.to_vec()).into_iter().collect(),
            public_keys: mainstay_jwks::public_keys(&self.jwt_public_keys).context("auth.jwt_public_keys")?,
            rotating_keys: self.jwks.is_configured().then(|| rotating.clone()),
            issuer: given(&self.issuer),
            audience: given(&self.audience),
            require_exp: self.require_exp,
            ..VerifierConfig::default()
        };
        Verifier::try_new(config).context("auth.jwt_secret").map(Some)
    }

    fn check(&self, problems: &mut Problems) {
        let len_bytes = self.jwt_secret.expose().len();
        problems.ensure(
            len_bytes == 0 || len_bytes >= 32,
            "auth.jwt_secret",
            format!("must be empty or have at least 32 bytes, has {len_bytes}"),
        );
        if let Err(error) = mainstay_jwks::public_keys(&self.jwt_public_keys) {
            problems.add("auth.jwt_public_keys", format!("{error:#}"));
        }
        self.jwks.check(problems, "auth.jwks", &self.audience);
    }
}

impl ServiceConfig for GatewayConfig {
    fn server(&self) -> &ServerConfig {
        &self.server
    }

    fn telemetry(&self) -> &TelemetryConfig {
        &self.telemetry
    }

    fn check(&self, problems: &mut Problems) {
        self.websocket.check(problems);
        self.auth.check(problems);
        self.channels.check(problems);
        self.redis.check(problems);
        self.broker.check(problems);
        self.drain.check(problems);
        self.journeys.check(problems);
        let namespaces = Namespaces::new(&self.channels);
        for (name, feed) in &self.feeds {
            let path = format!("feeds.{name}");
            problems.ensure(FeedConfig::is_name(name), &path, format!("the name {}", FeedConfig::LEGAL_NAME));
            let channel = Channel::parse(&feed.channel, self.channels.max_length).ok();
            problems.ensure(
                channel.is_some_and(|channel| namespaces.of(&channel).is_ok()),
                &format!("{path}.channel"),
                "there is no such channel",
            );
            feed.check(&format!("{path}."), problems);
        }
        self.run_time_feeds.check(problems);
        self.backend.check(self.channels.ask(), self.auth.allow_anonymous, problems);
    }
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

pub(crate) fn bytes(size: ByteSize) -> usize {
    usize::try_from(size.as_u64()).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
