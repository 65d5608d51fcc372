use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;

use axum::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;

/// The answer of a [`Front`], once it is there.
pub type Answered = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// Answers requests that need nothing of a router, before the router sees them.
///
/// A router costs more than a short answer does. What a front answers must look as if the router had; it leaves whatever it
/// does not know well.
pub trait Front: fmt::Debug + Send + Sync + 'static {
    /// Answers a request of `peer`, and may take out of it what it likes; or leaves it as it came, to the router.
    fn answer(&self, request: &mut Request<Incoming>, peer: SocketAddr) -> Option<Answered>;
}
