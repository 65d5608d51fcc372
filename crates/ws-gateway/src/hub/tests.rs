use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use mainstay_auth::jwt::Overrides;
use mainstay_runtime::Clock;
use prometheus_client::registry::Registry;
use proptest::prelude::*;

use super::{
    Census, Hub, Limits, Message, NoRoom, NotJoined, Position, Published, Seat, Subscribed, Subscription,
};
use crate::channel::Channel;
use crate::codes::{Disconnect, ReplyError};
use crate::config::{NamespaceConfig, Recovery};
use crate::engine::{HistoryQuery, NotThisEpoch, Since};
use crate::filter::Filters;
use crate::metrics::Metrics;
use crate::protocol::Lifetime;
use crate::publication::{Exclusion, Publication};
use crate::session::Profile;

mod slow;

const LIMITS: Limits = Limits {
    max_connections: 6,
    max_connections_per_user: 2,
    max_connections_per_address: 0,
    max_channels: 5,
    outbox_bytes: 1 << 20,
    history_items: 300,
    history_bytes: 1 << 20,
    position_ttl: Duration::from_secs(60),
    idempotency_ttl: Duration::from_secs(60),
    journey_bytes: 1 << 16,
};

fn hub(limits: Limits) -> Arc<Hub> {
    Hub::new(limits, Clock::system(), Metrics::register(&mut Registry::default()))
}

fn plain() -> Arc<NamespaceConfig> {
    Arc::new(NamespaceConfig::default())
}

/// A subscription that asks for nothing special.
fn wanted(name: &str, options: &Arc<NamespaceConfig>) -> Subscription {
    Subscription {
        channel: channel(name),
        options: Arc::clone(options),
        recover: None,
        reject_unrecovered: false,
        positioned: false,
        recoverable: false,
        join_leave: false,
        delta: false,
        filters: Filters::default(),
        chan_info: None,
        overrides: Overrides::default(),
        lifetime: Lifetime::default(),
        data: None,
        by_server: false,
    }
}

fn join(hub: &Hub, seat: &Seat, name: &str) -> bool {
    hub.subscribe(seat.connection(), &wanted(name, &plain()), |_| {}).is_ok()
}

fn message(data: &str) -> Message {
    let publication = Publication::from_server(data.as_bytes(), &[].into(), 1_000).unwrap();
    Message { publication: Arc::new(publication), exclusion: None, idempotency_key: "".into() }
}

fn publish(hub: &Hub, name: &str, data: &str) -> u64 {
    hub.publish(&channel(name), &plain(), &message(data)).receivers
}

fn open(hub: &Arc<Hub>) -> Result<Seat, NoRoom> {
    hub.open(SocketAddr::from((Ipv4Addr::LOCALHOST, 1)), SystemTime::UNIX_EPOCH)
}

fn profile(user: &str) -> Profile {
    Profile { user: user.into(), client_name: "".into(), client_version: "".into(), info: None, meta: None }
}

fn channel(name: &str) -> Channel {
    Channel::parse(name, 255).unwrap()
}

fn received(seat: &Seat) -> Vec<Bytes> {
    let mut batch = Vec::new();
    seat.connection().outbox.take(usize::MAX, usize::MAX, &mut batch);
    batch
}

#[test]
fn places_are_counted_until_the_socket_is_gone() {
    let hub = hub(Limits { max_connections: 2, ..LIMITS });
    let (mut first, second) = (open(&hub).unwrap(), open(&hub).unwrap());
    assert_eq!(open(&hub).err(), Some(NoRoom::Full));
    first.retire();
    assert_eq!(open(&hub).err(), Some(NoRoom::Full), "its socket is still there");
    assert_eq!(hub.connections().len(), 1);
    drop(first);
    let third = open(&hub).unwrap();
    hub.start_draining();
    drop((second, third));
    assert_eq!(open(&hub).err(), Some(NoRoom::Draining));
    assert_eq!(hub.census(), Census { draining: true, ..Census::default() });
}

#[test]
fn a_user_has_a_limited_number_of_connections_and_nobody_has_none() {
    let hub = hub(LIMITS);
    let mut seats: Vec<_> = (0..6).map(|_| open(&hub).unwrap()).collect();
    let admitted: Vec<_> = ["a", "a", "a", "b", "", ""]
        .iter()
        .zip(&seats)
        .map(|(user, seat)| hub.admit(seat.connection(), profile(user)))
        .collect();
    assert_eq!(admitted, [true, true, false, true, true, true]);
    assert_eq!(hub.census().users, 2);
    seats.remove(2);
    assert_eq!(hub.census().users, 2, "the refused one was not counted");
    seats.remove(0);
    let again = open(&hub).unwrap();
    assert!(hub.admit(again.connection(), profile("a")));
}

