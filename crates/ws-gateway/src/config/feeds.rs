use std::collections::BTreeMap;
use std::time::Duration;

use bytesize::ByteSize;
use http::{HeaderName, HeaderValue, Uri};
use mainstay_resilience::breaker::BreakerConfig;
use mainstay_rpc::{BreakerSection, ClientTls};
use mainstay_runtime::{Problems, Secret};
use serde::{Deserialize, Serialize};

/// Longest URL, and longest text that is said to a source.
const MAX_URL_BYTES: usize = 2_048;
const MAX_TEXT_BYTES: usize = 16 << 10;
const MAX_HEADERS: usize = 32;
const MAX_TEXTS: usize = 32;
/// What a handshake says itself.
const OWN_HEADERS: [&str; 9] = [
    "accept",
    "authorization",
    "connection",
    "content-length",
    "host",
    "sec-websocket-key",
    "sec-websocket-version",
    "transfer-encoding",
    "upgrade",
];

/// A source of messages elsewhere that is published into a channel.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FeedConfig {
    /// Where its messages are published.
    pub channel: String,
    /// Sources of the same messages: `ws` and `wss` by WebSocket, `http` and `https` as server-sent events. One is used at a
    /// time, the next when it fails.
    pub endpoints: Vec<String>,
    /// The header `authorization`; empty: none.
    pub authorization: Secret,
    /// Sent with every handshake.
    pub headers: BTreeMap<String, Secret>,
    /// Texts that are sent by WebSocket once connected and after a gap; `{after}` stands for the number of the last message.
    pub subscribe: Vec<Secret>,
    /// A text that is sent by WebSocket in place of a ping; empty: a ping.
    pub heartbeat: Secret,
    /// How often a WebSocket is pinged.
    #[serde(with = "humantime_serde")]
    pub ping_every: Duration,
    /// How long nothing at all may come before the connection is given up.
    #[serde(with = "humantime_serde")]
    pub silent_for: Duration,
    /// How long no message may come, whatever else does; zero: for ever.
    #[serde(with = "humantime_serde")]
    pub no_message_for: Duration,
    /// Time for name resolution, TCP and TLS handshakes, and for the answer to the handshake.
    #[serde(with = "humantime_serde")]
    pub connect_within: Duration,
    /// Ends of the first wait before it connects again and of the longest; waits are drawn from zero on.
    #[serde(with = "humantime_serde")]
    pub reconnect_after: Duration,
    #[serde(with = "humantime_serde")]
    pub reconnect_after_max: Duration,
    /// Largest message.
    pub max_message: ByteSize,
    /// JSON pointers to the id of a message, to its number and to what is published; empty: none, none, and all of it. What
    /// lacks one that is given is no message. Server-sent events have an id of their own where `id` is empty.
    pub id: String,
    pub sequence: String,
    pub data: String,
    /// The numbering begins anew with each connection.
    pub sequence_per_connection: bool,
    /// Ids that are remembered.
    pub window: u32,
    /// How many messages wait for those with smaller numbers, and how long.
    pub hold: u32,
    #[serde(with = "humantime_serde")]
    pub hold_for: Duration,
    /// How long nothing but numbers of the past may come before the numbering is taken to have begun anew.
    #[serde(with = "humantime_serde")]
    pub renumbered_after: Duration,
    /// How long the node that runs it may say nothing to Redis before another takes over.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    pub tls: ClientTls,
    /// When an endpoint is left alone.
    pub breaker: BreakerSection,
}

/// What may be put at run time.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunTimeFeedsConfig {
    /// How many feeds; 0: none can be put.
    pub max: u32,
    /// Hosts that they may read from: names, or `*.` and what a name ends with; empty: any.
    pub hosts: Vec<String>,
}

impl Default for FeedConfig {
    fn default() -> Self {
        Self {
            channel: String::new(),
            endpoints: Vec::new(),
            authorization: Secret::default(),
            headers: BTreeMap::new(),
            subscribe: Vec::new(),
            heartbeat: Secret::default(),
            ping_every: Duration::from_secs(10),
            silent_for: Duration::from_secs(30),
            no_message_for: Duration::ZERO,
            connect_within: Duration::from_secs(5),
            reconnect_after: Duration::from_millis(250),
            reconnect_after_max: Duration::from_secs(30),
            max_message: ByteSize::kib(64),
            id: String::new(),
            sequence: String::new(),
            data: String::new(),
            sequence_per_connection: false,
            window: 4_096,
            hold: 256,
            hold_for: Duration::from_secs(2),
            renumbered_after: Duration::from_secs(30),
            lease: Duration::from_secs(3),
            tls: ClientTls::default(),
            breaker: BreakerSection::default(),
        }
    }
}

