use std::time::{Duration, SystemTime};

use mainstay_proto::common::v1 as common;
use mainstay_proto::introspect::v1 as pb;
use mainstay_proto::introspect::v1::introspection_server::Introspection;
use mainstay_rpc::{Reply, Request, Response};

use crate::background::TaskStatus;
use crate::component::{ComponentKind, ComponentSnapshot, Health};
use crate::context::Context;
use crate::telemetry::ErrorGroup;

/// Tells the edge and the monitor everything about this process.
pub(crate) struct Introspect {
    cx: Context,
}

/// Groups returned when the request does not say how many, and at most.
const DEFAULT_GROUPS: usize = 100;

impl Introspect {
    pub(crate) fn new(cx: Context) -> Self {
        Self { cx }
    }
}

#[tonic::async_trait]
impl Introspection for Introspect {
    async fn describe(&self, _: Request<pb::DescribeRequest>) -> Reply<pb::DescribeResponse> {
        Ok(Response::new(self.cx.describe()))
    }

    async fn components(&self, _: Request<pb::ComponentsRequest>) -> Reply<pb::ComponentsResponse> {
        Ok(Response::new(pb::ComponentsResponse {
            components: self.cx.component_list(),
            collected_at: Some(self.cx.clock().now().into()),
        }))
    }

    async fn metrics(&self, _: Request<pb::MetricsRequest>) -> Reply<pb::MetricsResponse> {
        Ok(Response::new(pb::MetricsResponse {
            openmetrics: self.cx.openmetrics().into(),
            collected_at: Some(self.cx.clock().now().into()),
        }))
    }

    async fn errors(&self, request: Request<pb::ErrorsRequest>) -> Reply<pb::ErrorsResponse> {
        let limit = match request.into_inner().limit {
            0 => DEFAULT_GROUPS,
            limit => usize::try_from(limit).unwrap_or(usize::MAX),
        };
        let groups = self.cx.inner.errors.newest(limit);
        Ok(Response::new(pb::ErrorsResponse { groups: groups.into_iter().map(error_group).collect() }))
    }
}

/// The same answers for the process itself: the edge merges its own with those of the services behind it.
impl Context {
    /// Tells who the process is, since when, and what it does in the background.
    pub fn describe(&self) -> pb::DescribeResponse {
        let inner = &self.inner;
        let listeners = self.listening().into_iter();
        let obstacles = inner.readiness.obstacles();
        pb::DescribeResponse {
            service: inner.identity.service.to_owned(),
            instance: inner.identity.instance.clone(),
            version: inner.identity.version.to_owned(),
            started_at: Some(inner.started_at.into()),
            ready: obstacles.is_empty(),
            not_ready_because: obstacles.into_iter().map(|obstacle| obstacle.name).collect(),
            listeners: listeners
                .map(|port| pb::Listener { name: port.name.to_owned(), address: port.address.to_string() })
                .collect(),
            background_tasks: inner.background.snapshot().into_iter().map(background_task).collect(),
            config_fingerprint: self.config_fingerprint(),
            draining: inner.readiness.draining().is_cancelled(),
        }
    }

    /// Lists what the process is made of and leans on.
    pub fn component_list(&self) -> Vec<pb::Component> {
        self.inner.components.snapshot().into_iter().map(component).collect()
    }

    /// Renders every metric of the process as OpenMetrics 1.0 text.
    pub fn openmetrics(&self) -> String {
        self.inner.metrics.render()
    }
}

fn background_task((name, status): (String, TaskStatus)) -> pb::BackgroundTask {
    pb::BackgroundTask {
        name,
        period: status.period.and_then(duration),
        running: status.running,
        activations: status.activations,
        failures: status.failures,
        last_started_at: status.last_started_at.map(SystemTime::into),
        last_duration: status.last_duration.and_then(duration),
        last_error: status.last_error,
    }
}

fn component(component: ComponentSnapshot) -> pb::Component {
    let kind = match component.kind {
        ComponentKind::Internal => pb::ComponentKind::Internal,
        ComponentKind::Datastore => pb::ComponentKind::Datastore,
        ComponentKind::Upstream => pb::ComponentKind::Upstream,
        ComponentKind::System => pb::ComponentKind::System,
    };
    let health = match component.health {
        Health::Healthy => common::Health::Healthy,
        Health::Degraded => common::Health::Degraded,
        Health::Unhealthy => common::Health::Unhealthy,
        Health::Unknown => common::Health::Unknown,
    };
    pb::Component {
        name: component.name,
        kind: kind.into(),
        health: health.into(),
        critical: component.critical,
        detail: component.detail,
        since: Some(component.since.into()),
        checked_at: component.checked_at.map(SystemTime::into),
        latency: component.latency.and_then(duration),
        attributes: component.attributes.into_iter().collect(),
    }
}

fn error_group(group: ErrorGroup) -> pb::ErrorGroup {
    pb::ErrorGroup {
        fingerprint: group.fingerprint,
        code: group.code,
        target: group.target,
        message: group.message,
        count: group.count,
        first_seen_at: Some(group.first_seen_at.into()),
        last_seen_at: Some(group.last_seen_at.into()),
        trace_id: group.trace_id,
    }
}

/// Converts; none for a duration of more than 10,000 years.
fn duration<D: TryFrom<Duration>>(duration: Duration) -> Option<D> {
    duration.try_into().ok()
}
