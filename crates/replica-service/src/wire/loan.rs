use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};

/// A stream that is lent to the driver for the log-in, and taken back afterwards.
pub(super) struct Loan<S>(Arc<Mutex<Option<S>>>);

/// Opens TLS, and lends what comes of it.
pub(super) struct LendingTls<C, S> {
    pub connect: C,
    pub lent: Loan<S>,
}

impl<S> Loan<S> {
    pub(super) fn new(stream: S) -> Self {
        Self(Arc::new(Mutex::new(Some(stream))))
    }

    /// Nothing is lent yet.
    pub(super) fn none() -> Self {
        Self(Arc::new(Mutex::new(None)))
    }

    /// Returns the stream, if it was lent; the borrower has none from now on.
    pub(super) fn take_back(&self) -> Option<S> {
        self.0.lock().take()
    }
}

impl<S> Clone for Loan<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: Unpin> Loan<S> {
    fn with<T>(&self, use_it: impl FnOnce(Pin<&mut S>) -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match &mut *self.0.lock() {
            Some(stream) => use_it(Pin::new(stream)),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Loan<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_read(cx, buffer))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Loan<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.with(|stream| stream.poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_shutdown(cx))
    }
}

impl<S: TlsStream + Unpin> TlsStream for Loan<S> {
    fn channel_binding(&self) -> ChannelBinding {
        self.0.lock().as_ref().map_or_else(ChannelBinding::none, TlsStream::channel_binding)
    }
}

impl<C, S, R> TlsConnect<R> for LendingTls<C, S>
where
    C: TlsConnect<R, Stream = S>,
    C::Future: Send + 'static,
    C::Error: 'static,
    S: TlsStream + Unpin + Send + 'static,
{
    type Stream = Loan<S>;
    type Error = C::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Loan<S>, C::Error>> + Send>>;

    fn connect(self, stream: R) -> Self::Future {
        let Self { connect, lent } = self;
        let connecting = connect.connect(stream);
        Box::pin(async move {
            *lent.0.lock() = Some(connecting.await?);
            Ok(lent)
        })
    }
}
