use proptest::prelude::*;

use super::*;
use crate::key::ContentType;
use crate::pubsub::{MessageId, Topic};

fn message(topic: &str, number: u64, n_bytes: usize) -> Arc<Message> {
    Arc::new(Message {
        id: MessageId { publisher: 1, number },
        topic: Topic::try_new("topic", topic).unwrap(),
        payload: vec![0; n_bytes].into(),
        content_type: ContentType::default(),
        published_at_unix_ms: 0,
    })
}

fn outbox(most_messages: usize, most_bytes: usize, slow_readers: SlowReaders) -> Queue {
    Outbox::new(Bounds { most_messages, most_bytes, slow_readers }).queue.into_inner()
}

fn drain(queue: &mut Queue) -> Vec<String> {
    let show = |delivery: Result<Delivery, TooSlow>| match delivery {
        Ok(Delivery::Message(message)) => format!("{}{}", message.topic.as_str(), message.id.number),
        Ok(Delivery::Gap(gap)) => format!("{:?} {}", gap.reason, gap.lost),
        Ok(Delivery::Listening) => "listening".to_owned(),
        Err(TooSlow) => "too slow".to_owned(),
    };
    let mut all = Vec::new();
    while let Some(delivery) = queue.pop() {
        let is_end = delivery.is_err();
        all.push(show(delivery));
        if is_end {
            break;
        }
    }
    all
}

#[test]
fn the_oldest_messages_are_lost_and_that_is_told_first() {
    let mut queue = outbox(2, 1 << 20, SlowReaders::DropOldest);
    queue.tell(Delivery::Listening);
    assert_eq!(queue.push(&message("t", 1, 1)), Pushed::Taken);
    assert_eq!(queue.push(&message("t", 2, 1)), Pushed::Taken);
    assert_eq!(queue.push(&message("t", 3, 1)), Pushed::InPlaceOf(1));
    assert_eq!(queue.push(&message("t", 4, 1)), Pushed::InPlaceOf(1));
    assert_eq!(drain(&mut queue), ["SlowReader 2", "listening", "t3", "t4"]);
}

#[test]
fn the_newest_message_of_each_topic_waits() {
    let mut queue = outbox(2, 1 << 20, SlowReaders::KeepLatest);
    for (topic, number) in [("a", 1), ("b", 2), ("a", 3), ("a", 4), ("b", 5)] {
        queue.push(&message(topic, number, 1));
    }
    assert_eq!(drain(&mut queue), ["SlowReader 3", "a4", "b5"]);
    for (topic, number) in [("a", 6), ("b", 7), ("c", 8)] {
        queue.push(&message(topic, number, 1));
    }
    assert_eq!(drain(&mut queue), ["SlowReader 1", "b7", "c8"], "there is room for two");
}

#[test]
fn a_stream_that_is_to_be_ended_ends_and_holds_nothing() {
    let mut queue = outbox(1, 1 << 20, SlowReaders::Disconnect);
    assert_eq!(queue.push(&message("t", 1, 1)), Pushed::Taken);
    assert_eq!(queue.push(&message("t", 2, 1)), Pushed::Ended);
    assert_eq!(queue.push(&message("t", 3, 1)), Pushed::AfterEnd);
    assert_eq!(queue.waiting.capacity(), 0);
    assert_eq!(drain(&mut queue), ["too slow"]);
}

#[test]
fn a_link_that_breaks_again_and_again_is_one_wide_gap() {
    let mut queue = outbox(100, 1 << 20, SlowReaders::DropOldest);
    let broken = Delivery::Gap(Gap { reason: GapReason::Link, lost: 0 });
    for number in 0..50 {
        queue.push(&message("t", number, 1));
        queue.tell(broken.clone());
        queue.tell(Delivery::Listening);
    }
    assert!(queue.waiting.len() <= 50 + MOST_NEWS);
    let told = drain(&mut queue);
    assert_eq!(told[..3], ["t0", "Link 0", "t1"]);
    assert_eq!(told.last().unwrap(), "listening");
    assert_eq!(told.iter().filter(|told| told.starts_with('t')).count(), 50);
}

proptest! {
    #[test]
    fn every_message_is_told_or_counted_and_the_bounds_hold(
        steps in prop::collection::vec((0_u8..4, 0_usize..60, any::<bool>()), 1..200),
        policy in prop::sample::select(vec![SlowReaders::DropOldest, SlowReaders::KeepLatest]),
        most_messages in 1_usize..10,
    ) {
        let most_bytes = 200;
        let mut queue = outbox(most_messages, most_bytes, policy);
        let (mut n_told, mut n_lost, mut last) = (0, 0, None);
        for (number, (topic, n_bytes, reads)) in steps.iter().enumerate() {
            queue.push(&message(&topic.to_string(), number as u64, *n_bytes));
            prop_assert!(queue.n_messages <= most_messages);
            prop_assert!(queue.n_bytes <= most_bytes || queue.n_messages == 1);
            prop_assert_eq!(queue.waiting.len(), queue.n_messages);
            let is_last = number + 1 == steps.len();
            if !(*reads || is_last) {
                continue;
            }
            while let Some(next) = queue.pop() {
                match next {
                    Ok(Delivery::Message(message)) => {
                        prop_assert!(last < Some(message.id.number), "in their order");
                        last = Some(message.id.number);
                        n_told += 1;
                    }
                    Ok(Delivery::Gap(gap)) => n_lost += gap.lost,
                    other => prop_assert!(false, "{:?}", other),
                }
            }
        }
        prop_assert_eq!(n_told + n_lost, steps.len() as u64);
        prop_assert_eq!((queue.n_messages, queue.n_bytes), (0, 0));
    }
}
