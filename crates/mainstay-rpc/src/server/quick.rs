//! Calls that are answered at once, past the router and the codec.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use axum::body::{Body, Bytes};
use bytes::{BufMut as _, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response, Version};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use tonic::Status;

use super::metrics::WellMetrics;
use super::panic;
use super::report::{Report, WELL};
use super::stack::Rules;

/// Answers calls of one unary method that need not wait.
///
/// The usual way through [`stack`](super::stack()) costs more than reading from memory does. What this does not answer goes that
/// way, unchanged, so it has to know neither errors nor anything rare; every rule of the stack holds for both.
pub trait AtOnce: Send + Sync + 'static {
    /// Appends the protobuf of the answer and returns true, or returns false: then nothing may have happened, and what it
    /// appended is dropped.
    fn answer(&self, request: &Bytes, answer: &mut BytesMut) -> bool;
}

/// The methods of a port that [`AtOnce`] answers.
#[derive(Clone)]
pub struct QuickCalls {
    rules: Arc<Rules>,
    methods: Arc<[(QuickMethod, Arc<WellMetrics>)]>,
}

/// One of them.
pub struct QuickMethod {
    path: String,
    name: &'static str,
    call: Box<dyn AtOnce>,
}

/// Larger requests go the usual way.
const MOST_REQUEST_BYTES: usize = 128 << 10;
/// A flag for compression and the length.
const PREFIX_BYTES: usize = 5;

impl QuickMethod {
    /// Names a method as `package.Service/Method`.
    pub fn new(name: &'static str, call: impl AtOnce) -> Self {
        Self { path: format!("/{name}"), name, call: Box::new(call) }
    }
}

impl fmt::Debug for QuickCalls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.methods.iter().map(|(method, _)| method.name)).finish()
    }
}

impl QuickCalls {
    pub(super) fn new(rules: Arc<Rules>, methods: Vec<QuickMethod>) -> Self {
        let counted = methods.into_iter().map(|method| {
            let metrics = rules.well_metrics(method.name);
            (method, metrics)
        });
        Self { methods: counted.collect(), rules }
    }

    /// Answers a request at once, or gives it back as it came.
    pub(crate) fn answer(&self, request: Request<Incoming>) -> Result<Response<ServedBody>, Request<Body>> {
        let path = request.uri().path();
        let Some((method, metrics)) = self.methods.iter().find(|(method, _)| method.path == path) else {
            return Err(request.map(Body::new));
        };
        if request.version() != Version::HTTP_2
            || !is_plain(request.headers())
            || !self.rules.admit(path, request.headers())
        {
            return Err(request.map(Body::new));
        }
        let (parts, body) = request.into_parts();
        let message = match Received::of(body) {
            Received::Whole(message) => message,
            Received::Part(replayed) => return Err(Request::from_parts(parts, Body::new(replayed))),
        };
        let mut report = self.rules.quick_report(method.name, metrics);
        let outcome = catch_unwind(AssertUnwindSafe(|| method.answer(&message)));
        // What goes the usual way has its span there; this one lasts as long as the answer takes to go out.
        if !matches!(outcome, Ok(None)) && self.rules.wants_span(&parts.headers) {
            report.open_span(&parts.headers);
        }
        match outcome {
            Ok(Some(answer)) => {
                report.begins();
                let answer = QuickAnswer { message: Some(answer), report: Some(report) };
                let mut response = Response::new(ServedBody::Quick(answer));
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
                Ok(response)
            }
            Ok(None) => {
                report.forget();
                Err(Request::from_parts(parts, Body::from(message)))
            }
            Err(panicked) => {
                let failure = panic::failure(&*panicked);
                let response = report.span().in_scope(|| Status::from(failure).into_http());
                Ok(report.attach(response).map(ServedBody::Routed))
            }
        }
    }
}

