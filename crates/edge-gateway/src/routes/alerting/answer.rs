//! What the paths about alerting answer.

use std::collections::BTreeMap;

use mainstay_proto::monitor::v1 as wire;
use serde::Serialize;
use utoipa::ToSchema;

use crate::routes::monitoring::Alert;
use crate::routes::words::{health, rfc3339, seconds};

/// Silences that have not ended.
#[derive(Serialize, ToSchema)]
pub(crate) struct Silences {
    pub(super) silences: Vec<Silence>,
}

/// A time in which people are not told of matching alerts.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Silence {
    id: String,
    matchers: BTreeMap<String, String>,
    starts_at: Option<String>,
    ends_at: Option<String>,
    by: String,
    comment: String,
}

/// Notification channels.
#[derive(Serialize, ToSchema)]
pub(crate) struct Channels {
    channels: Vec<NotificationChannel>,
}

/// A notification channel and how its deliveries go.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct NotificationChannel {
    name: String,
    kind: String,
    /// Scheme and host: the rest may be a secret.
    address: String,
    status: &'static str,
    queued: u32,
    delivered: u64,
    failures: u64,
    last_error: String,
    dropped: u64,
    last_delivered_at: Option<String>,
}

/// How a test notification went.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Tested {
    took_seconds: Option<f64>,
}

/// What happened to alerts, newest first.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Events {
    events: Vec<AlertEvent>,
    /// Goes into `before` for the next page; null when there is nothing older.
    next_before: Option<u64>,
}

/// One change of an alert.
#[derive(Serialize, ToSchema)]
struct AlertEvent {
    id: u64,
    at: Option<String>,
    /// Like `fired`, `acknowledged` or `resolved`.
    change: String,
    /// Who did it; empty for what the rules did.
    by: String,
    /// The alert after it.
    alert: Option<Alert>,
}

/// Internal errors, grouped.
#[derive(Serialize, ToSchema)]
pub(crate) struct ErrorGroups {
    errors: Vec<ErrorGroup>,
}

/// Internal errors of one service that have their place and cause in common.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ErrorGroup {
    service: String,
    fingerprint: String,
    code: String,
    /// Where in the program it was handled.
    target: String,
    /// As the latest one said.
    message: String,
    /// Since the processes started.
    count: u64,
    first_seen_at: Option<String>,
    last_seen_at: Option<String>,
    /// Trace of the latest one that was traced; may be empty.
    trace_id: String,
    endpoints: Vec<String>,
}

impl From<wire::Silence> for Silence {
    fn from(silence: wire::Silence) -> Self {
        Self {
            id: silence.id,
            matchers: silence.matchers.into_iter().collect(),
            starts_at: rfc3339(silence.starts_at),
            ends_at: rfc3339(silence.ends_at),
            by: silence.by,
            comment: silence.comment,
        }
    }
}

impl From<wire::ListChannelsResponse> for Channels {
    fn from(answer: wire::ListChannelsResponse) -> Self {
        let channel = |channel: wire::Channel| NotificationChannel {
            status: health(channel.health),
            name: channel.name,
            kind: channel.kind,
            address: channel.address,
            queued: channel.queued,
            delivered: channel.delivered,
            failures: channel.failures,
            last_error: channel.last_error,
            dropped: channel.dropped,
            last_delivered_at: rfc3339(channel.last_delivered_at),
        };
        Self { channels: answer.channels.into_iter().map(channel).collect() }
    }
}

impl From<wire::TestChannelResponse> for Tested {
    fn from(answer: wire::TestChannelResponse) -> Self {
        Self { took_seconds: seconds(answer.took) }
    }
}

impl From<wire::ListAlertEventsResponse> for Events {
    fn from(answer: wire::ListAlertEventsResponse) -> Self {
        let next_before = answer.events.last().map(|event| event.id);
        let event = |event: wire::AlertEvent| AlertEvent {
            id: event.id,
            at: rfc3339(event.at),
            change: event.change,
            by: event.by,
            alert: event.alert.map(Alert::from),
        };
        Self { events: answer.events.into_iter().map(event).collect(), next_before }
    }
}

impl From<wire::ListErrorGroupsResponse> for ErrorGroups {
    fn from(answer: wire::ListErrorGroupsResponse) -> Self {
        let group = |of_service: wire::ServiceErrorGroup| {
            let group = of_service.group.unwrap_or_default();
            ErrorGroup {
                service: of_service.service,
                fingerprint: group.fingerprint,
                code: group.code,
                target: group.target,
                message: group.message,
                count: group.count,
                first_seen_at: rfc3339(group.first_seen_at),
                last_seen_at: rfc3339(group.last_seen_at),
                trace_id: group.trace_id,
                endpoints: of_service.endpoints,
            }
        };
        Self { errors: answer.groups.into_iter().map(group).collect() }
    }
}

impl ErrorGroups {
    pub(super) fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }
}
