use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use prometheus_client::registry::Registry;
use proptest::prelude::*;

use super::{Census, Hub, Limits, NoRoom, Seat};
use crate::channel::Channel;
use crate::codes::Disconnect;
use crate::metrics::Metrics;
use crate::session::Profile;

const LIMITS: Limits = Limits { max_connections: 6, max_connections_per_user: 2, outbox_bytes: 1 << 20 };

fn hub(limits: Limits) -> Arc<Hub> {
    Hub::new(limits, Metrics::register(&mut Registry::default()))
}

fn open(hub: &Arc<Hub>) -> Result<Seat, NoRoom> {
    hub.open(SocketAddr::from((Ipv4Addr::LOCALHOST, 1)), SystemTime::UNIX_EPOCH)
}

fn profile(user: &str) -> Profile {
    Profile { user: user.into(), client_name: "".into(), client_version: "".into() }
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
    hub.join(slow.connection(), channel("a"));
    hub.join(quick.connection(), channel("a"));
    let message = Bytes::from(vec![b'x'; 400]);
    let mut receivers = Vec::new();
    for _ in 0..4 {
        receivers.push(hub.publish(&channel("a"), &message));
        assert_eq!(received(&quick), std::slice::from_ref(&message));
    }
    assert_eq!(receivers, [2, 2, 1, 1]);
    assert_eq!(slow.connection().outbox.closing(), Some(Disconnect::SLOW));
    assert_eq!(slow.connection().outbox.level().bytes, 0);
    assert_eq!(hub.metrics().slow_disconnects.get(), 1);
    assert!(message.is_unique(), "somebody still holds the message");
}

#[test]
fn lists_are_sorted_and_counted() {
    let hub = hub(LIMITS);
    let seats: Vec<_> = (0..3).map(|_| open(&hub).unwrap()).collect();
    for (seat, name) in [(0, "b"), (1, "b"), (2, "a"), (0, "ab"), (2, "c")] {
        hub.join(seats[seat].connection(), channel(name));
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
                    hub.join(seat.connection(), names[name].clone());
                    expected.channels.insert(name);
                },
                Step::Leave(client, name) => if let Some((seat, expected)) = seats.get_mut(client) {
                    hub.leave(seat.connection(), &names[name]);
                    expected.channels.remove(&name);
                },
                Step::Publish(name) => {
                    let message = Bytes::from(n_published.to_string());
                    n_published += 1;
                    let mut receivers = 0;
                    for (_, expected) in seats.iter_mut().filter(|(_, expected)| expected.channels.contains(&name)) {
                        expected.inbox.push(message.clone());
                        receivers += 1;
                    }
                    prop_assert_eq!(hub.publish(&names[name], &message), receivers);
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
