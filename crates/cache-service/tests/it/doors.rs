//! Batches, streams and conditions, over the wire.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use mainstay_devstack::wait_until;
use mainstay_proto::cache::v1 as pb;
use mainstay_proto::cache::v1::cache_service_client::CacheServiceClient;
use mainstay_proto::cache::v1::operation::Action;
use mainstay_proto::cache::v1::outcome::Result as Outcome;
use mainstay_rpc::{ErrorCode, Failure};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

use crate::node::{CacheNode, LOOK_EVERY, WITHIN, redis, single};

fn get(key: &str) -> pb::Operation {
    pb::Operation { key: key.to_owned(), action: Some(Action::Get(pb::GetAction {})) }
}

fn set(key: &str, value: impl Into<Bytes>, if_version: Option<u64>) -> pb::Operation {
    let action = pb::SetAction { value: value.into(), if_version, ..pb::SetAction::default() };
    pb::Operation { key: key.to_owned(), action: Some(Action::Set(action)) }
}

fn delete(key: &str) -> pb::Operation {
    pb::Operation { key: key.to_owned(), action: Some(Action::Delete(pb::DeleteAction::default())) }
}

fn batch(operations: Vec<pb::Operation>) -> pb::BatchRequest {
    pb::BatchRequest { namespace: "test".to_owned(), operations }
}

async fn run(node: &CacheNode, operations: Vec<pb::Operation>) -> Vec<Outcome> {
    let answer = node.client.clone().batch(batch(operations)).await.unwrap().into_inner();
    let indices: Vec<u32> = answer.outcomes.iter().map(|outcome| outcome.index).collect();
    assert_eq!(indices, (0..u32::try_from(indices.len()).unwrap()).collect::<Vec<_>>());
    answer.outcomes.into_iter().map(|outcome| outcome.result.unwrap()).collect()
}

fn value(outcome: &Outcome) -> Option<&[u8]> {
    match outcome {
        Outcome::Get(get) => get.entry.as_ref().map(|entry| &entry.value[..]),
        other => panic!("not a get: {other:?}"),
    }
}

