//! Prints what a monitor costs and how fast it is beside the bars it is held to: 10,000 series and 1,000 rules pulled once a
//! second, an hour of that in memory, a day on disk, and how well anomalies are found.
//!
//! `--short` makes it quick, and the figures rough: less history, and not so long looked at.

#![expect(clippy::print_stdout, reason = "a program for people: its output is the result")]
#![expect(clippy::disallowed_methods, reason = "measures real time, and owns its tasks")]

#[path = "monitor/figures.rs"]
mod figures;
#[path = "monitor/history.rs"]
mod history;
#[path = "monitor/target.rs"]
mod target;
#[path = "monitor/watched.rs"]
mod watched;

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, ensure};
use mainstay_proto::monitor::v1::monitor_service_client::MonitorServiceClient;
use mainstay_proto::monitor::v1::{Alert, AlertState, ListAlertsRequest, ListRulesRequest};
use monitor_service::analysis::quality::{Row, measure, read};
use tonic::transport::Channel;

use history::{Day, Hour};
use target::Target;
use watched::{Hook, Monitor, N_RULES, RULE};

const TARGETS: usize = 4;
const SERIES_PER_TARGET: usize = 2_500;
/// Time after the start in which nothing is measured: every series is new once.
const WARM_UP: Duration = Duration::from_secs(10);
/// How often the target is pulled that must be seen within a second at all events.
const QUICK: &str = "500ms";
/// As often as an alert may fire before it flaps, and is held back.
const BREACHES: u32 = 5;
/// Far more than anything takes on a machine that has time for it.
const PATIENCE: Duration = Duration::from_mins(1);
/// The argument with which it calls itself, for the memory of a process that has nothing else in it.
const HOUR: &str = "hour";
const LABELLED: &str = include_str!("../../crates/monitor-service/data/labelled.csv");

type Client = MonitorServiceClient<Channel>;

/// How much is measured.
#[derive(Clone, Copy)]
struct Size {
    measured: Duration,
    hour_seconds: u64,
    day_series: usize,
}

const WHOLE: Size = Size { measured: Duration::from_secs(30), hour_seconds: 3_600, day_series: 250 };
const SHORT: Size = Size { measured: Duration::from_secs(10), hour_seconds: 300, day_series: 20 };

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let size = match arguments.first().map(String::as_str) {
        None => WHOLE,
        Some("--short") => SHORT,
        Some(HOUR) => {
            let seconds = arguments.get(1).context("how many seconds")?.parse()?;
            let Hour { series, bytes_per_sample, resident_bytes, pass_ms } =
                history::live_through_an_hour(TARGETS, SERIES_PER_TARGET, seconds).await?;
            println!("{series} {bytes_per_sample} {resident_bytes} {pass_ms}");
            return Ok(());
        }
        Some(other) => anyhow::bail!("takes --short, was given {other}"),
    };
    live(size).await?;
    hour(size).await?;
    day(size).await?;
    quality()
}

/// A monitor that pulls 10,000 series of four programs, and a few of two whose level is crossed.
async fn live(size: Size) -> anyhow::Result<()> {
    let mut targets = Vec::new();
    for index in 0..TARGETS {
        targets.push(Target::start(&watched::large(index), SERIES_PER_TARGET).await?);
    }
    let (calm, quick) = (Target::start("bench-calm", 0).await?, Target::start("bench-quick", 0).await?);
    let place =
        |target: &Target, every| (target.service.clone(), format!("http://{}", target.address), every);
    let mut places: Vec<_> = targets.iter().map(|target| place(target, None)).collect();
    places.extend([place(&calm, None), place(&quick, Some(QUICK))]);
    let folder = tempfile::tempdir()?;
    let mut hook = Hook::start().await?;
    let sections = watched::sections(&places, &folder.path().join("monitor.db"));
    let sections = format!("{sections}{}{}", watched::rules(), watched::channel(hook.address));
    let monitor = Monitor::start(&sections).await?;
    let mut client = monitor.client().await?;
    tokio::time::sleep(WARM_UP).await;

    let (cpu, before, began_at) = (monitor.cpu()?, monitor.figures().await?, Instant::now());
    tokio::time::sleep(size.measured).await;
    let (used, took) = ((monitor.cpu()? - cpu).as_secs_f64(), began_at.elapsed().as_secs_f64());
    let after = monitor.figures().await?;
    let n_passes = after.pulls - before.pulls;
    ensure!(n_passes > 0.0 && after.samples > before.samples, "nothing was pulled");
    let n_rules = client.list_rules(ListRulesRequest {}).await?.into_inner().rules.len();
    let rate = (after.samples - before.samples) / took;
    println!(
        "{:.0} series pulled each second, {rate:.0} samples/s, {n_rules} rules, {took:.0} s",
        after.series
    );
    bar("processor, % of a core", used / took * 100.0, "< 10", used / took < 0.1);
    let rss = monitor.resident_bytes()? as f64 / f64::from(1 << 20);
    figure("resident memory so far, MiB", format!("{rss:.1}"));
    let pass_ms = (after.evaluation_seconds - before.evaluation_seconds) / n_passes * 1e3;
    bar("all rules, all series, once, ms (mean)", pass_ms, "< 100", pass_ms < 100.0);

    println!("a level is crossed, `fires_after = \"0s\"`; the worst of {BREACHES}, ms");
    for (target, every, is_held) in [(&quick, QUICK, true), (&calm, "1s", false)] {
        let mut worst = Times::default();
        for round in 0..BREACHES {
            // Anywhere between two pulls.
            tokio::time::sleep(Duration::from_millis(u64::from(round) * 197)).await;
            let times = breach(target, &mut client, &mut hook).await;
            worst = worst.or(times.with_context(|| format!("round {round}"))?);
        }
        let breached = format!("pulled every {every}: crossed to firing");
        if is_held {
            bar(&breached, worst.from_breach, "< 1000", worst.from_breach < 1e3);
        } else {
            figure(&breached, format!("{:.2}", worst.from_breach));
        }
        let (read, told) = (worst.from_reading, worst.to_webhook);
        bar(&format!("pulled every {every}: read to firing"), read, "< 1000", read < 1e3);
        bar(&format!("pulled every {every}: firing to webhook"), told, "< 1000", told < 1e3);
    }
    Ok(())
}

