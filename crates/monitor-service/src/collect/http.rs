//! GET over HTTP/1.1, once over each connection.

use ::http::header::{AUTHORIZATION, HOST, USER_AGENT};
use ::http::{HeaderMap, HeaderValue, Request, StatusCode, Uri};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper_util::rt::TokioIo;
use mainstay_rpc::{ClientTls, Secret};

use super::dial::{DialError, Dialer, InvalidAddress};

/// Asks one address, again and again. Redirects are not followed.
#[derive(Debug)]
pub(super) struct Getter {
    pub(super) dialer: Dialer,
    path: String,
    headers: HeaderMap,
    max_bytes: usize,
}

/// Holds an answer.
#[derive(Debug)]
pub(super) struct Got {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Says why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum GetError {
    /// There is no connection.
    #[error("no connection")]
    Dial(#[source] DialError),
    /// The exchange broke, or is not HTTP.
    #[error("no answer of HTTP")]
    Http(#[source] hyper::Error),
    /// The body broke off.
    #[error("the answer broke off")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The answer is longer than it may be.
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
}

/// Shown to servers.
const AGENT: HeaderValue = HeaderValue::from_static("mainstay-monitor");

impl Getter {
    /// Reads the address and the files for TLS; connects nowhere.
    pub(super) fn try_new(
        url: &str,
        tls: &ClientTls,
        mut headers: HeaderMap,
        max_bytes: usize,
    ) -> Result<Self, InvalidAddress> {
        let dialer = Dialer::try_new(url, tls)?;
        let invalid = || InvalidAddress::Url(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| invalid())?;
        let authority = uri.authority().and_then(|authority| authority.as_str().parse().ok());
        headers.insert(HOST, authority.ok_or_else(invalid)?);
        headers.insert(USER_AGENT, AGENT);
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Ok(Self { dialer, path, headers, max_bytes })
    }

    /// Asks once; the caller sets the deadline.
    pub(super) async fn get(&self) -> Result<Got, GetError> {
        let stream = self.dialer.dial().await.map_err(GetError::Dial)?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(GetError::Http)?;
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.uri_mut() = self.path.parse().unwrap_or_default();
        *request.headers_mut() = self.headers.clone();
        let ask = async {
            let answer = sender.send_request(request).await.map_err(GetError::Http)?;
            let (parts, body) = answer.into_parts();
            let body = Limited::new(body, self.max_bytes).collect().await.map_err(|error| {
                let too_long = error.downcast_ref::<LengthLimitError>().is_some();
                if too_long { GetError::TooLong(self.max_bytes) } else { GetError::Body(error) }
            })?;
            Ok(Got { status: parts.status, headers: parts.headers, body: body.to_bytes() })
        };
        tokio::pin!(ask, connection);
        tokio::select! {
            biased;
            answer = &mut ask => answer,
            // The connection ends first when the answer is complete, or broke.
            _ = &mut connection => ask.await,
        }
    }
}

impl GetError {
    /// Tells whether the other side was there at all.
    pub(super) fn is_reached(&self) -> bool {
        match self {
            Self::Dial(error) => error.is_reached(),
            Self::Http(_) | Self::Body(_) | Self::TooLong(_) => true,
        }
    }
}

/// Returns the header with which somebody logs in, if anybody does.
pub(super) fn authorization(token: &Secret, user: &str, password: &Secret) -> Option<HeaderValue> {
    let text = if !token.is_empty() {
        format!("Bearer {}", token.expose())
    } else if !user.is_empty() {
        format!("Basic {}", STANDARD.encode(format!("{user}:{}", password.expose())))
    } else {
        return None;
    };
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Starts headers with that of who logs in.
pub(super) fn headers(token: &Secret, user: &str, password: &Secret) -> HeaderMap {
    authorization(token, user, password).map(|value| (AUTHORIZATION, value)).into_iter().collect()
}
