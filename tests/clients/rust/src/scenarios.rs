//! What is tried, once in each variant.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use centrifuge::{Client, DeltaType, Filter, HistoryOptions, StreamPosition};
use serde_json::{Value, json};
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::sleep;

use crate::harness::{Event, Seen, Variant, code, token, unique, unix_s};

type Run = fn(Variant) -> Pin<Box<dyn Future<Output = ()> + Send>>;

macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        pub const ALL: &[(&str, Run)] = &[$((stringify!($name), |variant| Box::pin($name(variant)))),*];
    };
}

scenarios![
    what_is_published_reaches_whoever_subscribed,
    who_comes_and_goes_is_told,
    presence_and_history_are_told,
    what_was_missed_is_recovered_in_order,
    a_position_that_was_saved_is_gone_on_from,
    what_cannot_be_recovered_is_not_called_recovered,
    the_latest_value_comes_at_once,
    deltas_come_to_the_same_as_the_whole,
    a_filter_lets_through_what_it_names,
    what_is_not_allowed_is_an_error_of_the_server,
    connections_are_refreshed_before_they_end,
    a_private_channel_takes_a_token_which_is_refreshed,
    channels_of_the_token_are_subscribed_by_the_server,
    a_bad_token_ends_it_for_good,
    many_subscriptions_begin_at_once,
];

async fn what_is_published_reaches_whoever_subscribed(variant: Variant) {
    let (sender, reader) = (variant.connected("1").await, variant.connected("2").await);
    let channel = unique("talk");
    let (to, mut seen) = Seen::of(reader.new_subscription(&channel));
    let (from, _) = Seen::of(sender.new_subscription(&channel));
    for subscription in [&to, &from] {
        subscription.subscribe();
        subscription.ready(None).await.expect("it begins");
    }
    let said = json!({ "text": "hä, \"line\"\n", "number": 1.5 });
    from.publish_json(&said).await.expect("it is published");
    let found = |event| if let Event::Published(data, user) = event { Some((data, user)) } else { None };
    assert_eq!(seen.next(found).await, (said, Some("1".to_owned())));
}

async fn who_comes_and_goes_is_told(variant: Variant) {
    let (stays, comes) = (variant.connected("stays").await, variant.connected("comes").await);
    let channel = unique("room");
    let (subscription, mut seen) = Seen::of(stays.new_subscription(&channel).join_leave(true));
    subscription.subscribe();
    subscription.ready(None).await.expect("it begins");
    let (other, _) = Seen::of(comes.new_subscription(&channel));
    other.subscribe();
    other.ready(None).await.expect("it begins");
    let came = |event| if let Event::Joined(user) = event { (user != "stays").then_some(user) } else { None };
    assert_eq!(seen.next(came).await, "comes");
    comes.close().await;
    let left = |event| if let Event::Left(user) = event { Some(user) } else { None };
    assert_eq!(seen.next(left).await, "comes");
}

async fn presence_and_history_are_told(variant: Variant) {
    let client = variant.connected("7").await;
    let (subscription, _seen) = Seen::of(client.new_subscription(unique("room")));
    subscription.subscribe();
    subscription.ready(None).await.expect("it begins");
    for n in 1..=3 {
        subscription.publish_json(&n).await.expect("it is published");
    }
    let presence = subscription.presence().await.expect("presence");
    let users: Vec<_> = presence.clients.values().map(|info| info.user.as_str()).collect();
    assert_eq!(users, ["7"]);
    let stats = subscription.presence_stats().await.expect("its numbers");
    assert_eq!((stats.num_clients, stats.num_users), (1, 1));
    let all = subscription.history(HistoryOptions::new().all()).await.expect("history");
    let data: Vec<Value> = all.publications.iter().map(|one| one.json().expect("JSON")).collect();
    assert_eq!((data, all.offset), (vec![json!(1), json!(2), json!(3)], 3));
    let since = HistoryOptions::new().limit(1).since(StreamPosition::new(1, &all.epoch));
    let offsets = |page: centrifuge::HistoryResult| -> Vec<u64> {
        page.publications.iter().map(|one| one.offset).collect()
    };
    assert_eq!(offsets(subscription.history(since).await.expect("a page")), [2]);
    let back = HistoryOptions::new().limit(2).reverse(true);
    assert_eq!(offsets(subscription.history(back).await.expect("a page")), [3, 2]);
    let elsewhere = HistoryOptions::new().limit(1).since(StreamPosition::new(1, "another"));
    assert_eq!(code(subscription.history(elsewhere).await), 112);
}

/// Somebody who publishes into a channel, for those who are away.
async fn publisher(variant: Variant, channel: &str) -> (Client, centrifuge::Subscription) {
    let client = variant.connected("publisher").await;
    let subscription = client.new_subscription(channel).build().expect("a subscription");
    subscription.subscribe();
    subscription.ready(None).await.expect("it begins");
    (client, subscription)
}

