//! The services behind the edge: one client each for calls, and every instance by itself for merged answers.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use mainstay_proto::cache::v1::cache_admin_client::CacheAdminClient;
use mainstay_proto::cache::v1::cache_service_client::CacheServiceClient;
use mainstay_proto::cache::v1::counter_service_client::CounterServiceClient;
use mainstay_proto::cache::v1::figures_service_client::FiguresServiceClient;
use mainstay_proto::cache::v1::insight_service_client::InsightServiceClient;
use mainstay_proto::cache::v1::lock_service_client::LockServiceClient;
use mainstay_proto::cache::v1::policy_service_client::PolicyServiceClient;
use mainstay_proto::cache::v1::rate_limit_service_client::RateLimitServiceClient;
use mainstay_proto::cache::v1::session_service_client::SessionServiceClient;
use mainstay_proto::cache::v1::warming_service_client::WarmingServiceClient;
use mainstay_proto::cache::v1::write_behind_service_client::WriteBehindServiceClient;
use mainstay_proto::introspect::v1::introspection_client::IntrospectionClient;
use mainstay_proto::introspect::v1::{
    Component, ComponentsRequest, DescribeRequest, DescribeResponse, MetricsRequest,
};
use mainstay_proto::monitor::v1::access_service_client::AccessServiceClient;
use mainstay_proto::monitor::v1::analysis_service_client::AnalysisServiceClient;
use mainstay_proto::monitor::v1::monitor_service_client::MonitorServiceClient;
use mainstay_proto::realtime::v1::realtime_feed_service_client::RealtimeFeedServiceClient;
use mainstay_proto::realtime::v1::realtime_journey_service_client::RealtimeJourneyServiceClient;
use mainstay_proto::realtime::v1::realtime_service_client::RealtimeServiceClient;
use mainstay_proto::realtime::v1::realtime_watch_service_client::RealtimeWatchServiceClient;
use mainstay_proto::replica::v1::configuration_service_client::ConfigurationServiceClient;
use mainstay_proto::replica::v1::database_stats_service_client::DatabaseStatsServiceClient;
use mainstay_proto::replica::v1::node_service_client::NodeServiceClient;
use mainstay_proto::replica::v1::partition_service_client::PartitionServiceClient;
use mainstay_proto::replica::v1::query_cache_service_client::QueryCacheServiceClient;
use mainstay_proto::replica::v1::replica_service_client::ReplicaServiceClient;
use mainstay_proto::replica::v1::slow_log_service_client::SlowLogServiceClient;
use mainstay_proto::replica::v1::statement_service_client::StatementServiceClient;
use mainstay_proto::replica::v1::switchover_service_client::SwitchoverServiceClient;
use mainstay_rpc::{BreakerSection, Call, ErrorCode, Failure, Lane, Reply, Upstream};
use mainstay_runtime::{Activate, Schedule, UpstreamConfig};

use crate::config::UpstreamsConfig;
use crate::part::{LastKnown, Part};

/// How often every peer is looked at, whether or not anybody asks.
const PROBE_EVERY: Duration = Duration::from_secs(1);
const PROBE_WITHIN: Duration = Duration::from_millis(800);
/// Looking is cheap: a peer that is back must be seen at the next probe.
const LOOK_AGAIN_WITHIN: Duration = Duration::from_millis(500);

/// Largest answer taken from a service: the largest SQL result, with room for its framing.
const MAX_ANSWER_BYTES: usize = 24 << 20;

const DESCRIBE: &str = "mainstay.introspect.v1.Introspection/Describe";
const COMPONENTS: &str = "mainstay.introspect.v1.Introspection/Components";
const METRICS: &str = "mainstay.introspect.v1.Introspection/Metrics";

/// One client per service; each balances over its endpoints. A service without endpoints is not part of this house.
pub(crate) struct Upstreams {
    cache: Option<Upstream>,
    realtime: Option<Upstream>,
    replica: Option<Upstream>,
    monitor: Option<Upstream>,
}

/// Sends one request message through a typed client of a service.
///
/// The message is cloned per attempt: a read may be tried twice.
macro_rules! typed_call {
    ($name:ident, $field:ident, $client:ident) => {
        pub(crate) async fn $name<M, T, F, Fut>(&self, call: Call, message: M, send: F) -> Result<T, Failure>
        where
            M: Clone,
            F: Fn($client<Lane>, M) -> Fut,
            Fut: Future<Output = Reply<T>>,
        {
            let upstream = self.$field.as_ref().ok_or_else(|| not_configured(stringify!($field)))?;
            let client = |lane| $client::new(lane).max_decoding_message_size(MAX_ANSWER_BYTES);
            upstream.call(call, |lane| send(client(lane), message.clone())).await
        }
    };
}

impl Upstreams {
    pub(crate) fn try_new(config: &UpstreamsConfig) -> anyhow::Result<Self> {
        let client = |service: &str, config: &UpstreamConfig| {
            let configured = (!config.endpoints.is_empty()).then(|| Upstream::try_new(service, config));
            configured.transpose()
        };
        Ok(Self {
            cache: client("cache-service", &config.cache)?,
            realtime: client("ws-gateway", &config.realtime)?,
            replica: client("replica-service", &config.replica)?,
            monitor: client("monitor-service", &config.monitor)?,
        })
    }

