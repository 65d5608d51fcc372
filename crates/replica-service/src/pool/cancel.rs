use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_postgres::CancelToken;

use super::tls;

/// The server ends the connection when it has passed the request on, which takes it one round trip.
const CANCEL_WITHIN: Duration = Duration::from_secs(1);

/// Why a cancel request may not have arrived.
#[derive(Debug, thiserror::Error)]
pub(super) enum CancelError {
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    #[error("cannot send the request")]
    Send(#[source] tokio_postgres::Error),
    #[error("not confirmed within {} ms", CANCEL_WITHIN.as_millis())]
    Late,
}

/// Asks the server, or the `PgBouncer` before it, to cancel what a connection runs, and waits until it has.
///
/// The driver's own request closes its end at once. `PgBouncer` takes that for a caller who has lost interest and drops
/// the request, so the connection stays open here until the other end closes it.
pub(super) async fn send(token: &CancelToken, address: &str) -> Result<(), CancelError> {
    let confirmed = async {
        let mut stream = TcpStream::connect(address).await.map_err(CancelError::Connect)?;
        token.cancel_query_raw(StaysOpen(&mut stream), tls()).await.map_err(CancelError::Send)?;
        // Nothing is ever sent back; an error, too, says that the other end is done.
        let _ = stream.read(&mut [0]).await;
        Ok(())
    };
    timeout(CANCEL_WITHIN, confirmed).await.unwrap_or(Err(CancelError::Late))
}

/// A stream that does not close when told to.
struct StaysOpen<'a>(&'a mut TcpStream);

impl AsyncRead for StaysOpen<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for StaysOpen<'_> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
