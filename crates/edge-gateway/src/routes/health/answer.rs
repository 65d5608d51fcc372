//! What the health paths answer.

use std::collections::{BTreeMap, HashMap};

use mainstay_proto::introspect::v1::Component;
use serde::Serialize;
use utoipa::ToSchema;

use crate::part::Freshness;
use crate::routes::words::{self, Status, rfc3339, seconds};

#[derive(Serialize, ToSchema)]
pub(crate) struct Liveness {
    pub(super) status: &'static str,
}

/// Whether traffic can be served now, and what is wrong.
#[derive(Serialize, ToSchema)]
pub(crate) struct Readiness {
    /// `ready` or `not_ready`.
    pub(super) status: &'static str,
    pub(super) failing: Vec<String>,
}

/// The whole system at a glance.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SystemStatus {
    pub(super) status: Status,
    pub(super) version: String,
    pub(super) uptime_seconds: u64,
    pub(super) reasons: Vec<String>,
    pub(super) services: Vec<ServiceSummary>,
}

/// One process, as the edge sees it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ServiceSummary {
    pub(super) service: &'static str,
    pub(super) instance: Option<String>,
    pub(super) endpoint: String,
    pub(super) status: Status,
    pub(super) ready: bool,
    pub(super) version: Option<String>,
    pub(super) started_at: Option<String>,
    pub(super) freshness: Freshness,
    pub(super) age_seconds: Option<f64>,
    pub(super) reason: Option<String>,
}

/// Every component of every service.
#[derive(Serialize, ToSchema)]
pub(crate) struct AllComponents {
    pub(super) status: Status,
    pub(super) services: Vec<ServiceComponents>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct ServiceComponents {
    #[serde(flatten)]
    pub(super) summary: ServiceSummary,
    pub(super) components: Vec<ComponentState>,
}

/// One thing a service stands on.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ComponentState {
    name: String,
    /// `datastore`, `upstream`, `system` or `component`.
    kind: &'static str,
    /// `healthy`, `degraded`, `unhealthy` or `unknown`.
    status: &'static str,
    /// True when the service cannot serve without it.
    critical: bool,
    detail: String,
    since: Option<String>,
    checked_at: Option<String>,
    latency_seconds: Option<f64>,
    attributes: HashMap<String, String>,
}

/// One component, once per instance that has it.
#[derive(Serialize, ToSchema)]
pub(crate) struct ComponentInstances {
    pub(super) service: String,
    pub(super) instances: Vec<ComponentInstance>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct ComponentInstance {
    #[serde(flatten)]
    pub(super) component: ComponentState,
    pub(super) endpoint: String,
    pub(super) freshness: Freshness,
}

/// The form of draft-inadarei-api-health-check-06.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HealthDocument {
    /// `pass`, `warn` or `fail`.
    pub(super) status: &'static str,
    pub(super) version: &'static str,
    pub(super) release_id: String,
    pub(super) service_id: String,
    pub(super) checks: BTreeMap<String, Vec<HealthCheck>>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HealthCheck {
    pub(super) component_id: String,
    pub(super) component_type: &'static str,
    pub(super) status: &'static str,
    pub(super) output: String,
}

impl From<&Component> for ComponentState {
    fn from(component: &Component) -> Self {
        Self {
            name: component.name.clone(),
            kind: words::component_kind(component.kind),
            status: words::health(component.health),
            critical: component.critical,
            detail: component.detail.clone(),
            since: rfc3339(component.since),
            checked_at: rfc3339(component.checked_at),
            latency_seconds: seconds(component.latency),
            attributes: component.attributes.clone(),
        }
    }
}
