//! What belongs together is told together, not too often, and again while nobody looks after it.

use std::collections::BTreeMap;
use std::time::Duration;

use mainstay_runtime::ComponentKind;
use monitor_service::config::ChannelConfig;
use serde_json::Value;

use crate::harness::{PATIENCE, TargetService, Watcher, free_address, wait_for};
use crate::notify::{Receiver, telling};

/// Lists what messages tell of, one after the other.
fn events(messages: &[Value]) -> Vec<Value> {
    messages.iter().flat_map(|message| message["events"].as_array().cloned().unwrap_or_default()).collect()
}

/// Lists the changes that each alert was told with, by the component that it is about.
fn changes(messages: &[Value]) -> BTreeMap<String, Vec<String>> {
    let mut changes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for event in events(messages) {
        let word = |value: &Value| value.as_str().expect("a text").to_owned();
        changes.entry(word(&event["alert"]["subject"])).or_default().push(word(&event["change"]));
    }
    changes
}

async fn all_are_told(receiver: &Receiver, expected: &BTreeMap<String, Vec<String>>) -> Vec<Value> {
    wait_for(PATIENCE, async || {
        let messages = receiver.received();
        let found = changes(&messages);
        if found == *expected { Ok(messages) } else { Err(format!("{found:?}")) }
    })
    .await
}

#[tokio::test]
async fn alerts_of_one_group_are_one_message_and_the_next_one_keeps_its_distance() {
    let receiver = Receiver::start(free_address(), 0).await;
    let target = TargetService::start("cache-service").await;
    let component = |name, is_critical| target.cx.component(name, ComponentKind::Datastore, is_critical);
    let all = [component("redis", true), component("sentinel", true), component("disk", false)];
    all.iter().for_each(|component| component.unhealthy("gone"));
    let interval = Duration::from_secs(2);
    let grouping = ChannelConfig {
        group_by: vec!["severity".to_owned()],
        group_wait: Duration::from_secs(1),
        group_interval: interval,
        ..receiver.channel()
    };
    let mut config = telling(&target, &[("hook", grouping)]);
    // All that a pull tells is an alert in the same evaluation.
    config.alerts.unhealthy_for = Duration::ZERO;
    let watcher = Watcher::start(config).await;

    let fired = ["disk", "redis", "sentinel"].map(|name| (name.to_owned(), vec!["fired".to_owned()])).into();
    let messages = all_are_told(&receiver, &fired).await;
    let groups: Vec<(&Value, usize)> = messages
        .iter()
        .map(|message| (&message["group"]["severity"], message["events"].as_array().map_or(0, Vec::len)))
        .collect();
    assert_eq!(groups.len(), 2, "{messages:?}");
    assert!(groups.contains(&(&"critical".into(), 2)) && groups.contains(&(&"warning".into(), 1)));
    let of_two = messages.iter().find(|message| message["firing"] == 2).expect("the critical ones");
    assert_eq!((&of_two["resolved"], &of_two["event"]), (&0.into(), &of_two["events"][1]["event"]));

    all.iter().for_each(|component| component.healthy("back"));
    let over = ["disk", "redis", "sentinel"]
        .map(|name| (name.to_owned(), vec!["fired".to_owned(), "resolved".to_owned()]))
        .into();
    all_are_told(&receiver, &over).await;
    let mut last = BTreeMap::new();
    for (message, arrived_at) in receiver.received().into_iter().zip(receiver.arrivals()) {
        let group = message["group"]["severity"].as_str().expect("a severity").to_owned();
        if let Some(before) = last.insert(group, arrived_at) {
            assert!(arrived_at - before >= interval, "{:?}", arrived_at - before);
        }
    }
    let channel = watcher.channels().await.remove(0);
    assert_eq!((channel.events, channel.queued), (6, 0));
    assert_eq!(channel.delivered, receiver.received().len() as u64);
    watcher.test_channel("hook").await.expect("it is told of a test, too");
    watcher.cx.shut_down().await;
}

#[tokio::test]
async fn alert_that_nobody_acknowledges_is_told_again_and_again() {
    let receiver = Receiver::start(free_address(), 0).await;
    let target = TargetService::start("cache-service").await;
    let redis = target.cx.component("redis", ComponentKind::Datastore, true);
    redis.unhealthy("connection refused");
    let every = Duration::from_millis(500);
    let repeating = ChannelConfig { repeat_interval: every, ..receiver.channel() };
    let watcher = Watcher::start(telling(&target, &[("hook", repeating)])).await;
    let told = wait_for(PATIENCE, async || {
        let told = receiver.received();
        if told.len() >= 4 { Ok(told) } else { Err(format!("{told:?}")) }
    })
    .await;
    let of = |index: usize| told[index]["change"].as_str().expect("a word").to_owned();
    assert_eq!([of(0), of(1), of(2), of(3)], ["fired", "repeated", "repeated", "repeated"]);
    let at = |index: usize| {
        let text = told[index]["at"].as_str().expect("a time");
        humantime::parse_rfc3339(text).expect("it is one")
    };
    for index in 1..4 {
        let since = at(index).duration_since(at(index - 1)).expect("one after the other");
        // Times are told in milliseconds.
        assert!(since + Duration::from_millis(1) >= every, "{since:?}");
    }
    let id = told[0]["alert"]["id"].as_str().expect("an id").to_owned();
    let before = watcher.alerts().await.into_iter().find(|alert| alert.id == id).expect("it is there");
    watcher.acknowledge(&id, "on it", Some("ann")).await.expect("it fires");
    redis.healthy("connected");
    let last = wait_for(PATIENCE, async || {
        let told = receiver.received();
        let last = told.last().filter(|last| last["change"] == "resolved").cloned();
        last.ok_or_else(|| format!("{told:?}"))
    })
    .await;
    assert_eq!(last["alert"]["id"], id.as_str());
    let repeats = watcher.alert_events(&id).await;
    let after: Vec<_> = repeats
        .iter()
        .take_while(|event| event.change != "acknowledged")
        .filter(|event| event.change == "repeated")
        .collect();
    assert!(after.is_empty(), "nothing is repeated that somebody looks after: {after:?}");
    assert!(before.version <= 3, "to tell again is no change of the alert: {before:?}");
    watcher.cx.shut_down().await;
}
