//! Feeds over REST: what the gateway reads from sources elsewhere and publishes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json as Answer;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use http::HeaderMap;
use http::header::{ETAG, IF_MATCH, IF_NONE_MATCH};
use mainstay_proto::realtime::v1 as wire;
use mainstay_proto::realtime::v1::realtime_feed_service_client::RealtimeFeedServiceClient;
use mainstay_rpc::{Call, Lane};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::cache::version_tag;
use super::words::{duration_of, rfc3339};
use crate::body::{Json, Who};
use crate::error::Problem;
use crate::state::App;

type Client = RealtimeFeedServiceClient<Lane>;

const FEEDS: &str = "mainstay.realtime.v1.RealtimeFeedService/Feeds";
const PUT: &str = "mainstay.realtime.v1.RealtimeFeedService/PutFeed";
const REMOVE: &str = "mainstay.realtime.v1.RealtimeFeedService/RemoveFeed";

/// What a feed does. What is left out is as it is by default. Times like `30s` or `5m`.
///
/// In answers secrets are `[redacted]`, and endpoints are no more than scheme, host and port.
#[derive(Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct RealtimeFeedSettings {
    /// Where its messages are published.
    #[schema(required = true)]
    channel: String,
    /// Sources of the same messages: `ws` and `wss` by WebSocket, `http` and `https` as server-sent events.
    #[schema(required = true, min_items = 1, max_items = 16)]
    endpoints: Vec<String>,
    /// Secret: the header `authorization`.
    authorization: String,
    /// Headers of the handshake; their values are secret.
    headers: HashMap<String, String>,
    /// Secret: texts that are sent by WebSocket once connected and after a gap; `{after}` stands for the last number.
    subscribe: Vec<String>,
    /// Secret: a text that is sent by WebSocket in place of a ping.
    heartbeat: String,
    /// JSON pointer to the id of a message.
    id: String,
    /// JSON pointer to the number of a message.
    sequence: String,
    /// JSON pointer to what is published; empty: all of it.
    data: String,
    sequence_per_connection: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    ping_every: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    silent_for: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    no_message_for: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connect_within: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reconnect_after: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reconnect_after_max: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_message_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    window: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hold: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hold_for: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    renumbered_after: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease: Option<String>,
}

/// A feed, how it fares, and what holds for it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RealtimeFeed {
    name: String,
    channel: String,
    /// `standby`, `connecting`, `live`, `waiting`, or `unusable` where the node that answers cannot run it.
    state: &'static str,
    /// The node that runs it; null when none does.
    node: Option<String>,
    /// The source in use, or tried last.
    endpoint: Option<String>,
    endpoints: Vec<RealtimeFeedEndpoint>,
    /// Since when it has been in this state.
    since: Option<String>,
    last_message_at: Option<String>,
    /// Of the node that runs it, since it began to.
    figures: RealtimeFeedFigures,
    /// Why the last connection ended, or was not made.
    last_failure: Option<String>,
    /// 0 for a feed of the configuration.
    version: u64,
    put_by: Option<String>,
    put_at: Option<String>,
    settings: RealtimeFeedSettings,
}

/// A source of a feed.
#[derive(Serialize, ToSchema)]
struct RealtimeFeedEndpoint {
    /// Scheme, host and port.
    endpoint: String,
    /// `closed`, `half_open` or `open`.
    breaker: String,
}

/// What became of the messages of a feed.
#[derive(Serialize, ToSchema)]
struct RealtimeFeedFigures {
    received: u64,
    published: u64,
    duplicates: u64,
    /// No messages, or such as could not be published.
    rejected: u64,
    /// Times that numbers were missing.
    gaps: u64,
    /// Numbers that never came.
    missed: u64,
    /// Times that the numbering began anew.
    renumbered: u64,
    /// Connections that ended or could not be made.
    failures: u64,
}

/// All feeds, by name.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RealtimeFeeds {
    feeds: Vec<RealtimeFeed>,
    /// Nodes that did not answer.
    missing_nodes: Vec<String>,
    /// Redis could not be asked: feeds that were put or removed since are not told yet.
    stale: bool,
}

/// Nothing but the fact that the feed is gone.
#[derive(Serialize, ToSchema)]
pub(crate) struct RealtimeFeedRemoved {
    removed: bool,
}

