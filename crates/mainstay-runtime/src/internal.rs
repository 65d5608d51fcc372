use std::sync::atomic::Ordering;

use anyhow::Context as _;
use axum::Router;
use mainstay_proto::introspect::v1::introspection_server::IntrospectionServer;
use mainstay_rpc::{QuickCalls, QuickMethod, Routes, Stack};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::context::Context;
use crate::introspect::Introspect;
use crate::probes;

/// Puts together what the internal port serves: the gRPC services behind the stack, and the probes beside it.
pub(crate) async fn app(
    cx: &Context,
    routes: Routes,
    quick: Vec<QuickMethod>,
) -> anyhow::Result<(Router, QuickCalls)> {
    let (reporter, health) = tonic_health::server::health_reporter();
    // The crate begins with SERVING, which nobody has proved yet.
    reporter.set_service_status("", ServingStatus::NotServing).await;
    follow_readiness(cx, reporter);

    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(mainstay_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .context("the descriptors of our protos cannot be read")?;

    let routes = routes
        .add_service(IntrospectionServer::new(Introspect::new(cx.clone())))
        .add_service(health)
        .add_service(reflection);
    let records_spans = cx.inner.records_spans.load(Ordering::Relaxed);
    let stack = Stack::new(&cx.inner.server, cx.inner.server_metrics.clone(), records_spans);
    let grpc = stack.around(routes);
    Ok((probes::routes(cx.clone()).fallback_service(grpc), stack.quick(quick)))
}

fn follow_readiness(cx: &Context, mut reporter: HealthReporter) {
    let (mut ready, stopping) = (cx.inner.readiness.watch(), cx.stopping());
    cx.spawn("grpc health", async move {
        while !stopping.is_cancelled() {
            let is_ready = *ready.borrow_and_update();
            let status = if is_ready { ServingStatus::Serving } else { ServingStatus::NotServing };
            reporter.set_service_status("", status).await;
            tokio::select! {
                changed = ready.changed() => changed.context("readiness is gone before its process")?,
                () = stopping.cancelled() => {}
            }
        }
        reporter.set_service_status("", ServingStatus::NotServing).await;
        // Ends the streams of those who watch; the shutdown would wait for them until the grace is over.
        reporter.clear_service_status("").await;
        Ok(())
    });
}
