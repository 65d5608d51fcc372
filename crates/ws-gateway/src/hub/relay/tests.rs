use std::sync::Arc;
use std::time::SystemTime;

use proptest::prelude::*;
use serde_json::value::RawValue;

use super::*;
use crate::filter::Tags;
use crate::publication::Publication;

fn item(offset: u64) -> Item {
    let data = RawValue::from_string(offset.to_string()).unwrap();
    let publication = Publication { data, info: None, tags: Tags::new() };
    Item::restored(offset, SystemTime::UNIX_EPOCH, Arc::new(publication), None)
}

fn arrival(epoch: &str, offset: u64) -> Arrival {
    Arrival { item: item(offset), epoch: epoch.into() }
}

fn read(epoch: &str, top: u64, items: impl IntoIterator<Item = u64>) -> ReadBack {
    let position = Position { offset: top, epoch: epoch.into() };
    ReadBack { position, items: items.into_iter().map(item).collect() }
}

fn offsets(items: &[Item]) -> Vec<u64> {
    items.iter().map(|item| item.offset).collect()
}

#[test]
fn what_does_not_follow_waits_for_what_lies_between() {
    let mut relay = Relay::default();
    assert_eq!(relay.take(&arrival("e", 6)), Step::Hold { read: true });
    let caught_up = relay.catch_up(read("e", 5, []));
    assert_eq!((offsets(&caught_up.missed), caught_up.lost, caught_up.again), (vec![6], false, false));
    assert_eq!(relay.take(&arrival("e", 6)), Step::Drop);
    assert_eq!(relay.take(&arrival("e", 7)), Step::Deliver);
    assert_eq!(relay.take(&arrival("e", 10)), Step::Hold { read: true });
    assert_eq!(relay.take(&arrival("e", 8)), Step::Hold { read: false });
    let caught_up = relay.catch_up(read("e", 10, [8, 9, 10]));
    assert_eq!((offsets(&caught_up.missed), caught_up.lost), (vec![8, 9, 10], false));
    assert_eq!(relay.take(&arrival("e", 11)), Step::Deliver);
}

#[test]
fn what_cannot_be_read_any_more_is_lost_and_said_so() {
    for (read_back, goes_on_at) in
        [(read("e", 9, [8, 9]), arrival("e", 10)), (read("f", 2, [1, 2]), arrival("f", 3))]
    {
        let mut relay = Relay::default();
        relay.catch_up(read("e", 5, []));
        assert_eq!(relay.take(&arrival("e", 9)), Step::Hold { read: true });
        let caught_up = relay.catch_up(read_back);
        assert!(caught_up.lost && caught_up.missed.is_empty());
        if caught_up.again {
            relay.catch_up(read("f", 2, [1, 2]));
        }
        assert_eq!(relay.take(&goes_on_at), Step::Deliver);
    }
}

#[test]
fn what_was_read_late_takes_nothing_back() {
    let mut relay = Relay::default();
    relay.catch_up(read("e", 5, []));
    assert_eq!(relay.take(&arrival("e", 6)), Step::Deliver);
    let caught_up = relay.catch_up(read("e", 5, []));
    assert!(caught_up.missed.is_empty() && !caught_up.lost);
    assert_eq!(relay.at().unwrap().offset, 6);
}

#[test]
fn a_subscription_begins_where_the_others_are() {
    let mut relay = Relay::default();
    relay.catch_up(read("e", 5, []));
    relay.will_begin();
    for offset in 6..9 {
        assert_eq!(relay.take(&arrival("e", offset)), Step::Deliver);
    }
    let stream = relay.join(read("e", 7, [6, 7])).unwrap();
    assert_eq!((stream.position().offset, stream.len()), (8, 3));
    // It may have read what has not arrived here yet.
    assert_eq!(relay.join(read("e", 9, [])).unwrap().position().offset, 9);
    assert!(relay.join(read("e", 4, [])).is_none());
    assert!(relay.join(read("f", 7, [])).is_none());
    relay.has_begun();
    assert!(!relay.is_awaited() && relay.recent.is_empty());
}

#[test]
fn what_waits_is_bounded_and_read_instead() {
    let mut relay = Relay::default();
    for offset in 1..=MOST_HELD as u64 + 10 {
        relay.take(&arrival("e", offset));
    }
    assert_eq!(relay.held.len(), MOST_HELD);
    assert!(relay.catch_up(read("e", 0, [])).again);
    let top = MOST_HELD as u64 + 10;
    let caught_up = relay.catch_up(read("e", top, MOST_HELD as u64 + 1..=top));
    assert_eq!((caught_up.missed.len(), caught_up.lost, caught_up.again), (10, false, false));
}

proptest! {
    /// Messages are lost, doubled and late; the history is read now and then, in whole or cut off.
    #[test]
    fn subscribers_get_everything_once_and_in_order_or_are_told(
        moves in prop::collection::vec((0_u8..10, any::<prop::sample::Index>()), 1..200),
    ) {
        let (mut relay, mut top) = (Relay::default(), 0_u64);
        relay.catch_up(read("e", 0, []));
        let mut got = 0_u64;
        let mut reading = None;
        for (kind, index) in moves {
            match kind {
                0..5 => {
                    top += 1;
                    if kind > 0 {
                        let step = relay.take(&arrival("e", top));
                        if step == Step::Deliver {
                            prop_assert_eq!(got + 1, top);
                            got = top;
                        }
                    }
                }
                5 if top > 0 => {
                    let old = index.index(top as usize) as u64 + 1;
                    let step = relay.take(&arrival("e", old));
                    if step == Step::Deliver {
                        prop_assert_eq!(got + 1, old);
                        got = old;
                    }
                }
                6 | 7 => reading = Some((relay.at().unwrap().offset, top)),
                _ => {
                    let Some((from, to)) = reading.take() else { continue };
                    let kept_from = if kind == 9 { from + 1 } else { from + 1 + index.index(3) as u64 };
                    let caught_up = relay.catch_up(read("e", to, kept_from..=to));
                    if caught_up.lost {
                        got = to.max(got);
                    }
                    for item in caught_up.missed {
                        prop_assert_eq!(got + 1, item.offset);
                        got = item.offset;
                    }
                }
            }
            prop_assert_eq!(relay.at().unwrap().offset, got);
        }
    }
}
