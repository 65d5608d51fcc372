//! What is asked from outside whether it answers as it should.

use std::collections::BTreeMap;
use std::time::Duration;

use mainstay_rpc::{ClientTls, EndpointList, Secret, UpstreamConfig};
use mainstay_runtime::Problems;
use serde::{Deserialize, Serialize};

use super::{TargetConfig, watched};
use crate::alert::Severity;
use crate::target::{TargetKind, Terms};

/// Configures one probe: sections `probes.<name>`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProbeConfig {
    /// How it is asked.
    pub kind: ProbeKind,
    /// What is asked, each by itself.
    pub urls: EndpointList,
    /// How often.
    #[serde(with = "humantime_serde")]
    pub every: Duration,
    /// Time for one probe.
    #[serde(with = "humantime_serde")]
    pub within: Duration,
    /// Probes in a row that must fail before it is an alert.
    pub failures: u32,
    /// How bad that is.
    pub severity: Severity,
    /// Slower answers are failures, too; none means that `within` is all that counts.
    #[serde(with = "humantime_serde")]
    pub slow_after: Option<Duration>,
    /// `http`: legal statuses; empty means 200 to 299.
    pub statuses: Vec<u16>,
    /// `http`: what the body must contain; empty means anything.
    pub contains: String,
    /// `http`: headers that the answer must have; a value that ends with `*` is a beginning, `*` alone anything.
    pub headers: BTreeMap<String, String>,
    /// `http`: values that a JSON body must have, by their JSON pointers (RFC 6901).
    pub json: BTreeMap<String, serde_json::Value>,
    /// `grpc`: the service whose health is asked for; empty means the server.
    pub service: String,
    /// `websocket`: text that is sent after the handshake; empty means none.
    pub send: String,
    /// `websocket`: what a text that comes then must contain; empty means that none is waited for.
    pub expect: String,
    /// `http`, `grpc`, `websocket`: bearer token; empty means none.
    pub token: Secret,
    /// `http`, `websocket`: who logs in (basic); empty means nobody does.
    pub user: String,
    /// Password of that user.
    pub password: Secret,
    /// Certificates where TLS is spoken; without `ca` whom the host trusts is trusted.
    pub tls: ClientTls,
}

/// Says how something is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeKind {
    /// GET over HTTP/1.1, with conditions on the answer.
    #[default]
    Http,
    /// A connection.
    Tcp,
    /// The health service of gRPC.
    Grpc,
    /// The handshake of a WebSocket, and one message back.
    Websocket,
    /// A handshake of TLS, and how long the certificate is good.
    Tls,
}

impl ProbeKind {
    /// Returns the lower-case name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
            Self::Grpc => "grpc",
            Self::Websocket => "websocket",
            Self::Tls => "tls",
        }
    }

    fn schemes(self) -> &'static [&'static str] {
        match self {
            Self::Http | Self::Grpc => &["http", "https"],
            Self::Tcp => &["tcp"],
            Self::Websocket => &["ws", "wss"],
            Self::Tls => &["tls"],
        }
    }
}

impl Default for ProbeConfig {
    fn default() -> Self {
        Self {
            kind: ProbeKind::default(),
            urls: EndpointList::default(),
            every: Duration::from_secs(5),
            within: Duration::from_secs(3),
            failures: 2,
            severity: Severity::Critical,
            slow_after: None,
            statuses: Vec::new(),
            contains: String::new(),
            headers: BTreeMap::new(),
            json: BTreeMap::new(),
            service: String::new(),
            send: String::new(),
            expect: String::new(),
            token: Secret::default(),
            user: String::new(),
            password: Secret::default(),
            tls: ClientTls::default(),
        }
    }
}

impl ProbeConfig {
    pub(super) fn check(&self, name: &str, problems: &mut Problems) {
        let section = format!("probes.{name}");
        let bare = matches!(self.kind, ProbeKind::Tcp | ProbeKind::Tls | ProbeKind::Grpc);
        watched::check_urls(&format!("{section}.urls"), &self.urls, self.kind.schemes(), bare, problems);
        watched::check_pace(&section, self.every, self.within, self.failures, problems);
        watched::check_login(&section, &self.token, &self.user, &self.password, problems);
        watched::check_tls(&section, &self.tls, problems);
        let plain = |url: &str| url.starts_with("http://");
        let mut ensure = |holds: bool, field: &str, message: &str| {
            problems.ensure(holds, &format!("{section}.{field}"), message)
        };
        let secure_grpc = self.kind != ProbeKind::Grpc || self.tls.ca.is_some();
        ensure(
            secure_grpc || self.urls.iter().all(|url| plain(url)),
            "tls.ca",
            "is needed for https of grpc",
        );
        let slow = self.slow_after.is_none_or(|after| !after.is_zero() && after <= self.within);
        ensure(slow, "slow_after", "must be above zero and at most `within`");
        ensure(
            self.statuses.iter().all(|status| (100..600).contains(status)),
            "statuses",
            "must be 100 to 599",
        );
        ensure(
            self.json.keys().all(|pointer| pointer.is_empty() || pointer.starts_with('/')),
            "json",
            "must be named by JSON pointers, which begin with a slash",
        );
        let names = self.headers.keys().all(|name| name.parse::<http::HeaderName>().is_ok());
        ensure(names, "headers", "must be named as headers are");
        self.check_kind(&mut ensure);
    }

    /// A condition that nobody looks at would be taken for one that holds.
    fn check_kind(&self, ensure: &mut impl FnMut(bool, &str, &str)) {
        let of = |kinds: &[ProbeKind]| kinds.contains(&self.kind);
        let http = of(&[ProbeKind::Http]);
        let websocket = of(&[ProbeKind::Websocket]);
        ensure(http || self.statuses.is_empty(), "statuses", "is only for kind \"http\"");
        ensure(http || self.contains.is_empty(), "contains", "is only for kind \"http\"");
        ensure(http || self.headers.is_empty(), "headers", "is only for kind \"http\"");
        ensure(http || self.json.is_empty(), "json", "is only for kind \"http\"");
        ensure(of(&[ProbeKind::Grpc]) || self.service.is_empty(), "service", "is only for kind \"grpc\"");
        ensure(websocket || self.send.is_empty(), "send", "is only for kind \"websocket\"");
        ensure(websocket || self.expect.is_empty(), "expect", "is only for kind \"websocket\"");
        let token = of(&[ProbeKind::Http, ProbeKind::Grpc, ProbeKind::Websocket]);
        ensure(token || self.token.is_empty(), "token", "is not for this kind");
        ensure(http || websocket || self.user.is_empty(), "user", "is not for this kind");
    }

    /// Returns how the health service of a server is called.
    pub(crate) fn upstream(&self, url: &str) -> UpstreamConfig {
        let called =
            TargetConfig { token: self.token.clone(), tls: self.tls.clone(), ..TargetConfig::default() };
        called.upstream([url].into_iter().collect(), self.within)
    }

    pub(super) fn terms(&self, keep: Duration) -> Terms {
        Terms {
            kind: TargetKind::Probe,
            ticks: watched::ticks(keep, self.every),
            patience: watched::patience(self.every, self.within),
            failures: self.failures,
            severity: self.severity,
            ..Terms::default()
        }
    }
}
