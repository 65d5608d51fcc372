//! The gRPC door: decode, call, encode.

mod decode;
mod encode;
mod failure;

use std::sync::Arc;

use mainstay_proto::monitor::v1 as pb;
use mainstay_proto::monitor::v1::monitor_service_server::{MonitorService, MonitorServiceServer};
use mainstay_rpc::{Caller, Reply, Request, Response};

use crate::monitor::Monitor;

/// Serves `mainstay.monitor.v1.MonitorService`.
pub(crate) struct MonitorGrpc {
    monitor: Arc<Monitor>,
}

/// Who acts when no caller is named: a service on its own behalf.
const INTERNAL: &str = "internal";

impl MonitorGrpc {
    pub(crate) fn new(monitor: Arc<Monitor>) -> Self {
        Self { monitor }
    }

    pub(crate) fn into_server(self) -> MonitorServiceServer<Self> {
        MonitorServiceServer::new(self)
    }
}

#[tonic::async_trait]
impl MonitorService for MonitorGrpc {
    async fn overview(&self, _: Request<pb::OverviewRequest>) -> Reply<pb::OverviewResponse> {
        let (series, max_series) = self.monitor.n_series();
        Ok(Response::new(pb::OverviewResponse {
            instances: self.monitor.instances(encode::instance),
            alerts: Some(encode::counts(self.monitor.firing())),
            collected_at: Some(self.monitor.clock().now().into()),
            series: series as u64,
            max_series: max_series as u64,
        }))
    }

    async fn list_series(&self, request: Request<pb::ListSeriesRequest>) -> Reply<pb::ListSeriesResponse> {
        let pb::ListSeriesRequest { prefix, limit } = request.into_inner();
        let (names, total) = self.monitor.series(&prefix, decode::series_limit(limit));
        let series = names.into_iter().map(encode::series_name).collect();
        Ok(Response::new(pb::ListSeriesResponse { series, total: total as u64 }))
    }

    async fn query_range(&self, request: Request<pb::QueryRangeRequest>) -> Reply<pb::QueryRangeResponse> {
        let request = request.into_inner();
        let metric = request.metric.clone();
        let range = decode::range(request, self.monitor.clock().now(), self.monitor.keeps())?;
        let answer = self.monitor.range(&range);
        Ok(Response::new(encode::range_answer(&metric, answer)))
    }

    async fn list_alerts(&self, request: Request<pb::ListAlertsRequest>) -> Reply<pb::ListAlertsResponse> {
        let decode::AlertQuery { filter, before, limit } = decode::alert_query(request.into_inner())?;
        let page = self.monitor.alerts(&filter, before, limit);
        Ok(Response::new(encode::alert_page(page)))
    }

    async fn acknowledge_alert(
        &self,
        request: Request<pb::AcknowledgeAlertRequest>,
    ) -> Reply<pb::AcknowledgeAlertResponse> {
        let by = Caller::of(&request).map_or_else(|| INTERNAL.to_owned(), |caller| caller.subject);
        let now = self.monitor.clock().now();
        let (id, acknowledgement) = decode::acknowledgement(request.into_inner(), by, now)?;
        let alert = self.monitor.acknowledge(id, acknowledgement).map_err(failure::not_acknowledged)?;
        Ok(Response::new(pb::AcknowledgeAlertResponse { alert: Some(encode::alert(alert)) }))
    }
}
