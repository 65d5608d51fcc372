//! Why a server's request is refused.

use mainstay_rpc::{ErrorCode, Failure};

use crate::channel::InvalidChannel;
use crate::namespace::NoSuchChannel;

/// Says what is wrong with a request of the server side.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(transparent)]
    ChannelInvalid(#[from] InvalidChannel),
    #[error(transparent)]
    NoSuchChannel(#[from] NoSuchChannel),
    #[error("data has {len_bytes} bytes, at most {max_bytes} are allowed")]
    DataTooLarge { len_bytes: usize, max_bytes: usize },
    #[error("data is not a JSON document")]
    DataNotJson(#[source] serde_json::Error),
    #[error("{n_channels} channels, 1 to {max_channels} are allowed")]
    TooManyChannels { n_channels: usize, max_channels: usize },
    #[error("{n_messages} messages, 1 to {max_messages} are allowed")]
    TooManyMessages { n_messages: usize, max_messages: usize },
    #[error(
        "not tried: it is not known whether an earlier message of the batch for this channel was published"
    )]
    BatchStopped,
    #[error("{0}")]
    TagsInvalid(String),
    #[error(
        r#"filter must be a filter by tags in JSON, like {{"key": "tier", "cmp": "eq", "val": "free"}}: at most 64 nodes, 8 deep"#
    )]
    FilterInvalid,
    #[error("user must have 1 to 255 bytes")]
    UserInvalid,
    #[error("client is not the id of a connection")]
    ClientInvalid,
    #[error("idempotency key has {len_bytes} bytes, at most {max_bytes} are allowed")]
    IdempotencyKeyTooLong { len_bytes: usize, max_bytes: usize },
    #[error("no connection has this id")]
    ConnectionUnknown,
    #[error("expire_at has passed; `expired` ends it now")]
    ExpireAtPast,
    #[error("no feed has this name")]
    FeedUnknown,
    #[error("a feed of this name is in the configuration, and is changed there")]
    FeedConfigured,
    #[error("without redis nothing keeps a feed that is put at run time: name it in the configuration")]
    FeedsNeedRedis,
    #[error("redis does not answer: whether feeds were changed is not known")]
    FeedsUnavailable,
    #[error("the feed has version {version}, 0 standing for none")]
    FeedVersion { version: u64 },
    #[error("there are {max} feeds already, as many as run_time_feeds.max allows")]
    TooManyFeeds { max: u32 },
    #[error("no node has this id")]
    NodeUnknown,
    #[error("{per_second} connections per second, at most {max} are allowed")]
    PaceInvalid { per_second: u32, max: u32 },
    #[error("the process stops: its clients are sent away at its own pace")]
    Stopping,
    #[error("some nodes did not answer: {}", _0.join(", "))]
    NodesMissing(Vec<String>),
    #[error("so many watch already that one more is too many")]
    TooManyWatchers,
    #[error("this node keeps no journeys: journeys.memory is 0")]
    JourneysOff,
    #[error("no event has this number yet")]
    PositionInvalid,
    #[error("since is no moment")]
    SinceInvalid,
    #[error("not a kind of events")]
    KindInvalid,
    #[error("the namespace of the channel keeps no presence")]
    PresenceOff,
    #[error("the namespace of the channel keeps no history")]
    HistoryOff,
    #[error("the epoch of the channel is another")]
    EpochChanged,
    #[error("redis did not answer: the publication may have been made or not")]
    PublishUnknown,
    #[error("redis cannot be asked")]
    RedisUnavailable,
}

