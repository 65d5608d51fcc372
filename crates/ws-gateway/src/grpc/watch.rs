//! The door for looking closely: `RealtimeWatchService`.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{BoxStream, unfold};
use mainstay_proto::realtime::v1::realtime_watch_service_server::RealtimeWatchService;
use mainstay_proto::realtime::v1::{
    ConnectionHealthRequest, ConnectionHealthResponse, EventKind, WatchRequest, WatchResponse,
};
use mainstay_rpc::{Reply, Request, Response, Status};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::refused;
use super::shown::described;
use crate::error::Refusal;
use crate::hub::Hub;
use crate::mesh::{Answers, Method};
use crate::watch::{Event, Interest, Kind};

/// Serves what one connection is like, and what happens live.
pub(crate) struct WatchApi {
    pub(crate) hub: Arc<Hub>,
    /// Id of this node.
    pub(crate) node: String,
    /// Ends the streams.
    pub(crate) stopping: CancellationToken,
}

#[tonic::async_trait]
impl RealtimeWatchService for WatchApi {
    async fn connection_health(
        &self,
        request: Request<ConnectionHealthRequest>,
    ) -> Reply<ConnectionHealthResponse> {
        let asked = request.into_inner();
        let client = client_of(&asked.client)?;
        if let Some(here) = health_here(&self.hub, client, &self.node) {
            return Ok(Response::new(here));
        }
        let Some(broker) = self.hub.broker() else { return Err(refused(Refusal::ConnectionUnknown)) };
        let others: Answers<ConnectionHealthResponse> = broker.mesh().ask(Method::Health, &asked).await;
        match others.given.into_iter().find(|answer| answer.connection.is_some()) {
            Some(found) => Ok(Response::new(found)),
            None if others.missing.is_empty() => Err(refused(Refusal::ConnectionUnknown)),
            None => Err(refused(Refusal::NodesMissing(others.missing))),
        }
    }

    type WatchStream = BoxStream<'static, Result<WatchResponse, Status>>;

    async fn watch(&self, request: Request<WatchRequest>) -> Reply<Self::WatchStream> {
        let request = request.into_inner();
        let kinds = request.kinds().map(kind_of).collect::<Option<Vec<_>>>();
        let interest = Interest {
            client: if request.client.is_empty() { None } else { Some(client_of(&request.client)?) },
            kinds: kinds.ok_or_else(|| refused(Refusal::KindInvalid))?,
            one_of: request.one_of,
            user: request.user.into(),
            channel: request.channel.into(),
        };
        let watch = self.hub.watchers().watch(interest).map_err(|_| refused(Refusal::TooManyWatchers))?;
        let stream = unfold((watch, self.stopping.clone()), |(mut watch, stopping)| async move {
            let event = tokio::select! {
                () = stopping.cancelled() => None,
                event = watch.next() => event,
            };
            Some((Ok(shown(event?)), (watch, stopping)))
        });
        Ok(Response::new(Box::pin(stream)))
    }
}

/// Tells how a connection of this node fares.
pub(super) fn health_here(hub: &Hub, client: Uuid, node: &str) -> Option<ConnectionHealthResponse> {
    let connection = hub.connections().into_iter().find(|connection| connection.client == client)?;
    let now = hub.now();
    let ago = |at| wire(now.duration_since(at).unwrap_or_default());
    let traffic = &connection.traffic;
    let last = traffic.last_command();
    let (recovered, unrecovered) = traffic.recoveries();
    Some(ConnectionHealthResponse {
        connection: Some(described(&connection, node)),
        node: node.to_owned(),
        age: ago(connection.connected_at),
        last_command: last.map(|(method, _)| method.as_str().to_owned()).unwrap_or_default(),
        last_command_age: last.and_then(|(_, at)| ago(at)),
        publications_dropped: traffic.dropped(),
        recovered,
        unrecovered,
    })
}

fn client_of(text: &str) -> Result<Uuid, Status> {
    Uuid::parse_str(text).map_err(|_| refused(Refusal::ClientInvalid))
}

fn kind_of(kind: EventKind) -> Option<Kind> {
    match kind {
        EventKind::Unspecified => None,
        EventKind::Connected => Some(Kind::Connected),
        EventKind::Disconnected => Some(Kind::Disconnected),
        EventKind::Subscribed => Some(Kind::Subscribed),
        EventKind::Unsubscribed => Some(Kind::Unsubscribed),
        EventKind::Published => Some(Kind::Published),
        EventKind::Command => Some(Kind::Command),
    }
}

fn shown(event: Event) -> WatchResponse {
    let kind = match event.kind {
        Kind::Connected => EventKind::Connected,
        Kind::Disconnected => EventKind::Disconnected,
        Kind::Subscribed => EventKind::Subscribed,
        Kind::Unsubscribed => EventKind::Unsubscribed,
        Kind::Published => EventKind::Published,
        Kind::Command => EventKind::Command,
    };
    WatchResponse {
        kind: kind.into(),
        at: Some(event.at.into()),
        client: event.client.map(|client| client.to_string()).unwrap_or_default(),
        user: event.user.into(),
        channel: event.channel.into(),
        code: event.code,
        command: event.command.to_owned(),
        receivers: event.receivers,
        offset: event.offset,
        was_recovering: event.was_recovering,
        recovered: event.recovered,
        missed: event.missed,
    }
}

fn wire<T: TryFrom<Duration>>(duration: Duration) -> Option<T> {
    duration.try_into().ok()
}