/// Lists the feeds and how they fare.
#[utoipa::path(get, path = "/realtime/feeds", tag = "realtime", responses((status = 200, description = "the feeds", body = RealtimeFeeds)))]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Who(caller): Who,
) -> Result<Answer<RealtimeFeeds>, Problem> {
    let send = async |mut client: Client, request| client.feeds(request).await;
    let request = wire::FeedsRequest::default();
    let answer = app.upstreams.feeds(Call::read(FEEDS).by(caller), request, send).await?;
    Ok(Answer(RealtimeFeeds {
        feeds: answer.feeds.into_iter().map(RealtimeFeed::from).collect(),
        missing_nodes: answer.missing_nodes,
        stale: answer.stale,
    }))
}

/// Tells how a feed fares.
#[utoipa::path(get, path = "/realtime/feeds/{name}", tag = "realtime", params(("name" = String, Path, description = "name of the feed")), responses(
    (status = 200, description = "the feed", body = RealtimeFeed, headers(("etag" = String, description = "its version, `\"0\"` for one of the configuration"))),
    (status = 404, description = "no feed has this name"),
))]
pub(crate) async fn get(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    Who(caller): Who,
) -> Result<Response, Problem> {
    let send = async |mut client: Client, request| client.feeds(request).await;
    let request = wire::FeedsRequest { name };
    let answer = app.upstreams.feeds(Call::read(FEEDS).by(caller), request, send).await?;
    Ok(shown(answer.feeds.into_iter().next()))
}

/// Adds a feed, or puts another in its place, on all nodes of the gateway. Secrets have to be given again each time.
#[utoipa::path(put, path = "/realtime/feeds/{name}", tag = "realtime", params(
    ("name" = String, Path, description = "1 to 64 letters, digits, `_`, `-` and `.`", pattern = "^[A-Za-z0-9_.-]{1,64}$"),
    ("if-match" = Option<String>, Header, description = "the `etag` of the feed to replace; another one is 412"),
    ("if-none-match" = Option<String>, Header, description = "`*`: only if there is none"),
), request_body = RealtimeFeedSettings, responses(
    (status = 200, description = "kept; every node knows it within about a second", body = RealtimeFeed, headers(("etag" = String, description = "its version"))),
    (status = 409, description = "a feed of this name is in the configuration"),
    (status = 412, description = "another version is there than `if-match` names, or the gateway has no Redis"),
    (status = 429, description = "there are as many feeds as may be"),
))]
pub(crate) async fn put(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    Who(caller): Who,
    headers: HeaderMap,
    Json(body): Json<RealtimeFeedSettings>,
) -> Result<Response, Problem> {
    let if_version = match headers.get(IF_NONE_MATCH) {
        None => version(&headers)?,
        Some(any) if any == "*" => Some(0),
        Some(_) => return Err(Problem::invalid("if-none-match", "must be *")),
    };
    let request = wire::PutFeedRequest { name, spec: Some(body.try_into()?), if_version };
    let send = async |mut client: Client, request| client.put_feed(request).await;
    let answer = app.upstreams.feeds(Call::write(PUT).by(caller), request, send).await?;
    Ok(shown(answer.feed))
}

/// Removes a feed that was put, on all nodes of the gateway.
#[utoipa::path(delete, path = "/realtime/feeds/{name}", tag = "realtime", params(
    ("name" = String, Path, description = "name of the feed"),
    ("if-match" = Option<String>, Header, description = "the `etag` of the feed to remove; another one is 412"),
), responses(
    (status = 200, description = "it is gone", body = RealtimeFeedRemoved),
    (status = 404, description = "no feed has this name"),
    (status = 409, description = "the feed is one of the configuration"),
    (status = 412, description = "another version is there than `if-match` names, or the gateway has no Redis"),
))]
pub(crate) async fn remove(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
    Who(caller): Who,
    headers: HeaderMap,
) -> Result<Answer<RealtimeFeedRemoved>, Problem> {
    let request = wire::RemoveFeedRequest { name, if_version: version(&headers)? };
    let send = async |mut client: Client, request| client.remove_feed(request).await;
    app.upstreams.feeds(Call::write(REMOVE).by(caller), request, send).await?;
    Ok(Answer(RealtimeFeedRemoved { removed: true }))
}

fn shown(feed: Option<wire::Feed>) -> Response {
    let feed = feed.unwrap_or_default();
    ([(ETAG, version_tag(feed.version))], Answer(RealtimeFeed::from(feed))).into_response()
}

