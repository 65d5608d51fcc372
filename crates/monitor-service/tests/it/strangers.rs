//! What is no service of ours: metrics of other programs, and probes.

mod probes;
mod scrapes;
mod talker;

use std::time::Duration;

use mainstay_proto::monitor::v1 as pb;

use crate::harness::{Watcher, wait_for};

/// Far more than anything takes; a wait ends as soon as there is what is waited for.
const PATIENCE: Duration = Duration::from_mins(3);

async fn instance(watcher: &Watcher, name: &str) -> pb::Instance {
    let instances = watcher.overview().await.instances;
    instances.into_iter().find(|instance| instance.service == name).expect("it is watched")
}

/// Waits until the detail of a target begins so; returns the target.
async fn told(watcher: &Watcher, name: &str, start: &str) -> pb::Instance {
    wait_for(PATIENCE, async || {
        let found = instance(watcher, name).await;
        if found.detail.contains(start) { Ok(found) } else { Err(format!("{found:?}")) }
    })
    .await
}

async fn last_values(watcher: &Watcher, metric: &str) -> Vec<f64> {
    let series = watcher.range(metric).await.series;
    series.iter().filter_map(|series| series.points.last().map(|point| point.last)).collect()
}

/// Waits until a metric has these newest values, one for each series.
async fn values_are(watcher: &Watcher, metric: &str, expected: &[f64]) {
    wait_for(PATIENCE, async || {
        let values = last_values(watcher, metric).await;
        if values == expected { Ok(()) } else { Err(format!("{metric} is {values:?}")) }
    })
    .await;
}
