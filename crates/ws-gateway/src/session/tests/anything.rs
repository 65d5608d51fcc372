//! Whatever clients, servers and the application say, in whatever order.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::hooks::{asking, denied, told};
use super::{Driven, START_UNIX_S, token, user};
use crate::backend::{Matter, Told, Verdict};
use crate::session::{Action, Ends, Rules, Word};

/// Something that happens to a session.
#[derive(Clone, Debug)]
enum Event {
    Text(String),
    Binary,
    Later(u16),
    /// What came of the oldest question, or of the latest.
    Verdict(bool, u8),
    Prolong(bool, u8),
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        Just(json!({})),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-c$#:]{0,4}|full:a|x{300}".prop_map(Value::from),
        Just(json!([1, "a"])),
        Just(json!({"key": "k", "cmp": "eq", "val": "v"})),
        Just(json!({"offset": 1, "epoch": "e"})),
    ]
}

fn text() -> impl Strategy<Value = String> {
    let method = prop::sample::select(vec![
        "connect",
        "subscribe",
        "unsubscribe",
        "publish",
        "presence",
        "presence_stats",
        "history",
        "ping",
        "send",
        "rpc",
        "refresh",
        "sub_refresh",
        "other",
    ]);
    let field = prop::sample::select(vec![
        "channel", "data", "token", "recover", "offset", "epoch", "tf", "flag", "type", "limit", "since",
        "subs", "name", "method",
    ]);
    let body = prop::collection::btree_map(field, value(), 0..4).prop_map(|fields| json!(fields));
    let channel = "[ab]|full:a".prop_map(|channel| json!({"channel": channel, "data": 1}));
    let command = (0_u32..4, method, prop_oneof![body, channel])
        .prop_map(|(id, method, body)| json!({"id": id, method: body}).to_string());
    let connect = Just(json!({"id": 1, "connect": {}}).to_string());
    let known = Just(json!({"id": 1, "connect": {"token": token(&user("42"))}}).to_string());
    prop_oneof![6 => command, 1 => connect, 1 => known, 1 => "\\PC{0,40}".prop_map(|text| text)]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => text().prop_map(Event::Text),
        1 => Just(Event::Binary),
        2 => (0_u16..100).prop_map(Event::Later),
        4 => (any::<bool>(), 0_u8..5).prop_map(|(oldest, kind)| Event::Verdict(oldest, kind)),
        1 => (any::<bool>(), 0_u8..3).prop_map(|(channel, kind)| Event::Prolong(channel, kind)),
    ]
}

fn verdict(kind: u8, now_unix_s: u64) -> Verdict {
    match kind {
        0 => Verdict::Away,
        1 => Verdict::Busy,
        2 => denied(),
        3 => told(Told { expire_at: now_unix_s + 10, user: "42".to_owned(), ..Told::default() }),
        _ => told(Told { expired: true, ..Told::default() }),
    }
}

proptest! {
    #[test]
    fn a_session_bears_it_and_says_nothing_after_its_end(events in prop::collection::vec(event(), 0..40)) {
        let mut driven = Driven::new(Rules { allow_anonymous: true, ..asking() });
        let (mut matters, mut n_asked, mut is_over) = (Vec::<Matter>::new(), 0, false);
        for event in events {
            let mut actions = Vec::new();
            let (session, now) = (&mut driven.session, driven.now);
            match event {
                Event::Text(text) => {
                    session.on_text(&text, now, &mut actions);
                }
                Event::Binary => session.on_binary(&mut actions),
                Event::Later(seconds) => {
                    driven.now.at += std::time::Duration::from_secs(seconds.into());
                    driven.now.unix_s += u64::from(seconds);
                    session.on_timer(driven.now, &mut actions);
                }
                Event::Verdict(_, _) if matters.is_empty() => {}
                Event::Verdict(oldest, kind) => {
                    let matter = if oldest { matters.remove(0) } else { matters.remove(matters.len() - 1) };
                    n_asked -= 1;
                    session.on_word(Word::Verdict(matter, verdict(kind, now.unix_s)), now, &mut actions);
                }
                Event::Prolong(is_channel, kind) => {
                    let channel = is_channel.then(|| crate::channel::Channel::parse("a", 9).unwrap());
                    let ends = [Ends::Never, Ends::Now, Ends::At(START_UNIX_S + 500)][usize::from(kind)];
                    session.on_word(Word::Prolong { channel, ends }, now, &mut actions);
                }
            }
            prop_assert!(!is_over || actions.is_empty(), "{actions:?}");
            let close = actions.iter().position(|action| matches!(action, Action::Close(_)));
            is_over |= close.is_some();
            prop_assert!(close.is_none_or(|index| index + 1 == actions.len()), "{actions:?}");
            for action in actions {
                if let Action::Consult(matter) = action {
                    matters.push(*matter);
                    n_asked += 1;
                }
            }
            prop_assert!(n_asked <= 2, "{n_asked} questions at once");
        }
    }
}
