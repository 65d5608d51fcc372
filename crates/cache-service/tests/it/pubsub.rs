//! Messages by topic between nodes, with readers that do not read and a Redis that goes away.

use bytes::Bytes;
use cache_service::{CacheConfig, RedisConfig, SlowReaders};
use mainstay_devstack::wait_until;
use mainstay_proto::cache::v1 as pb;
use mainstay_proto::cache::v1::gap::Reason;
use mainstay_proto::cache::v1::pub_sub_service_client::PubSubServiceClient;
use mainstay_proto::cache::v1::subscribe_response::Event;
use mainstay_rpc::{ErrorCode, Failure, Status};
use tokio::time::timeout;
use tonic::Streaming;
use tonic::transport::Endpoint;

use crate::node::{CacheNode, LOOK_EVERY, WITHIN, redis, single};

type Events = Streaming<pb::SubscribeResponse>;

impl CacheNode {
    pub(crate) async fn publish(
        &self,
        topic: &str,
        payload: impl Into<Bytes>,
    ) -> Result<pb::PublishResponse, Status> {
        let request = pb::PublishRequest {
            topic: topic.to_owned(),
            payload: payload.into(),
            content_type: "text/plain".to_owned(),
        };
        let published = PubSubServiceClient::new(self.channel.clone()).publish(request).await;
        published.map(tonic::Response::into_inner)
    }

    /// Each stream has a connection of its own: unread ones share the window of theirs with all others on it.
    async fn try_subscribe(&self, request: pb::SubscribeRequest) -> Result<Events, Failure> {
        let address = self.cx.listening().first().unwrap().address;
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        let subscribed = PubSubServiceClient::new(channel).subscribe(request).await;
        subscribed.map(tonic::Response::into_inner).map_err(Failure::from)
    }

    /// Listens, and waits until everything is heard.
    pub(crate) async fn listen(&self, topics: &[&str], patterns: &[&str], policy: pb::SlowReaders) -> Events {
        let mut events = self.try_subscribe(wanted(topics, patterns, policy)).await.unwrap();
        assert_eq!(told(&mut events).await, "listening");
        events
    }
}

fn wanted(topics: &[&str], patterns: &[&str], policy: pb::SlowReaders) -> pb::SubscribeRequest {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    pb::SubscribeRequest { topics: texts(topics), patterns: texts(patterns), slow_readers: policy.into() }
}

async fn next(events: &mut Events) -> Result<Option<Event>, Failure> {
    let next = timeout(WITHIN, events.message()).await.expect("an event in time");
    Ok(next.map_err(Failure::from)?.and_then(|response| response.event))
}

pub(crate) async fn told(events: &mut Events) -> String {
    match next(events).await.unwrap() {
        Some(Event::Listening(_)) => "listening".to_owned(),
        Some(Event::Message(message)) => {
            format!("{} {}", message.topic, String::from_utf8_lossy(&message.payload))
        }
        Some(Event::Gap(gap)) => format!("gap {:?} {}", gap.reason(), gap.lost),
        None => "end".to_owned(),
    }
}

pub(crate) const ANY: pb::SlowReaders = pb::SlowReaders::Unspecified;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_hears_each_message_once_and_a_break_of_redis_is_told() {
    let stack = redis().await;
    let server = stack.redis().unwrap().first_primary();
    let config = RedisConfig { prefix: "p*[1]:".to_owned(), ..single(&stack) };
    let [one, other] = [CacheNode::start(config.clone()).await, CacheNode::start(config).await];
    one.wait_ready(true).await;
    other.wait_ready(true).await;
    let mut by_topic = one.listen(&["orders.eu"], &[], ANY).await;
    let mut by_all = other.listen(&["orders.eu", "orders.eu"], &["orders.*", "*.eu"], ANY).await;
    for number in 0..100 {
        let node = if number % 2 == 0 { &one } else { &other };
        let published = node.publish("orders.eu", number.to_string()).await.unwrap();
        assert_eq!(published.source(), pb::Source::Redis);
        assert_eq!(published.receivers, 4, "two nodes by topic, one by two patterns too");
    }
    assert_eq!(one.publish("orders.us", "x").await.unwrap().receivers, 1);
    assert_eq!(one.publish("nobody", "x").await.unwrap().receivers, 0);
    for number in 0..100 {
        assert_eq!(told(&mut by_topic).await, format!("orders.eu {number}"));
        assert_eq!(told(&mut by_all).await, format!("orders.eu {number}"));
    }
    assert_eq!(told(&mut by_all).await, "orders.us x");

    drop(by_topic);
    wait_until("the topic of nobody to be let go", LOOK_EVERY, WITHIN, || async {
        let receivers = other.publish("orders.eu", "again").await.unwrap().receivers;
        if receivers == 3 { Ok(()) } else { Err(format!("{receivers} receivers")) }
    })
    .await
    .unwrap();
    one.publish("orders.us", "last").await.unwrap();
    while told(&mut by_all).await != "orders.us last" {}

    server.kill().await.unwrap();
    assert_eq!(told(&mut by_all).await, "gap Link 0");
    let failure = Failure::from(one.publish("orders.eu", "lost").await.unwrap_err());
    assert_eq!(failure.code(), ErrorCode::Unavailable, "{failure:?}");
    server.start().await.unwrap();
    assert_eq!(told(&mut by_all).await, "listening");
    one.wait_ready(true).await;
    wait_until("publishing to work again", LOOK_EVERY, WITHIN, || async {
        one.publish("orders.eu", "back").await.map_err(|status| status.to_string())
    })
    .await
    .unwrap();
    assert_eq!(told(&mut by_all).await, "orders.eu back");
    // A stream ends when its node stops.
    other.cx.shut_down().await;
    assert_eq!(told(&mut by_all).await, "end");
    one.cx.shut_down().await;
    stack.stop().await.unwrap();
}

