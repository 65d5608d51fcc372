//! Something to watch: a process that tells many figures, as any service of the house does.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

use mainstay_proto::introspect::v1 as pb;
use mainstay_proto::introspect::v1::introspection_server::{Introspection, IntrospectionServer};
use mainstay_rpc::{Reply, Request, Response, Routes, ServeOptions};
use parking_lot::Mutex;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::figures;

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
    /// When the alarm was first told.
    shown_at: Mutex<Option<SystemTime>>,
}

/// The figure whose level is crossed on demand.
pub(crate) const ALARM: &str = "bench_alarm";

impl Target {
    pub(crate) async fn start(service: &str, n_series: usize) -> anyhow::Result<Self> {
        let service = service.to_owned();
        let (pulls, alarm) = (AtomicU64::new(0), AtomicBool::new(false));
        let shown_at = Mutex::new(None);
        let teller = Arc::new(Teller { service: service.clone(), n_series, pulls, alarm, shown_at });
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

    /// Lets the figure cross its level, or come back.
    pub(crate) fn alarm(&self, on: bool) {
        *self.teller.shown_at.lock() = None;
        self.teller.alarm.store(on, Ordering::Relaxed);
    }

    /// Tells when it was first read that the level is crossed.
    pub(crate) fn shown_at(&self) -> Option<SystemTime> {
        *self.teller.shown_at.lock()
    }
}

impl Teller {
    fn text(&self) -> String {
        let alarm = self.alarm.load(Ordering::Relaxed);
        let mut text = figures::text(self.n_series, self.pulls.fetch_add(1, Ordering::Relaxed));
        let _ = writeln!(text, "# TYPE {ALARM} gauge\n{ALARM} {}\n# EOF", u8::from(alarm));
        if alarm {
            self.shown_at.lock().get_or_insert_with(SystemTime::now);
        }
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
