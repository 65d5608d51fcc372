use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
use futures_util::future::Either;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response};
use mainstay_proto::cache::v1::cache_service_server::CacheServiceServer;
use mainstay_rpc::Status;
use tonic::body::Body;
use tonic::codec::{DecodeBuf, Decoder};
use tonic::codegen::Service;
use tonic::server::NamedService;
use tonic::{Streaming, codegen};

use super::cache::CacheGrpc;
use super::stream::AnswersBody;

/// The generated service, but for streams: they read and write their messages themselves.
#[derive(Debug, Clone)]
pub(crate) struct CacheDoor {
    usual: CacheServiceServer<CacheGrpc>,
    grpc: CacheGrpc,
    most_request_bytes: usize,
}

const STREAM: &str = "/mainstay.cache.v1.CacheService/Stream";

impl CacheDoor {
    /// Takes messages of up to `most_request_bytes`.
    pub(crate) fn new(grpc: CacheGrpc, most_request_bytes: usize) -> Self {
        let usual = CacheServiceServer::new(grpc.clone())
            .max_decoding_message_size(most_request_bytes)
            // What is sent is bounded where it is made.
            .max_encoding_message_size(usize::MAX);
        Self { usual, grpc, most_request_bytes }
    }

    fn stream(&self, request: Request<Body>) -> Response<Body> {
        let most = Some(self.most_request_bytes);
        let requests = Streaming::new_request(AsTheyCame, request.into_body(), None, most);
        match self.grpc.answers(requests) {
            Ok(answers) => {
                let mut response = Response::new(Body::new(AnswersBody::new(answers)));
                let grpc = HeaderValue::from_static("application/grpc");
                response.headers_mut().insert(CONTENT_TYPE, grpc);
                response
            }
            Err(failure) => Status::from(failure).into_http(),
        }
    }
}

impl NamedService for CacheDoor {
    const NAME: &'static str = <CacheServiceServer<CacheGrpc> as NamedService>::NAME;
}

impl Service<Request<Body>> for CacheDoor {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future =
        Either<Ready<Result<Response<Body>, Infallible>>, codegen::BoxFuture<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // What is packed is refused by the generated code.
        if request.uri().path() == STREAM && !request.headers().contains_key("grpc-encoding") {
            return Either::Left(ready(Ok(self.stream(request))));
        }
        Either::Right(self.usual.call(request))
    }
}

/// Gives messages as bytes.
struct AsTheyCame;

impl Decoder for AsTheyCame {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(message.copy_to_bytes(message.remaining())))
    }
}