/// More than the windows of a connection and the buffer hold.
const LARGE: usize = 128 << 10;
const MANY: usize = 150;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_never_reads_costs_its_buffer_and_holds_up_nobody() {
    let mut config = CacheConfig { redis: RedisConfig::default(), ..CacheConfig::default() };
    config.pubsub.buffer_messages = 8;
    config.pubsub.slow_readers = SlowReaders::KeepLatest;
    let node = CacheNode::start_with(config).await;
    let mut idle = Vec::new();
    for policy in [pb::SlowReaders::DropOldest, pb::SlowReaders::Disconnect, ANY] {
        idle.push(node.listen(&["t"], &[], policy).await);
    }
    let mut busy = node.listen(&["t"], &[], pb::SlowReaders::Disconnect).await;
    let payload = Bytes::from(vec![b'x'; LARGE]);
    for _ in 0..MANY {
        let published = node.publish("t", payload.clone()).await.unwrap();
        assert_eq!(published.source(), pb::Source::Local);
        assert!(matches!(next(&mut busy).await.unwrap(), Some(Event::Message(_))), "read at once");
    }
    let metrics = node.cx.openmetrics();
    for line in [
        "mainstay_cache_pubsub_dropped_total{policy=\"drop_oldest\"} ",
        "mainstay_cache_pubsub_dropped_total{policy=\"keep_latest\"} ",
        "mainstay_cache_pubsub_disconnected_total 1",
        "mainstay_cache_pubsub_published_total{outcome=\"done\"} 150",
        "mainstay_cache_pubsub_streams_open 4",
    ] {
        assert!(metrics.contains(line), "{line} is missing in\n{metrics}");
    }

    // Nothing was lost that was not told.
    let end = node.publish("end", "").await.unwrap();
    assert_eq!(end.receivers, 0);
    for (nth, least_left) in [(0, 8), (2, 1)] {
        let (mut n_messages, mut n_lost) = (0, 0);
        while n_messages + n_lost < MANY as u64 {
            match next(&mut idle[nth]).await.unwrap() {
                Some(Event::Message(_)) => n_messages += 1,
                Some(Event::Gap(gap)) => {
                    assert_eq!(gap.reason(), Reason::SlowReader);
                    n_lost += gap.lost;
                }
                event => panic!("{event:?}"),
            }
        }
        assert_eq!(n_messages + n_lost, MANY as u64);
        assert!(n_lost > 0 && n_messages >= least_left, "{n_messages} came, {n_lost} lost");
    }
    let ended = loop {
        match next(&mut idle[1]).await {
            Ok(event) => assert!(matches!(event, Some(Event::Message(_))), "{event:?}"),
            Err(failure) => break failure,
        }
    };
    assert_eq!((ended.code(), ended.reason()), (ErrorCode::ResourceExhausted, "SUBSCRIBER_TOO_SLOW"));
    node.cx.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_out_of_its_range_is_refused_by_name() {
    let mut config = CacheConfig { redis: RedisConfig::default(), ..CacheConfig::default() };
    config.pubsub.max_streams = 1;
    config.pubsub.max_topics = 2;
    config.pubsub.max_message_size = bytesize::ByteSize::b(4);
    let node = CacheNode::start_with(config).await;
    for (topics, patterns, policy, reason) in [
        (&[][..], &[][..], 0, "INVALID_FIELD"),
        (&["a", "b", "c"], &[], 0, "INVALID_FIELD"),
        (&["a\n"], &[], 0, "INVALID_FIELD"),
        (&[], &["no star"], 0, "INVALID_FIELD"),
        (&[], &["*****"], 0, "INVALID_FIELD"),
        (&["a"], &[], 9, "INVALID_FIELD"),
    ] {
        let request = pb::SubscribeRequest { slow_readers: policy, ..wanted(topics, patterns, ANY) };
        let failure = node.try_subscribe(request).await.unwrap_err();
        assert_eq!((failure.code(), failure.reason()), (ErrorCode::InvalidArgument, reason), "{topics:?}");
    }
    let open = node.listen(&["a"], &[], ANY).await;
    let failure = node.try_subscribe(wanted(&["b"], &[], ANY)).await.unwrap_err();
    assert_eq!((failure.code(), failure.reason()), (ErrorCode::ResourceExhausted, "OVERLOADED"));
    for (topic, payload, reason) in [("", "x", "INVALID_FIELD"), ("a", "12345", "MESSAGE_TOO_LARGE")] {
        let failure = Failure::from(node.publish(topic, payload).await.unwrap_err());
        assert_eq!((failure.code(), failure.reason()), (ErrorCode::InvalidArgument, reason));
    }
    drop(open);
    wait_until("the place to come free", LOOK_EVERY, WITHIN, || async {
        node.try_subscribe(wanted(&["b"], &[], ANY)).await.map(drop).map_err(|failure| format!("{failure:?}"))
    })
    .await
    .unwrap();
    node.cx.shut_down().await;
}