impl QuickMethod {
    fn answer(&self, framed: &Bytes) -> Option<Bytes> {
        let (prefix, message) = framed.split_at_checked(PREFIX_BYTES)?;
        let (flag, length) = prefix.split_first()?;
        let length = u32::from_be_bytes(length.try_into().ok()?);
        if *flag != 0 || length as usize != message.len() {
            return None;
        }
        let mut answer = BytesMut::with_capacity(512);
        answer.put_bytes(0, PREFIX_BYTES);
        if !self.call.answer(&framed.slice(PREFIX_BYTES..), &mut answer) {
            return None;
        }
        let length = u32::try_from(answer.len() - PREFIX_BYTES).ok()?;
        answer[1..PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
        Some(answer.freeze())
    }
}

/// Tells whether a request is gRPC that needs no unpacking.
fn is_plain(headers: &HeaderMap) -> bool {
    let is = |value: Option<&HeaderValue>, those: &[&str]| {
        value.is_some_and(|value| those.iter().any(|that| value.as_bytes() == that.as_bytes()))
    };
    is(headers.get(CONTENT_TYPE), &["application/grpc", "application/grpc+proto"])
        && headers.get("grpc-encoding").is_none_or(|value| value.as_bytes() == b"identity")
}

/// What of a request has come in already.
enum Received {
    Whole(Bytes),
    Part(Replayed),
}

impl Received {
    fn of(mut body: Incoming) -> Self {
        let (mut first, mut more) = (Bytes::new(), BytesMut::new());
        // Who waits for the rest polls it again, with a waker of its own.
        let mut nobody = Context::from_waker(Waker::noop());
        let mut trailers = None;
        let whole = loop {
            match Pin::new(&mut body).poll_frame(&mut nobody) {
                Poll::Ready(None) => break true,
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) if first.is_empty() => first = data,
                    Ok(data) => {
                        if more.is_empty() {
                            more.put_slice(&first);
                        }
                        more.put_slice(&data);
                    }
                    Err(other) => {
                        trailers = Some(other);
                        break false;
                    }
                },
                Poll::Ready(Some(Err(error))) => {
                    let begun = if more.is_empty() { first } else { more.freeze() };
                    return Self::Part(Replayed {
                        begun: Some(Ok(Frame::data(begun))),
                        then: Some(Err(axum::Error::new(error))),
                        rest: None,
                    });
                }
                Poll::Pending => break false,
            }
            if first.len().max(more.len()) > MOST_REQUEST_BYTES {
                break false;
            }
        };
        let begun = if more.is_empty() { first } else { more.freeze() };
        if whole {
            return Self::Whole(begun);
        }
        let begun = (!begun.is_empty()).then(|| Ok(Frame::data(begun)));
        Self::Part(Replayed { begun, then: trailers.map(Ok), rest: Some(body) })
    }
}

/// A request body of which the beginning was looked at.
struct Replayed {
    begun: Option<Result<Frame<Bytes>, axum::Error>>,
    then: Option<Result<Frame<Bytes>, axum::Error>>,
    rest: Option<Incoming>,
}

impl HttpBody for Replayed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        if let Some(frame) = this.begun.take().or_else(|| this.then.take()) {
            return Poll::Ready(Some(frame));
        }
        match &mut this.rest {
            Some(rest) => Pin::new(rest).poll_frame(cx).map_err(axum::Error::new),
            None => Poll::Ready(None),
        }
    }
}

/// The body of an answer, whichever way it was made.
pub(crate) enum ServedBody {
    Routed(Body),
    Quick(QuickAnswer),
}

/// One message and the status that it is well.
pub(crate) struct QuickAnswer {
    message: Option<Bytes>,
    report: Option<Report>,
}

impl HttpBody for ServedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let answer = match &mut *self {
            Self::Routed(body) => return Pin::new(body).poll_frame(cx),
            Self::Quick(answer) => answer,
        };
        if let Some(message) = answer.message.take() {
            return Poll::Ready(Some(Ok(Frame::data(message))));
        }
        Poll::Ready(answer.report.take().map(|mut report| {
            report.end(WELL);
            let mut trailers = HeaderMap::with_capacity(1);
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            Ok(Frame::trailers(trailers))
        }))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Routed(body) => body.is_end_stream(),
            Self::Quick(answer) => answer.report.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Routed(body) => body.size_hint(),
            Self::Quick(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests;
