//! The application behind the gateway. What clients ask of it goes to it, and what it is to decide about them, over gRPC or
//! HTTP, with a deadline, a breaker and a bound for all clients and for each.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mainstay_proto::realtime::v1::{BackendError, BackendRpcRequest, BackendRpcResponse};
use mainstay_rpc::{Failure, HttpError, Upstream};
use mainstay_runtime::{Component, ComponentKind, Context};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::codes::ReplyError;
use crate::config::{BackendConfig, HooksConfig, bytes};
use crate::desk::Desk;
use crate::hub::{Connection, Hub};
use crate::metrics::Metrics;
use crate::protocol::{self, Method};

mod grpc;
mod hooks;
mod http;

use self::http::HttpBackend;
use hooks::asker;
pub(crate) use hooks::{Headers, Matter, Newcomer, Told, Verdict, Wish};

/// What an application may tell a client.
const CODES: std::ops::RangeInclusive<u32> = 400..=1_999;
const MAX_MESSAGE_BYTES: usize = 256;
/// Stands for all errors of the application in metrics.
pub(crate) const ANY_CODE: u32 = 400;

/// Asks the application.
pub(crate) struct Backend {
    way: Way,
    within: Duration,
    in_flight: Arc<Semaphore>,
    max_per_client: u32,
    hooks: HooksConfig,
    cx: Context,
    metrics: Metrics,
    component: Component,
}

enum Way {
    Grpc { upstream: Upstream, max_answer_bytes: usize },
    Http(Box<HttpBackend>),
}

/// What a client asks of the application.
#[derive(Debug)]
pub(crate) struct RpcCall {
    pub(crate) method: Box<str>,
    pub(crate) data: Option<Box<RawValue>>,
}

/// What the application says.
#[derive(Debug)]
enum Answer {
    Data(Box<RawValue>),
    Error(BackendError),
}