    typed_call!(cache, cache, CacheServiceClient);
    typed_call!(cache_admin, cache, CacheAdminClient);
    typed_call!(policies, cache, PolicyServiceClient);
    typed_call!(cache_figures, cache, FiguresServiceClient);
    typed_call!(warming, cache, WarmingServiceClient);
    typed_call!(sessions, cache, SessionServiceClient);
    typed_call!(locks, cache, LockServiceClient);
    typed_call!(counters, cache, CounterServiceClient);
    typed_call!(insight, cache, InsightServiceClient);
    typed_call!(rate_limits, cache, RateLimitServiceClient);
    typed_call!(write_behind, cache, WriteBehindServiceClient);
    typed_call!(realtime, realtime, RealtimeServiceClient);
    typed_call!(feeds, realtime, RealtimeFeedServiceClient);
    typed_call!(journeys, realtime, RealtimeJourneyServiceClient);
    typed_call!(realtime_watch, realtime, RealtimeWatchServiceClient);
    typed_call!(replica, replica, ReplicaServiceClient);
    typed_call!(nodes, replica, NodeServiceClient);
    typed_call!(query_cache, replica, QueryCacheServiceClient);
    typed_call!(slow_log, replica, SlowLogServiceClient);
    typed_call!(database_stats, replica, DatabaseStatsServiceClient);
    typed_call!(configuration, replica, ConfigurationServiceClient);
    typed_call!(statements, replica, StatementServiceClient);
    typed_call!(partitions, replica, PartitionServiceClient);
    typed_call!(switchover, replica, SwitchoverServiceClient);
    typed_call!(monitor, monitor, MonitorServiceClient);
    typed_call!(analysis, monitor, AnalysisServiceClient);
    typed_call!(access, monitor, AccessServiceClient);
}

fn not_configured(section: &str) -> Failure {
    let message = format!("this installation has no such service: upstreams.{section}.endpoints is empty");
    Failure::new(ErrorCode::Unavailable, "SERVICE_NOT_CONFIGURED", message)
}

/// One instance of one service.
#[derive(Clone)]
pub(crate) struct Peer(Arc<PeerInner>);

struct PeerInner {
    service: &'static str,
    endpoint: String,
    upstream: Upstream,
    last: LastKnown<Introspected>,
}

/// What a process tells about itself.
#[derive(Clone, Debug)]
pub(crate) struct Introspected {
    pub(crate) about: DescribeResponse,
    pub(crate) components: Vec<Component>,
}

/// Lists every configured instance of every service.
pub(crate) fn peers(config: &UpstreamsConfig) -> anyhow::Result<Vec<Peer>> {
    let mut peers = Vec::new();
    for (_, service, upstream) in config.each() {
        for endpoint in upstream.endpoints.iter() {
            let breaker = BreakerSection { open_for_max: LOOK_AGAIN_WITHIN, ..upstream.breaker.clone() };
            let alone =
                UpstreamConfig { endpoints: vec![endpoint.clone()].into(), breaker, ..upstream.clone() };
            peers.push(Peer(Arc::new(PeerInner {
                service,
                endpoint: endpoint.clone(),
                upstream: Upstream::try_new(service, &alone)?,
                last: LastKnown::default(),
            })));
        }
    }
    Ok(peers)
}

impl Peer {
    pub(crate) fn service(&self) -> &'static str {
        self.0.service
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.0.endpoint
    }

    /// Name under which the edge itself reports this peer.
    pub(crate) fn component_name(&self) -> String {
        format!("{}@{}", self.0.service, self.0.endpoint.trim_start_matches("http://"))
    }

    /// Asks the process what it is and what it is made of.
    pub(crate) async fn introspect(&self, within: Duration) -> Part<Introspected> {
        let about = self.0.upstream.call(Call::read(DESCRIBE).within(within), |lane| async move {
            IntrospectionClient::new(lane).describe(DescribeRequest {}).await
        });
        let components = self.0.upstream.call(Call::read(COMPONENTS).within(within), |lane| async move {
            IntrospectionClient::new(lane).components(ComponentsRequest {}).await
        });
        let outcome = tokio::try_join!(about, components)
            .map(|(about, components)| Introspected { about, components: components.components });
        self.0.last.settle(outcome)
    }

    /// Fetches the process's metrics as OpenMetrics text.
    pub(crate) async fn metrics(&self, within: Duration) -> Result<String, Failure> {
        let answer = self
            .0
            .upstream
            .call(Call::read(METRICS).within(within), |lane| async move {
                let mut client = IntrospectionClient::new(lane).max_decoding_message_size(MAX_ANSWER_BYTES);
                client.metrics(MetricsRequest {}).await
            })
            .await?;
        Ok(String::from_utf8_lossy(&answer.openmetrics).into_owned())
    }
}

/// How often [`probe`] runs.
pub(crate) fn probe_schedule() -> Schedule {
    Schedule::Every(PROBE_EVERY)
}

/// Keeps what is known of a peer young, and reports whether it answers.
pub(crate) fn probe(peer: Peer, component: mainstay_runtime::Component) -> impl Activate {
    Probe { peer, component }
}

struct Probe {
    peer: Peer,
    component: mainstay_runtime::Component,
}

impl Activate for Probe {
    async fn activate(&mut self) -> anyhow::Result<()> {
        let began_at = tokio::time::Instant::now();
        let part = self.peer.introspect(PROBE_WITHIN).await;
        match (&part.reason, part.value.as_ref().map(|known| known.about.ready)) {
            (None, Some(true)) => {
                self.component.latency(began_at.elapsed());
                self.component.healthy("ready");
            }
            (None, _) => self.component.degraded("answers, but is not ready"),
            (Some(reason), _) => self.component.unhealthy(reason.clone()),
        }
        Ok(())
    }
}
