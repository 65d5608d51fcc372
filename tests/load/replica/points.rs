//! Reads one by one: by the driver, by one call each, and over one stream, beside a call that reads nothing.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures_util::future::try_join_all;
use mainstay_devstack::Service;
use mainstay_proto::replica::v1 as pb;
use mainstay_proto::replica::v1::query_batch_service_client::QueryBatchServiceClient;
use mainstay_proto::replica::v1::replica_service_client::ReplicaServiceClient;
use mainstay_tests::cpu_time;
use tokio::sync::mpsc;
use tokio_postgres::{Client, Statement};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::{Bench, ROUNDS, echo};

/// What is read: one row, by a statement with a key as its parameter.
pub(crate) struct Question {
    name: String,
    sql: String,
    /// Reads of each measurement, of those that the program was asked for one in so many.
    one_in: usize,
    /// Whether it is asked over the stream too, and beside a call that reads nothing.
    every_way: bool,
}

/// Times as long as by the driver, and share of its rate with many in flight.
const LATENCY_BAR: f64 = 1.3;
const RATE_BAR: f64 = 0.8;
pub(crate) const MANY: usize = 32;

impl Question {
    /// Costs least, so that the way shows most.
    pub(crate) fn point() -> Self {
        let (name, sql) = ("one row by its key", "SELECT note FROM bench WHERE id = $1");
        Self { name: name.to_owned(), sql: sql.to_owned(), one_in: 1, every_way: true }
    }

    /// Takes the database about a millisecond for 5,000 rows.
    pub(crate) fn sum(n_rows: usize) -> Self {
        Self {
            name: format!("one row that sums up {n_rows}"),
            sql: format!("SELECT sum(length(note))::text FROM bench WHERE id > $1 AND id <= $1 + {n_rows}"),
            one_in: n_rows / 500,
            every_way: false,
        }
    }
}

/// How reads are asked.
#[derive(Clone, Copy)]
enum Way {
    /// A prepared statement by tokio-postgres, on a replica after the other as the service does it.
    Driver,
    /// A call of bare tonic that reads nothing.
    Echo,
    /// `Query`.
    Unary,
    /// `QueryBatches`, so many queries to a message.
    Stream { queries: usize },
}

impl Way {
    fn name(self) -> String {
        match self {
            Self::Driver => "driver directly".to_owned(),
            Self::Echo => "bare tonic echo, no read".to_owned(),
            Self::Unary => "unary".to_owned(),
            Self::Stream { queries: 1 } => "stream".to_owned(),
            Self::Stream { queries } => format!("stream, {queries} to a message"),
        }
    }
}

/// What the ways need.
struct Points<'a> {
    bench: &'a Bench,
    question: &'a Question,
    n_reads: usize,
    in_flight: usize,
    /// For each read in flight a connection to each replica.
    driver: Vec<Vec<(Client, Statement)>>,
    echo: Channel,
    service_pid: u32,
}

impl Bench {
    /// Measures all ways with as many reads in flight, in turns.
    pub(crate) async fn points(&self, question: &Question, in_flight: usize) -> anyhow::Result<()> {
        let replicas = self.stack.postgres().context("no PostgreSQL")?.first_replicas();
        let mut driver = Vec::new();
        for _ in 0..in_flight {
            let mut lane = Vec::new();
            for replica in replicas {
                let client = self.direct(replica).await?;
                let statement = client.prepare(&question.sql).await?;
                lane.push((client, statement));
            }
            driver.push(lane);
        }
        let (_child, echo) = echo::start().await?;
        let pid = self.stack.service(Service::ReplicaService)?.pid();
        let service_pid = pid.context("replica-service does not run")?;
        let n_reads = (self.n_reads / question.one_in).max(in_flight);
        let points = Points { bench: self, question, n_reads, in_flight, driver, echo, service_pid };
        let ways: &[Way] = match (question.every_way, in_flight) {
            (false, _) => &[Way::Driver, Way::Unary],
            (true, 1) => &[Way::Driver, Way::Echo, Way::Unary, Way::Stream { queries: 1 }],
            (true, _) => &[
                Way::Driver,
                Way::Echo,
                Way::Unary,
                Way::Stream { queries: 1 },
                Way::Stream { queries: 4 },
                Way::Stream { queries: 16 },
            ],
        };
        let mut best = vec![(f64::MAX, f64::MAX); ways.len()];
        for _ in 0..ROUNDS {
            for (way, best) in ways.iter().zip(&mut best) {
                let (took, cpu) = points.measure(*way).await?;
                *best = (best.0.min(took), best.1.min(cpu));
            }
        }
        let direct = best[0].0;
        println!("  {}, {in_flight} in flight:", question.name);
        for (way, (took, cpu)) in ways.iter().zip(best) {
            points.tell(*way, took, cpu, direct);
        }
        Ok(())
    }
}

