//! What may be done in channels, namespace by namespace.

use std::collections::BTreeMap;
use std::time::Duration;

use bytesize::ByteSize;
use mainstay_runtime::Problems;
use serde::{Deserialize, Serialize};

use super::ChannelHook;
use crate::channel::MAX_CHANNEL_BYTES;
use crate::filter::{Filter, InvalidFilter};

/// Options of all channels.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChannelsConfig {
    /// Longest name, in bytes.
    pub max_length: usize,
    /// Subscribes every user to `#<user>` as it connects.
    pub personal: bool,
    /// Most publications in one answer, of history or of recovery.
    pub history_limit: usize,
    /// What all histories together may hold.
    pub history_memory: ByteSize,
    /// How long the position of a channel with no subscribers and no history left is remembered.
    #[serde(with = "humantime_serde")]
    pub position_ttl: Duration,
    /// How long an idempotency key is remembered.
    #[serde(with = "humantime_serde")]
    pub idempotency_ttl: Duration,
    /// Channels whose names have no colon.
    pub default: NamespaceConfig,
    /// Channels named `<namespace>:<rest>`, by namespace. Others do not exist.
    pub namespaces: BTreeMap<String, NamespaceConfig>,
}

/// Options of the channels of one namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NamespaceConfig {
    /// Who may subscribe without a subscription token; `subscribers` makes no sense here.
    pub subscribe: Who,
    /// Which clients may publish.
    pub publish: Who,
    /// Which clients may see the history.
    pub see_history: Who,
    /// Which clients may see the presence.
    pub see_presence: Who,
    /// Lists who is in a channel.
    pub presence: bool,
    /// Tells subscribers that ask for it who comes and goes.
    pub join_leave: bool,
    /// Tells it to all of them.
    pub force_join_leave: bool,
    /// Publications kept per channel; 0 keeps none.
    pub history_size: usize,
    /// How long a publication is kept.
    #[serde(with = "humantime_serde")]
    pub history_ttl: Duration,
    /// What a client that comes back is given.
    pub recovery: Recovery,
    /// Makes every subscription recoverable, asked for or not.
    pub force_recovery: bool,
    /// Tells every subscriber its position, asked for or not.
    pub force_positioning: bool,
    /// Lets subscribers filter publications by tags.
    pub filters: bool,
    /// Which publications subscribers and readers of the history may see, by tags: a JSON object in the form of the client
    /// protocol; empty: all. No client can remove it.
    pub filter: String,
    /// What becomes of publications that a subscriber is too slow for.
    pub slow: Slow,
    /// Sends what has changed instead of whole data to subscribers who can apply it.
    pub delta: bool,
    /// What the application is asked about these channels, beyond what is said here.
    pub ask: Vec<ChannelHook>,
    /// What the part of the name after the colon must look like, `*` standing for anything; empty: like anything.
    pub pattern: String,
}

/// A group of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Who {
    Nobody,
    /// Those subscribed to the channel.
    Subscribers,
    /// Those who are not anonymous.
    Users,
    Everyone,
}

/// What becomes of publications that a subscriber is too slow for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Slow {
    /// The connection is closed, and the client comes back to recover.
    Disconnect,
    /// The oldest of the channel are left out when the outbox is full.
    DropOldest,
    /// All but the latest of the channel are left out as soon as a quarter of the outbox is taken.
    KeepLatest,
}

/// What a client that comes back is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recovery {
    Off,
    /// Everything it missed.
    Stream,
    /// The latest publication, also at the first time.
    Cache,
}

impl Default for ChannelsConfig {
    fn default() -> Self {
        Self {
            max_length: MAX_CHANNEL_BYTES,
            personal: false,
            history_limit: 300,
            history_memory: ByteSize::mib(256),
            position_ttl: Duration::from_secs(24 * 3_600),
            idempotency_ttl: Duration::from_secs(300),
            default: NamespaceConfig::default(),
            namespaces: BTreeMap::new(),
        }
    }
}