#[test]
fn a_user_is_disconnected_everywhere_and_only_once() {
    let hub = hub(LIMITS);
    let seats: Vec<_> = (0..3).map(|_| open(&hub).unwrap()).collect();
    for (seat, user) in seats.iter().zip(["a", "b", "a"]) {
        hub.admit(seat.connection(), profile(user));
    }
    assert_eq!(hub.disconnect_user("a", Disconnect::FORCED), 2);
    assert_eq!(hub.disconnect_user("a", Disconnect::FORCED), 0);
    let closing: Vec<_> = seats.iter().map(|seat| seat.connection().outbox.closing().is_some()).collect();
    assert_eq!(closing, [true, false, true]);
}

#[test]
fn a_slow_member_costs_the_others_nothing() {
    let hub = hub(Limits { outbox_bytes: 1_000, ..LIMITS });
    let (slow, quick) = (open(&hub).unwrap(), open(&hub).unwrap());
    assert!(join(&hub, &slow, "a") && join(&hub, &quick, "a"));
    let data = format!("\"{}\"", "x".repeat(400));
    let mut receivers = Vec::new();
    for _ in 0..4 {
        receivers.push(publish(&hub, "a", &data));
        assert_eq!(received(&quick).len(), 1);
    }
    assert_eq!(receivers, [2, 2, 1, 1]);
    assert_eq!(slow.connection().outbox.closing(), Some(Disconnect::SLOW));
    assert_eq!(slow.connection().outbox.level().bytes, 0);
    assert_eq!(hub.metrics().slow_disconnects.get(), 1);
}

#[test]
fn lists_are_sorted_and_counted() {
    let hub = hub(LIMITS);
    let seats: Vec<_> = (0..3).map(|_| open(&hub).unwrap()).collect();
    for (seat, name) in [(0, "b"), (1, "b"), (2, "a"), (0, "ab"), (2, "c")] {
        assert!(join(&hub, &seats[seat], name));
    }
    let names = |prefix| {
        hub.channels(prefix).into_iter().map(|(c, n)| format!("{} {n}", c.as_str())).collect::<Vec<_>>()
    };
    assert_eq!(names(""), ["a 1", "ab 1", "b 2", "c 1"]);
    assert_eq!(names("a"), ["a 1", "ab 1"]);
    let ids: Vec<_> = hub.members(&channel("b")).iter().map(|member| member.id).collect();
    assert_eq!(ids, [seats[0].connection().id, seats[1].connection().id]);
    assert!(hub.members(&channel("nobody")).is_empty());
}

