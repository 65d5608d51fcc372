//! Prints what a monitor costs and how fast it is: 10,000 series and 1,000 rules, pulled once a second.
//!
//! `bench-monitor [SECONDS]` measures for so long, 30 s without it.

#![expect(clippy::print_stdout, reason = "a program for people: its output is the result")]
#![expect(clippy::disallowed_methods, reason = "measures real time, and owns its tasks")]

#[path = "monitor/target.rs"]
mod target;
#[path = "monitor/watched.rs"]
mod watched;

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use mainstay_proto::monitor::v1::monitor_service_client::MonitorServiceClient;
use mainstay_proto::monitor::v1::{AlertState, ListAlertsRequest, ListRulesRequest, QueryRangeRequest};
use tonic::transport::Channel;

use target::Target;
use watched::{Hook, Monitor, N_RULES, RULE};

const TARGETS: usize = 4;
const SERIES_PER_TARGET: usize = 2_500;
/// Time after the start in which nothing is measured: every series is new once.
const WARM_UP: Duration = Duration::from_secs(10);
const CPU_BAR: f64 = 0.10;
const RSS_BAR_MIB: f64 = 200.0;
const SAMPLE_BAR_BYTES: f64 = 4.0;
const EVALUATION_BAR_MS: f64 = 100.0;
const QUERY_BAR_MS: f64 = 10.0;
const LATENCY_BAR: Duration = Duration::from_secs(1);
const BREACHES: usize = 5;
const QUERIES: usize = 20;
const PATIENCE: Duration = Duration::from_secs(20);

type Client = MonitorServiceClient<Channel>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let seconds: u64 = std::env::args().nth(1).map_or(Ok(30), |text| text.parse()).context("seconds")?;
    let measured = Duration::from_secs(seconds);
    let mut targets = Vec::new();
    for index in 0..TARGETS {
        targets.push(Target::start(index, SERIES_PER_TARGET).await?);
    }
    let mut hook = Hook::start().await?;
    let monitor = Monitor::start(&targets, &hook).await?;
    let mut client = monitor.client().await?;
    tokio::time::sleep(WARM_UP).await;

    let (cpu, before, began_at) = (monitor.cpu()?, monitor.figures().await?, Instant::now());
    tokio::time::sleep(measured).await;
    let (share, after) =
        ((monitor.cpu()? - cpu).as_secs_f64() / began_at.elapsed().as_secs_f64(), monitor.figures().await?);
    let rate = (after.samples - before.samples) / began_at.elapsed().as_secs_f64();
    let evaluations = after.evaluations - before.evaluations;
    ensure!(evaluations > 0.0 && rate > 0.0, "nothing was pulled or evaluated");
    let n_rules = client.list_rules(ListRulesRequest {}).await?.into_inner().rules.len();
    println!("{:.0} series, {rate:.0} samples/s, {n_rules} rules, {seconds} s", after.series);
    line("processor", share * 100.0, "% of a core", share <= CPU_BAR);
    let rss = monitor.resident_bytes()? as f64 / f64::from(1 << 20);
    line("resident memory", rss, "MiB", rss <= RSS_BAR_MIB);
    let bytes = monitor.bytes_per_sample().await?;
    line("memory of a sample", bytes, "bytes", bytes <= SAMPLE_BAR_BYTES);
    let evaluation_ms = (after.evaluation_seconds - before.evaluation_seconds) / evaluations * 1e3;
    line("one evaluation (mean)", evaluation_ms, "ms", evaluation_ms <= EVALUATION_BAR_MS);
    let stored = monitor.stored_bytes()?;
    println!("  {:<24} {:>10.1} MiB", "store", stored as f64 / f64::from(1 << 20));

    let query_ms = query(&mut client).await?;
    line("range query (median)", query_ms, "ms", query_ms <= QUERY_BAR_MS);
    for round in 0..BREACHES {
        let (fired, told) =
            breach(&targets[0], &mut client, &mut hook).await.with_context(|| format!("round {round}"))?;
        line("breach to firing", fired.as_secs_f64() * 1e3, "ms", fired < LATENCY_BAR * 2);
        line("firing to webhook", told.as_secs_f64() * 1e3, "ms", told < LATENCY_BAR);
    }
    Ok(())
}

fn line(name: &str, value: f64, unit: &str, holds: bool) {
    println!("  {name:<24} {value:>10.2} {unit:<12} {}", if holds { "ok" } else { "OVER THE BAR" });
}

/// Reads one series at a minute's step as far back as history reaches.
async fn query(client: &mut Client) -> anyhow::Result<f64> {
    let mut took = Vec::new();
    for index in 0..QUERIES {
        let request = QueryRangeRequest {
            metric: target::metric(index),
            labels: [("shard".to_owned(), "0".to_owned())].into(),
            from: Some((std::time::SystemTime::now() - Duration::from_hours(24)).into()),
            step: Some(prost_duration(60)),
            ..QueryRangeRequest::default()
        };
        let began_at = Instant::now();
        let answer = client.query_range(request).await?.into_inner();
        took.push(began_at.elapsed().as_secs_f64() * 1e3);
        ensure!(!answer.series.is_empty(), "no such series");
    }
    took.sort_by(f64::total_cmp);
    Ok(took[QUERIES / 2])
}

fn prost_duration(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}

/// Lets one figure cross its level, and back; gives the time until the alert fired and from there to the webhook.
async fn breach(
    target: &Target,
    client: &mut Client,
    hook: &mut Hook,
) -> anyhow::Result<(Duration, Duration)> {
    while hook.told.try_recv().is_ok() {}
    target.alarm(true);
    let began_at = Instant::now();
    let fired_at = wait_for(client, AlertState::Firing).await?;
    let told_at = tokio::time::timeout(PATIENCE, hook.told.recv()).await.context("the webhook")?;
    let told_at = told_at.context("the webhook ended")?;
    target.alarm(false);
    wait_for(client, AlertState::Resolved).await?;
    Ok((fired_at - began_at, told_at.saturating_duration_since(fired_at)))
}

async fn wait_for(client: &mut Client, state: AlertState) -> anyhow::Result<Instant> {
    let began_at = Instant::now();
    loop {
        let alerts = client.list_alerts(ListAlertsRequest::default()).await?.into_inner().alerts;
        // The newest comes first.
        if alerts.iter().find(|alert| alert.rule == RULE).is_some_and(|alert| alert.state() == state) {
            return Ok(Instant::now());
        }
        ensure!(began_at.elapsed() < PATIENCE, "no alert {state:?} of {RULE} among {N_RULES} rules");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
