use futures_util::FutureExt as _;
use prometheus_client::registry::Registry;

use super::*;
use crate::key::ContentType;

fn hub(is_local: bool, change: impl FnOnce(&mut PubSubConfig)) -> Arc<Hub> {
    let mut config = PubSubConfig::default();
    change(&mut config);
    Arc::new(Hub::new(is_local, &config, Arc::new(PubSubMetrics::register(&mut Registry::default()))))
}

fn topic(text: &str) -> Interest {
    Interest::Topic(Topic::try_new("topic", text).unwrap())
}

fn pattern(text: &str) -> Interest {
    Interest::Pattern(Pattern::try_new("pattern", text).unwrap())
}

fn subscribe(hub: &Arc<Hub>, interests: Vec<Interest>) -> Subscription {
    hub.subscribe(interests, SlowReaders::DropOldest).unwrap()
}

fn message(topic: &str, number: u64) -> Arc<Message> {
    Arc::new(Message {
        id: MessageId { publisher: 1, number },
        topic: Topic::try_new("topic", topic).unwrap(),
        payload: bytes::Bytes::new(),
        content_type: ContentType::default(),
        published_at_unix_ms: 0,
    })
}

fn told(subscription: &Subscription) -> Vec<String> {
    let mut told = Vec::new();
    while let Some(next) = subscription.next().now_or_never() {
        told.push(match next.unwrap() {
            Delivery::Listening => "listening".to_owned(),
            Delivery::Message(message) => message.id.number.to_string(),
            Delivery::Gap(gap) => format!("{:?}", gap.reason),
        });
    }
    told
}

#[test]
fn a_stream_gets_each_message_once_however_many_of_its_wishes_match() {
    let hub = hub(true, |_| {});
    let both = subscribe(&hub, vec![topic("a.1"), pattern("a.*"), pattern("*.1")]);
    let one = subscribe(&hub, vec![topic("a.2")]);
    assert_eq!(hub.deliver(&message("a.1", 1)), 1);
    assert_eq!(hub.deliver(&message("a.1", 1)), 0, "a copy");
    assert_eq!(hub.deliver(&message("a.2", 2)), 2);
    assert_eq!(hub.deliver(&message("b.2", 3)), 0);
    assert_eq!(told(&both), ["listening", "1", "2"]);
    assert_eq!(told(&one), ["listening", "2"]);
}

#[test]
fn redis_is_asked_once_for_a_topic_of_many_and_let_go_after_the_last() {
    let hub = hub(false, |_| {});
    let (one, other) = (subscribe(&hub, vec![topic("t")]), subscribe(&hub, vec![topic("t"), topic("u")]));
    hub.link_made();
    let asked = hub.take_unasked(10);
    assert_eq!(asked.len(), 2);
    assert!(told(&one).is_empty(), "not heard before Redis says so");
    hub.confirm(&[topic("t")]);
    assert_eq!((told(&one), told(&other)), (vec!["listening".to_owned()], vec![]));
    hub.confirm(&[topic("u")]);
    assert_eq!(told(&other), ["listening"]);
    let late = subscribe(&hub, vec![topic("t")]);
    assert_eq!(told(&late), ["listening"], "it was heard already");
    assert!(hub.take_unasked(10).is_empty());
    drop((one, late));
    assert!(hub.take_unneeded(10).is_empty());
    drop(other);
    assert_eq!(hub.take_unneeded(10).len(), 2);
    assert_eq!(hub.n_interests(), 0);
}

#[test]
fn a_break_is_told_to_who_was_heard_and_its_end_to_all() {
    let hub = hub(false, |_| {});
    let old = subscribe(&hub, vec![topic("t"), pattern("*")]);
    hub.link_made();
    hub.confirm(&hub.take_unasked(10));
    hub.link_lost();
    let new = subscribe(&hub, vec![topic("t")]);
    hub.link_lost();
    hub.link_made();
    hub.confirm(&hub.take_unasked(10));
    assert_eq!(told(&old), ["listening", "Link", "listening"]);
    assert_eq!(told(&new), ["listening"]);
    hub.overrun(3);
    assert_eq!((told(&old), told(&new)), (vec!["Overrun".to_owned()], vec!["Overrun".to_owned()]));
}

#[test]
fn streams_and_topics_are_bounded_and_come_free() {
    let hub = hub(true, |config| {
        config.max_streams = 2;
        config.max_node_topics = 3;
    });
    let first = subscribe(&hub, vec![topic("a"), topic("b")]);
    let refused = hub.subscribe(vec![topic("c"), topic("d")], SlowReaders::DropOldest);
    assert!(matches!(refused, Err(PubSubError::TooManyTopics)));
    let second = subscribe(&hub, vec![topic("c")]);
    drop(second);
    let _second = subscribe(&hub, vec![topic("c")]);
    let refused = hub.subscribe(vec![topic("a")], SlowReaders::DropOldest);
    assert!(matches!(refused, Err(PubSubError::TooManyStreams)));
    drop(first);
    subscribe(&hub, vec![topic("a"), topic("b")]);
}
