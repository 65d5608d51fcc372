//! Email: one message over SMTP, with TLS always.

use std::net::SocketAddr;
use std::path::Path;
use std::time::SystemTime;

use lettre::message::header::ContentType;
use lettre::message::{Mailbox, Mailboxes};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{Address, AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor};
use sha2::{Digest as _, Sha256};

use super::address::is_private;
use super::message::Bundle;
use crate::config::ChannelConfig;

/// Says what went wrong on the way.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MailError {
    /// The URL has no host, or no scheme that is known.
    #[error("the url is not smtp or smtps with a host")]
    Url,
    /// A sender or receiver is no address.
    #[error("an address is not one")]
    Address(#[source] lettre::address::AddressError),
    /// The message cannot be put together.
    #[error("no message")]
    Message(#[source] lettre::error::Error),
    /// The certificate of the authority cannot be read.
    #[error("no certificate of the authority")]
    Authority(#[source] std::io::Error),
    /// The name is not known.
    #[error("the name cannot be resolved")]
    Resolve(#[source] std::io::Error),
    /// The name leads to where messages may not go.
    #[error("the address is private; set allow_private to let it through")]
    Private,
    /// The server did not take it.
    #[error("not taken")]
    Smtp(#[source] lettre::transport::smtp::Error),
}

impl MailError {
    /// Tells whether the server understood and does not want it.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::Smtp(error) if error.is_permanent())
    }
}

/// Port of STARTTLS (RFC 6409), and of TLS from the first byte (RFC 8314).
const SUBMISSION: u16 = 587;
const SUBMISSIONS: u16 = 465;
const SUBJECT_MAX: usize = 150;

/// Sends one message. The address is resolved here and connected to as checked.
pub(super) async fn send(
    config: &ChannelConfig,
    bundle: &Bundle<'_>,
    now: SystemTime,
) -> Result<(), MailError> {
    let (host, port, wrapped) = place(config).ok_or(MailError::Url)?;
    let message = write(config, bundle, now)?;
    let address = resolve(&host, port, config.allow_private).await?;
    let mut parameters = TlsParameters::builder(host);
    if let Some(authority) = authority(&config.ca).await? {
        parameters = parameters.add_root_certificate(authority);
    }
    let parameters = parameters.build_rustls().map_err(MailError::Smtp)?;
    let tls = if wrapped { Tls::Wrapper(parameters) } else { Tls::Required(parameters) };
    let mut transport = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(address.ip().to_string())
        .port(address.port())
        .timeout(Some(config.within))
        .tls(tls);
    if !config.user.is_empty() {
        let password = config.token.expose().to_owned();
        transport = transport.credentials(Credentials::new(config.user.clone(), password));
    }
    transport.build().send(message).await.map(|_| ()).map_err(MailError::Smtp)
}

/// Returns host, port and whether TLS begins with the first byte.
fn place(config: &ChannelConfig) -> Option<(String, u16, bool)> {
    let uri: http::Uri = config.url.expose().parse().ok()?;
    let wrapped = match uri.scheme_str()? {
        "smtps" => true,
        "smtp" => false,
        _ => return None,
    };
    let host = uri.host().filter(|host| !host.is_empty())?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Some((host, uri.port_u16().unwrap_or(if wrapped { SUBMISSIONS } else { SUBMISSION }), wrapped))
}

async fn resolve(host: &str, port: u16, allow_private: bool) -> Result<SocketAddr, MailError> {
    let mut resolved = tokio::net::lookup_host((host, port)).await.map_err(MailError::Resolve)?;
    resolved.find(|address| allow_private || !is_private(address.ip())).ok_or(MailError::Private)
}

async fn authority(path: &Path) -> Result<Option<Certificate>, MailError> {
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let pem = tokio::fs::read(path).await.map_err(MailError::Authority)?;
    Certificate::from_pem(&pem).map(Some).map_err(MailError::Smtp)
}

/// Writes the message. All about one alert, or one group, are one thread in the reader's mail; the number of the event is in the id, so
/// that a message that comes twice is seen to be one.
fn write(config: &ChannelConfig, bundle: &Bundle<'_>, now: SystemTime) -> Result<Message, MailError> {
    let address = |text: &str| text.parse::<Address>().map(Mailbox::from).map_err(MailError::Address);
    let from = address(&config.from)?;
    let domain = from.email.domain().to_owned();
    let to: Vec<Mailbox> = config.to.iter().map(|to| address(to)).collect::<Result<_, _>>()?;
    let subject: String =
        bundle.title().chars().filter(|letter| !letter.is_control()).take(SUBJECT_MAX).collect();
    let record = bundle.newest;
    let thread = match bundle.group {
        Some(group) => {
            let name = format!("{group:?}");
            format!("<group.{}@{domain}>", hex::encode(&Sha256::digest(name.as_bytes())[..16]))
        }
        None => format!("<alert.{}@{domain}>", record.alert.id),
    };
    Message::builder()
        .from(from)
        .mailbox(lettre::message::header::To::from(to.into_iter().collect::<Mailboxes>()))
        .subject(subject)
        .date(now)
        .message_id(Some(format!("<event.{}.{}@{domain}>", record.id, record.alert.id)))
        .in_reply_to(thread.clone())
        .references(thread)
        .header(ContentType::TEXT_PLAIN)
        .body(bundle.paragraphs())
        .map_err(MailError::Message)
}

/// Tells whether this can be an address of a person.
pub(crate) fn is_address(text: &str) -> bool {
    text.parse::<Address>().is_ok()
}
