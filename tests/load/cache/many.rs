use std::time::Duration;

use anyhow::ensure;
use bytes::Bytes;
use futures_util::future::try_join_all;
use mainstay_proto::cache::v1 as pb;
use mainstay_proto::cache::v1::cache_service_client::CacheServiceClient;
use mainstay_proto::cache::v1::operation::Action;
use mainstay_proto::cache::v1::outcome::Result as Outcome;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::server::Server;
use crate::{KEYS, key};

pub(crate) const STREAMED_KEYS: usize = 1_500_000;
/// Keys in flight on a stream, whatever the size of a message.
pub(crate) const WINDOW_KEYS: usize = 1_024;
const BATCHED_KEYS: usize = 800_000;
pub(crate) const KEYS_PER_BATCH: usize = 100;
pub(crate) const BATCHES_IN_FLIGHT: usize = 8;

/// CPU of the server per key, with a window of requests in flight on one stream.
pub(crate) async fn stream_us(server: &Server, keys_per_message: usize) -> anyhow::Result<f64> {
    let before = server.cpu_us()?;
    let n_messages = STREAMED_KEYS / keys_per_message;
    let requests = (0..n_messages).map(|message| gets(message * keys_per_message, keys_per_message));
    let is_hit = |result: &Outcome| matches!(result, Outcome::Get(get) if get.entry.is_some());
    let n_found = exchange(server, requests, WINDOW_KEYS / keys_per_message, is_hit).await?;
    ensure!(n_found == n_messages * keys_per_message, "only {n_found} found");
    Ok((server.cpu_us()? - before) / n_found as f64)
}

/// CPU of the server per key, with a few batches in flight on one connection.
pub(crate) async fn batch_us(server: &Server) -> anyhow::Result<f64> {
    let before = server.cpu_us()?;
    let channel = server.channel()?;
    let each = BATCHED_KEYS / KEYS_PER_BATCH / BATCHES_IN_FLIGHT;
    let callers = (0..BATCHES_IN_FLIGHT).map(|caller| {
        let mut client = CacheServiceClient::new(channel.clone());
        async move {
            for number in 0..each {
                let operations = gets((caller * each + number) * KEYS_PER_BATCH, KEYS_PER_BATCH);
                let batch = pb::BatchRequest { namespace: "bench".to_owned(), operations };
                let answer = client.batch(batch).await?.into_inner();
                let is_hit = |outcome: &pb::Outcome| {
                    matches!(&outcome.result, Some(Outcome::Get(get)) if get.entry.is_some())
                };
                ensure!(answer.outcomes.iter().all(is_hit), "a miss");
            }
            anyhow::Ok(())
        }
    });
    try_join_all(callers).await?;
    Ok((server.cpu_us()? - before) / (each * BATCHES_IN_FLIGHT * KEYS_PER_BATCH) as f64)
}

fn gets(first: usize, n: usize) -> Vec<pb::Operation> {
    let get = |number: usize| pb::Operation {
        key: key(number * 7 % KEYS),
        action: Some(Action::Get(pb::GetAction {})),
    };
    (first..first + n).map(get).collect()
}

pub(crate) async fn fill(server: &Server, n_entries: usize, value_bytes: usize) -> anyhow::Result<()> {
    let value = Bytes::from(vec![7; value_bytes]);
    let numbers: Vec<usize> = (0..n_entries).collect();
    let requests = numbers.chunks(100).map(|some| {
        let set = |&number: &usize| {
            let set = pb::SetAction {
                value: value.clone(),
                ttl: Some(Duration::from_hours(1).try_into().expect("an hour fits")),
                ..pb::SetAction::default()
            };
            pb::Operation { key: key(number), action: Some(Action::Set(set)) }
        };
        some.iter().map(set).collect()
    });
    let n_set = exchange(server, requests, 8, |result| matches!(result, Outcome::Set(_))).await?;
    ensure!(n_set == n_entries, "only {n_set} set");
    Ok(())
}

async fn exchange(
    server: &Server,
    batches: impl Iterator<Item = Vec<pb::Operation>>,
    window: usize,
    is_good: impl Fn(&Outcome) -> bool,
) -> anyhow::Result<usize> {
    let (requests, queued) = mpsc::channel(window);
    let mut client = CacheServiceClient::new(server.channel()?);
    let mut answers = client.stream(ReceiverStream::new(queued)).await?.into_inner();
    let mut requests = Some(requests);
    let (mut batches, mut id, mut n_open, mut n_good) = (batches, 0, 0, 0);
    loop {
        while n_open < window
            && let Some(to_send) = &requests
        {
            let Some(operations) = batches.next() else {
                requests = None;
                break;
            };
            id += 1;
            n_open += 1;
            let batch = pb::BatchRequest { namespace: "bench".to_owned(), operations };
            to_send.send(pb::StreamRequest { id, batch: Some(batch), within: None }).await?;
        }
        let Some(answer) = answers.message().await? else { return Ok(n_good) };
        n_open -= usize::from(answer.last);
        let results = answer.outcomes.iter().filter_map(|outcome| outcome.result.as_ref());
        n_good += results.filter(|result| is_good(result)).count();
    }
}