impl Default for RunTimeFeedsConfig {
    fn default() -> Self {
        Self { max: 100, hosts: Vec::new() }
    }
}

impl FeedConfig {
    /// Says how a feed may be called.
    pub(crate) const LEGAL_NAME: &str = "must consist of 1 to 64 letters, digits, '_', '-' and '.'";

    pub(crate) fn is_name(name: &str) -> bool {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        (1..=64).contains(&name.len()) && name.bytes().all(legal)
    }

    /// Reads an endpoint, in the form of HTTP; true where it speaks WebSocket.
    pub(crate) fn endpoint(text: &str) -> Option<(Uri, bool)> {
        let (scheme, rest) = text.split_once("://")?;
        let (scheme, is_websocket) = match scheme {
            "ws" => ("http", true),
            "wss" => ("https", true),
            "http" => ("http", false),
            "https" => ("https", false),
            _ => return None,
        };
        let uri: Uri = format!("{scheme}://{rest}").parse().ok()?;
        let is_bare = !uri.authority()?.as_str().contains('@');
        (is_bare && uri.host().is_some_and(|host| !host.is_empty())).then_some((uri, is_websocket))
    }

    /// Reports what cannot be; `prefix` leads to its keys. No value is shown: there are secrets in most of them.
    pub(crate) fn check(&self, prefix: &str, problems: &mut Problems) {
        let (ms, hour) = (Duration::from_millis(1), Duration::from_secs(3_600));
        let key = |name: &str| format!("{prefix}{name}");
        self.check_sources(prefix, problems);
        for (name, pointer) in [("id", &self.id), ("sequence", &self.sequence), ("data", &self.data)] {
            problems.ensure(
                pointer.is_empty() || (pointer.starts_with('/') && pointer.len() <= 255),
                &key(name),
                "must be a JSON pointer such as /id, of at most 255 bytes",
            );
        }
        let tenth = Duration::from_millis(100);
        problems.duration(&key("ping_every"), self.ping_every, tenth..=hour);
        problems.duration(&key("silent_for"), self.silent_for, tenth..=hour);
        if !self.no_message_for.is_zero() {
            problems.duration(&key("no_message_for"), self.no_message_for, tenth..=hour * 24);
        }
        problems.duration(&key("connect_within"), self.connect_within, ms..=Duration::from_secs(60));
        problems.duration(&key("reconnect_after"), self.reconnect_after, ms..=hour);
        problems.duration(&key("reconnect_after_max"), self.reconnect_after_max, self.reconnect_after..=hour);
        problems.range(&key("max_message"), self.max_message, ByteSize::b(64)..=ByteSize::mib(4));
        let (shortest, longest) = (Duration::from_millis(300), Duration::from_secs(60));
        problems.duration(&key("lease"), self.lease, shortest..=longest);
        problems.range(&key("window"), self.window, 0..=1_000_000);
        problems.range(&key("hold"), self.hold, 0..=10_000);
        problems.duration(&key("hold_for"), self.hold_for, ms..=Duration::from_secs(60));
        problems.duration(&key("renumbered_after"), self.renumbered_after, ms..=hour);
        if let Err(wrong) = BreakerConfig::try_new(self.breaker.clone().into()) {
            problems.add(key("breaker"), wrong.to_string());
        }
    }