async fn what_was_missed_is_recovered_in_order(variant: Variant) {
    let channel = unique("recover");
    let (_sender, out) = publisher(variant, &channel).await;
    let reader = variant.connected("away").await;
    let (subscription, mut seen) = Seen::of(reader.new_subscription(&channel).recoverable(true));
    subscription.subscribe();
    seen.subscribed().await;
    out.publish_json(&1).await.expect("it is published");
    seen.all_published(&[1]).await;
    reader.disconnect();
    for n in 2..=50 {
        out.publish_json(&n).await.expect("it is published");
    }
    reader.connect().expect("it begins to connect");
    let again = seen.subscribed().await;
    assert!(again.was_recovering && again.recovered, "{again:?}");
    out.publish_json(&51).await.expect("it is published");
    seen.all_published(&(2..=51).collect::<Vec<_>>()).await;
}

async fn a_position_that_was_saved_is_gone_on_from(variant: Variant) {
    let channel = unique("saved");
    let (_sender, out) = publisher(variant, &channel).await;
    for n in 1..=5 {
        out.publish_json(&n).await.expect("it is published");
    }
    let epoch = out.history(HistoryOptions::new()).await.expect("a position").epoch;
    let reader = variant.connected("restarted").await;
    let since = StreamPosition::new(3, epoch);
    let (subscription, mut seen) = Seen::of(reader.new_subscription(&channel).recoverable(true).since(since));
    subscription.subscribe();
    let begun = seen.subscribed().await;
    assert!(begun.was_recovering && begun.recovered, "{begun:?}");
    seen.all_published(&[4, 5]).await;
}

async fn what_cannot_be_recovered_is_not_called_recovered(variant: Variant) {
    let channel = format!("smallhistory:{}", unique("x"));
    let (_sender, out) = publisher(variant, &channel).await;
    let reader = variant.connected("away").await;
    let (subscription, mut seen) = Seen::of(reader.new_subscription(&channel).recoverable(true));
    subscription.subscribe();
    seen.subscribed().await;
    out.publish_json(&1).await.expect("it is published");
    seen.all_published(&[1]).await;
    reader.disconnect();
    for n in 2..=5 {
        out.publish_json(&n).await.expect("it is published");
    }
    reader.connect().expect("it begins to connect");
    let again = seen.subscribed().await;
    assert!(again.was_recovering && !again.recovered, "{again:?}");
    out.publish_json(&6).await.expect("it is published");
    seen.all_published(&[6]).await;
}

async fn the_latest_value_comes_at_once(variant: Variant) {
    let channel = format!("last:{}", unique("price"));
    let (_sender, out) = publisher(variant, &channel).await;
    for price in [1, 2] {
        out.publish_json(&price).await.expect("it is published");
    }
    let reader = variant.connected("late").await;
    let (subscription, mut seen) = Seen::of(reader.new_subscription(&channel).recoverable(true));
    subscription.subscribe();
    seen.all_published(&[2]).await;
}

async fn deltas_come_to_the_same_as_the_whole(variant: Variant) {
    let channel = unique("delta");
    let (_sender, out) = publisher(variant, &channel).await;
    let reader = variant.connected("reader").await;
    let builder = reader.new_subscription(&channel).recoverable(true).delta(DeltaType::Fossil);
    let (subscription, mut seen) = Seen::of(builder);
    subscription.subscribe();
    seen.subscribed().await;
    let state = |n: u32| json!({ "n": n, "always the same": "x".repeat(2_000), "text": format!("ü{n}\"\\") });
    for n in 0..20 {
        out.publish_json(&state(n)).await.expect("it is published");
    }
    for n in 0..20 {
        assert_eq!(seen.published().await, state(n));
    }
    let received_bytes = reader.statistics().bytes_in;
    assert!(received_bytes < 20_000, "{received_bytes} bytes for 40,000 without deltas");
    reader.disconnect();
    for n in 20..25 {
        out.publish_json(&state(n)).await.expect("it is published");
    }
    reader.connect().expect("it begins to connect");
    assert!(seen.subscribed().await.recovered);
    for n in 20..25 {
        assert_eq!(seen.published().await, state(n));
    }
}

async fn a_filter_lets_through_what_it_names(variant: Variant) {
    let channel = unique("ticks");
    let (_sender, out) = publisher(variant, &channel).await;
    let reader = variant.connected("reader").await;
    let other = variant.connected("other").await;
    // What clients publish has no tags.
    let (wants, mut seen) =
        Seen::of(reader.new_subscription(&channel).tags_filter(Filter::not_exists("kind")));
    let only = Filter::and([Filter::exists("kind"), Filter::gte("price", "10")]);
    let (wants_not, mut nothing) = Seen::of(other.new_subscription(&channel).tags_filter(only));
    for subscription in [&wants, &wants_not] {
        subscription.subscribe();
        subscription.ready(None).await.expect("it begins");
    }
    out.publish_json(&1).await.expect("it is published");
    seen.all_published(&[1]).await;
    // Its answer comes after everything that was for this client.
    wants_not.presence_stats().await.expect("its numbers");
    wants_not.unsubscribe();
    let next = nothing.next(|event| match event {
        Event::Published(data, ..) => Some(Err(data)),
        Event::Unsubscribed(event) => Some(Ok(event.code)),
        _ => None,
    });
    assert_eq!(next.await, Ok(0));
}

