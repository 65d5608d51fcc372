use std::time::Duration;

use anyhow::ensure;
use futures_util::future::try_join_all;
use mainstay_proto::cache::v1 as pb;
use mainstay_proto::cache::v1::cache_service_client::CacheServiceClient;
use mainstay_proto::cache::v1::origin_client::OriginClient;

use crate::pace::paced;
use crate::server::Server;
use crate::{KEYS, key};

pub(crate) const CONNECTIONS: usize = 8;
pub(crate) const IN_FLIGHT_EACH: usize = 8;
const CALLS: usize = 40_000;
const PER_SECOND: u32 = 15_000;
const SECONDS: u32 = 2;
const REFUSED: Duration = Duration::from_secs(10);

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
    let times = paced(PER_SECOND, PER_SECOND * SECONDS, move |number| {
        let number = number as usize;
        let mut client = clients[number % clients.len()].clone();
        let request = pb::GetRequest {
            namespace: "bench".to_owned(),
            key: key(number * 7 % KEYS),
            ..pb::GetRequest::default()
        };
        async move {
            match client.get(request).await {
                Ok(answer) => ensure!(answer.into_inner().entry.is_some(), "a miss"),
                // What is refused, because too much is waiting on a machine with other work, is as late as can be.
                Err(_) => tokio::time::sleep(REFUSED).await,
            }
            Ok(())
        }
    });
    Ok(Duration::from_micros(times.await?.value_at_quantile(0.99)))
}
