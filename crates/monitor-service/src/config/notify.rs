//! Who is told of alerts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use http::Uri;
use mainstay_rpc::Secret;
use mainstay_runtime::Problems;
use serde::{Deserialize, Serialize};

use crate::alert::Severity;

/// Configures notifications: section `notify`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NotifyConfig {
    /// First wait after an attempt that failed; it doubles from there, with jitter.
    #[serde(with = "humantime_serde")]
    pub retry_after: Duration,
    /// Longest wait.
    #[serde(with = "humantime_serde")]
    pub retry_after_max: Duration,
    /// Age at which a message that still does not arrive is dropped.
    #[serde(with = "humantime_serde")]
    pub give_up_after: Duration,
    /// Messages that wait for one channel; the oldest go.
    pub queue_max: usize,
    /// Channels by name.
    pub channels: BTreeMap<String, ChannelConfig>,
}

/// Configures one channel: sections `notify.channels.<name>`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChannelConfig {
    /// What speaks there.
    pub kind: ChannelKind,
    /// Where messages are sent; may hold a token, so it is a secret.
    pub url: Secret,
    /// Signs the bodies of a webhook; empty means unsigned.
    pub secret: Secret,
    /// Only alerts at least as bad.
    pub min_severity: Severity,
    /// Only alerts of these sources; empty means all.
    pub sources: BTreeSet<String>,
    /// Whether it is told that an alert is over.
    pub resolved: bool,
    /// Whether the address may be a private one.
    pub allow_private: bool,
    /// Time for one attempt.
    #[serde(with = "humantime_serde")]
    pub within: Duration,
}

/// Says what speaks at the other end of a channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelKind {
    /// The log of the monitor.
    #[default]
    Log,
    /// Anything that takes our JSON by POST.
    Webhook,
    /// Slack, or what takes its incoming webhooks.
    Slack,
}

impl ChannelKind {
    /// Returns the lower-case name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Webhook => "webhook",
            Self::Slack => "slack",
        }
    }
}

impl Default for NotifyConfig {
    fn default() -> Self {
        Self {
            retry_after: Duration::from_secs(1),
            retry_after_max: Duration::from_mins(5),
            give_up_after: Duration::from_hours(24),
            queue_max: 1_000,
            channels: BTreeMap::new(),
        }
    }
}

impl Default for ChannelConfig {
    fn default() -> Self {
        Self {
            kind: ChannelKind::default(),
            url: Secret::default(),
            secret: Secret::default(),
            min_severity: Severity::Warning,
            sources: BTreeSet::new(),
            resolved: true,
            allow_private: false,
            within: Duration::from_secs(5),
        }
    }
}

impl NotifyConfig {
    pub(super) fn check(&self, problems: &mut Problems) {
        let (ms, s, h) = (Duration::from_millis, Duration::from_secs, Duration::from_hours);
        problems.duration("notify.retry_after", self.retry_after, ms(10)..=s(60));
        problems.duration("notify.retry_after_max", self.retry_after_max, self.retry_after..=h(1));
        problems.duration("notify.give_up_after", self.give_up_after, s(1)..=h(24 * 7));
        problems.range("notify.queue_max", self.queue_max, 10..=100_000);
        for (name, channel) in &self.channels {
            channel.check(name, problems);
        }
    }
}

impl ChannelConfig {
    /// Returns scheme and host: the rest may be a secret.
    pub(crate) fn public_address(&self) -> String {
        let uri = self.url.expose().parse::<Uri>().unwrap_or_default();
        let host = uri.host().unwrap_or_default();
        uri.scheme_str().map(|scheme| format!("{scheme}://{host}")).unwrap_or_default()
    }

    fn check(&self, name: &str, problems: &mut Problems) {
        let section = format!("notify.channels.{name}");
        let legal = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
        if name.is_empty() || name.len() > 64 || !name.chars().all(legal) {
            problems.add(&section, "must be a name of at most 64 letters a-z, digits and dashes");
        }
        let uri = self.url.expose().parse::<Uri>().ok();
        let is_http = uri.is_some_and(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.host().is_some_and(|host| !host.is_empty())
        });
        let needs_url = self.kind != ChannelKind::Log;
        problems.ensure(is_http || !needs_url, &format!("{section}.url"), "must be an http or https url");
        problems.duration(
            &format!("{section}.within"),
            self.within,
            Duration::from_millis(100)..=Duration::from_secs(60),
        );
    }
}