async fn what_is_not_allowed_is_an_error_of_the_server(variant: Variant) {
    let client = variant.connected("42").await;
    assert_eq!(code(client.publish(&unique("nobody-there"), "1").await), 103);
    assert_eq!(code(client.history("no-such-namespace:x", HistoryOptions::new()).await), 102);
    assert_eq!(code(client.rpc("anything", "{}").await), 108);
    let (private, mut seen) = Seen::of(client.new_subscription(format!("private:{}", unique("x"))));
    private.subscribe();
    let ended = |event| if let Event::Unsubscribed(event) = event { Some(event.code) } else { None };
    assert_eq!(seen.next(ended).await, 103);
}

async fn connections_are_refreshed_before_they_end(variant: Variant) {
    let given = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&given);
    let (tx, mut ended) = unbounded_channel();
    let client = variant
        .builder()
        .get_token(move |_| {
            let lives_s = if count.fetch_add(1, Ordering::Relaxed) == 0 { 3 } else { 3_600 };
            async move { Ok(Some(token(&json!({ "sub": "short", "exp": unix_s() + lives_s })))) }
        })
        .on_disconnected(move |_, event| _ = tx.send(event.code))
        .build()
        .expect("a client");
    client.connect().expect("it begins to connect");
    client.ready(None).await.expect("it connects");
    while given.load(Ordering::Relaxed) < 2 {
        sleep(Duration::from_millis(20)).await;
    }
    let (subscription, _seen) = Seen::of(client.new_subscription(unique("after")));
    subscription.subscribe();
    subscription.ready(None).await.expect("the connection lives on");
    assert!(ended.try_recv().is_err());
}

async fn a_private_channel_takes_a_token_which_is_refreshed(variant: Variant) {
    let client = variant.connected("42").await;
    let given = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&given);
    let builder = client.new_subscription(format!("private:{}", unique("x"))).get_token(move |context| {
        let lives_s = if count.fetch_add(1, Ordering::Relaxed) == 0 { 3 } else { 3_600 };
        let claims = json!({ "sub": "42", "channel": context.channel, "exp": unix_s() + lives_s });
        async move { Ok(token(&claims)) }
    });
    let (subscription, mut seen) = Seen::of(builder);
    subscription.subscribe();
    seen.subscribed().await;
    while given.load(Ordering::Relaxed) < 2 {
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(code(subscription.presence().await), 108);
}

async fn channels_of_the_token_are_subscribed_by_the_server(variant: Variant) {
    let channel = unique("listed");
    let (_sender, out) = publisher(variant, &channel).await;
    let (tx, mut seen) = unbounded_channel();
    let begun = tx.clone();
    let client = variant
        .client(json!({ "sub": "led", "channels": [channel] }))
        .on_subscribed(move |_, event| _ = begun.send((event.channel.clone(), Value::Null)))
        .on_publication(move |_, event| {
            let data = event.publication.json().expect("JSON");
            _ = tx.send((event.channel.clone(), data));
        })
        .build()
        .expect("a client");
    client.connect().expect("it begins to connect");
    client.ready(None).await.expect("it connects");
    out.publish_json(&1).await.expect("it is published");
    let mut found = Vec::new();
    while found.len() < 2 {
        let (name, data) = seen.recv().await.expect("the client lives");
        // The channel of the user is there too.
        if name == channel {
            found.push(data);
        }
    }
    assert_eq!(found, [Value::Null, json!(1)]);
}

async fn a_bad_token_ends_it_for_good(variant: Variant) {
    let (tx, mut ended) = unbounded_channel();
    let client = variant
        .builder()
        .token("not.a.token")
        .on_disconnected(move |_, event| _ = tx.send(event.code))
        .build()
        .expect("a client");
    client.connect().expect("it begins to connect");
    assert_eq!(ended.recv().await, Some(3500));
}

async fn many_subscriptions_begin_at_once(variant: Variant) {
    let client = variant.client(json!({ "sub": "many" })).build().expect("a client");
    let prefix = unique("many");
    let subscriptions: Vec<_> = (0..100)
        .map(|n| client.new_subscription(format!("{prefix}-{n}")).build().expect("a subscription"))
        .collect();
    for subscription in &subscriptions {
        subscription.subscribe();
    }
    client.connect().expect("it begins to connect");
    for subscription in &subscriptions {
        subscription.ready(None).await.expect("it begins");
    }
    let stats = subscriptions[99].presence_stats().await.expect("its numbers");
    assert_eq!(stats.num_clients, 1);
}