fn reason(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Error(error) => &error.reason,
        other => panic!("not an error: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_does_its_operations_each_on_its_own() {
    let stack = redis().await;
    let (a, b) = (CacheNode::start(single(&stack)).await, CacheNode::start(single(&stack)).await);
    a.wait_ready(true).await;
    b.wait_ready(true).await;
    let keys: Vec<String> = (0..200).map(|number| format!("k{number}")).collect();
    let stored = run(&a, keys.iter().map(|key| set(key, key.clone(), None)).collect()).await;
    assert!(stored.iter().all(|outcome| matches!(outcome, Outcome::Set(set) if !set.degraded)), "{stored:?}");
    for node in [&a, &b] {
        let found = run(node, keys.iter().map(|key| get(key)).collect()).await;
        let found: Vec<_> = found.iter().map(value).collect();
        assert_eq!(found, keys.iter().map(|key| Some(key.as_bytes())).collect::<Vec<_>>());
    }
    let mixed = run(
        &a,
        vec![
            get("k1"),
            delete("k2"),
            get(""),
            set("k3", "new", Some(0)),
            get("absent"),
            pb::Operation { key: "k4".to_owned(), action: None },
        ],
    )
    .await;
    assert_eq!((value(&mixed[0]), value(&mixed[4])), (Some(&b"k1"[..]), None));
    assert!(matches!(&mixed[1], Outcome::Delete(deleted) if deleted.existed));
    let reasons = (reason(&mixed[2]), reason(&mixed[3]), reason(&mixed[5]));
    assert_eq!(reasons, ("KEY_EMPTY", "VERSION_MISMATCH", "INVALID_FIELD"));

    for wrong in [Vec::new(), vec![get("k"); 1_001]] {
        let failure = Failure::from(a.client.clone().batch(batch(wrong)).await.unwrap_err());
        assert_eq!((failure.code(), failure.reason()), (ErrorCode::InvalidArgument, "BATCH_SIZE"));
    }
    let large = vec![7; 1_000_000];
    run(&a, vec![set("l0", large.clone(), None)]).await;
    let found = run(&a, vec![get("l0"); 5]).await;
    assert!(found.iter().filter(|outcome| matches!(outcome, Outcome::Get(_))).count() == 3, "over the bound");
    assert_eq!(reason(&found[4]), "RESPONSE_TOO_LARGE");
    a.cx.shut_down().await;
    b.cx.shut_down().await;
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_compare_and_set_each_version_is_replaced_once() {
    let stack = redis().await;
    let nodes = [CacheNode::start(single(&stack)).await, CacheNode::start(single(&stack)).await];
    for node in &nodes {
        node.wait_ready(true).await;
    }
    const EACH: usize = 15;
    let add = async |node: &CacheNode| {
        let mut done = 0;
        while done < EACH {
            let found = node.get("counter").await.entry;
            let (number, version) = found.map_or((0, 0), |entry| {
                (std::str::from_utf8(&entry.value).unwrap().parse::<usize>().unwrap(), entry.version)
            });
            match &run(node, vec![set("counter", (number + 1).to_string(), Some(version))]).await[0] {
                Outcome::Set(_) => done += 1,
                failed => assert_eq!(reason(failed), "VERSION_MISMATCH"),
            }
        }
    };
    tokio::join!(add(&nodes[0]), add(&nodes[1]), add(&nodes[0]), add(&nodes[1]));
    let read = nodes[0].get("counter").await.entry.unwrap();
    let failed = run(&nodes[1], vec![set("counter", "x", Some(read.version - 1))]).await;
    let Outcome::Error(error) = &failed[0] else { panic!("{failed:?}") };
    assert_eq!(
        (error.code.as_str(), error.details["version"].parse::<u64>()),
        ("CONFLICT", Ok(read.version))
    );
    wait_until("the sum to be seen", LOOK_EVERY, WITHIN, || async {
        let value = nodes[0].value("counter").await;
        if value == Some(Bytes::from((4 * EACH).to_string())) { Ok(()) } else { Err(format!("{value:?}")) }
    })
    .await
    .unwrap();

    // Redis away: a condition cannot be proven, so nothing is kept.
    stack.redis().unwrap().first_primary().kill().await.unwrap();
    let failed = run(&nodes[0], vec![set("only if absent", "x", Some(0))]).await;
    assert!(["REDIS_UNAVAILABLE", "OUTCOME_UNKNOWN"].contains(&reason(&failed[0])), "{failed:?}");
    assert_eq!(nodes[0].value("only if absent").await, None);
    for node in &nodes {
        node.cx.shut_down().await;
    }
    stack.stop().await.unwrap();
}

struct Stream {
    requests: mpsc::Sender<pb::StreamRequest>,
    answers: tonic::Streaming<pb::StreamResponse>,
}

impl Stream {
    /// Opens a stream on a connection of its own.
    async fn open(node: &CacheNode) -> Self {
        let (requests, queued) = mpsc::channel(64);
        let address = node.cx.listening().first().unwrap().address;
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        let answers =
            CacheServiceClient::new(channel).stream(ReceiverStream::new(queued)).await.unwrap().into_inner();
        Self { requests, answers }
    }

    async fn send(&self, id: u64, operations: Vec<pb::Operation>) {
        let request = pb::StreamRequest { id, batch: Some(batch(operations)), within: None };
        self.requests.send(request).await.unwrap();
    }

    async fn next(&mut self) -> Option<pb::StreamResponse> {
        timeout(WITHIN, self.answers.message()).await.unwrap().unwrap()
    }

    /// Reads until so many requests are answered; gives the outcomes by request and index.
    async fn answers(&mut self, n_requests: usize) -> BTreeMap<(u64, u32), Outcome> {
        let (mut outcomes, mut n_last) = (BTreeMap::new(), 0);
        while n_last < n_requests {
            let answer = self.next().await.expect("the stream goes on");
            n_last += usize::from(answer.last);
            for outcome in answer.outcomes {
                let twice = outcomes.insert((answer.id, outcome.index), outcome.result.unwrap());
                assert!(twice.is_none(), "answered twice: {:?}", (answer.id, outcome.index));
            }
        }
        outcomes
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_answers_from_memory_at_once_and_the_rest_when_it_is_there() {
    let stack = redis().await;
    let node = CacheNode::start(single(&stack)).await;
    node.wait_ready(true).await;
    let mut stream = Stream::open(&node).await;
    for id in 0..20 {
        stream
            .send(id, (0..50).map(|number| set(&format!("{id}-{number}"), vec![1; 100], None)).collect())
            .await;
    }
    let stored = stream.answers(20).await;
    assert_eq!(stored.len(), 1_000);
    assert!(stored.values().all(|outcome| matches!(outcome, Outcome::Set(_))));
    for id in 0..20 {
        stream.send(id, (0..50).map(|number| get(&format!("{id}-{number}"))).collect()).await;
    }
    let found = stream.answers(20).await;
    assert!(found.len() == 1_000 && found.values().all(|outcome| value(outcome).is_some()));

    // With Redis frozen, what it must answer does not hold up what memory answers.
    let server = stack.redis().unwrap().first_primary();
    run(&node, vec![set("held", "value", None)]).await;
    server.pause().await.unwrap();
    stream.send(100, vec![get("cold")]).await;
    stream.send(101, vec![get("held")]).await;
    let first = stream.next().await.unwrap();
    assert_eq!((first.id, first.last), (101, true));
    let second = stream.next().await.unwrap();
    assert_eq!((second.id, second.last), (100, true));
    server.resume().await.unwrap();

    // A wrong request is answered and does not end the stream.
    stream.send(102, Vec::new()).await;
    let refused = stream.answers(1).await;
    assert_eq!(reason(&refused[&(102, 0)]), "BATCH_SIZE");

    // The service ends idle streams when it stops.
    node.cx.shut_down().await;
    assert!(stream.next().await.is_none());
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_reads_costs_bounded_memory_and_hurts_nobody() {
    let stack = redis().await;
    let node = CacheNode::start(single(&stack)).await;
    node.wait_ready(true).await;
    let large = vec![7; 200_000];
    run(&node, (0..10).map(|number| set(&format!("l{number}"), large.clone(), None)).collect()).await;
    let deaf = Stream::open(&node).await;
    let mut n_sent: u64 = 0;
    let ask = |id| pb::StreamRequest {
        id,
        batch: Some(batch(
            (0..10).flat_map(|number| [get(&format!("l{number}")), get(&format!("cold{id}"))]).collect(),
        )),
        within: None,
    };
    while timeout(Duration::from_millis(500), deaf.requests.send(ask(n_sent))).await.is_ok() {
        n_sent += 1;
        assert!(n_sent < 50_000, "the service reads on although nobody reads its answers");
    }
    let mut other = Stream::open(&node).await;
    other.send(1, vec![get("l1"), set("fine", "value", None)]).await;
    let answers = other.answers(1).await;
    assert!(value(&answers[&(1, 0)]).is_some() && matches!(answers[&(1, 1)], Outcome::Set(_)), "{answers:?}");
    drop(deaf);
    node.cx.shut_down().await;
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_of_many_are_answered_alike_by_every_door_wherever_the_misses_are() {
    let node = CacheNode::start(cache_service::RedisConfig::default()).await;
    let is_held = |number: usize| ![0, 15, 16, 17, 40, 63].contains(&number);
    let large = Bytes::from(vec![7; 40 << 10]);
    let of = |number: usize| if number % 10 == 3 { large.clone() } else { Bytes::from(number.to_string()) };
    let held = (0..64).filter(|number| is_held(*number));
    run(&node, held.map(|number| set(&number.to_string(), of(number), None)).collect()).await;
    let is_right = |number: usize, outcome: &Outcome| {
        let expected = is_held(number).then(|| of(number));
        assert!(value(outcome) == expected.as_deref(), "{number}");
    };
    let mut stream = Stream::open(&node).await;
    // With misses, without any, and of one key only.
    for numbers in [(0..64).collect::<Vec<_>>(), (18..40).collect(), (41..63).collect(), vec![5], vec![40]] {
        let gets: Vec<_> = numbers.iter().map(|number| get(&number.to_string())).collect();
        let batched = run(&node, gets.clone()).await;
        numbers.iter().zip(&batched).for_each(|(number, outcome)| is_right(*number, outcome));
        stream.send(1, gets).await;
        for ((_, index), outcome) in stream.answers(1).await {
            is_right(numbers[index as usize], &outcome);
        }
        for number in numbers {
            let answer = node.get(&number.to_string()).await;
            is_right(number, &Outcome::Get(answer));
        }
    }
    // Each is counted once, whichever way it was answered.
    let operations = node.stats().await.operations.unwrap();
    let (n_reads, n_misses) = (3 * (64 + 22 + 22 + 1 + 1), 3 * (6 + 1));
    assert_eq!(
        (operations.gets, operations.misses, operations.l1_hits),
        (n_reads, n_misses, n_reads - n_misses)
    );
    node.cx.shut_down().await;
}
