//! How the service is put together.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use mainstay_rpc::Routes;
use mainstay_runtime::{Component, ComponentKind, Context, Schedule};

use crate::collect::Puller;
use crate::config::Config;
use crate::grpc::MonitorGrpc;
use crate::metrics::MonitorMetrics;
use crate::monitor::Monitor;
use crate::roster::Reach;

/// How often the memory of the history is measured.
const MEASURED_EVERY: Duration = Duration::from_secs(30);

/// Starts everything and returns; what was started ends with the context.
pub async fn start(cx: Context, config: Config) -> anyhow::Result<()> {
    // 1. State: who is watched, what is remembered, which alerts there are.
    let metrics = cx.metrics(MonitorMetrics::register);
    let monitor = Arc::new(Monitor::new(config.clone(), cx.clock().clone(), metrics));

    // 2. Collection: one task per target.
    for target in config.all_targets() {
        let section = format!("targets.{}", target.service);
        let puller = Puller::try_new(target, &config, Arc::clone(&monitor)).context(section)?;
        cx.background(puller.name(), Schedule::Every(config.collect.every), puller);
    }

    // 3. Judgement: rules, alerts, and what the monitor says about itself.
    let collector = cx.component("collector", ComponentKind::Internal, false);
    let judge = Arc::clone(&monitor);
    cx.background("evaluate", Schedule::Every(config.alerts.evaluate_every), move || {
        judge.evaluate();
        tell(&collector, judge.reach());
        std::future::ready(Ok(()))
    });
    let measured = Arc::clone(&monitor);
    cx.background("measure", Schedule::Every(MEASURED_EVERY), move || {
        measured.measure();
        std::future::ready(Ok(()))
    });

    // 4. Doors.
    cx.serve(Routes::new(MonitorGrpc::new(monitor).into_server())).await
}

fn tell(collector: &Component, reach: Reach) {
    let Reach { n_targets, n_answering, n_failing } = reach;
    let detail = format!("{n_answering} of {n_targets} targets answer");
    if n_targets == 0 {
        collector.degraded("nothing to watch: targets.* names no endpoint");
    } else if n_answering == n_targets {
        collector.healthy(detail);
    } else if n_failing == n_targets {
        collector.unhealthy(format!("{detail}; the monitor may be cut off"));
    } else if n_failing > 0 {
        collector.degraded(detail);
    }
}
