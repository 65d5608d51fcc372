//! Who is told of alerts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use mainstay_redis::{RedisConfig, RedisMode};
use mainstay_rpc::Secret;
use mainstay_runtime::Problems;
use serde::{Deserialize, Serialize};

use crate::alert::Severity;
use crate::calendar::Weekly;
use crate::notify::is_address;

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
    /// Where several monitors agree on which of them sends; each sends where there is none.
    pub redis: RedisConfig,
    /// Time after which another monitor sends what one has claimed and not sent.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
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
    /// Shown to the receiver: a bearer token (webhook, ntfy, alertmanager), the token of the bot (telegram), the routing key
    /// (pagerduty), the password (email).
    pub token: Secret,
    /// Whom: addresses (email), the chat (telegram), the topic (ntfy).
    pub to: Vec<String>,
    /// Address of the sender of an email.
    pub from: String,
    /// Who logs in at the mail server; empty means nobody does.
    pub user: String,
    /// Certificate of an authority that the mail server's must come from, besides those the host trusts.
    pub ca: PathBuf,
    /// Only alerts at least as bad.
    pub min_severity: Severity,
    /// Only alerts of these sources; empty means all.
    pub sources: BTreeSet<String>,
    /// Only at these times of the week; that an alert is over is told by when it fired.
    pub during: Weekly,
    /// Told only of alerts that nobody has acknowledged this long after they fired; zero: of all, at once.
    #[serde(with = "humantime_serde")]
    pub escalate_after: Duration,
    /// Alerts that agree in all of these go into one message: `rule`, `source`, `endpoint`, `subject`, `severity` or a label.
    pub group_by: Vec<String>,
    /// How long the first alert of a group waits for others.
    #[serde(with = "humantime_serde")]
    pub group_wait: Duration,
    /// Time between two messages about one group.
    #[serde(with = "humantime_serde")]
    pub group_interval: Duration,
    /// After how long it is told again of an alert that fires on, and that nobody has acknowledged; zero: never.
    #[serde(with = "humantime_serde")]
    pub repeat_interval: Duration,
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
    /// A webhook of Discord.
    Discord,
    /// A bot of Telegram.
    Telegram,
    /// ntfy.
    Ntfy,
    /// Events API v2 of PagerDuty.
    Pagerduty,
    /// An Alertmanager (API v2).
    Alertmanager,
    /// A mail server: `smtp://` with STARTTLS, `smtps://` with TLS from the first byte.
    Email,
}

/// Names that a channel groups by.
const GROUP_BY_MAX: usize = 10;

impl ChannelKind {
    /// Returns the lower-case name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Webhook => "webhook",
            Self::Slack => "slack",
            Self::Discord => "discord",
            Self::Telegram => "telegram",
            Self::Ntfy => "ntfy",
            Self::Pagerduty => "pagerduty",
            Self::Alertmanager => "alertmanager",
            Self::Email => "email",
        }
    }

    /// Tells whether its token goes into the authorization header.
    pub(crate) fn bears_token(self) -> bool {
        matches!(self, Self::Webhook | Self::Ntfy | Self::Alertmanager)
    }

    /// Returns where it goes when no url says so.
    fn default_url(self) -> &'static str {
        match self {
            Self::Telegram => "https://api.telegram.org",
            Self::Pagerduty => "https://events.pagerduty.com/v2/enqueue",
            Self::Ntfy => "https://ntfy.sh",
            Self::Log | Self::Webhook | Self::Slack | Self::Discord | Self::Alertmanager | Self::Email => "",
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
            redis: RedisConfig::default(),
            lease: Duration::from_secs(15),
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
            token: Secret::default(),
            to: Vec::new(),
            from: String::new(),
            user: String::new(),
            ca: PathBuf::new(),
            min_severity: Severity::Warning,
            sources: BTreeSet::new(),
            during: Weekly::default(),
            escalate_after: Duration::ZERO,
            group_by: Vec::new(),
            group_wait: Duration::ZERO,
            group_interval: Duration::ZERO,
            repeat_interval: Duration::ZERO,
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
        problems.duration("notify.lease", self.lease, s(1)..=s(300));
        let mut of_redis = Problems::default();
        self.redis.check(&mut of_redis);
        for (key, message) in of_redis.each() {
            problems.add(format!("notify.{key}"), message);
        }
        for (name, channel) in &self.channels {
            channel.check(name, problems);
            let lasts = self.redis.mode == RedisMode::None || channel.within < self.lease;
            problems.ensure(
                lasts,
                "notify.lease",
                format!("must be longer than notify.channels.{name}.within"),
            );
        }
    }
}

impl ChannelConfig {
    /// Returns scheme and host: the rest may be a secret.
    pub(crate) fn public_address(&self) -> String {
        let uri = self.base().parse::<Uri>().unwrap_or_default();
        let host = uri.host().unwrap_or_default();
        uri.scheme_str().map(|scheme| format!("{scheme}://{host}")).unwrap_or_default()
    }

