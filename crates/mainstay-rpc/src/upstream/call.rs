use std::time::Duration;

use tokio::time::Instant;
use tracing::Span;
use tracing::field::Empty;

use super::verdict::Again;
use crate::identity::Caller;
use crate::server::Deadline;
use crate::trace;

/// Describes one call: which method, whether it may be repeated, how long it may take, and for whom.
#[derive(Debug, Clone)]
pub struct Call {
    method: &'static str,
    idempotent: bool,
    within: Option<Duration>,
    deadline: Option<Deadline>,
    caller: Option<Caller>,
}

impl Call {
    /// Describes a call that may safely be made twice; `method` is `package.Service/Method`.
    pub fn read(method: &'static str) -> Self {
        Self { method, idempotent: true, within: None, deadline: None, caller: None }
    }

    /// Describes a call that changes something and must not be made twice.
    pub fn write(method: &'static str) -> Self {
        Self { idempotent: false, ..Self::read(method) }
    }

    /// Gives the call this time, instead of the upstream's default.
    #[must_use]
    pub fn within(mut self, within: Duration) -> Self {
        self.within = Some(within);
        self
    }

    /// Ends the call at the deadline of the request on whose behalf it is made, if that comes first.
    #[must_use]
    pub fn before(mut self, deadline: Deadline) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Forwards who asks.
    #[must_use]
    pub fn by(mut self, caller: impl Into<Option<Caller>>) -> Self {
        self.caller = caller.into();
        self
    }

    pub(super) fn caller(&self) -> Option<&Caller> {
        self.caller.as_ref()
    }

    pub(super) fn until(&self, now: Instant, default: Duration) -> Instant {
        let own = now + self.within.unwrap_or(default);
        self.deadline.map_or(own, |deadline| own.min(deadline.at()))
    }

    pub(super) fn allows(&self, again: Again) -> bool {
        match again {
            Again::Never => false,
            Again::IfIdempotent => self.idempotent,
            Again::Always => true,
        }
    }

    pub(super) fn span(&self, upstream: &str) -> Span {
        if trace::is_routine(self.method) && Span::current().is_none() {
            return Span::none();
        }
        tracing::info_span!(
            "rpc.client",
            otel.name = self.method,
            otel.kind = "client",
            rpc.system.name = "grpc",
            rpc.method = self.method,
            upstream,
            server.address = Empty,
            error.r#type = Empty,
            otel.status_code = Empty,
            otel.status_description = Empty,
        )
    }
}
