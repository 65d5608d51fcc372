//! Something to watch: a process that tells many figures, as any service of the house does.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

use mainstay_proto::introspect::v1 as pb;
use mainstay_proto::introspect::v1::introspection_server::{Introspection, IntrospectionServer};
use mainstay_rpc::{Reply, Request, Response, Routes, ServeOptions};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Runs until dropped.
pub(crate) struct Target {
    pub(crate) service: String,
    pub(crate) address: SocketAddr,
    teller: Arc<Teller>,
    _stopping: DropGuard,
}

struct Teller {
    service: String,
    n_series: usize,
    pulls: AtomicU64,
    alarm: AtomicBool,
}

/// Series that share a metric.
const SHARDS: usize = 10;
/// The figure whose level is crossed on demand.
pub(crate) const ALARM: &str = "bench_alarm";

/// Names a metric; half of them are counters.
pub(crate) fn metric(index: usize) -> String {
    if index.is_multiple_of(2) {
        format!("bench_requests_{index}_total")
    } else {
        format!("bench_depth_{index}")
    }
}

impl Target {
    pub(crate) async fn start(index: usize, n_series: usize) -> anyhow::Result<Self> {
        let service = format!("bench-{index}");
        let (pulls, alarm) = (AtomicU64::new(0), AtomicBool::new(false));
        let teller = Arc::new(Teller { service: service.clone(), n_series, pulls, alarm });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let stopping = CancellationToken::new();
        let routes = Routes::new(IntrospectionServer::from_arc(Arc::clone(&teller)));
        let options = ServeOptions::new("bench");
        let served = mainstay_rpc::serve(
            listener,
            routes.into_axum_router(),
            options,
            stopping.clone(),
            stopping.clone(),
        );
        tokio::spawn(served);
        Ok(Self { service, address, teller, _stopping: stopping.drop_guard() })
    }

    pub(crate) fn alarm(&self, on: bool) {
        self.teller.alarm.store(on, Ordering::Relaxed);
    }
}

impl Teller {
    fn text(&self) -> String {
        let pull = self.pulls.fetch_add(1, Ordering::Relaxed);
        let mut text = String::with_capacity(self.n_series * 48);
        for index in 0..self.n_series / SHARDS {
            let name = metric(index);
            let counter = index.is_multiple_of(2);
            let family = name.trim_end_matches("_total");
            let _ = writeln!(text, "# TYPE {family} {}", if counter { "counter" } else { "gauge" });
            for shard in 0..SHARDS {
                // What real figures do: most counters grow a little or rest, most gauges rest or move by small steps.
                let step = (pull * (shard as u64 + 1) + index as u64) / 3;
                let value = if counter { step * (index as u64 % 7) } else { 40 + (step * 7_919) % 9 };
                let _ = writeln!(text, "{name}{{shard=\"{shard}\"}} {value}");
            }
        }
        let _ =
            writeln!(text, "# TYPE {ALARM} gauge\n{ALARM} {}", u8::from(self.alarm.load(Ordering::Relaxed)));
        text.push_str("# EOF\n");
        text
    }
}

#[tonic::async_trait]
impl Introspection for Teller {
    async fn describe(&self, _: Request<pb::DescribeRequest>) -> Reply<pb::DescribeResponse> {
        let service = self.service.clone();
        let instance = format!("{service}-1");
        let started_at = Some(SystemTime::UNIX_EPOCH.into());
        Ok(Response::new(pb::DescribeResponse {
            service,
            instance,
            started_at,
            ready: true,
            ..Default::default()
        }))
    }

    async fn components(&self, _: Request<pb::ComponentsRequest>) -> Reply<pb::ComponentsResponse> {
        let collected_at = Some(SystemTime::now().into());
        Ok(Response::new(pb::ComponentsResponse { components: Vec::new(), collected_at }))
    }

    async fn metrics(&self, _: Request<pb::MetricsRequest>) -> Reply<pb::MetricsResponse> {
        let collected_at = Some(SystemTime::now().into());
        Ok(Response::new(pb::MetricsResponse { openmetrics: self.text().into(), collected_at }))
    }

    async fn errors(&self, _: Request<pb::ErrorsRequest>) -> Reply<pb::ErrorsResponse> {
        Ok(Response::new(pb::ErrorsResponse::default()))
    }
}