/// Says why the application has not answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoAnswer {
    #[error("the backend cannot be asked")]
    Grpc(#[source] Failure),
    #[error("the backend cannot be asked")]
    Http(#[source] HttpError),
    #[error("the answer of the backend has {0}")]
    Broken(&'static str),
}

impl Backend {
    /// Prepares calls; none when there is nowhere to make them. Connections are made by the first.
    pub(crate) fn try_new(
        config: &BackendConfig,
        metrics: Metrics,
        cx: &Context,
    ) -> anyhow::Result<Option<Self>> {
        let max_answer_bytes = bytes(config.max_answer);
        let by_http = !config.http.rpc_url.is_empty() || !config.http.hooks_url.is_empty();
        let way = if !config.grpc.endpoints.is_empty() {
            Way::Grpc { upstream: Upstream::try_new("backend", &config.grpc)?, max_answer_bytes }
        } else if !by_http {
            return Ok(None);
        } else {
            Way::Http(Box::new(HttpBackend::try_new(&config.http, config.max_in_flight, max_answer_bytes)?))
        };
        Ok(Some(Self {
            way,
            within: config.within,
            in_flight: Arc::new(Semaphore::new(config.max_in_flight as usize)),
            max_per_client: config.max_in_flight_per_client,
            hooks: config.hooks.clone(),
            cx: cx.clone(),
            metrics,
            component: cx.component("backend", ComponentKind::Upstream, false),
        }))
    }

    /// Asks on behalf of a client, and passes the answer on when it comes. Nothing else of the client waits for it.
    pub(crate) fn rpc(
        self: &Arc<Self>,
        hub: &Arc<Hub>,
        connection: &Arc<Connection>,
        id: u32,
        call: RpcCall,
    ) {
        let turn = connection.begin_call(self.max_per_client);
        let (Some(turn), Ok(slot)) = (turn, Arc::clone(&self.in_flight).try_acquire_owned()) else {
            self.metrics.backend.answered("refused");
            return Desk { hub, connection }.refuse(id, Method::Rpc, ReplyError::TOO_MANY_REQUESTS);
        };
        let (backend, hub) = (Arc::clone(self), Arc::clone(hub));
        self.cx.spawn_work(Box::pin(async move {
            let connection = turn.connection();
            let answer = backend.ask(connection, call).await;
            drop(slot);
            backend.pass_on(&hub, connection, id, answer);
        }));
    }

    async fn ask(&self, connection: &Connection, call: RpcCall) -> Result<Answer, NoAnswer> {
        let data = call.data.as_deref().map(text).unwrap_or_default();
        let request = BackendRpcRequest { client: Some(asker(connection)), method: call.method.into(), data };
        let started = Instant::now();
        let answer = match &self.way {
            Way::Grpc { upstream, max_answer_bytes } => {
                grpc::rpc(upstream, *max_answer_bytes, request, self.within).await
            }
            Way::Http(server) => server.rpc(&request, self.within).await,
        };
        self.metrics.backend.took(started.elapsed());
        answer.and_then(Answer::read)
    }

    fn pass_on(&self, hub: &Hub, connection: &Arc<Connection>, id: u32, answer: Result<Answer, NoAnswer>) {
        let desk = Desk { hub, connection };
        match answer {
            Ok(Answer::Data(data)) => {
                #[derive(Serialize)]
                struct RpcResult {
                    data: Box<RawValue>,
                }
                self.component.healthy("answers");
                self.metrics.backend.answered("ok");
                desk.answer(id, Method::Rpc, &RpcResult { data });
            }
            Ok(Answer::Error(error)) => {
                self.component.healthy("answers");
                self.metrics.backend.answered("error");
                hub.answered(connection, Method::Rpc, ANY_CODE);
                hub.send(connection, protocol::told_error(id, error.code, &error.message, error.temporary));
            }
            Err(error) => {
                self.component.degraded(error.to_string());
                self.metrics.backend.answered("failed");
                tracing::debug!(error = &error as &dyn std::error::Error, "the backend has not answered");
                desk.refuse(id, Method::Rpc, ReplyError::INTERNAL);
            }
        }
    }
}

impl Answer {
    fn read(answer: BackendRpcResponse) -> Result<Self, NoAnswer> {
        if let Some(error) = answer.error {
            let outcome = legal_error(&error).then_some(Self::Error(error));
            return outcome.ok_or(NoAnswer::Broken("an illegal error"));
        }
        let data: &[u8] = if answer.data.is_empty() { b"null" } else { &answer.data };
        line(data).map(Self::Data)
    }
}

fn legal_error(error: &BackendError) -> bool {
    CODES.contains(&error.code) && error.message.len() <= MAX_MESSAGE_BYTES
}

fn text(document: &RawValue) -> Bytes {
    Bytes::from(document.get().to_owned())
}

/// Reads a document that goes to clients, whose replies are lines.
fn line(document: &[u8]) -> Result<Box<RawValue>, NoAnswer> {
    let broken = |_| NoAnswer::Broken("data that are not JSON");
    let document: Box<RawValue> = serde_json::from_slice(document).map_err(broken)?;
    if !document.get().contains(['\n', '\r']) {
        return Ok(document);
    }
    RawValue::from_string(document.get().replace(['\n', '\r'], " ")).map_err(broken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_legal_answers_are_passed_on() {
        let data = |text: &str| BackendRpcResponse { data: text.to_owned().into(), error: None };
        for (text, expected) in [
            ("", Some("null")),
            ("{\"a\": 1.0}", Some("{\"a\": 1.0}")),
            ("[1,\n2]", Some("[1, 2]")),
            ("x", None),
            ("1 2", None),
        ] {
            let read = match Answer::read(data(text)) {
                Ok(Answer::Data(data)) => Some(data.get().to_owned()),
                _ => None,
            };
            assert_eq!(read.as_deref(), expected, "{text}");
        }
        for (code, len, expected) in
            [(400, 256, true), (1_999, 0, true), (399, 1, false), (2_000, 1, false), (400, 257, false)]
        {
            let error = BackendError { code, message: "x".repeat(len), temporary: false };
            let read =
                Answer::read(BackendRpcResponse { error: Some(error), ..BackendRpcResponse::default() });
            assert_eq!(read.is_ok(), expected, "{code}, {len} bytes");
        }
    }
}
