//! Prints what replica-service costs and how soon it notices, each beside the same thing without it, in one run: a read
//! against the same prepared statement by the driver, a million streamed rows against COPY by psql, copying and
//! verifying a pair of tables, one changed row found, a replica stopped and a primary replaced; and a decision of the router.
//!
//! `bench-replica --short` does the same with fewer rows, to see that it works; `--points` ends after the reads,
//! `--router` after the decisions of the router, which need no servers.

#![expect(clippy::print_stdout, reason = "a program for people: its output is the result")]
#![expect(clippy::disallowed_methods, reason = "measures real time")]

use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use futures_util::future::join_all;
use mainstay_devstack::{DATABASE, Devstack, PostgresNode, SERVICE_ROLE, Service};
use mainstay_proto::replica::v1 as pb;
use mainstay_proto::replica::v1::partition_service_client::PartitionServiceClient;
use mainstay_proto::replica::v1::replica_service_client::ReplicaServiceClient;
use mainstay_proto::replica::v1::switchover_service_client::SwitchoverServiceClient;
use mainstay_tests::{most_resident_bytes, resident_bytes};
use tokio::process::Command;
use tokio_postgres::{Client, NoTls};
use tonic::transport::{Channel, Endpoint};

#[path = "replica/echo.rs"]
mod echo;
#[path = "replica/points.rs"]
mod points;
#[path = "replica/router.rs"]
mod router;

use points::Question;

const PAIR: &str = "bench";
const ALL: &str = "SELECT id, at, note FROM bench";
const ROUNDS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(600);
const FOUND_WITHIN: Duration = Duration::from_secs(2);
/// Callers that read while a replica is killed, and the longest that one of their reads may take.
const N_READERS: usize = 4;
const ELSEWHERE_WITHIN: Duration = Duration::from_secs(1);
const WRITES_WITHIN: Duration = Duration::from_secs(2);

struct Bench {
    stack: Devstack,
    channel: Channel,
    n_rows: i64,
    n_reads: usize,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let has = |wanted: &str| std::env::args().any(|argument| argument == wanted);
    if has(echo::ARGUMENT) {
        return echo::serve().await;
    }
    router::decisions()?;
    if has("--router") {
        return Ok(());
    }
    let short = has("--short");
    let (n_rows, n_reads) = if short { (20_000, 500) } else { (1_000_000, 20_000) };
    let env = |key: &str| format!("MAINSTAY__{key}");
    let mut builder = Devstack::builder().postgres(true).services([Service::ReplicaService]);
    for (key, value) in [
        ("SERVER__TOKEN", ""),
        ("POOL__MAX_SIZE", "32"),
        ("SWITCHOVER__BENCH__LEGACY", "bench"),
        ("SWITCHOVER__BENCH__PARTITIONED", "bench_p"),
        ("SWITCHOVER__BENCH__KEY", "id"),
        ("SWITCHOVER__BENCH__TIME_COLUMN", "at"),
        ("STEPS__DUTY_CYCLE", "1"),
        ("STEPS__BATCH_ROWS", "20000"),
        ("STEPS__BATCH_WITHIN", "500ms"),
    ] {
        builder = builder.env(Service::ReplicaService, env(key), value);
    }
    let stack = builder.start().await?;
    let address = stack.service(Service::ReplicaService)?.address();
    let channel = Endpoint::from_shared(format!("http://{address}"))?.connect().await?;
    let bench = Bench { stack, channel, n_rows, n_reads };
    bench.fill().await?;
    println!("reads one by one, best of {ROUNDS} (bars: 1.3 times the latency, 80 % of the rate at 32)");
    for question in [Question::point(), Question::sum(5_000), Question::sum(25_000)] {
        for in_flight in [1, points::MANY] {
            bench.points(&question, in_flight).await?;
        }
    }
    if has("--points") {
        return Ok(bench.stack.stop().await?);
    }
    println!("{n_rows} rows in a stream (bars: 60 % of COPY by psql, 64 MiB above idle)");
    bench.stream().await?;
    println!("a pair of {n_rows} rows (bars: 500,000 rows/s verified, a change found within 2 s)");
    bench.switchover().await?;
    println!("failures (bars: no failed read and none above 1 s, writes within 2 s of the promotion)");
    bench.failures().await?;
    bench.stack.stop().await?;
    Ok(())
}

impl Bench {
    fn primary(&self) -> anyhow::Result<&PostgresNode> {
        Ok(self.stack.postgres().context("no PostgreSQL")?.first_primary())
    }

