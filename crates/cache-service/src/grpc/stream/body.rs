use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame};
use mainstay_rpc::Status;

use super::Answers;

/// Sends the answers of a stream, each as a gRPC message, and its status at the end.
pub(in crate::grpc) struct AnswersBody {
    answers: Answers,
    /// What is written and not yet sent: empty whenever nothing more is ready.
    out: BytesMut,
    /// What will be ready together, from what was.
    expected_bytes: usize,
    end: Option<Result<(), Status>>,
    is_over: bool,
}

/// What is ready is sent together until it has so many bytes: four frames of HTTP/2.
const SENT_TOGETHER_BYTES: usize = 64 << 10;
const LEAST_BUFFER_BYTES: usize = 1 << 10;
const LARGEST_BUFFER_BYTES: usize = SENT_TOGETHER_BYTES + (16 << 10);
/// A flag for compression and the length, before each message.
const PREFIX_BYTES: usize = 5;

impl AnswersBody {
    pub(in crate::grpc) fn new(answers: Answers) -> Self {
        Self { answers, out: BytesMut::new(), expected_bytes: LEAST_BUFFER_BYTES, end: None, is_over: false }
    }

    /// Writes what is ready.
    fn gather(&mut self, cx: &mut Context<'_>) {
        while self.end.is_none() && self.out.len() < SENT_TOGETHER_BYTES {
            match self.answers.poll_answer(cx, &mut self.out) {
                Poll::Ready(Some(Ok(()))) => {}
                Poll::Ready(Some(Err(failed))) => self.end = Some(Err(failed)),
                Poll::Ready(None) => self.end = Some(Ok(())),
                Poll::Pending => return,
            }
        }
    }
}

impl Body for AnswersBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        if this.is_over {
            return Poll::Ready(None);
        }
        if this.out.capacity() < this.expected_bytes {
            // Growing while it is written would copy what is written, more than once.
            this.out = BytesMut::with_capacity(this.expected_bytes);
        }
        this.gather(cx);
        if !this.out.is_empty() {
            let bytes = this.out.len();
            this.expected_bytes = (bytes + bytes / 4).clamp(LEAST_BUFFER_BYTES, LARGEST_BUFFER_BYTES);
            return Poll::Ready(Some(Ok(Frame::data(this.out.split().freeze()))));
        }
        let Some(end) = this.end.take() else { return Poll::Pending };
        this.is_over = true;
        let status = end.err().unwrap_or_else(|| Status::ok(""));
        let mut trailers = HeaderMap::new();
        // Only fails for details that are no header, and ours are bounded text.
        if status.add_header(&mut trailers).is_err() {
            trailers.insert("grpc-status", http::HeaderValue::from_static("13"));
        }
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_over
    }
}

/// Writes one message with its prefix; nothing if there is none.
pub(super) fn write_message(out: &mut BytesMut, write: impl FnOnce(&mut BytesMut) -> bool) -> bool {
    let at = out.len();
    out.put_bytes(0, PREFIX_BYTES);
    if !write(out) {
        out.truncate(at);
        return false;
    }
    let length = u32::try_from(out.len() - at - PREFIX_BYTES).expect("parts are bounded far below 4 GiB");
    out[at + 1..at + PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
    true
}
