#![doc = include_str!("../README.md")]

mod code;
mod failure;
mod http_upstream;
mod identity;
mod percent;
mod serve;
mod server;
mod status;
#[cfg(test)]
mod testing;
mod timeout;
mod tls;
pub mod trace;
mod upstream;

pub use tonic::service::Routes;
pub use tonic::{Request, Response, Status};

pub use code::ErrorCode;
pub use failure::{DEADLINE_EXCEEDED, Failure, FieldViolation, UPSTREAM_UNAVAILABLE};
pub use http_upstream::{HttpAnswer, HttpError, HttpUpstream, HttpUpstreamOptions, InvalidHttpUpstream};
pub use identity::{Caller, Secret};
pub use serve::{Answered, Front, ServeOptions, serve};
pub use server::{
    AtOnce, Deadline, QuickCalls, QuickMethod, ServerConfig, ServerMetrics, Stack, stack, unreadable,
};
pub use status::{is_answer_too_large, is_unimplemented};
pub use tls::{
    ClientTls, InvalidTls, PortTls, ServerTls, client_tls, http_client_tls, server_tls, server_verifier,
};
pub use upstream::{
    BreakerSection, Call, Connector, EndpointList, EndpointSnapshot, InvalidUpstream, Lane, Upstream,
    UpstreamConfig, UpstreamSnapshot, Wire,
};

/// What a gRPC handler answers.
pub type Reply<T> = Result<Response<T>, Status>;
