//! TLS to servers and Sentinels, by rustls.

use std::io;
use std::sync::Arc;

use mainstay_rpc::{ClientTls, InvalidTls, client_tls};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::config::Address;

/// A connection, with TLS or without.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Reads the certificates; none when TLS is not configured.
///
/// They are read for every connection: a certificate that was replaced is used without a restart.
pub(crate) fn connector(tls: &ClientTls) -> Result<Option<TlsConnector>, InvalidTls> {
    let Some(config) = client_tls(tls)? else { return Ok(None) };
    let mut config = Arc::unwrap_or_clone(config);
    // Redis knows no protocol names.
    config.alpn_protocols.clear();
    Ok(Some(TlsConnector::from(Arc::new(config))))
}

/// Shakes hands on a new connection where TLS is configured.
pub(crate) async fn secure(
    tls: &ClientTls,
    address: &Address,
    stream: TcpStream,
) -> io::Result<Box<dyn Stream>> {
    let Some(connector) = connector(tls).map_err(io::Error::other)? else { return Ok(Box::new(stream)) };
    let name = if tls.domain.is_empty() { address.host.clone() } else { tls.domain.clone() };
    let name = ServerName::try_from(name).map_err(io::Error::other)?;
    Ok(Box::new(connector.connect(name, stream).await?))
}
