use std::time::{Duration, Instant};

use anyhow::ensure;
use futures_util::future::try_join_all;
use hdrhistogram::Histogram;
use mainstay_proto::cache::v1 as pb;
use mainstay_proto::cache::v1::cache_service_client::CacheServiceClient;
use mainstay_proto::cache::v1::origin_client::OriginClient;
use tokio::sync::mpsc;

use crate::server::Server;
use crate::{KEYS, key};

pub(crate) const CONNECTIONS: usize = 8;
pub(crate) const IN_FLIGHT_EACH: usize = 8;
const CALLS: usize = 40_000;
/// Calls begun at each tick of a millisecond.
const PER_TICK: usize = 15;
const TICKS: u32 = 2_000;
const REFUSED: Duration = Duration::from_mins(1);

/// CPU of the server per call.
pub(crate) async fn cpu_us(server: &Server, is_empty: bool) -> anyhow::Result<f64> {
    let each = CALLS / CONNECTIONS / IN_FLIGHT_EACH;
    let channels = (0..CONNECTIONS).map(|_| server.channel()).collect::<anyhow::Result<Vec<_>>>()?;
    let callers =
        channels.iter().flat_map(|channel| (0..IN_FLIGHT_EACH).map(move |at| (channel.clone(), at)));
    let before = server.cpu_us()?;
    let calls = callers.map(|(channel, at)| async move {
        let (mut cache, mut empty) = (CacheServiceClient::new(channel.clone()), OriginClient::new(channel));
        for number in 0..each {
            let (namespace, key) = ("bench".to_owned(), key((at * each + number) % KEYS));
            if is_empty {
                empty.load(pb::LoadRequest { namespace, key }).await?;
            } else {
                let request = pb::GetRequest { namespace, key, ..pb::GetRequest::default() };
                ensure!(cache.get(request).await?.into_inner().entry.is_some(), "a miss");
            }
        }
        anyhow::Ok(())
    });
    try_join_all(calls).await?;
    Ok((server.cpu_us()? - before) / CALLS as f64)
}

/// The 99th of a hundred times from when a call was due until its answer, at 15,000 calls a second.
pub(crate) async fn p99(server: &Server) -> anyhow::Result<Duration> {
    let channels = (0..CONNECTIONS).map(|_| server.channel()).collect::<anyhow::Result<Vec<_>>>()?;
    let clients: Vec<_> = channels.into_iter().map(CacheServiceClient::new).collect();
    let (took, mut all_took) = mpsc::unbounded_channel();
    let started = Instant::now() + Duration::from_millis(50);
    for tick in 0..TICKS {
        let due = started + Duration::from_millis(1) * tick;
        tokio::time::sleep_until(due.into()).await;
        for call in 0..PER_TICK {
            let number = tick as usize * PER_TICK + call;
            let (mut client, took) = (clients[number % clients.len()].clone(), took.clone());
            let request = pb::GetRequest {
                namespace: "bench".to_owned(),
                key: key(number * 7 % KEYS),
                ..pb::GetRequest::default()
            };
            tokio::spawn(async move {
                let answer = client.get(request).await;
                let _ = took.send(answer.map(|answer| (due.elapsed(), answer.into_inner().entry.is_some())));
            });
        }
    }
    drop(took);
    let mut times = Histogram::<u64>::new(3)?;
    while let Some(took) = all_took.recv().await {
        // What is refused, because too much is waiting on a machine with other work, is as late as late can be.
        let (took, is_hit): (Duration, bool) = took.unwrap_or((REFUSED, true));
        ensure!(is_hit, "a miss");
        times.record(u64::try_from(took.as_micros())?)?;
    }
    Ok(Duration::from_micros(times.value_at_quantile(0.99)))
}
