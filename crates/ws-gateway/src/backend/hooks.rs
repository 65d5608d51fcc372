//! What the application decides for clients, and how it is asked.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mainstay_auth::jwt::{Claims, Overrides, SubscriptionClaims};
use mainstay_proto::realtime::v1::{
    BackendClient, BackendConnectRequest, BackendError, BackendPublishRequest, BackendRefreshRequest,
    BackendSubRefreshRequest, BackendSubscribeRequest,
};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout_at};

use super::{Backend, NoAnswer, Way, legal_error, line, text};
use crate::channel::Channel;
use crate::config::{HookConfig, NamespaceConfig};
use crate::engine::Since;
use crate::filter::Filter;
use crate::hub::{Connection, Subscription};
use crate::session::Word;

const MAX_USER_BYTES: usize = 255;

/// What a client wants and the application decides. It goes along with the question and comes back with the verdict.
#[derive(Debug)]
pub(crate) enum Matter {
    Connect(Box<Newcomer>),
    Refresh,
    Subscribe { id: u32, wanted: Box<Subscription>, data: Option<Box<RawValue>> },
    SubRefresh(Channel),
    Publish(Box<Wish>),
}

/// Headers of a handshake, by name.
pub(crate) type Headers = HashMap<String, String>;

/// A client that shows no token.
#[derive(Debug)]
pub(crate) struct Newcomer {
    /// Of the command.
    pub(crate) id: u32,
    /// Of the SDK, and its version.
    pub(crate) name: Box<str>,
    pub(crate) version: Box<str>,
    pub(crate) data: Option<Box<RawValue>>,
    pub(crate) headers: Headers,
    /// Where it was in the channels that the server subscribed it to.
    pub(crate) positions: BTreeMap<String, Since>,
}

/// What a client wants to publish.
#[derive(Debug)]
pub(crate) struct Wish {
    /// Of the command.
    pub(crate) id: u32,
    pub(crate) channel: Channel,
    pub(crate) options: Arc<NamespaceConfig>,
    pub(crate) data: Box<RawValue>,
    pub(crate) members_only: bool,
}

/// What came of a question.
#[derive(Debug)]
pub(crate) enum Verdict {
    Told(Box<Told>),
    /// There is no answer.
    Away,
    /// It was not even asked: too much is asked already.
    Busy,
}

/// An answer. Each question reads what it has use for.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) user: String,
    pub(crate) info: Option<Box<RawValue>>,
    pub(crate) meta: Option<Box<RawValue>>,
    pub(crate) data: Option<Box<RawValue>>,
    pub(crate) channels: Vec<String>,
    /// Seconds since the Unix epoch; 0: never.
    pub(crate) expire_at: u64,
    pub(crate) expired: bool,
    pub(crate) overrides: Overrides,
    /// Which publications of the channel the client may see.
    pub(crate) filter: Option<Box<RawValue>>,
    /// The same for channels that a client is subscribed to from the start.
    pub(crate) filters: BTreeMap<String, Box<RawValue>>,
    pub(crate) error: Option<BackendError>,
}

/// A question as it goes out.
#[derive(Clone, Debug)]
pub(super) enum Question {
    Connect(BackendConnectRequest),
    Refresh(BackendRefreshRequest),
    Subscribe(BackendSubscribeRequest),
    SubRefresh(BackendSubRefreshRequest),
    Publish(BackendPublishRequest),
}

impl Matter {
    /// Returns the name of the question.
    pub(crate) const fn hook(&self) -> &'static str {
        match self {
            Self::Connect(_) => "connect",
            Self::Refresh => "refresh",
            Self::Subscribe { .. } => "subscribe",
            Self::SubRefresh(_) => "sub_refresh",
            Self::Publish(_) => "publish",
        }
    }

    fn question(&self, connection: &Connection, asker: BackendClient) -> Question {
        let client = Some(asker);
        let document = |data: &Option<Box<RawValue>>| data.as_deref().map(text).unwrap_or_default();
        match self {
            Self::Connect(newcomer) => Question::Connect(BackendConnectRequest {
                client,
                name: newcomer.name.to_string(),
                version: newcomer.version.to_string(),
                data: document(&newcomer.data),
                headers: newcomer.headers.clone(),
                remote: connection.remote.to_string(),
            }),
            Self::Refresh => Question::Refresh(BackendRefreshRequest { client }),
            Self::Subscribe { wanted, data, .. } => Question::Subscribe(BackendSubscribeRequest {
                client,
                channel: wanted.channel.as_str().to_owned(),
                data: document(data),
            }),
            Self::SubRefresh(channel) => Question::SubRefresh(BackendSubRefreshRequest {
                client,
                channel: channel.as_str().to_owned(),
            }),
            Self::Publish(wish) => Question::Publish(BackendPublishRequest {
                client,
                channel: wish.channel.as_str().to_owned(),
                data: text(&wish.data),
            }),
        }
    }
}