    fn base(&self) -> &str {
        let url = self.url.expose();
        if url.is_empty() { self.kind.default_url() } else { url }
    }

    /// Returns where a message is posted to.
    pub(crate) fn address(&self) -> String {
        let base = self.base().trim_end_matches('/');
        match self.kind {
            ChannelKind::Telegram => format!("{base}/bot{}/sendMessage", self.token.expose()),
            ChannelKind::Alertmanager => format!("{base}/api/v2/alerts"),
            _ => self.base().to_owned(),
        }
    }

    /// Tells whether one message may tell of several alerts.
    pub(crate) fn is_grouped(&self) -> bool {
        !self.group_wait.is_zero() || !self.group_interval.is_zero()
    }

    fn check_groups(&self, section: &str, problems: &mut Problems) {
        let mut ensure = |holds: bool, field: &str, message: &str| {
            problems.ensure(holds, &format!("{section}.{field}"), message)
        };
        let groups = self.is_grouped();
        let names: BTreeSet<&String> = self.group_by.iter().collect();
        let legal = names.len() == self.group_by.len() && names.len() <= GROUP_BY_MAX;
        let named = names.iter().all(|name| !name.is_empty() && name.len() <= 200);
        ensure(legal && named, "group_by", "must be at most 10 names, each once");
        ensure(groups || names.is_empty(), "group_by", "needs group_wait or group_interval");
        let itself = matches!(self.kind, ChannelKind::Pagerduty | ChannelKind::Alertmanager);
        ensure(!groups || !itself, "group_wait", "must be 0s: what speaks there groups by itself");
        let h = Duration::from_hours;
        problems.duration(&format!("{section}.group_wait"), self.group_wait, Duration::ZERO..=h(1));
        problems.duration(&format!("{section}.group_interval"), self.group_interval, Duration::ZERO..=h(24));
        let shortest =
            if self.repeat_interval.is_zero() { Duration::ZERO } else { Duration::from_millis(100) };
        let repeat = format!("{section}.repeat_interval");
        problems.duration(&repeat, self.repeat_interval, shortest..=h(24 * 7));
    }

    fn check_kind(&self, section: &str, problems: &mut Problems) {
        let mut ensure = |holds: bool, field: &str, message: &str| {
            problems.ensure(holds, &format!("{section}.{field}"), message)
        };
        match self.kind {
            ChannelKind::Telegram => {
                ensure(!self.token.is_empty(), "token", "must be the token of the bot");
                ensure(self.to.len() == 1, "to", "must name one chat");
            }
            ChannelKind::Ntfy => ensure(self.to.len() == 1, "to", "must name one topic"),
            ChannelKind::Pagerduty => ensure(!self.token.is_empty(), "token", "must be the routing key"),
            ChannelKind::Email => {
                let all =
                    !self.to.is_empty() && self.to.len() <= 50 && self.to.iter().all(|to| is_address(to));
                ensure(all, "to", "must be 1 to 50 addresses");
                ensure(is_address(&self.from), "from", "must be an address");
            }
            ChannelKind::Log
            | ChannelKind::Webhook
            | ChannelKind::Slack
            | ChannelKind::Discord
            | ChannelKind::Alertmanager => {}
        }
    }

    fn check(&self, name: &str, problems: &mut Problems) {
        let section = format!("notify.channels.{name}");
        let legal = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
        if name.is_empty() || name.len() > 64 || !name.chars().all(legal) {
            problems.add(&section, "must be a name of at most 64 letters a-z, digits and dashes");
        }
        let uri = self.base().parse::<Uri>().ok();
        let (schemes, message) = match self.kind {
            ChannelKind::Email => (["smtp", "smtps"], "must be an smtp or smtps url"),
            _ => (["http", "https"], "must be an http or https url"),
        };
        let fits = uri.is_some_and(|uri| {
            uri.scheme_str().is_some_and(|scheme| schemes.contains(&scheme))
                && uri.host().is_some_and(|host| !host.is_empty())
        });
        let needs_url = self.kind != ChannelKind::Log;
        problems.ensure(fits || !needs_url, &format!("{section}.url"), message);
        self.check_kind(&section, problems);
        self.check_groups(&section, problems);
        let hours = format!("{section}.during.hours");
        problems.ensure(self.during.is_legal(), &hours, "must be like 08:00-18:00 (UTC)");
        let escalation = format!("{section}.escalate_after");
        problems.duration(&escalation, self.escalate_after, Duration::ZERO..=Duration::from_hours(24 * 7));
        problems.duration(
            &format!("{section}.within"),
            self.within,
            Duration::from_millis(100)..=Duration::from_secs(60),
        );
    }
}
