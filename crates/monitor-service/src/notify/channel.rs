//! One channel: how a message goes out.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderValue, Request};
use http_body_util::Full;

use super::body;
use super::group::group_of;
use super::http::{PostError, post};
use super::mail::{self, MailError};
use super::message::{self, Bundle};
use crate::alert::Record;
use crate::config::{ChannelConfig, ChannelKind};

/// Sends messages; has no queue and no memory.
#[derive(Debug)]
pub(crate) struct Channel {
    name: String,
    config: ChannelConfig,
    tls: Arc<rustls::ClientConfig>,
}

/// Says why a message did not arrive.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeliveryError {
    /// In time, that is.
    #[error("no answer within {0:?}")]
    Late(Duration),
    /// On the way.
    #[error("{0}")]
    Post(#[source] PostError),
    /// On the way of an email.
    #[error("{0}")]
    Mail(#[source] Box<MailError>),
}

impl DeliveryError {
    /// Tells whether the same message will be refused again: the receiver understood and does not want it.
    pub(super) fn is_refusal(&self) -> bool {
        match self {
            Self::Post(PostError::Status(status)) => {
                (400..500).contains(status) && ![408, 425, 429].contains(status)
            }
            Self::Mail(error) => error.is_refusal(),
            Self::Post(_) | Self::Late(_) => false,
        }
    }

    /// Says it in one line.
    pub(crate) fn reason(&self) -> String {
        let error: &dyn std::error::Error = match self {
            Self::Post(error) => error,
            Self::Mail(error) => error,
            Self::Late(_) => return self.to_string(),
        };
        error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
    }
}

impl Channel {
    /// Prepares a channel.
    pub(crate) fn new(name: &str, config: &ChannelConfig, tls: Arc<rustls::ClientConfig>) -> Self {
        Self { name: name.to_owned(), config: config.clone(), tls }
    }

    /// Returns its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Sends one message about all of these and returns when it has arrived.
    pub(crate) async fn send(&self, records: &[Record], now: SystemTime) -> Result<(), DeliveryError> {
        let config = &self.config;
        let Some(newest) = records.last() else { return Ok(()) };
        let values = group_of(config, &newest.alert);
        let group: Vec<(&str, &str)> =
            config.group_by.iter().map(String::as_str).zip(values.iter().map(String::as_str)).collect();
        let bundle = &Bundle { records, newest, group: config.is_grouped().then_some(&group) };
        let body = match config.kind {
            ChannelKind::Log => {
                let line = bundle.lines();
                tracing::info!(channel = self.name, event = newest.id, line, "notification");
                return Ok(());
            }
            ChannelKind::Webhook => message::webhook(bundle),
            ChannelKind::Slack => message::slack(bundle),
            ChannelKind::Discord => body::discord(bundle),
            ChannelKind::Telegram => body::telegram(bundle, config),
            ChannelKind::Ntfy => body::ntfy(bundle, config),
            ChannelKind::Pagerduty => body::pagerduty(newest, config),
            ChannelKind::Alertmanager => body::alertmanager(newest),
            ChannelKind::Email => return self.mail(bundle, now).await,
        };
        let request = self.request(newest, body, now).ok_or(DeliveryError::Post(PostError::Url))?;
        let sent =
            tokio::time::timeout(self.config.within, post(request, self.config.allow_private, &self.tls));
        sent.await.map_err(|_| DeliveryError::Late(self.config.within))?.map_err(DeliveryError::Post)
    }

    async fn mail(&self, bundle: &Bundle<'_>, now: SystemTime) -> Result<(), DeliveryError> {
        let within = self.config.within;
        let sent = tokio::time::timeout(within, mail::send(&self.config, bundle, now));
        let sent = sent.await.map_err(|_| DeliveryError::Late(within))?;
        sent.map_err(|error| DeliveryError::Mail(Box::new(error)))
    }

    fn request(&self, record: &Record, body: String, now: SystemTime) -> Option<Request<Full<Bytes>>> {
        let mut request = Request::post(self.config.address())
            .header("content-type", "application/json")
            .header("user-agent", "mainstay-monitor")
            .header("x-mainstay-event", record.id);
        if self.config.kind.bears_token() && !self.config.token.is_empty() {
            let bearer = format!("Bearer {}", self.config.token.expose());
            request = request.header("authorization", HeaderValue::try_from(bearer).ok()?);
        }
        if !self.config.secret.is_empty() {
            let signature = message::signature(self.config.secret.expose(), now, &body);
            request = request.header("x-mainstay-signature", HeaderValue::try_from(signature).ok()?);
        }
        request.body(Full::new(Bytes::from(body))).ok()
    }
}
