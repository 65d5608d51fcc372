//! All that the dashboard shows first, in one answer.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::analysis::{self, Bottlenecks, Endpoints};
use super::health::{AllComponents, completeness};
use super::monitoring::{self, Parts, UnifiedMetrics};
use crate::body::Who;
use crate::part::PartInfo;
use crate::state::App;

/// What one look takes in: figures, components, the busiest routes, what holds the system up.
#[derive(Serialize, ToSchema)]
pub(crate) struct Glance {
    version: String,
    /// As `/monitoring/unified/metrics` tells them, with `parts` of their own.
    figures: UnifiedMetrics,
    /// As `/health/components` tells them.
    components: AllComponents,
    /// As `/monitoring/performance/endpoints` tells them; null when the monitor does not answer.
    performance: Option<Endpoints>,
    /// As `/monitoring/performance/bottlenecks` tells them.
    bottlenecks: Option<Bottlenecks>,
    parts: BTreeMap<&'static str, PartInfo>,
}

/// Gives all that the dashboard page shows first; a part that does not answer is null and says why under `parts`.
#[utoipa::path(get, path = "/monitoring/dashboard", tag = "monitoring", responses(
    (status = 200, description = "everything in one answer", body = Glance, headers(
        ("x-mainstay-completeness" = String, description = "`full` or `partial`"),
    )),
))]
pub(crate) async fn dashboard(State(app): State<Arc<App>>, Who(caller): Who) -> Response {
    let caller = Some(caller);
    let ((figures, processes, complete), performance, bottlenecks) = tokio::join!(
        Box::pin(monitoring::with_processes(&app, caller.clone())),
        analysis::endpoints_now(&app, caller.clone(), app.part_within),
        analysis::bottlenecks_now(&app, caller.clone(), app.part_within),
    );
    let mut parts = Parts::default();
    let performance = parts.take("performance", performance);
    let bottlenecks = parts.take("bottlenecks", bottlenecks);
    let body = Glance {
        version: app.cx.describe().version,
        figures,
        components: AllComponents::of(&processes),
        performance,
        bottlenecks,
        parts: parts.told,
    };
    ([completeness(complete && !parts.incomplete)], Answer(body)).into_response()
}