impl Default for NamespaceConfig {
    fn default() -> Self {
        Self {
            subscribe: Who::Everyone,
            publish: Who::Nobody,
            see_history: Who::Subscribers,
            see_presence: Who::Subscribers,
            presence: false,
            join_leave: false,
            force_join_leave: false,
            history_size: 0,
            history_ttl: Duration::from_secs(300),
            recovery: Recovery::Off,
            force_recovery: false,
            force_positioning: false,
            filters: true,
            filter: String::new(),
            slow: Slow::Disconnect,
            delta: false,
            ask: Vec::new(),
            pattern: String::new(),
        }
    }
}

impl NamespaceConfig {
    pub(crate) fn keeps_history(&self) -> bool {
        self.history_size > 0
    }

    /// Returns the filter that no client can remove.
    pub(crate) fn forced_filter(&self) -> Result<Option<Filter>, InvalidFilter> {
        if self.filter.is_empty() { Ok(None) } else { Filter::forced(&self.filter).map(Some) }
    }

    fn check(&self, path: &str, problems: &mut Problems) {
        let (smallest, largest) = (Duration::from_millis(10), Duration::from_secs(30 * 24 * 3_600));
        problems.duration(&format!("{path}.history_ttl"), self.history_ttl, smallest..=largest);
        problems.range(&format!("{path}.history_size"), self.history_size, 0..=100_000);
        problems.ensure(
            self.subscribe != Who::Subscribers,
            &format!("{path}.subscribe"),
            "must be nobody, users or everyone",
        );
        problems.ensure(
            self.recovery == Recovery::Off || self.keeps_history(),
            &format!("{path}.recovery"),
            "needs history_size above 0",
        );
        problems.ensure(
            !self.force_recovery || self.recovery != Recovery::Off,
            &format!("{path}.force_recovery"),
            "needs recovery = \"stream\" or \"cache\"",
        );
        problems.ensure(
            !self.force_positioning || self.keeps_history(),
            &format!("{path}.force_positioning"),
            "needs history_size above 0",
        );
        problems.ensure(
            self.slow == Slow::Disconnect || !self.delta,
            &format!("{path}.slow"),
            "must be disconnect where delta is on: a change makes no sense without the one before",
        );
        problems.ensure(
            self.forced_filter().is_ok(),
            &format!("{path}.filter"),
            r#"must be a filter by tags in JSON, like {"key": "tier", "cmp": "eq", "val": "free"}: at most 64 nodes, 8 deep"#,
        );
        problems.ensure(
            self.filter.is_empty() || !self.delta,
            &format!("{path}.filter"),
            "must be empty where delta is on: a change makes no sense without the one before",
        );
        problems.ensure(
            !self.force_join_leave || self.join_leave,
            &format!("{path}.force_join_leave"),
            "needs join_leave",
        );
        problems.ensure(
            !self.ask.contains(&ChannelHook::SubRefresh) || self.ask.contains(&ChannelHook::Subscribe),
            &format!("{path}.ask"),
            "\"sub_refresh\" needs \"subscribe\"",
        );
        problems.ensure(
            !self.ask.contains(&ChannelHook::Publish) || self.publish != Who::Nobody,
            &format!("{path}.ask"),
            "\"publish\" needs somebody who may publish",
        );
    }
}

impl ChannelsConfig {
    /// Says whether the application is asked about any channel.
    pub(super) fn ask(&self) -> bool {
        self.namespaces.values().chain([&self.default]).any(|options| !options.ask.is_empty())
    }

    pub(super) fn check(&self, problems: &mut Problems) {
        let (second, month) = (Duration::from_secs(1), Duration::from_secs(30 * 24 * 3_600));
        problems.range("channels.max_length", self.max_length, 1..=MAX_CHANNEL_BYTES);
        problems.range("channels.history_limit", self.history_limit, 1..=10_000);
        let (smallest, largest) = (ByteSize::mib(1), ByteSize::gib(64));
        problems.range("channels.history_memory", self.history_memory, smallest..=largest);
        problems.duration("channels.position_ttl", self.position_ttl, second..=month);
        problems.duration("channels.idempotency_ttl", self.idempotency_ttl, second..=month);
        self.default.check("channels.default", problems);
        for (name, namespace) in &self.namespaces {
            let path = format!("channels.namespaces.{name}");
            let legal =
                |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' || byte == b'.';
            problems.ensure(
                !name.is_empty() && name.bytes().all(legal),
                &path,
                "the name must consist of letters, digits, '_', '-' and '.'",
            );
            namespace.check(&path, problems);
        }
    }
}
