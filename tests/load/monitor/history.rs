//! History with made-up times: an hour in memory, and a day on disk, as a monitor that had been there would have them.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, ensure};
use mainstay_proto::monitor::v1::{QueryRangeRequest, QueryRangeResponse};
use monitor_service::Config;
use monitor_service::rehearsal::Rehearsal;

use crate::figures;
use crate::watched::{self, Monitor};

/// What an hour in memory takes.
pub(crate) struct Hour {
    pub(crate) series: f64,
    pub(crate) bytes_per_sample: f64,
    pub(crate) resident_bytes: f64,
    /// Of all rules, of all series, once.
    pub(crate) pass_ms: f64,
}

/// What a day on disk takes.
pub(crate) struct Day {
    pub(crate) points: f64,
    pub(crate) bytes_per_point: f64,
    pub(crate) query_ms: f64,
    /// Of all series of a metric together.
    pub(crate) metric_ms: f64,
}

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_hours(24);
/// Rounds of all rules that are timed, at the end of the hour.
const PASSES: usize = 21;
const QUERIES: usize = 50;
const DAY_SERVICE: &str = "bench-day";
/// A minute may be cut at either end.
const MINUTES_MIN: usize = 24 * 60 - 2;

/// Nobody listens there: what is watched is handed over.
fn nowhere(name: String) -> (String, String, Option<&'static str>) {
    (name, "http://127.0.0.1:9".to_owned(), None)
}

fn shown(n_series: usize, pull: u64) -> String {
    format!("{}# EOF\n", figures::text(n_series, pull))
}

/// Lives through an hour in this process, and prints what that takes; `n_series` of each of four targets.
pub(crate) async fn live_through_an_hour(
    n_targets: usize,
    n_series: usize,
    seconds: u64,
) -> anyhow::Result<Hour> {
    let targets: Vec<_> = (0..n_targets).map(|index| nowhere(watched::large(index))).collect();
    let sections = format!("{}{}", watched::sections(&targets, Path::new("")), watched::rules());
    let config: Config = toml::from_str(&sections).context("the configuration")?;
    let mut rehearsal = Rehearsal::begin(&config, SystemTime::now()).await?;
    let mut passes = Vec::new();
    for second in 0..seconds {
        let text = shown(n_series, second);
        for target in 0..n_targets {
            rehearsal.pull(target, &text)?;
        }
        if second + (PASSES as u64) >= seconds {
            passes.push(rehearsal.judge().as_secs_f64() * 1e3);
        }
        rehearsal.pass(SECOND).await?;
    }
    let held = rehearsal.held();
    let samples = held.series as f64 * seconds as f64;
    Ok(Hour {
        series: held.series as f64,
        bytes_per_sample: held.bytes as f64 / samples,
        resident_bytes: mainstay_tests::resident_bytes(std::process::id())? as f64,
        pass_ms: crate::median(passes),
    })
}

/// Lives through a day, leaves it to a monitor, and asks that.
pub(crate) async fn ask_for_a_day(n_series: usize) -> anyhow::Result<Day> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("monitor.db");
    let sections = watched::sections(&[nowhere(DAY_SERVICE.to_owned())], &path);
    let config: Config = toml::from_str(&sections).context("the configuration")?;
    let now = SystemTime::now();
    let began = now - DAY;
    let mut rehearsal = Rehearsal::begin(&config, began).await?;
    for second in 0..DAY.as_secs() {
        rehearsal.pull(0, &shown(n_series, second))?;
        rehearsal.pass(SECOND).await?;
    }
    let series = rehearsal.held().series;
    rehearsal.end().await?;
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder.path())? {
        bytes += entry?.metadata()?.len();
    }
    // Steps of 10 s, a minute and an hour.
    let points = (series * (8_640 + 1_440 + 24)) as f64;

    let monitor = Monitor::start(&sections).await?;
    let mut client = monitor.client().await?;
    let ask = |index: usize, labels: HashMap<String, String>| QueryRangeRequest {
        metric: figures::metric(index % (n_series / figures::SHARDS)),
        labels,
        from: Some(began.into()),
        to: Some(now.into()),
        step: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
    };
    let (mut of_one, mut of_metric) = (Vec::new(), Vec::new());
    for index in 0..QUERIES {
        let shard = (index % figures::SHARDS).to_string();
        for (labels, n_series, took) in [
            ([("shard".to_owned(), shard)].into(), 1, &mut of_one),
            (HashMap::new(), figures::SHARDS, &mut of_metric),
        ] {
            let began_at = Instant::now();
            let answer = client.query_range(ask(index, labels)).await?.into_inner();
            took.push(began_at.elapsed().as_secs_f64() * 1e3);
            check(&answer, n_series)?;
        }
    }
    let (query_ms, metric_ms) = (crate::median(of_one), crate::median(of_metric));
    Ok(Day { points, bytes_per_point: bytes as f64 / points, query_ms, metric_ms })
}

/// An answer that is quick because it lacks something is none.
fn check(answer: &QueryRangeResponse, n_series: usize) -> anyhow::Result<()> {
    ensure!(answer.series.len() == n_series, "{} series", answer.series.len());
    for series in &answer.series {
        ensure!(series.points.len() >= MINUTES_MIN, "{} minutes of a day", series.points.len());
    }
    Ok(())
}
