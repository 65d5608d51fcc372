//! The gRPC door: decode, call, encode.

mod access;
mod analysis;
mod decode;
mod encode;
mod failure;
mod rules;
mod stream;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use mainstay_proto::monitor::v1 as pb;
use mainstay_proto::monitor::v1::monitor_service_server::{MonitorService, MonitorServiceServer};
use mainstay_rpc::{Caller, Failure, Reply, Request, Response, Status};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub(crate) use access::AccessGrpc;
pub(crate) use analysis::AnalysisGrpc;

use crate::alert::state::Transition;
use crate::alert::{Alert, AlertState, Change, Key, Notice, Record, Severity};
use crate::monitor::Monitor;
use crate::notify::Channel;
use crate::rule::{Look, MONITOR, Origin, RuleStatus};

/// Serves `mainstay.monitor.v1.MonitorService`.
pub(crate) struct MonitorGrpc {
    monitor: Arc<Monitor>,
    channels: BTreeMap<String, Arc<Channel>>,
    stopping: CancellationToken,
}

/// Who acts when no caller is named: a service on its own behalf.
const INTERNAL: &str = "internal";

impl MonitorGrpc {
    pub(crate) fn new(
        monitor: Arc<Monitor>,
        channels: BTreeMap<String, Arc<Channel>>,
        stopping: CancellationToken,
    ) -> Self {
        Self { monitor, channels, stopping }
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
            store: self.monitor.kept_in(),
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
        let answer = self.monitor.range(&range).await.map_err(failure::not_read)?;
        Ok(Response::new(encode::range_answer(&metric, answer)))
    }

    async fn list_alerts(&self, request: Request<pb::ListAlertsRequest>) -> Reply<pb::ListAlertsResponse> {
        let decode::AlertQuery { filter, before, limit } = decode::alert_query(request.into_inner())?;
        let page = self.monitor.alerts(&filter, before, limit);
        let silenced = self.monitor.silenced(&page.alerts, self.monitor.clock().now());
        Ok(Response::new(encode::alert_page(page, silenced)))
    }

    async fn acknowledge_alert(
        &self,
        request: Request<pb::AcknowledgeAlertRequest>,
    ) -> Reply<pb::AcknowledgeAlertResponse> {
        let by = by(&request);
        let now = self.monitor.clock().now();
        let request = request.into_inner();
        let if_version = (request.if_version > 0).then_some(request.if_version);
        let (id, acknowledgement) = decode::acknowledgement(request, by, now)?;
        let alert = self
            .monitor
            .acknowledge(id, acknowledgement, if_version)
            .await
            .map_err(failure::not_acknowledged)?;
        let silenced = self.monitor.silenced(std::slice::from_ref(&alert), now).contains(&true);
        Ok(Response::new(pb::AcknowledgeAlertResponse { alert: Some(encode::alert(alert, silenced)) }))
    }

    async fn list_alert_events(
        &self,
        request: Request<pb::ListAlertEventsRequest>,
    ) -> Reply<pb::ListAlertEventsResponse> {
        let pb::ListAlertEventsRequest { alert_id, before, limit } = request.into_inner();
        let alert = (!alert_id.is_empty()).then(|| rules::id("alert_id", &alert_id)).transpose()?;
        let limit = decode::limited(limit, (100, 1_000));
        let records = self.monitor.records(alert, (before > 0).then_some(before), limit).await;
        let records = records.map_err(failure::not_read)?;
        let events = records.into_iter().map(|record| rules::event(record, false)).collect();
        Ok(Response::new(pb::ListAlertEventsResponse { events }))
    }

    async fn list_rules(&self, _: Request<pb::ListRulesRequest>) -> Reply<pb::ListRulesResponse> {
        let rules = self.monitor.rules().into_iter().map(rules::status).collect();
        Ok(Response::new(pb::ListRulesResponse { rules }))
    }

    async fn put_rule(&self, request: Request<pb::PutRuleRequest>) -> Reply<pb::PutRuleResponse> {
        let pb::PutRuleRequest { rule, dry_run } = request.into_inner();
        let rule = rules::rule(rule, self.monitor.keeps())?;
        if dry_run {
            let (look, episodes) = self.monitor.dry_run(&rule);
            let status = rules::status(RuleStatus { rule, origin: Origin::Runtime, look });
            let episodes = episodes.into_iter().map(rules::episode).collect();
            return Ok(Response::new(pb::PutRuleResponse { status: Some(status), episodes }));
        }
        let status = self.monitor.put_rule(rule).await.map_err(|error| failure::not_put(error, "RULE"))?;
        let status = Some(rules::status(status));
        Ok(Response::new(pb::PutRuleResponse { status, episodes: Vec::new() }))
    }

    async fn delete_rule(&self, request: Request<pb::DeleteRuleRequest>) -> Reply<pb::DeleteRuleResponse> {
        let deleted = self.monitor.delete_rule(request.into_inner().name).await;
        deleted.map_err(|error| failure::not_put(error, "RULE"))?;
        Ok(Response::new(pb::DeleteRuleResponse {}))
    }

