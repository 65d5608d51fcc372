//! Figures and alert changes as server-sent events.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::stream;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use mainstay_runtime::{Context, Schedule, Trigger};
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use super::monitoring;
use crate::body::Who;
use crate::error::Problem;
use crate::live::{Event, Watch};
use crate::state::App;

/// How often figures are sent while somebody watches.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Starts the one task that asks the services, for all watchers together.
pub(crate) fn tell_watchers(cx: &Context, app: &Arc<App>) -> Trigger {
    let app = Arc::clone(app);
    cx.background("live", Schedule::EveryOrTrigger(TELL_EVERY), move || {
        let app = Arc::clone(&app);
        async move {
            if app.live.is_watched() {
                let (figures, _) = monitoring::unified(&app, None).await;
                let now = app.cx.clock().now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let unix_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
                app.live.tell(&figures, figures.alerts_now(), unix_ms);
            }
            Ok(())
        }
    })
}

/// Sends figures each second, and alerts as they change.
///
/// Events: `figures` with what `/monitoring/unified/metrics` answers, `alert` with one alert. A client that comes back
/// with `last-event-id` first gets the alert changes it missed. The stream ends when the edge shuts down.
#[utoipa::path(get, path = "/monitoring/live", tag = "monitoring", params(
    ("last-event-id" = Option<String>, Header, description = "id of the last event seen", pattern = "^[0-9]{1,19}$"),
), responses((status = 200, description = "an endless stream", body = String, content_type = "text/event-stream")))]
pub(crate) async fn events(
    State(app): State<Arc<App>>,
    Who(_): Who,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let after = headers
        .get("last-event-id")
        .map(|value| {
            let id = value.to_str().ok().and_then(|text| text.parse().ok());
            id.ok_or_else(|| Problem::invalid("last-event-id", "must be the id of an event, a whole number"))
        })
        .transpose()?;
    let watch = app.live.watch(after);
    if watch.missed.is_empty() {
        app.wake_live();
    }
    let stream = stream::unfold((watch, app.cx.stopping()), next);
    Ok(([(CONTENT_TYPE, "text/event-stream")], Body::from_stream(stream)).into_response())
}

async fn next(
    (mut watch, stopping): (Watch, CancellationToken),
) -> Option<(Result<Bytes, std::convert::Infallible>, (Watch, CancellationToken))> {
    let event = match watch.missed.pop_front() {
        Some(event) => event,
        None => tokio::select! {
            () = stopping.cancelled() => return None,
            event = newest(&mut watch) => event?,
        },
    };
    Some((Ok(event.text), (watch, stopping)))
}

/// Waits for the next event; what was lost by being too far behind is skipped.
async fn newest(watch: &mut Watch) -> Option<Event> {
    loop {
        match watch.coming.recv().await {
            Ok(event) => return Some(event),
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return None,
        }
    }
}