/// What can be done to a hub.
#[derive(Clone, Debug)]
enum Step {
    Open,
    Join(usize, usize),
    Leave(usize, usize),
    Publish(usize),
    Retire(usize),
    Drop(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let (client, channel) = (0..4_usize, 0..3_usize);
    prop_oneof![
        2 => Just(Step::Open),
        4 => (client.clone(), channel.clone()).prop_map(|(client, channel)| Step::Join(client, channel)),
        2 => (client.clone(), channel.clone()).prop_map(|(client, channel)| Step::Leave(client, channel)),
        4 => channel.prop_map(Step::Publish),
        1 => client.clone().prop_map(Step::Retire),
        1 => client.prop_map(Step::Drop),
    ]
}

/// One client as the specification sees it.
#[derive(Default)]
struct Expected {
    channels: BTreeSet<usize>,
    inbox: Vec<Bytes>,
    retired: bool,
}

proptest! {
    #[test]
    fn everybody_receives_exactly_what_was_published_while_subscribed(steps in prop::collection::vec(step(), 0..120)) {
        let hub = hub(LIMITS);
        let names = [channel("a"), channel("b"), channel("c")];
        let mut seats: Vec<(Seat, Expected)> = Vec::new();
        let mut n_published = 0_u32;
        for step in steps {
            match step {
                Step::Open => match open(&hub) {
                    Ok(seat) => seats.push((seat, Expected::default())),
                    Err(problem) => {
                        prop_assert_eq!((problem, seats.len()), (NoRoom::Full, LIMITS.max_connections));
                    }
                },
                Step::Join(client, name) => if let Some((seat, expected)) = seats.get_mut(client) && !expected.retired {
                    prop_assert_eq!(join(&hub, seat, names[name].as_str()), expected.channels.insert(name));
                },
                Step::Leave(client, name) => if let Some((seat, expected)) = seats.get_mut(client) {
                    hub.leave(seat.connection(), &names[name]);
                    expected.channels.remove(&name);
                },
                Step::Publish(name) => {
                    let name_text = names[name].as_str();
                    let push = format!("{{\"push\":{{\"channel\":\"{name_text}\",\"pub\":{{\"data\":{n_published}}}}}}}");
                    let mut receivers = 0;
                    for (_, expected) in seats.iter_mut().filter(|(_, expected)| expected.channels.contains(&name)) {
                        expected.inbox.push(push.clone().into());
                        receivers += 1;
                    }
                    prop_assert_eq!(publish(&hub, name_text, &n_published.to_string()), receivers);
                    n_published += 1;
                }
                Step::Retire(client) => if let Some((seat, expected)) = seats.get_mut(client) {
                    seat.retire();
                    expected.channels.clear();
                    expected.retired = true;
                },
                Step::Drop(client) => if client < seats.len() {
                    let (seat, expected) = seats.remove(client);
                    prop_assert_eq!(received(&seat), expected.inbox);
                },
            }
            let mut sizes = BTreeMap::new();
            for name in seats.iter().flat_map(|(_, expected)| &expected.channels) {
                *sizes.entry(names[*name].clone()).or_insert(0_u64) += 1;
            }
            prop_assert_eq!(hub.channels(""), sizes.clone().into_iter().collect::<Vec<_>>());
            prop_assert_eq!(hub.census().subscriptions as u64, sizes.values().sum::<u64>());
            prop_assert_eq!(hub.metrics().subscriptions.get() as u64, sizes.values().sum::<u64>());
            prop_assert_eq!(hub.metrics().channels.get() as usize, sizes.len());
        }
        for (seat, expected) in seats.drain(..) {
            prop_assert_eq!(received(&seat), expected.inbox);
        }
        prop_assert_eq!(hub.census(), Census::default());
        prop_assert_eq!(hub.metrics().connections.get(), 0);
    }
}

/// What a subscription began with, or why it did not.
fn subscribe(hub: &Hub, seat: &Seat, wanted: &Subscription) -> Result<Subscribed, NotJoined> {
    let mut begun = None;
    hub.subscribe(seat.connection(), wanted, |subscribed| begun = Some(subscribed))?;
    Ok(begun.expect("it was answered"))
}

fn kept(recovery: Recovery) -> Arc<NamespaceConfig> {
    Arc::new(NamespaceConfig { history_size: 3, recovery, ..NamespaceConfig::default() })
}

fn since(offset: u64, epoch: &str) -> Option<Since> {
    Some(Since { offset, epoch: epoch.into() })
}

fn offsets(subscribed: &Subscribed) -> Vec<u64> {
    subscribed.missed.iter().map(|item| item.offset).collect()
}

#[test]
fn who_comes_back_gets_what_it_missed_or_is_told_that_it_cannot() {
    let (hub, options) = (hub(LIMITS), kept(Recovery::Stream));
    let mut epoch = String::new();
    for n in 1..=5 {
        let Published { position: Some(position), .. } = hub.publish(&channel("a"), &options, &message("1"))
        else {
            panic!("no position")
        };
        assert_eq!(position.offset, n);
        epoch = position.epoch.to_string();
    }
    for (recover, expected) in [
        (since(3, &epoch), (true, vec![4, 5], 3)),
        (since(5, &epoch), (true, vec![], 5)),
        (since(2, ""), (true, vec![3, 4, 5], 2)),
        (since(1, &epoch), (false, vec![], 5)),
        (since(4, "other"), (false, vec![], 5)),
        (since(9, &epoch), (false, vec![], 5)),
    ] {
        let seat = open(&hub).unwrap();
        let plan = Subscription { recover, ..wanted("a", &options) };
        let begun = subscribe(&hub, &seat, &plan).unwrap();
        assert_eq!((begun.recovered, offsets(&begun), begun.offset), expected, "{plan:?}");
        assert!(begun.recoverable && begun.positioned && begun.was_recovering);
        assert_eq!(begun.epoch.as_deref(), Some(epoch.as_str()));
        let plan = Subscription { reject_unrecovered: true, ..plan };
        let seat = open(&hub).unwrap();
        let refused = NotJoined::Refused(ReplyError::UNRECOVERABLE_POSITION);
        assert_eq!(subscribe(&hub, &seat, &plan).err(), (!begun.recovered).then_some(refused));
    }
    let seat = open(&hub).unwrap();
    let begun = subscribe(&hub, &seat, &wanted("a", &options)).unwrap();
    assert!(!begun.recoverable && !begun.positioned && begun.epoch.is_none() && begun.offset == 0);
}

#[test]
fn in_cache_mode_the_latest_publication_is_enough() {
    let (hub, options) = (hub(LIMITS), kept(Recovery::Cache));
    let plan = |recover| Subscription { recoverable: true, recover, ..wanted("a", &options) };
    let early = open(&hub).unwrap();
    let begun = subscribe(&hub, &early, &plan(None)).unwrap();
    assert_eq!((begun.was_recovering, begun.recovered, offsets(&begun)), (true, false, vec![]));
    let epoch = begun.epoch.unwrap();
    for _ in 0..5 {
        hub.publish(&channel("a"), &options, &message("1"));
    }
    for (recover, expected) in [
        (None, vec![5]),
        (since(1, &epoch), vec![5]),
        (since(5, &epoch), vec![]),
        (since(5, "other"), vec![5]),
    ] {
        let seat = open(&hub).unwrap();
        let begun = subscribe(&hub, &seat, &plan(recover)).unwrap();
        assert_eq!((begun.recovered, begun.offset, offsets(&begun)), (true, 5, expected));
    }
    hub.forget_history(&channel("a"));
    let seat = open(&hub).unwrap();
    assert!(!subscribe(&hub, &seat, &plan(since(4, &epoch))).unwrap().recovered);
}

#[test]
fn an_answer_that_would_fill_the_outbox_is_no_recovery() {
    let (hub, options) = (hub(Limits { outbox_bytes: 2_000, ..LIMITS }), kept(Recovery::Stream));
    let data = format!("\"{}\"", "x".repeat(400));
    for _ in 0..3 {
        hub.publish(&channel("a"), &options, &message(&data));
    }
    let begun = |offset| {
        let seat = open(&hub).unwrap();
        subscribe(&hub, &seat, &Subscription { recover: since(offset, ""), ..wanted("a", &options) }).unwrap()
    };
    assert!(!begun(1).recovered);
    assert_eq!(offsets(&begun(2)), [3]);
    let query = HistoryQuery { max_items: 10, ..HistoryQuery::default() };
    assert_eq!(hub.history(&channel("a"), &options, &query).unwrap().0.len(), 1);
}

#[test]
fn a_key_is_published_once_per_channel() {
    let (hub, options) = (hub(LIMITS), kept(Recovery::Off));
    let keyed = Message { idempotency_key: "k".into(), ..message("1") };
    let first = hub.publish(&channel("a"), &options, &keyed);
    let again = hub.publish(&channel("a"), &options, &keyed);
    assert_eq!(again, Published { duplicate: true, ..first.clone() });
    assert!(!first.duplicate && first.position.is_some());
    assert!(!hub.publish(&channel("b"), &options, &keyed).duplicate);
    assert_eq!(hub.metrics().duplicates.get(), 1);
    assert_eq!(hub.metrics().publications.get(), 2);
}

#[test]
fn who_is_left_out_receives_nothing_also_later() {
    let (hub, options) = (hub(LIMITS), kept(Recovery::Stream));
    let seats: Vec<_> = (0..3).map(|_| open(&hub).unwrap()).collect();
    for (seat, user) in seats.iter().zip(["1", "2", "3"]) {
        assert!(hub.admit(seat.connection(), profile(user)));
        assert!(hub.subscribe(seat.connection(), &wanted("a", &options), |_| {}).is_ok());
    }
    let client = Some(seats[0].connection().client);
    let exclusion = Some(Arc::new(Exclusion { client, user: "2".into() }));
    let published = hub.publish(&channel("a"), &options, &Message { exclusion, ..message("1") });
    assert_eq!(published.receivers, 1);
    let counts: Vec<_> = seats.iter().map(|seat| received(seat).len()).collect();
    assert_eq!(counts, [0, 0, 1]);
    assert!(hub.leave(seats[1].connection(), &channel("a")));
    let back = Subscription { recover: since(0, ""), ..wanted("a", &options) };
    let begun = subscribe(&hub, &seats[1], &back).unwrap();
    assert!(begun.recovered && begun.missed.is_empty());
}

#[test]
fn those_who_ask_are_told_who_comes_and_goes() {
    let hub = hub(LIMITS);
    let options = Arc::new(NamespaceConfig { join_leave: true, ..NamespaceConfig::default() });
    let (listener, other) = (open(&hub).unwrap(), open(&hub).unwrap());
    for (seat, user) in [(&listener, "1"), (&other, "2")] {
        assert!(hub.admit(seat.connection(), profile(user)));
        let plan = Subscription { join_leave: user == "1", ..wanted("a", &options) };
        assert!(hub.subscribe(seat.connection(), &plan, |_| {}).is_ok());
    }
    assert!(received(&other).is_empty());
    let id = other.connection().client;
    drop(other);
    let expected = |kind: &str, user: &str, client| {
        format!(
            "{{\"push\":{{\"channel\":\"a\",\"{kind}\":{{\"info\":{{\"user\":\"{user}\",\"client\":\"{client}\"}}}}}}}}"
        )
    };
    let told: Vec<_> =
        received(&listener).into_iter().map(|push| String::from_utf8(push.to_vec()).unwrap()).collect();
    let own = listener.connection().client;
    assert_eq!(told, [expected("join", "1", own), expected("join", "2", id), expected("leave", "2", id)]);
}

#[test]
fn who_has_left_the_hub_joins_nothing() {
    let hub = hub(LIMITS);
    let mut seat = open(&hub).unwrap();
    seat.retire();
    let outcome = hub.subscribe(seat.connection(), &wanted("a", &plain()), |_| {});
    assert_eq!(outcome, Err(NotJoined::Gone));
    for name in ["a", "b", "c", "d", "e"] {
        let seat = open(&hub).unwrap();
        assert!(join(&hub, &seat, name));
    }
    assert_eq!(hub.census().channels, 0);
    let seat = open(&hub).unwrap();
    for n in 0..LIMITS.max_channels {
        assert!(join(&hub, &seat, &n.to_string()));
    }
    let over = hub.subscribe(seat.connection(), &wanted("a", &plain()), |_| {});
    assert_eq!(over, Err(NotJoined::Refused(ReplyError::LIMIT_EXCEEDED)));
    let double = hub.subscribe(seat.connection(), &wanted("0", &plain()), |_| {});
    assert_eq!(double, Err(NotJoined::Refused(ReplyError::ALREADY_SUBSCRIBED)));
}

#[test]
fn histories_have_a_budget_and_the_numbers_go_on() {
    let hub = hub(Limits { history_bytes: 64 * 1_000, ..LIMITS });
    let options = Arc::new(NamespaceConfig { history_size: 1_000, ..NamespaceConfig::default() });
    let mut last = Position { offset: 0, epoch: "".into() };
    for _ in 0..100 {
        last = hub.publish(&channel("a"), &options, &message("1")).position.unwrap();
    }
    let query = HistoryQuery { max_items: 300, ..HistoryQuery::default() };
    let (items, position) = hub.history(&channel("a"), &options, &query).unwrap();
    assert!(items.len() > 1 && items.len() < 10, "{}", items.len());
    assert_eq!((items.last().unwrap().offset, &position), (100, &last));
    assert!(hub.metrics().history_bytes.get() <= 1_000);
    assert_eq!(hub.metrics().history_evictions.get(), 100 - items.len() as u64);
    let foreign = HistoryQuery { since: since(1, "other"), ..query };
    assert_eq!(hub.history(&channel("a"), &options, &foreign).err(), Some(NotThisEpoch));
    hub.forget_history(&channel("a"));
    let (items, position) = hub.history(&channel("a"), &options, &query).unwrap();
    assert_eq!((items.len(), position, hub.metrics().history_bytes.get()), (0, last, 0));
}

#[test]
fn what_nobody_needs_is_forgotten() {
    let hub = hub(LIMITS);
    let options = Arc::new(NamespaceConfig {
        history_size: 3,
        history_ttl: Duration::from_secs(10),
        ..NamespaceConfig::default()
    });
    hub.publish(&channel("a"), &options, &message("1"));
    let n_rooms = || hub.shards.iter().map(|shard| shard.lock().rooms.len()).sum::<usize>();
    let now = tokio::time::Instant::now();
    for (seconds, bytes_are_kept, rooms) in [(9, true, 1), (11, false, 1), (61, false, 0)] {
        hub.sweep(now + Duration::from_secs(seconds));
        assert_eq!((hub.metrics().history_bytes.get() > 0, n_rooms()), (bytes_are_kept, rooms), "{seconds}");
    }
    let seat = open(&hub).unwrap();
    assert!(join(&hub, &seat, "b"));
    hub.sweep(now + Duration::from_secs(1_000));
    assert_eq!(n_rooms(), 1);
}
