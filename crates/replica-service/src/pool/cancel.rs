use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_postgres::{CancelToken, tls::MakeTlsConnect};

use super::{Endpoint, Tls};

/// The server ends the connection when it has passed the request on, which takes it one round trip.
const CANCEL_WITHIN: Duration = Duration::from_secs(1);

/// Why a cancel request may not have arrived.
#[derive(Debug, thiserror::Error)]
pub(super) enum CancelError {
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    #[error("cannot prepare tls")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("cannot send the request")]
    Send(#[source] tokio_postgres::Error),
    #[error("not confirmed within {} ms", CANCEL_WITHIN.as_millis())]
    Late,
}

/// Where cancel requests for a connection go.
pub(super) struct Target {
    pub address: Arc<str>,
    pub host: Arc<str>,
    pub tls: Tls,
}

impl Target {
    pub(super) fn of(endpoint: &Endpoint) -> Self {
        let Endpoint { address, host, tls, .. } = endpoint;
        Self { address: Arc::clone(address), host: Arc::clone(host), tls: tls.clone() }
    }
}

/// Asks the server, or the `PgBouncer` before it, to cancel what a connection runs, and waits until it has.
///
/// The driver's own request closes its end at once. `PgBouncer` takes that for a caller who has lost interest and drops
/// the request, so the connection stays open here until the other end closes it.
pub(super) async fn send(token: &CancelToken, target: &mut Target) -> Result<(), CancelError> {
    let confirmed = async {
        let stream = TcpStream::connect(&*target.address).await.map_err(CancelError::Connect)?;
        let (stream, mut held) = twice(stream).map_err(CancelError::Connect)?;
        let tls = MakeTlsConnect::<StaysOpen>::make_tls_connect(&mut target.tls, &target.host);
        let tls = tls.map_err(|error| CancelError::Tls(error.into()))?;
        token.cancel_query_raw(StaysOpen(stream), tls).await.map_err(CancelError::Send)?;
        // What may come is the rest of a handshake; the end, or an error, says that the other side is done.
        let mut rest = [0; 256];
        while held.read(&mut rest).await.is_ok_and(|n| n > 0) {}
        Ok(())
    };
    timeout(CANCEL_WITHIN, confirmed).await.unwrap_or(Err(CancelError::Late))
}

/// Returns two handles of one connection: it is closed when both are dropped.
fn twice(stream: TcpStream) -> io::Result<(TcpStream, TcpStream)> {
    let stream = stream.into_std()?;
    let held = stream.try_clone()?;
    Ok((TcpStream::from_std(stream)?, TcpStream::from_std(held)?))
}

/// A stream that does not close when told to.
struct StaysOpen(TcpStream);

impl AsyncRead for StaysOpen {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for StaysOpen {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
