use futures_util::{FutureExt as _, StreamExt as _};
use mainstay_proto::cache::v1::{self as pb, StreamRequest};

use super::*;

const WITHIN: Duration = Duration::from_secs(2);

fn line() -> Arc<Line> {
    let config = UpstreamConfig {
        endpoints: vec!["http://127.0.0.1:1".to_owned()].into(),
        ..UpstreamConfig::default()
    };
    Arc::new(Line::new("one", Upstream::try_new("cache-service", &config).unwrap()))
}

fn open() -> (Arc<Line>, Outbound) {
    let line = line();
    let outbound = Outbound::new(Arc::clone(&line), line.begin());
    line.opened();
    (line, outbound)
}

fn next(outbound: &mut Outbound) -> Option<Option<StreamRequest>> {
    outbound.next().now_or_never()
}

fn found(id: u64, version: u64) -> StreamResponse {
    let entry = pb::Entry { version, ..pb::Entry::default() };
    let get = GetResponse { entry: Some(entry), ..GetResponse::default() };
    let outcomes = vec![pb::Outcome { index: 0, result: Some(Outcome::Get(get)) }];
    StreamResponse { id, outcomes, last: true }
}

fn version(outcome: Option<Outcome>) -> u64 {
    match outcome {
        Some(Outcome::Get(get)) => get.entry.map_or(0, |entry| entry.version),
        other => panic!("no answer to a read: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn answers_find_those_who_asked_in_whatever_order_they_come() {
    let (line, mut outbound) = open();
    let mut asked: Vec<_> = ["a", "b", "c"].map(|key| line.ask("users", key, WITHIN, 10).unwrap()).into();
    let ids: Vec<u64> = (0..3).map(|_| next(&mut outbound).unwrap().unwrap().id).collect();
    assert_eq!(next(&mut outbound), None, "nothing more is to be sent");
    for index in [2, 0, 1] {
        line.settle(found(ids[index], index as u64 + 7));
    }
    for (index, asked) in asked.iter_mut().enumerate() {
        assert_eq!(version(asked.answer().await), index as u64 + 7);
    }
}

#[tokio::test(start_paused = true)]
async fn request_carries_its_key_and_its_time() {
    let (line, mut outbound) = open();
    let _asked = line.ask("users", "a", WITHIN, 10).unwrap();
    let request = next(&mut outbound).unwrap().unwrap();
    let batch = request.batch.unwrap();
    assert_eq!((batch.namespace.as_str(), batch.operations[0].key.as_str()), ("users", "a"));
    assert_eq!(request.within.and_then(|within| Duration::try_from(within).ok()), Some(WITHIN));
}

#[tokio::test(start_paused = true)]
async fn sender_is_woken_by_a_request_and_by_the_end() {
    let (line, mut outbound) = open();
    let sending = async { (outbound.next().await.is_some(), outbound.next().await.is_some()) };
    let asking = async {
        tokio::task::yield_now().await;
        let asked = line.ask("users", "a", WITHIN, 10).unwrap();
        tokio::task::yield_now().await;
        line.close();
        asked
    };
    let (sent, mut asked) = tokio::join!(sending, asking);
    assert_eq!(sent, (true, false));
    assert!(asked.answer().await.is_none(), "whoever waits is told that the stream ended");
    assert!(line.ask("users", "a", WITHIN, 10).is_none(), "a stream that ended takes nothing");
}

#[tokio::test(start_paused = true)]
async fn no_more_wait_than_may_and_who_gives_up_makes_room() {
    let (line, mut outbound) = open();
    let first = line.ask("users", "a", WITHIN, 2).unwrap();
    let second = line.ask("users", "b", WITHIN, 2).unwrap();
    assert!(line.ask("users", "c", WITHIN, 2).is_none());
    drop(first);
    assert!(line.ask("users", "c", WITHIN, 2).is_none(), "it is not sent yet, and memory is bounded");
    let sent = next(&mut outbound).unwrap().unwrap();
    assert_eq!(sent.batch.unwrap().operations[0].key, "b", "nobody waits for the first");
    assert!(line.ask("users", "c", WITHIN, 2).is_some());
    drop(second);
}

#[tokio::test(start_paused = true)]
async fn silent_peer_is_tried_by_one_read_after_a_while_until_it_answers() {
    let (line, mut outbound) = open();
    let late = line.ask("users", "a", WITHIN, 10).unwrap();
    let late_id = next(&mut outbound).unwrap().unwrap().id;
    line.suspect();
    drop(late);
    assert!(line.ask("users", "b", WITHIN, 10).is_none());
    tokio::time::advance(Duration::from_secs(1)).await;
    let trying = line.ask("users", "b", WITHIN, 10);
    assert!(trying.is_some() && line.ask("users", "c", WITHIN, 10).is_none(), "one at a time");
    line.settle(found(late_id, 1));
    assert!(line.ask("users", "c", WITHIN, 10).is_some(), "an answer, however late, is an answer");
}

#[tokio::test(start_paused = true)]
async fn new_stream_has_nothing_of_the_one_before() {
    let (line, mut old) = open();
    let mut asked = line.ask("users", "a", WITHIN, 10).unwrap();
    let mut new = Outbound::new(Arc::clone(&line), line.begin());
    assert!(asked.answer().await.is_none());
    line.opened();
    assert_eq!(next(&mut old), Some(None), "the old one ends");
    assert_eq!(next(&mut new), None);
    let _asked = line.ask("users", "b", WITHIN, 10).unwrap();
    assert!(next(&mut new).unwrap().is_some());
}

#[test]
fn errors_keep_what_they_say_and_those_that_a_call_tells_better_are_asked_again() {
    let error = |code: &str, reason: &str| OperationError {
        code: code.to_owned(),
        reason: reason.to_owned(),
        message: "why".to_owned(),
        details: [("origin".to_owned(), "db".to_owned())].into(),
        retry_after: Some(prost_types::Duration { seconds: 3, nanos: 0 }),
    };
    let failure = of_error(error("UNAVAILABLE", "ORIGIN_UNAVAILABLE")).unwrap();
    assert_eq!(
        (failure.code(), failure.reason(), failure.message()),
        (ErrorCode::Unavailable, "ORIGIN_UNAVAILABLE", "why")
    );
    assert_eq!(failure.details()["origin"], "db");
    assert_eq!(failure.retry_delay(), Some(Duration::from_secs(3)));
    for (code, reason) in [
        ("INVALID_ARGUMENT", "INVALID_FIELD"),
        ("RESOURCE_EXHAUSTED", "STREAM_NOT_READ"),
        ("RESOURCE_EXHAUSTED", "RESPONSE_TOO_LARGE"),
        ("UNHEARD_OF", "ANY"),
    ] {
        assert!(of_error(error(code, reason)).is_none(), "{code} {reason}");
    }
}