impl Refusal {
    /// Returns the stable word for it.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::ChannelInvalid(_) => "CHANNEL_INVALID",
            Self::DataTooLarge { .. } => "DATA_TOO_LARGE",
            Self::DataNotJson(_) => "DATA_NOT_JSON",
            Self::TooManyChannels { .. } => "TOO_MANY_CHANNELS",
            Self::TooManyMessages { .. } => "TOO_MANY_MESSAGES",
            Self::BatchStopped => "BATCH_STOPPED",
            Self::TagsInvalid(_) => "TAGS_INVALID",
            Self::NoSuchChannel(NoSuchChannel::Namespace) => "NAMESPACE_UNKNOWN",
            Self::NoSuchChannel(NoSuchChannel::Pattern) => "CHANNEL_INVALID",
            Self::FilterInvalid => "FILTER_INVALID",
            Self::UserInvalid => "USER_INVALID",
            Self::ClientInvalid => "CLIENT_INVALID",
            Self::IdempotencyKeyTooLong { .. } => "IDEMPOTENCY_KEY_TOO_LONG",
            Self::ConnectionUnknown => "CONNECTION_UNKNOWN",
            Self::NodesMissing(_) => "NODES_MISSING",
            Self::ExpireAtPast => "EXPIRE_AT_PAST",
            Self::FeedUnknown => "FEED_UNKNOWN",
            Self::FeedConfigured => "FEED_CONFIGURED",
            Self::FeedsNeedRedis => "FEEDS_NEED_REDIS",
            Self::FeedsUnavailable => "FEEDS_UNAVAILABLE",
            Self::FeedVersion { .. } => "VERSION_MISMATCH",
            Self::TooManyFeeds { .. } => "TOO_MANY_FEEDS",
            Self::NodeUnknown => "NODE_UNKNOWN",
            Self::PaceInvalid { .. } => "PACE_INVALID",
            Self::Stopping => "STOPPING",
            Self::TooManyWatchers => "TOO_MANY_WATCHERS",
            Self::JourneysOff => "JOURNEYS_OFF",
            Self::PositionInvalid => "POSITION_INVALID",
            Self::SinceInvalid => "SINCE_INVALID",
            Self::KindInvalid => "KIND_INVALID",
            Self::PresenceOff => "PRESENCE_OFF",
            Self::HistoryOff => "HISTORY_OFF",
            Self::EpochChanged => "EPOCH_CHANGED",
            Self::PublishUnknown => "PUBLISH_UNKNOWN",
            Self::RedisUnavailable => "REDIS_UNAVAILABLE",
        }
    }

    fn code(&self) -> ErrorCode {
        match self {
            Self::NoSuchChannel(NoSuchChannel::Namespace)
            | Self::ConnectionUnknown
            | Self::FeedUnknown
            | Self::NodeUnknown => ErrorCode::NotFound,
            Self::TooManyWatchers | Self::TooManyFeeds { .. } => ErrorCode::ResourceExhausted,
            Self::FeedConfigured | Self::FeedVersion { .. } => ErrorCode::Conflict,
            Self::PresenceOff
            | Self::HistoryOff
            | Self::EpochChanged
            | Self::FeedsNeedRedis
            | Self::JourneysOff
            | Self::Stopping => ErrorCode::FailedPrecondition,
            Self::PublishUnknown
            | Self::BatchStopped
            | Self::RedisUnavailable
            | Self::FeedsUnavailable
            | Self::NodesMissing(_) => ErrorCode::Unavailable,
            _ => ErrorCode::InvalidArgument,
        }
    }

    fn field(&self) -> &'static str {
        match self {
            Self::ChannelInvalid(_)
            | Self::NoSuchChannel(_)
            | Self::PresenceOff
            | Self::HistoryOff
            | Self::PublishUnknown
            | Self::BatchStopped
            | Self::RedisUnavailable => "channel",
            Self::DataTooLarge { .. } | Self::DataNotJson(_) => "data",
            Self::TooManyChannels { .. } => "channels",
            Self::TooManyMessages { .. } => "messages",
            Self::TagsInvalid(_) => "tags",
            Self::FilterInvalid => "filter",
            Self::UserInvalid => "user",
            Self::ClientInvalid | Self::ConnectionUnknown | Self::NodesMissing(_) => "client",
            Self::ExpireAtPast => "expire_at",
            Self::FeedUnknown
            | Self::FeedConfigured
            | Self::FeedsNeedRedis
            | Self::FeedsUnavailable
            | Self::TooManyFeeds { .. } => "name",
            Self::FeedVersion { .. } => "if_version",
            Self::KindInvalid => "kinds",
            Self::NodeUnknown | Self::Stopping => "node",
            Self::PaceInvalid { .. } => "connections_per_second",
            Self::TooManyWatchers => "watch",
            Self::JourneysOff => "journeys",
            Self::PositionInvalid => "after",
            Self::IdempotencyKeyTooLong { .. } => "idempotency_key",
            Self::EpochChanged | Self::SinceInvalid => "since",
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let message = match &refusal {
            // The caller made the document and is helped by line and column.
            Refusal::DataNotJson(error) => format!("{refusal}: {error}"),
            _ => refusal.to_string(),
        };
        Self::new(refusal.code(), refusal.reason(), message.clone()).field(refusal.field(), message)
    }
}