impl Points<'_> {
    /// Returns the seconds of one read, and those of the service's processor for it.
    async fn measure(&self, way: Way) -> anyhow::Result<(f64, f64)> {
        let n_reads = self.n_reads;
        let (begun_at, cpu) = (Instant::now(), cpu_time(self.service_pid)?);
        match way {
            Way::Driver => self.by_driver().await?,
            Way::Echo => self.by_calls(&self.echo).await?,
            Way::Unary => self.by_calls(&self.bench.channel).await?,
            Way::Stream { queries } => self.by_stream(queries).await?,
        }
        let cpu = cpu_time(self.service_pid)?.saturating_sub(cpu);
        Ok((begun_at.elapsed().as_secs_f64() / n_reads as f64, cpu.as_secs_f64() / n_reads as f64))
    }

    fn tell(&self, way: Way, took: f64, cpu: f64, direct: f64) {
        let latency = Duration::from_secs_f64(took * self.in_flight as f64);
        let line = format!("    {:<26} {:>9.1?} each, {:>6.0}/s", way.name(), latency, 1.0 / took);
        match way {
            Way::Driver => println!("{line}"),
            Way::Echo => println!("{line}, {:.2} times as long", took / direct),
            Way::Unary | Way::Stream { .. } => {
                let met = if self.in_flight == 1 {
                    took / direct <= LATENCY_BAR
                } else {
                    direct / took >= RATE_BAR
                };
                println!(
                    "{line}, {:.2} times as long, {:.0} % of the rate: {}; {:.0} us of the service's processor",
                    took / direct,
                    direct / took * 100.0,
                    super::verdict(met),
                    cpu * 1e6
                );
            }
        }
    }

    async fn by_driver(&self) -> anyhow::Result<()> {
        let each = self.n_reads / self.in_flight;
        try_join_all(self.driver.iter().enumerate().map(|(lane, connections)| async move {
            for n in 0..each {
                let (client, statement) = &connections[(lane + n) % connections.len()];
                let id = self.bench.key(lane * each + n);
                client.query_one(statement, &[&id]).await?;
            }
            anyhow::Ok(())
        }))
        .await?;
        Ok(())
    }

    async fn by_calls(&self, channel: &Channel) -> anyhow::Result<()> {
        let each = self.n_reads / self.in_flight;
        try_join_all((0..self.in_flight).map(|lane| async move {
            let mut client = ReplicaServiceClient::new(channel.clone());
            for n in 0..each {
                let answer = client.query(self.query(lane * each + n)).await?.into_inner();
                ensure!(answer.rows.len() == 1, "a row is missing");
            }
            anyhow::Ok(())
        }))
        .await?;
        Ok(())
    }

    /// Keeps as many reads in flight on one stream.
    async fn by_stream(&self, queries: usize) -> anyhow::Result<()> {
        let (n_messages, window) = (self.n_reads / queries, self.in_flight / queries);
        let (messages_tx, messages_rx) = mpsc::channel(window);
        let mut client = QueryBatchServiceClient::new(self.bench.channel.clone());
        for id in 0..window {
            messages_tx.send(self.message(id, queries)).await?;
        }
        let mut answers = client.query_batches(ReceiverStream::new(messages_rx)).await?.into_inner();
        for n in 0..n_messages {
            let answer = answers.message().await?.context("the stream has ended")?;
            let rows = answer.outcomes.iter().map(|outcome| match &outcome.result {
                Some(pb::query_outcome::Result::Answer(answer)) => answer.rows.len(),
                _ => 0,
            });
            ensure!(rows.sum::<usize>() == queries, "a row is missing: {answer:?}");
            if n + window < n_messages {
                messages_tx.send(self.message(n + window, queries)).await?;
            }
        }
        Ok(())
    }

    fn message(&self, id: usize, queries: usize) -> pb::QueryBatch {
        let query = |n| {
            let read = pb::batched_query::Read::Query(self.query(id * queries + n));
            pb::BatchedQuery { read: Some(read) }
        };
        pb::QueryBatch { id: id as u64, queries: (0..queries).map(query).collect(), within: None }
    }

    fn query(&self, n: usize) -> pb::QueryRequest {
        let kind = Some(pb::value::Kind::Int(self.bench.key(n)));
        let id = pb::Value { kind, r#type: "int8".to_owned() };
        pb::QueryRequest { sql: self.question.sql.clone(), params: vec![id], ..pb::QueryRequest::default() }
    }
}