    async fn import_rules(&self, request: Request<pb::ImportRulesRequest>) -> Reply<pb::ImportRulesResponse> {
        let pb::ImportRulesRequest { text, dry_run } = request.into_inner();
        let read = rules::import(&text, self.monitor.keeps())?;
        let statuses = if dry_run {
            let status = |rule| RuleStatus { rule, origin: Origin::Runtime, look: Look::default() };
            read.into_iter().map(status).collect()
        } else {
            self.monitor.put_rules(read).await.map_err(|error| failure::not_put(error, "RULE"))?
        };
        Ok(Response::new(pb::ImportRulesResponse {
            rules: statuses.into_iter().map(rules::status).collect(),
        }))
    }

    async fn list_silences(&self, _: Request<pb::ListSilencesRequest>) -> Reply<pb::ListSilencesResponse> {
        let silences = self.monitor.silences().into_iter().map(rules::encode_silence).collect();
        Ok(Response::new(pb::ListSilencesResponse { silences }))
    }

    async fn create_silence(
        &self,
        request: Request<pb::CreateSilenceRequest>,
    ) -> Reply<pb::CreateSilenceResponse> {
        let by = by(&request);
        let silence = rules::silence(request.into_inner(), by, self.monitor.clock().now())?;
        let created = self.monitor.silence(silence.clone()).await;
        created.map_err(|error| failure::not_put(error, "SILENCE"))?;
        Ok(Response::new(pb::CreateSilenceResponse { silence: Some(rules::encode_silence(silence)) }))
    }

    async fn delete_silence(
        &self,
        request: Request<pb::DeleteSilenceRequest>,
    ) -> Reply<pb::DeleteSilenceResponse> {
        let id = rules::id("id", &request.into_inner().id)?;
        self.monitor.end_silence(id).await.map_err(|error| failure::not_put(error, "SILENCE"))?;
        Ok(Response::new(pb::DeleteSilenceResponse {}))
    }

    async fn list_channels(&self, _: Request<pb::ListChannelsRequest>) -> Reply<pb::ListChannelsResponse> {
        let channels = self.monitor.channels().into_iter().map(rules::channel).collect();
        Ok(Response::new(pb::ListChannelsResponse { channels }))
    }

    async fn test_channel(&self, request: Request<pb::TestChannelRequest>) -> Reply<pb::TestChannelResponse> {
        let by = by(&request);
        let channel = self.channels.get(&request.into_inner().name).ok_or_else(failure::no_channel)?;
        let (now, started_at) = (self.monitor.clock().now(), Instant::now());
        let sent = channel.send(&[test_record(by, now)], now).await;
        sent.map_err(|error| failure::not_delivered(&error))?;
        Ok(Response::new(pb::TestChannelResponse { took: encode::duration(started_at.elapsed()) }))
    }

    async fn list_error_groups(
        &self,
        request: Request<pb::ListErrorGroupsRequest>,
    ) -> Reply<pb::ListErrorGroupsResponse> {
        let groups = rules::errors(self.monitor.errors(), &request.into_inner());
        Ok(Response::new(pb::ListErrorGroupsResponse { groups }))
    }

    async fn latest(&self, request: Request<pb::LatestRequest>) -> Reply<pb::LatestResponse> {
        let metrics = request.into_inner().metrics;
        if metrics.is_empty() {
            return Err(Failure::invalid("metrics", "must name 1 to 50 metrics, names none").into());
        }
        rules::metrics(&metrics)?;
        let figures = rules::figures(self.monitor.figures(&metrics), self.monitor.clock().now());
        Ok(Response::new(pb::LatestResponse { figures: Some(figures) }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<pb::WatchResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<pb::WatchRequest>) -> Reply<Self::WatchStream> {
        let request = request.into_inner();
        let every = rules::watch(&request)?;
        let stream = stream::watch(Arc::clone(&self.monitor), request, every, self.stopping.clone());
        Ok(Response::new(Box::pin(stream)))
    }
}

fn by<T>(request: &Request<T>) -> String {
    Caller::of(request).map_or_else(|| INTERNAL.to_owned(), |caller| caller.subject)
}

/// An alert that nobody has: what a test sends.
fn test_record(by: String, now: std::time::SystemTime) -> Record {
    let key = Key {
        rule: "test".into(),
        source: MONITOR.to_owned(),
        endpoint: String::new(),
        subject: "notification".to_owned(),
    };
    let alert = Alert {
        number: 0,
        id: Uuid::new_v4(),
        key,
        severity: Severity::Info,
        state: AlertState::Firing,
        summary: "this is a test; nothing is wrong".to_owned(),
        value: 0.0,
        threshold: 0.0,
        labels: BTreeMap::new(),
        started_at: now,
        fired_at: Some(now),
        resolved_at: None,
        acknowledgement: None,
        notice: Notice::Sent,
        flapping: false,
        version: 0,
        escalated: Vec::new(),
        told_at: None,
        repeated: Vec::new(),
    };
    Record { id: 0, at: now, change: Change::State(Transition::Fired).as_str().into(), by, alert }
}