    fn client(&self) -> ReplicaServiceClient<Channel> {
        ReplicaServiceClient::new(self.channel.clone()).max_decoding_message_size(64 << 20)
    }

    async fn fill(&self) -> anyhow::Result<()> {
        let sql = format!(
            "SET ROLE {SERVICE_ROLE}; \
             CREATE TABLE bench (id bigint PRIMARY KEY, at timestamptz NOT NULL, note text NOT NULL); \
             CREATE TABLE bench_p (id bigint NOT NULL, at timestamptz NOT NULL, note text NOT NULL, PRIMARY KEY (id, at)) \
               PARTITION BY RANGE (at); \
             DO $$ DECLARE month date := date_trunc('month', now()) - interval '12 months'; BEGIN \
               WHILE month <= now() + interval '3 months' LOOP \
                 EXECUTE format('CREATE TABLE bench_p%s PARTITION OF bench_p FOR VALUES FROM (%L) TO (%L)', \
                   to_char(month, 'YYYYMM'), month, month + interval '1 month'); \
                 month := month + interval '1 month'; END LOOP; END $$; \
             INSERT INTO bench SELECT n, now() - (n % 330) * interval '1 day', 'this is the note of row ' || n \
               FROM generate_series(1, {}) AS n; \
             ANALYZE bench; RESET ROLE",
            self.n_rows
        );
        self.primary()?.batch(&sql, PATIENCE).await?;
        let postgres = self.stack.postgres().context("no PostgreSQL")?;
        Ok(postgres.wait_caught_up(self.primary()?).await?)
    }

    async fn direct(&self, node: &PostgresNode) -> anyhow::Result<Client> {
        let (address, mut config) = (node.public_address(), tokio_postgres::Config::new());
        config.host(address.ip().to_string()).port(address.port()).dbname(DATABASE).user(SERVICE_ROLE);
        config.password(&self.stack.credentials().postgres_password);
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(async move {
            // Whoever uses the client sees its end.
            let _ = connection.await;
        });
        Ok(client)
    }

    fn key(&self, n: usize) -> i64 {
        // Spreads over the table, the same for both.
        1 + (n as i64 * 7_919) % self.n_rows
    }

    async fn stream(&self) -> anyhow::Result<()> {
        let pid =
            self.stack.service(Service::ReplicaService)?.pid().context("replica-service does not run")?;
        let idle = resident_bytes(pid)? / 1024;
        std::fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
        let begun_at = Instant::now();
        let request = pb::QueryStreamRequest { sql: ALL.to_owned(), ..Default::default() };
        let mut chunks = self.client().query_stream(request).await?.into_inner();
        let mut n_rows = 0;
        while let Some(chunk) = chunks.message().await? {
            n_rows += chunk.rows.len();
        }
        let took = begun_at.elapsed();
        ensure!(n_rows as i64 == self.n_rows, "{n_rows} rows came");
        let peak = most_resident_bytes(pid)? / 1024;

        let replica = &self.stack.postgres().context("no PostgreSQL")?.first_replicas()[0];
        let address = replica.public_address();
        let begun_at = Instant::now();
        let status = Command::new("psql")
            .args(["-X", "-h", &address.ip().to_string(), "-p", &address.port().to_string()])
            .args(["-U", SERVICE_ROLE, "-d", DATABASE, "-c", &format!("COPY ({ALL}) TO STDOUT")])
            .env("PGPASSWORD", &self.stack.credentials().postgres_password)
            .stdout(Stdio::null())
            .status()
            .await?;
        ensure!(status.success(), "psql failed");
        let copy = begun_at.elapsed();
        let (of_copy, above_mib) =
            (copy.as_secs_f64() / took.as_secs_f64() * 100.0, peak.saturating_sub(idle) as f64 / 1024.0);
        println!(
            "  {took:>7.2?}, COPY {copy:.2?}: {of_copy:.0} % of its rate; memory at most {above_mib:.1} MiB above idle: {}",
            verdict(of_copy >= 60.0 && above_mib <= 64.0)
        );
        Ok(())
    }

    async fn step(&self, step: pb::SwitchoverStep) -> anyhow::Result<pb::SwitchoverState> {
        let request = pb::RunStepRequest { pair: PAIR.to_owned(), step: step.into(), percent: None };
        Ok(SwitchoverServiceClient::new(self.channel.clone()).run_step(request).await?.into_inner())
    }

