use std::time::Duration;

use http::HeaderName;
use mainstay_runtime::Problems;
use serde::{Deserialize, Serialize};

/// What the application is asked about clients, and what holds while it gives no answer. Which channels it is asked about is
/// said by their namespaces (`ask`).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HooksConfig {
    /// What it is asked about connections.
    pub ask: Vec<ConnectionHook>,
    /// Headers of the handshake that `connect` is told.
    pub headers: Vec<String>,
    pub connect: HookConfig,
    pub refresh: HookConfig,
    pub subscribe: HookConfig,
    pub sub_refresh: HookConfig,
    pub publish: HookConfig,
}

/// How one question is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HookConfig {
    /// Time for an answer.
    #[serde(with = "humantime_serde")]
    pub within: Duration,
    /// What holds without one.
    pub when_away: Away,
}

/// What holds while the application gives no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Away {
    Deny,
    /// What the rest of the configuration says.
    Allow,
}

/// What the application may be asked about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionHook {
    /// Who a client is that shows no token.
    Connect,
    /// How long such a connection lives on.
    Refresh,
}

/// What the application may be asked about the channels of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelHook {
    /// Whether a client may subscribe that shows no token for it.
    Subscribe,
    /// How long such a subscription lives on.
    SubRefresh,
    /// Whether a client may publish, and what.
    Publish,
}

impl Default for HooksConfig {
    fn default() -> Self {
        let hook = HookConfig::default();
        Self {
            ask: Vec::new(),
            headers: Vec::new(),
            connect: hook,
            refresh: hook,
            subscribe: hook,
            sub_refresh: hook,
            publish: hook,
        }
    }
}

impl Default for HookConfig {
    fn default() -> Self {
        Self { within: Duration::from_secs(1), when_away: Away::Deny }
    }
}

impl HooksConfig {
    pub(crate) fn asks(&self, hook: ConnectionHook) -> bool {
        self.ask.contains(&hook)
    }

    /// Reports what cannot be; `anonymous` says whether clients come in that nobody knows.
    pub(super) fn check(&self, anonymous: bool, problems: &mut Problems) {
        let (ms, minute) = (Duration::from_millis(1), Duration::from_secs(60));
        for (name, hook) in [
            ("connect", self.connect),
            ("refresh", self.refresh),
            ("subscribe", self.subscribe),
            ("sub_refresh", self.sub_refresh),
            ("publish", self.publish),
        ] {
            problems.duration(&format!("backend.hooks.{name}.within"), hook.within, ms..=minute);
        }
        problems.ensure(
            !self.asks(ConnectionHook::Refresh) || self.asks(ConnectionHook::Connect),
            "backend.hooks.ask",
            "\"refresh\" needs \"connect\"",
        );
        problems.ensure(
            !self.asks(ConnectionHook::Connect) || self.connect.when_away == Away::Deny || anonymous,
            "backend.hooks.connect.when_away",
            "\"allow\" needs auth.allow_anonymous: nobody says who the client is",
        );
        problems.ensure(self.headers.len() <= 16, "backend.hooks.headers", "at most 16 are passed on");
        for name in &self.headers {
            let is_name = HeaderName::try_from(name.as_str()).is_ok_and(|header| header.as_str() == name);
            problems.ensure(
                is_name,
                "backend.hooks.headers",
                format!("must be names of headers in small letters, is {name:?}"),
            );
        }
    }
}