/// The same as after an hour, in a process of its own.
async fn hour(size: Size) -> anyhow::Result<()> {
    let seconds = size.hour_seconds.to_string();
    let output =
        tokio::process::Command::new(std::env::current_exe()?).args([HOUR, &seconds]).output().await?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(output.status.success(), "the hour ended with {}: {text}", output.status);
    let figures: Vec<f64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let [series, bytes_per_sample, resident_bytes, pass_ms] = figures[..] else {
        anyhow::bail!("the hour printed {text}");
    };
    println!("{series:.0} series with {seconds} s of history in memory");
    bar("bytes per sample", bytes_per_sample, "<= 4", bytes_per_sample <= 4.0);
    let rss = resident_bytes / f64::from(1 << 20);
    bar("resident memory, MiB", rss, "< 200", rss < 200.0);
    bar("all rules, all series, once, ms (median)", pass_ms, "< 100", pass_ms < 100.0);
    Ok(())
}

async fn day(size: Size) -> anyhow::Result<()> {
    let Day { points, bytes_per_point, query_ms, metric_ms } =
        history::ask_for_a_day(size.day_series).await?;
    println!(
        "a day of {} series on disk, {points:.0} rolled-up points of 10 s, 1 min and 1 h",
        size.day_series
    );
    bar("bytes per point", bytes_per_point, "<= 20", bytes_per_point <= 20.0);
    bar("24 h of one series at 1 min, ms (median)", query_ms, "< 10", query_ms < 10.0);
    figure("24 h of ten series at 1 min, ms (median)", format!("{metric_ms:.2}"));
    Ok(())
}

fn quality() -> anyhow::Result<()> {
    let set = read(LABELLED).map_err(anyhow::Error::msg)?;
    println!(
        "anomalies in {} labelled series; recall by kind, and false alarms of a series in a day",
        set.len()
    );
    for Row { detector, all, by_kind } in measure(&set) {
        let kinds = by_kind.iter().map(|(kind, score)| format!("{kind} {:.2}", score.recall()));
        println!(
            "  {detector:<14} precision {:.3}  recall {:.3}  false {:.4}   {}",
            all.precision(),
            all.recall(),
            all.false_per_day(),
            kinds.collect::<Vec<_>>().join(", ")
        );
    }
    Ok(())
}

/// How long things took, in milliseconds.
#[derive(Clone, Copy, Default)]
struct Times {
    /// Until it fired, from when the level was crossed, and from when that was read.
    from_breach: f64,
    from_reading: f64,
    /// From when it fired until the webhook was called.
    to_webhook: f64,
}

impl Times {
    /// The longer of each.
    fn or(self, other: Self) -> Self {
        Self {
            from_breach: self.from_breach.max(other.from_breach),
            from_reading: self.from_reading.max(other.from_reading),
            to_webhook: self.to_webhook.max(other.to_webhook),
        }
    }
}

/// Lets one figure cross its level, and back.
async fn breach(target: &Target, client: &mut Client, hook: &mut Hook) -> anyhow::Result<Times> {
    while hook.told.try_recv().is_ok() {}
    target.alarm(true);
    let breached_at = SystemTime::now();
    let fired = wait_for(client, &target.service, AlertState::Firing).await?;
    let told_at = tokio::time::timeout(PATIENCE, hook.told.recv()).await.context("the webhook")?;
    let told_at = told_at.context("the webhook ended")?;
    let read_at = target.shown_at().context("nobody has read it")?;
    target.alarm(false);
    wait_for(client, &target.service, AlertState::Resolved).await?;
    let fired_at = fired.fired_at.context("it fires")?;
    let fired_at = SystemTime::try_from(fired_at)?;
    let ms =
        |from: SystemTime, to: SystemTime| to.duration_since(from).unwrap_or_default().as_secs_f64() * 1e3;
    Ok(Times {
        from_breach: ms(breached_at, fired_at),
        from_reading: ms(read_at, fired_at),
        to_webhook: ms(fired_at, told_at),
    })
}

async fn wait_for(client: &mut Client, service: &str, state: AlertState) -> anyhow::Result<Alert> {
    let began_at = Instant::now();
    loop {
        let alerts = client.list_alerts(ListAlertsRequest::default()).await?.into_inner().alerts;
        // The newest comes first.
        let newest = alerts.into_iter().find(|alert| alert.rule == RULE && alert.source == service);
        if let Some(found) = newest.filter(|alert| alert.state() == state) {
            return Ok(found);
        }
        ensure!(began_at.elapsed() < PATIENCE, "no alert {state:?} of {RULE} among {N_RULES} rules");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn figure(what: &str, is: impl AsRef<str>) {
    println!("  {what:<48} {:>10}", is.as_ref());
}

fn bar(what: &str, is: f64, bar: &str, met: bool) {
    let is = if is >= 1_000.0 { format!("{is:.0}") } else { format!("{is:.2}") };
    println!("  {what:<48} {is:>10}    bar {bar:<10} {}", if met { "met" } else { "MISSED" });
}