/// Reads the version that must be there, if one must.
fn version(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(tag) = headers.get(IF_MATCH) else { return Ok(None) };
    let version = tag.to_str().ok().and_then(|tag| tag.trim().strip_prefix('"')?.strip_suffix('"'));
    let version = version.and_then(|version| version.parse().ok());
    version
        .map(Some)
        .ok_or_else(|| Problem::invalid("if-match", "must be the etag that a read of the feed gave"))
}

impl TryFrom<RealtimeFeedSettings> for wire::FeedSpec {
    type Error = Problem;

    fn try_from(settings: RealtimeFeedSettings) -> Result<Self, Problem> {
        Ok(Self {
            channel: settings.channel,
            endpoints: settings.endpoints,
            authorization: settings.authorization,
            headers: settings.headers,
            subscribe: settings.subscribe,
            heartbeat: settings.heartbeat,
            id: settings.id,
            sequence: settings.sequence,
            data: settings.data,
            sequence_per_connection: settings.sequence_per_connection,
            ping_every: duration_of("pingEvery", settings.ping_every)?,
            silent_for: duration_of("silentFor", settings.silent_for)?,
            no_message_for: duration_of("noMessageFor", settings.no_message_for)?,
            connect_within: duration_of("connectWithin", settings.connect_within)?,
            reconnect_after: duration_of("reconnectAfter", settings.reconnect_after)?,
            reconnect_after_max: duration_of("reconnectAfterMax", settings.reconnect_after_max)?,
            max_message_bytes: settings.max_message_bytes,
            window: settings.window,
            hold: settings.hold,
            hold_for: duration_of("holdFor", settings.hold_for)?,
            renumbered_after: duration_of("renumberedAfter", settings.renumbered_after)?,
            lease: duration_of("lease", settings.lease)?,
        })
    }
}

impl From<wire::FeedSpec> for RealtimeFeedSettings {
    fn from(spec: wire::FeedSpec) -> Self {
        let text = |duration: Option<prost_types::Duration>| {
            let duration = Duration::try_from(duration?).ok()?;
            Some(humantime::format_duration(duration).to_string())
        };
        Self {
            channel: spec.channel,
            endpoints: spec.endpoints,
            authorization: spec.authorization,
            headers: spec.headers,
            subscribe: spec.subscribe,
            heartbeat: spec.heartbeat,
            id: spec.id,
            sequence: spec.sequence,
            data: spec.data,
            sequence_per_connection: spec.sequence_per_connection,
            ping_every: text(spec.ping_every),
            silent_for: text(spec.silent_for),
            no_message_for: text(spec.no_message_for),
            connect_within: text(spec.connect_within),
            reconnect_after: text(spec.reconnect_after),
            reconnect_after_max: text(spec.reconnect_after_max),
            max_message_bytes: spec.max_message_bytes,
            window: spec.window,
            hold: spec.hold,
            hold_for: text(spec.hold_for),
            renumbered_after: text(spec.renumbered_after),
            lease: text(spec.lease),
        }
    }
}

impl From<wire::Feed> for RealtimeFeed {
    fn from(feed: wire::Feed) -> Self {
        let given = |text: String| (!text.is_empty()).then_some(text);
        let state = match feed.state() {
            wire::FeedState::Standby => "standby",
            wire::FeedState::Connecting => "connecting",
            wire::FeedState::Live => "live",
            wire::FeedState::Waiting => "waiting",
            wire::FeedState::Unusable => "unusable",
            wire::FeedState::Unspecified => "unknown",
        };
        let endpoint =
            |one: wire::FeedEndpoint| RealtimeFeedEndpoint { endpoint: one.endpoint, breaker: one.breaker };
        Self {
            state,
            name: feed.name,
            channel: feed.channel,
            node: given(feed.node),
            endpoint: given(feed.endpoint),
            endpoints: feed.endpoints.into_iter().map(endpoint).collect(),
            since: rfc3339(feed.since),
            last_message_at: rfc3339(feed.last_message_at),
            figures: RealtimeFeedFigures {
                received: feed.received,
                published: feed.published,
                duplicates: feed.duplicates,
                rejected: feed.rejected,
                gaps: feed.gaps,
                missed: feed.missed,
                renumbered: feed.renumbered,
                failures: feed.failures,
            },
            last_failure: given(feed.last_failure),
            version: feed.version,
            put_by: given(feed.put_by),
            put_at: rfc3339(feed.put_at),
            settings: feed.spec.unwrap_or_default().into(),
        }
    }
}
