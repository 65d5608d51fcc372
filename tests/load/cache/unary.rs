use std::time::Duration;

use anyhow::ensure;
use futures_util::future::try_join_all;
use mainstay_proto::cache::v1 as pb;
use mainstay_proto::cache::v1::cache_service_client::CacheServiceClient;
use mainstay_proto::cache::v1::origin_client::OriginClient;
use tonic::Status;
use tonic::transport::Channel;

use crate::pace::paced;
use crate::server::Server;
use crate::{KEYS, key};

pub(crate) const CONNECTIONS: usize = 8;
pub(crate) const IN_FLIGHT_EACH: usize = 8;
const CALLS: usize = 40_000;
const PER_SECOND: u32 = 15_000;
const SECONDS: u32 = 2;
const REFUSED: Duration = Duration::from_secs(10);

/// What is called.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    /// A hit of memory.
    Get,
    /// A handler of a plain tonic server that does nothing.
    Empty,
}

/// Calls of one connection.
#[derive(Clone)]
struct Caller {
    cache: CacheServiceClient<Channel>,
    empty: OriginClient<Channel>,
    call: Call,
}

/// CPU of the server per call.
pub(crate) async fn cpu_us(server: &Server, call: Call) -> anyhow::Result<f64> {
    let each = CALLS / CONNECTIONS / IN_FLIGHT_EACH;
    let channels = (0..CONNECTIONS).map(|_| server.channel()).collect::<anyhow::Result<Vec<_>>>()?;
    let callers = channels
        .iter()
        .flat_map(|channel| (0..IN_FLIGHT_EACH).map(move |at| (Caller::new(channel, call), at)));
    let before = server.cpu_us()?;
    let calls = callers.map(|(mut caller, at)| async move {
        for number in 0..each {
            ensure!(caller.call(at * each + number).await?, "a miss");
        }
        anyhow::Ok(())
    });
    try_join_all(calls).await?;
    Ok((server.cpu_us()? - before) / CALLS as f64)
}

/// The 99th of a hundred times from when a call was due until its answer, at 15,000 calls a second.
pub(crate) async fn p99(server: &Server, call: Call) -> anyhow::Result<Duration> {
    let channels = (0..CONNECTIONS).map(|_| server.channel()).collect::<anyhow::Result<Vec<_>>>()?;
    let callers: Vec<_> = channels.iter().map(|channel| Caller::new(channel, call)).collect();
    let times = paced(PER_SECOND, PER_SECOND * SECONDS, move |number| {
        let number = number as usize;
        let mut caller = callers[number % callers.len()].clone();
        async move {
            match caller.call(number * 7).await {
                Ok(is_hit) => ensure!(is_hit, "a miss"),
                // What is refused, because too much is waiting on a machine with other work, is as late as can be.
                Err(_) => tokio::time::sleep(REFUSED).await,
            }
            Ok(())
        }
    });
    Ok(Duration::from_micros(times.await?.value_at_quantile(0.99)))
}

impl Caller {
    fn new(channel: &Channel, call: Call) -> Self {
        let (cache, empty) = (CacheServiceClient::new(channel.clone()), OriginClient::new(channel.clone()));
        Self { cache, empty, call }
    }

    /// Tells whether it was a hit, which an empty handler's always is.
    async fn call(&mut self, number: usize) -> Result<bool, Status> {
        let (namespace, key) = ("bench".to_owned(), key(number % KEYS));
        match self.call {
            Call::Empty => self.empty.load(pb::LoadRequest { namespace, key }).await.map(|_| true),
            Call::Get => {
                let request = pb::GetRequest { namespace, key, ..pb::GetRequest::default() };
                Ok(self.cache.get(request).await?.into_inner().entry.is_some())
            }
        }
    }
}