    async fn until(&self, done: impl Fn(&pb::SwitchoverState) -> bool) -> anyhow::Result<()> {
        let begun_at = Instant::now();
        while begun_at.elapsed() < PATIENCE {
            let request = pb::GetSwitchoverRequest { pair: PAIR.to_owned() };
            let mut client = SwitchoverServiceClient::new(self.channel.clone());
            if done(&client.get_switchover(request).await?.into_inner()) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("the step does not end")
    }

    async fn parity(&self, wanted: pb::ParityVerdict) -> anyhow::Result<()> {
        let begun_at = Instant::now();
        while begun_at.elapsed() < PATIENCE {
            let request = pb::PartitionMetricsRequest { pair: PAIR.to_owned() };
            let mut client = PartitionServiceClient::new(self.channel.clone());
            let pair = client.partition_metrics(request).await?.into_inner().pairs.remove(0);
            if pair.parity.is_some_and(|parity| parity.verdict() == wanted) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        bail!("the verdict does not come")
    }

    async fn switchover(&self) -> anyhow::Result<()> {
        self.step(pb::SwitchoverStep::InstallTriggers).await?;
        let begun_at = Instant::now();
        self.step(pb::SwitchoverStep::Backfill).await?;
        self.until(|state| state.backfilled).await?;
        rate("backfill", self.n_rows, begun_at.elapsed());
        println!();
        let begun_at = Instant::now();
        self.step(pb::SwitchoverStep::Verify).await?;
        self.until(|state| state.verified_at.is_some()).await?;
        // Rows of both tables.
        let verified = rate("verification", 2 * self.n_rows, begun_at.elapsed());
        println!(": {}", verdict(verified >= 500_000.0));
        self.parity(pb::ParityVerdict::ParityEqual).await?;
        let client = self.direct(self.primary()?).await?;
        for key in [1, self.n_rows / 2, self.n_rows - 1] {
            client.execute("UPDATE bench_p SET note = 'other' WHERE id = $1", &[&key]).await?;
            let begun_at = Instant::now();
            self.parity(pb::ParityVerdict::ParityDifferent).await?;
            let found = begun_at.elapsed();
            println!("  change of row {key} found after {found:.2?}: {}", verdict(found < FOUND_WITHIN));
            client.execute("UPDATE bench SET note = 'mended' WHERE id = $1", &[&key]).await?;
            self.parity(pb::ParityVerdict::ParityEqual).await?;
        }
        Ok(())
    }

    async fn failures(&self) -> anyhow::Result<()> {
        let postgres = self.stack.postgres().context("no PostgreSQL")?;
        let stop = AtomicBool::new(false);
        let reader = async || {
            let (mut n_failed, mut took) = (0, Vec::new());
            while !stop.load(Ordering::Relaxed) {
                let request = pb::QueryRequest { sql: "SELECT 1".to_owned(), ..Default::default() };
                let asked_at = Instant::now();
                n_failed += usize::from(self.client().query(request).await.is_err());
                took.push(asked_at.elapsed());
            }
            (n_failed, took)
        };
        let fail = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let killed = postgres.first_replicas()[0].kill().await;
            tokio::time::sleep(Duration::from_secs(2)).await;
            stop.store(true, Ordering::Relaxed);
            killed
        };
        let (readers, killed) = tokio::join!(join_all((0..N_READERS).map(|_| reader())), fail);
        killed?;
        let n_failed: usize = readers.iter().map(|(n_failed, _)| n_failed).sum();
        let took: Vec<_> = readers.into_iter().flat_map(|(_, took)| took).collect();
        let longest = took.iter().max().copied().unwrap_or_default();
        println!(
            "  a replica killed: {n_failed} of {} reads failed, the longest took {longest:.2?}: {}",
            took.len(),
            verdict(n_failed == 0 && longest <= ELSEWHERE_WITHIN)
        );
        self.primary()?.kill().await?;
        postgres.first_replicas()[1].promote().await?;
        let promoted_at = Instant::now();
        let write = pb::ExecuteRequest {
            sql: "UPDATE bench SET note = 'after' WHERE id = 1".to_owned(),
            ..Default::default()
        };
        while let Err(status) = self.client().execute(write.clone()).await {
            ensure!(promoted_at.elapsed() < PATIENCE, "no write is taken: {status}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let waited = promoted_at.elapsed();
        println!(
            "  a primary killed and a replica promoted: a write {waited:.2?} after the promotion: {}",
            verdict(waited <= WRITES_WITHIN)
        );
        Ok(())
    }
}

/// Prints how many rows a second that was, without an end of line.
fn rate(what: &str, n_rows: i64, took: Duration) -> f64 {
    let per_s = n_rows as f64 / took.as_secs_f64();
    print!("  {what}: {n_rows} rows in {took:.2?}, {per_s:.0} rows/s");
    per_s
}

fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "MISSED" }
}
