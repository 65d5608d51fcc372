//! The ways of users through channels: what each did, in order, and what comes of all of them.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use mainstay_proto::realtime::v1::JourneysRequest;
use mainstay_proto::realtime::v1::realtime_journey_service_client::RealtimeJourneyServiceClient;
use mainstay_rpc::{Call, Lane};
use serde::Deserialize;

mod paths;

use paths::JourneysAnswer;

use super::health::completeness;
use super::words::time;
use crate::body::{Params, Who};
use crate::error::Problem;
use crate::state::App;

const JOURNEYS: &str = "mainstay.realtime.v1.RealtimeJourneyService/Journeys";

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct JourneysQuery {
    /// Only what this user did.
    #[serde(default)]
    user: String,
    /// Only what happened in this channel; then connects and disconnects are not told.
    #[serde(default)]
    channel: String,
    /// Only what happened at this time or later, e.g. `2026-01-31T12:00:00Z`.
    #[serde(default)]
    since: String,
    /// Most events to look at, the latest; 0 means 1,000, more than 5,000 are not given.
    #[serde(default)]
    limit: u32,
}

/// Tells what WebSocket clients did lately, user by user, and how they move through channels.
#[utoipa::path(get, path = "/monitoring/websocket/journeys", tag = "monitoring", params(JourneysQuery), responses(
    (status = 200, description = "the journeys", body = JourneysAnswer, headers(
        ("x-mainstay-completeness" = String, description = "`full`, or `partial` when nodes did not answer"),
    )),
    (status = 412, description = "the gateway that was asked keeps no journeys"),
))]
pub(crate) async fn journeys(
    State(app): State<Arc<App>>,
    Who(caller): Who,
    Params(query): Params<JourneysQuery>,
) -> Result<Response, Problem> {
    let JourneysQuery { user, channel, since, limit } = query;
    let request = JourneysRequest { user, channel, since: time("since", &since)?, limit };
    let send = async |mut client: RealtimeJourneyServiceClient<Lane>, request| client.journeys(request).await;
    let answer = app.upstreams.journeys(Call::read(JOURNEYS).by(caller), request, send).await?;
    let is_full = answer.missing_nodes.is_empty();
    Ok(([completeness(is_full)], Answer(JourneysAnswer::from(answer))).into_response())
}