    fn check_sources(&self, prefix: &str, problems: &mut Problems) {
        let key = |name: &str| format!("{prefix}{name}");
        let n_endpoints = self.endpoints.len();
        problems.ensure(
            (1..=16).contains(&n_endpoints),
            &key("endpoints"),
            format!("must name 1 to 16 sources, names {n_endpoints}"),
        );
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            problems.ensure(
                endpoint.len() <= MAX_URL_BYTES && Self::endpoint(endpoint).is_some(),
                &key(&format!("endpoints[{index}]")),
                format!("must be an absolute ws, wss, http or https URL without credentials, of at most {MAX_URL_BYTES} bytes"),
            );
        }
        problems.range(&key("headers"), self.headers.len(), 0..=MAX_HEADERS);
        for (name, value) in &self.headers {
            let is_legal =
                HeaderName::try_from(name).is_ok() && HeaderValue::try_from(value.expose()).is_ok();
            let path = key(&format!("headers.{name}"));
            problems.ensure(is_legal && value.expose().len() <= MAX_TEXT_BYTES, &path, "is no legal header");
            let is_own = OWN_HEADERS.iter().any(|own| name.eq_ignore_ascii_case(own));
            problems.ensure(!is_own, &path, "is said by the handshake itself (see authorization)");
        }
        let authorization = self.authorization.expose();
        problems.ensure(
            HeaderValue::try_from(authorization).is_ok() && authorization.len() <= MAX_TEXT_BYTES,
            &key("authorization"),
            "is no legal value of a header",
        );
        problems.range(&key("subscribe"), self.subscribe.len(), 0..=MAX_TEXTS);
        let texts = self.subscribe.iter().map(|text| ("subscribe", text));
        for (name, text) in texts.chain([("heartbeat", &self.heartbeat)]) {
            problems.ensure(
                text.expose().len() <= MAX_TEXT_BYTES,
                &key(name),
                format!("must have at most {MAX_TEXT_BYTES} bytes"),
            );
        }
    }
}

impl RunTimeFeedsConfig {
    pub(super) fn check(&self, problems: &mut Problems) {
        problems.range("run_time_feeds.max", self.max, 0..=1_000);
        let is_host = |host: &String| !host.is_empty() && !host.contains(['/', '@', ' ']);
        problems.ensure(
            self.hosts.iter().all(is_host),
            "run_time_feeds.hosts",
            "must be names of hosts, such as feeds.example.org or *.example.org",
        );
    }

    /// Tells whether feeds that are put may read from a host.
    pub(crate) fn allows(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let covers = |pattern: &String| {
            let pattern = pattern.to_ascii_lowercase();
            match pattern.strip_prefix('*') {
                Some(end) => host.len() > end.len() && host.ends_with(end),
                None => host == pattern,
            }
        };
        self.hosts.is_empty() || self.hosts.iter().any(covers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(config: &FeedConfig) -> Vec<String> {
        let mut problems = Problems::default();
        config.check("feeds.f.", &mut problems);
        problems.lines().into_iter().map(|line| line.split(": ").next().unwrap().to_owned()).collect()
    }

    #[test]
    fn what_cannot_be_is_named_and_secrets_are_not() {
        let good = FeedConfig { endpoints: vec!["wss://h/p?t=1".to_owned()], ..FeedConfig::default() };
        assert_eq!(wrong(&good), [""; 0]);
        let headers = [("host", "x"), ("x y", "secret"), ("x-ok", "fine"), ("x-bad", "a\nsecret")];
        let bad = FeedConfig {
            endpoints: ["http://u:secret@h/", "ftp://h/", "ws:///x", "https://h"].map(str::to_owned).into(),
            headers: headers.map(|(name, value)| (name.to_owned(), Secret::from(value))).into(),
            authorization: Secret::from("a\nsecret"),
            id: "id".to_owned(),
            hold: 20_000,
            lease: Duration::from_millis(1),
            reconnect_after_max: Duration::from_millis(1),
            ..FeedConfig::default()
        };
        let keys = [
            "authorization",
            "endpoints[0]",
            "endpoints[1]",
            "endpoints[2]",
            "headers.host",
            "headers.x y",
            "headers.x-bad",
            "hold",
            "id",
            "lease",
            "reconnect_after_max",
        ];
        let mut found = wrong(&bad);
        found.sort();
        let mut expected = keys.map(|key| format!("feeds.f.{key}"));
        expected.sort();
        assert_eq!(found, expected);
        let mut problems = Problems::default();
        bad.check("", &mut problems);
        let told = format!("{:?} {bad:?} {}", problems.lines(), serde_json::to_string(&bad).unwrap());
        assert!(!told.replace("http://u:secret@h/", "").contains("secret"), "{told}");
    }

    #[test]
    fn hosts_are_held_to_the_list() {
        let list = |hosts: &[&str]| RunTimeFeedsConfig {
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            ..RunTimeFeedsConfig::default()
        };
        for (hosts, host, expected) in [
            (&[][..], "169.254.169.254", true),
            (&["a.example.org"], "A.example.org.", true),
            (&["a.example.org"], "b.a.example.org", false),
            (&["*.example.org"], "a.example.org", true),
            (&["*.example.org"], "example.org", false),
            (&["*.example.org"], "a-example.org", false),
            (&["10.0.0.1"], "10.0.0.2", false),
        ] {
            assert_eq!(list(hosts).allows(host), expected, "{hosts:?} {host}");
        }
    }
}