impl Told {
    /// Reads documents that the application shows; empty ones are none.
    pub(super) fn document(bytes: &Bytes) -> Result<Option<Box<RawValue>>, NoAnswer> {
        if bytes.is_empty() { Ok(None) } else { line(bytes).map(Some) }
    }

    fn checked(self) -> Result<Self, NoAnswer> {
        if self.user.len() > MAX_USER_BYTES {
            return Err(NoAnswer::Broken("a user of more than 255 bytes"));
        }
        if self.filters.keys().any(|channel| !self.channels.contains(channel)) {
            return Err(NoAnswer::Broken("a filter for a channel that it does not name"));
        }
        if self.filters.values().chain(&self.filter).any(|filter| Filter::forced(filter.get()).is_err()) {
            return Err(NoAnswer::Broken("a filter that makes no sense"));
        }
        match &self.error {
            Some(error) if !legal_error(error) => Err(NoAnswer::Broken("an illegal error")),
            _ => Ok(self),
        }
    }

    /// Returns what a token would say that lets a client in.
    pub(crate) fn claims(&self) -> Claims {
        let read = |document: &RawValue| -> Value {
            serde_json::from_str(document.get()).expect("a checked document")
        };
        let value = |document: &Option<Box<RawValue>>| document.as_deref().map(read);
        let seen = |filter: &RawValue| SubscriptionClaims {
            tf: Some(read(filter)),
            ..SubscriptionClaims::default()
        };
        Claims {
            sub: self.user.clone(),
            info: value(&self.info),
            meta: value(&self.meta),
            channels: self.channels.clone(),
            subs: self.filters.iter().map(|(channel, filter)| (channel.clone(), seen(filter))).collect(),
            expire_at: Some(self.expire_at),
            overrides: self.overrides,
            tf: value(&self.filter),
            ..Claims::default()
        }
    }
}

impl Backend {
    /// Asks the application about a client; the client's session hears the verdict.
    pub(crate) fn consult(self: &Arc<Self>, connection: &Arc<Connection>, matter: Matter) {
        let (backend, connection) = (Arc::clone(self), Arc::clone(connection));
        self.cx.spawn_work(Box::pin(async move {
            let verdict = backend.decide(&connection, &matter).await;
            connection.tell(Word::Verdict(matter, verdict));
        }));
    }

    async fn decide(&self, connection: &Connection, matter: &Matter) -> Verdict {
        let hook = matter.hook();
        let HookConfig { within, .. } = self.hook(matter);
        let until = Instant::now() + within;
        let Ok(slot) = timeout_at(until, self.in_flight.acquire()).await else {
            self.metrics.backend.hook_answered(hook, "refused");
            return Verdict::Busy;
        };
        let _slot = slot.expect("the slots are never closed");
        if connection.outbox.closing().is_some() {
            return Verdict::Away;
        }
        let started = Instant::now();
        let question = matter.question(connection, asker(connection));
        let told = self.ask_question(question, until - started).await.and_then(Told::checked);
        self.metrics.backend.hook_took(hook, started.elapsed());
        match told {
            Ok(told) => {
                self.component.healthy("answers");
                let denied = told.error.is_some() || told.expired;
                self.metrics.backend.hook_answered(hook, if denied { "denied" } else { "ok" });
                Verdict::Told(Box::new(told))
            }
            Err(error) => {
                self.component.degraded(error.to_string());
                self.metrics.backend.hook_answered(hook, "failed");
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    hook,
                    "the backend has not answered"
                );
                Verdict::Away
            }
        }
    }

    async fn ask_question(&self, question: Question, within: Duration) -> Result<Told, NoAnswer> {
        match &self.way {
            Way::Grpc { upstream, max_answer_bytes } => {
                super::grpc::ask(upstream, *max_answer_bytes, question, within).await
            }
            Way::Http(server) => server.ask(question, within).await,
        }
    }

    fn hook(&self, matter: &Matter) -> HookConfig {
        match matter {
            Matter::Connect(_) => self.hooks.connect,
            Matter::Refresh => self.hooks.refresh,
            Matter::Subscribe { .. } => self.hooks.subscribe,
            Matter::SubRefresh(_) => self.hooks.sub_refresh,
            Matter::Publish(_) => self.hooks.publish,
        }
    }
}

/// Describes the client on whose behalf the application is asked.
pub(super) fn asker(connection: &Connection) -> BackendClient {
    let profile = connection.profile();
    BackendClient {
        client: connection.client.to_string(),
        user: profile.map(|profile| profile.user.to_string()).unwrap_or_default(),
        meta: profile.and_then(|profile| profile.meta.as_deref()).map(text).unwrap_or_default(),
    }
}
