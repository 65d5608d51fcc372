//! Turns feeds of the wire into those of the configuration, and back without their secrets.

use std::time::Duration;

use bytesize::ByteSize;
use mainstay_proto::realtime::v1::FeedSpec;
use mainstay_runtime::Secret;

use super::Feed;
use crate::config::FeedConfig;

const REDACTED: &str = "[redacted]";

/// Reads a feed; what is left out is as it is by default. The error names a time that is none.
pub(crate) fn config_of(spec: &FeedSpec) -> Result<FeedConfig, &'static str> {
    let default = FeedConfig::default();
    let time = |name: &'static str, given: Option<prost_types::Duration>, default: Duration| match given {
        None => Ok(default),
        Some(given) => Duration::try_from(given).map_err(|_| name),
    };
    let secret = |text: &String| Secret::from(text.as_str());
    Ok(FeedConfig {
        channel: spec.channel.clone(),
        endpoints: spec.endpoints.clone(),
        authorization: secret(&spec.authorization),
        headers: spec.headers.iter().map(|(name, value)| (name.clone(), secret(value))).collect(),
        subscribe: spec.subscribe.iter().map(secret).collect(),
        heartbeat: secret(&spec.heartbeat),
        ping_every: time("ping_every", spec.ping_every, default.ping_every)?,
        silent_for: time("silent_for", spec.silent_for, default.silent_for)?,
        no_message_for: time("no_message_for", spec.no_message_for, default.no_message_for)?,
        connect_within: time("connect_within", spec.connect_within, default.connect_within)?,
        reconnect_after: time("reconnect_after", spec.reconnect_after, default.reconnect_after)?,
        reconnect_after_max: {
            time("reconnect_after_max", spec.reconnect_after_max, default.reconnect_after_max)?
        },
        max_message: spec.max_message_bytes.map_or(default.max_message, ByteSize::b),
        id: spec.id.clone(),
        sequence: spec.sequence.clone(),
        data: spec.data.clone(),
        sequence_per_connection: spec.sequence_per_connection,
        window: spec.window.unwrap_or(default.window),
        hold: spec.hold.unwrap_or(default.hold),
        hold_for: time("hold_for", spec.hold_for, default.hold_for)?,
        renumbered_after: time("renumbered_after", spec.renumbered_after, default.renumbered_after)?,
        lease: time("lease", spec.lease, default.lease)?,
        tls: default.tls,
        breaker: default.breaker,
    })
}

/// Shows what holds for a feed, but none of its secrets.
pub(crate) fn shown_spec(feed: &Feed) -> FeedSpec {
    let config = &feed.config;
    let hidden = |secret: &Secret| if secret.is_empty() { String::new() } else { REDACTED.to_owned() };
    let time = |duration: Duration| duration.try_into().ok();
    FeedSpec {
        channel: config.channel.clone(),
        endpoints: feed.endpoints().into_iter().map(|(endpoint, _)| endpoint).collect(),
        authorization: hidden(&config.authorization),
        headers: config.headers.iter().map(|(name, value)| (name.clone(), hidden(value))).collect(),
        subscribe: config.subscribe.iter().map(hidden).collect(),
        heartbeat: hidden(&config.heartbeat),
        id: config.id.clone(),
        sequence: config.sequence.clone(),
        data: config.data.clone(),
        sequence_per_connection: config.sequence_per_connection,
        ping_every: time(config.ping_every),
        silent_for: time(config.silent_for),
        no_message_for: time(config.no_message_for),
        connect_within: time(config.connect_within),
        reconnect_after: time(config.reconnect_after),
        reconnect_after_max: time(config.reconnect_after_max),
        max_message_bytes: Some(config.max_message.as_u64()),
        window: Some(config.window),
        hold: Some(config.hold),
        hold_for: time(config.hold_for),
        renumbered_after: time(config.renumbered_after),
        lease: time(config.lease),
    }
}
