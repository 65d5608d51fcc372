//! What the application decides.

use std::sync::Arc;
use std::time::Duration;

use mainstay_proto::realtime::v1::BackendError;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{Driven, START_UNIX_S, rules, shown};
use crate::backend::{Matter, Told, Verdict};
use crate::channel::Channel;
use crate::config::{Away, ChannelHook, ChannelsConfig, ConnectionHook, NamespaceConfig, Who};
use crate::namespace::Namespaces;
use crate::session::{Action, Ends, Rules, Word};

/// Everything is asked.
pub(super) fn asking() -> Rules {
    let mut rules = rules();
    rules.hooks.ask = vec![ConnectionHook::Connect, ConnectionHook::Refresh];
    let asked = NamespaceConfig {
        publish: Who::Users,
        ask: vec![ChannelHook::Subscribe, ChannelHook::SubRefresh, ChannelHook::Publish],
        ..NamespaceConfig::default()
    };
    let namespaces = ChannelsConfig { default: asked, ..ChannelsConfig::default() };
    Rules {
        namespaces: Arc::new(Namespaces::new(&namespaces)),
        ping_every: Duration::from_secs(3_000),
        max_data_bytes: 32,
        ..rules
    }
}

pub(super) fn told(told: Told) -> Verdict {
    Verdict::Told(Box::new(told))
}

pub(super) fn denied() -> Verdict {
    let error = BackendError { code: 400, message: "not you".to_owned(), temporary: false };
    told(Told { error: Some(error), ..Told::default() })
}

fn document(value: &Value) -> Option<Box<RawValue>> {
    Some(serde_json::value::to_raw_value(value).unwrap())
}

/// What is to be done, and what is asked.
type Outcome = (Vec<String>, Vec<Matter>);

fn split(actions: Vec<Action>) -> Outcome {
    let asked = |action| match action {
        Action::Consult(matter) => Some(*matter),
        _ => None,
    };
    (shown(&actions), actions.into_iter().filter_map(asked).collect())
}

impl Driven {
    fn say(&mut self, command: &Value) -> Outcome {
        let mut actions = Vec::new();
        self.session.on_text(&command.to_string(), self.now, &mut actions);
        split(actions)
    }

    fn ask(&mut self, command: &Value) -> Matter {
        let (shown, mut matters) = self.say(command);
        assert_eq!((shown.len(), matters.len()), (1, 1), "{shown:?}");
        matters.remove(0)
    }

    fn hear(&mut self, matter: Matter, verdict: Verdict) -> Outcome {
        let mut actions = Vec::new();
        self.session.on_word(Word::Verdict(matter, verdict), self.now, &mut actions);
        split(actions)
    }

    fn prolong(&mut self, channel: Option<&str>, ends: Ends) -> Outcome {
        let channel = channel.map(|name| Channel::parse(name, 9).unwrap());
        let mut actions = Vec::new();
        self.session.on_word(Word::Prolong { channel, ends }, self.now, &mut actions);
        split(actions)
    }

    fn later(&mut self, seconds: u64) -> Outcome {
        self.now.at += Duration::from_secs(seconds);
        self.now.unix_s += seconds;
        let mut actions = Vec::new();
        self.session.on_timer(self.now, &mut actions);
        split(actions)
    }

    /// Lets user 42 in until some seconds from now; 0: for ever.
    fn let_in(rules: Rules, seconds: u64) -> Self {
        let mut driven = Self::new(rules);
        let matter = driven.ask(&json!({"id": 1, "connect": {"data": {"key": 7}}}));
        let Matter::Connect(newcomer) = &matter else { panic!("{matter:?}") };
        assert_eq!(newcomer.data.as_ref().unwrap().get(), r#"{"key":7}"#);
        let expire_at = if seconds == 0 { 0 } else { START_UNIX_S + seconds };
        let channels = vec!["news".to_owned()];
        let verdict = told(Told { user: "42".to_owned(), expire_at, channels, ..Told::default() });
        let (shown, _) = driven.hear(matter, verdict);
        assert_eq!(shown, ["admit 42  ", "open 1 C ttl 0 news"]);
        driven
    }
}

fn error_of(outcome: &Outcome) -> Value {
    let [answer] = &outcome.0[..] else { panic!("{outcome:?}") };
    serde_json::from_str::<Value>(answer).unwrap()["error"]["code"].clone()
}

#[test]
fn a_client_without_token_is_let_in_as_the_application_says() {
    for (verdict, expected) in [
        (denied(), json!(400)),
        (Verdict::Away, json!(100)),
        (Verdict::Busy, json!(111)),
        (told(Told { channels: vec!["no such channel".to_owned()], ..Told::default() }), json!(100)),
        (told(Told { expire_at: START_UNIX_S, ..Told::default() }), json!(110)),
    ] {
        let mut driven = Driven::new(asking());
        let matter = driven.ask(&json!({"id": 1, "connect": {}}));
        let outcome = driven.hear(matter, verdict);
        assert_eq!(error_of(&outcome), expected);
        assert_eq!(driven.say(&json!({"id": 2, "ping": {}})).0, ["close 3501 bad request"]);
    }
    let driven = Driven::let_in(asking(), 0);
    assert_eq!(driven.session.next_at(), Some(driven.now.at + Duration::from_secs(2_250)));
    // Whoever shows a token is who the token says.
    let mut driven = Driven::new(asking());
    assert!(driven.connect("not a token")[0].starts_with("close 3500"));
    // Nobody says who it is, and that is allowed.
    let mut rules = Rules { allow_anonymous: true, ..asking() };
    rules.hooks.connect.when_away = Away::Allow;
    let mut driven = Driven::new(rules);
    let matter = driven.ask(&json!({"id": 1, "connect": {}}));
    assert_eq!(driven.hear(matter, Verdict::Away).0, ["admit   ", "open 1 C ttl 0 "]);
}

#[test]
fn a_client_that_goes_on_or_waits_too_long_while_the_application_is_asked_is_sent_away() {
    let mut driven = Driven::new(asking());
    let matter = driven.ask(&json!({"id": 1, "connect": {}}));
    assert_eq!(driven.say(&json!({"id": 2, "subscribe": {"channel": "a"}})).0, ["close 3501 bad request"]);
    assert!(driven.hear(matter, told(Told::default())).0.is_empty(), "nobody is there any more");
    let mut driven = Driven::new(asking());
    driven.ask(&json!({"id": 1, "connect": {}}));
    assert_eq!(driven.later(11).0, ["close 3502 stale"]);
}

#[test]
fn a_connection_lives_as_long_as_the_application_says() {
    let mut driven = Driven::let_in(asking(), 60);
    assert!(driven.later(59).0.is_empty());
    let (shown, mut asked) = driven.later(1);
    assert_eq!(shown, ["ask refresh"]);
    assert!(driven.later(1).0.is_empty(), "one question at a time");
    let expire_at = driven.now.unix_s + 100;
    driven.hear(asked.remove(0), told(Told { expire_at, ..Told::default() }));
    assert!(driven.later(99).0.is_empty());
    let (_, mut asked) = driven.later(1);
    // It is away: asked again, and again, and the time beyond the end is the same as for tokens.
    driven.hear(asked.remove(0), Verdict::Away);
    assert!(driven.later(4).0.is_empty());
    let (shown, mut asked) = driven.later(1);
    assert_eq!(shown, ["ask refresh"]);
    driven.hear(asked.remove(0), Verdict::Away);
    assert_eq!(driven.later(20).0, ["close 3005 connection expired"]);

    let mut rules = asking();
    rules.hooks.refresh.when_away = Away::Allow;
    let mut driven = Driven::let_in(rules, 60);
    let (_, mut asked) = driven.later(60);
    for _ in 0..20 {
        driven.hear(asked.remove(0), Verdict::Away);
        asked = driven.later(5).1;
    }
    let (shown, _) = driven.hear(asked.remove(0), told(Told { expired: true, ..Told::default() }));
    assert_eq!(shown, ["close 3005 connection expired"]);
}

#[test]
fn the_application_says_who_may_subscribe() {
    let mut driven = Driven::let_in(asking(), 0);
    let asked = |name: &str, id: u32| json!({"id": id, "subscribe": {"channel": name, "data": [1]}});
    let first = driven.ask(&asked("a", 2));
    let Matter::Subscribe { data, .. } = &first else { panic!("{first:?}") };
    assert_eq!(data.as_ref().unwrap().get(), "[1]");
    let second = driven.ask(&asked("b", 3));
    // Two at a time, and none twice. What the namespace or the name forbids is not asked.
    assert!(driven.say(&asked("c", 4)).0.is_empty());
    assert_eq!(error_of(&driven.say(&asked("a", 5))), json!(105));
    assert_eq!(error_of(&driven.say(&asked("$p", 6))), json!(103));
    assert_eq!(error_of(&driven.say(&asked("d#7", 7))), json!(103));
    let verdict = told(Told { info: document(&json!("i")), data: document(&json!("d")), ..Told::default() });
    let mut actions = Vec::new();
    driven.session.on_word(Word::Verdict(first, verdict), driven.now, &mut actions);
    let Action::Ask { ask, .. } = &actions[0] else { panic!("{actions:?}") };
    let super::Ask::Subscribe(wanted) = &**ask else { panic!("{ask:?}") };
    assert_eq!(wanted.chan_info.as_ref().unwrap().get(), "\"i\"");
    assert_eq!(wanted.data.as_ref().unwrap().get(), "\"d\"");
    let (shown, mut asked) = split(actions);
    assert_eq!(shown, ["2 subscribe a as \"i\"", "ask subscribe"]);
    assert_eq!(error_of(&driven.hear(second, denied())), json!(400));
    assert_eq!(error_of(&driven.hear(asked.remove(0), Verdict::Away)), json!(100));
}

#[test]
fn a_subscription_that_is_ended_before_it_began_begins_and_ends() {
    let mut driven = Driven::let_in(asking(), 0);
    let matter = driven.ask(&json!({"id": 2, "subscribe": {"channel": "a"}}));
    assert!(driven.say(&json!({"id": 3, "unsubscribe": {"channel": "a"}})).0.is_empty());
    assert_eq!(driven.hear(matter, told(Told::default())).0, ["2 subscribe a", "3 unsubscribe a"]);
    assert_eq!(driven.say(&json!({"id": 4, "unsubscribe": {"channel": "a"}})).0, ["4 unsubscribe a"]);
}

#[test]
fn a_subscription_lives_as_long_as_the_application_says() {
    let mut driven = Driven::let_in(asking(), 0);
    let ends_in =
        |driven: &Driven, seconds| told(Told { expire_at: driven.now.unix_s + seconds, ..Told::default() });
    let matter = driven.ask(&json!({"id": 2, "subscribe": {"channel": "a"}}));
    let verdict = ends_in(&driven, 10);
    driven.hear(matter, verdict);
    let (shown, mut asked) = driven.later(10);
    assert_eq!(shown, ["ask sub_refresh"]);
    let verdict = ends_in(&driven, 20);
    driven.hear(asked.remove(0), verdict);
    let (shown, mut asked) = driven.later(20);
    assert_eq!(shown, ["ask sub_refresh"]);
    let (shown, _) = driven.hear(asked.remove(0), told(Told { expired: true, ..Told::default() }));
    assert_eq!(shown, ["expire a"]);
    assert!(driven.later(100).0.is_empty());
    // It is away for good: the subscription ends, and nobody is asked about it any more.
    let matter = driven.ask(&json!({"id": 3, "subscribe": {"channel": "a"}}));
    let verdict = ends_in(&driven, 10);
    driven.hear(matter, verdict);
    let (_, mut asked) = driven.later(10);
    driven.hear(asked.remove(0), Verdict::Away);
    assert!(driven.later(25).0.contains(&"expire a".to_owned()));
}

#[test]
fn publications_are_asked_about_in_their_order_and_may_be_changed() {
    let mut driven = Driven::let_in(asking(), 0);
    let publish = |id: u32, data: &Value| json!({"id": id, "publish": {"channel": "a", "data": data}});
    let mut matter = driven.ask(&publish(2, &json!(1)));
    for id in 3..7 {
        assert!(driven.say(&publish(id, &json!(1))).0.is_empty());
    }
    for (id, verdict, expected) in [
        (2, told(Told::default()), "2 publish a 1"),
        (3, told(Told { data: document(&json!({"v": 2})), ..Told::default() }), r#"3 publish a {"v":2}"#),
    ] {
        let (shown, mut asked) = driven.hear(matter, verdict);
        assert_eq!(shown, [expected, "ask publish"], "{id}");
        matter = asked.remove(0);
    }
    for (verdict, expected) in [
        (told(Told { data: document(&json!("x".repeat(40))), ..Told::default() }), 106),
        (denied(), 400),
        (Verdict::Busy, 111),
    ] {
        let (shown, mut asked) = driven.hear(matter, verdict);
        let answer: Value = serde_json::from_str(&shown[0]).unwrap();
        assert_eq!(answer["error"]["code"], json!(expected));
        if asked.is_empty() {
            return;
        }
        matter = asked.remove(0);
    }
    panic!("the last was asked about twice");
}

#[test]
fn questions_of_one_client_are_bounded() {
    let mut driven = Driven::let_in(asking(), 0);
    let refused = (2..200).map(|id| driven.say(&json!({"id": id, "publish": {"channel": "a", "data": 1}})));
    let refused = refused.filter(|outcome| outcome.0.iter().any(|shown| shown.contains("\"code\":111")));
    // One is asked, and 64 wait beyond one for each of three channels.
    assert_eq!(refused.count(), 198 - 68);
}

#[test]
fn servers_prolong_connections_and_subscriptions_or_end_them() {
    let mut driven = Driven::let_in(asking(), 60);
    driven.prolong(None, Ends::At(START_UNIX_S + 600));
    assert!(driven.later(599).0.is_empty());
    assert_eq!(driven.later(1).0, ["ask refresh"]);
    driven.prolong(None, Ends::Never);
    assert!(driven.later(100).0.is_empty());
    assert_eq!(driven.prolong(None, Ends::Now).0, ["close 3005 connection expired"]);

    let mut driven = Driven::connected(Rules { ping_every: Duration::from_secs(3_000), ..rules() });
    driven.prolong(Some("a"), Ends::At(START_UNIX_S + 10));
    assert!(driven.later(34).0.is_empty());
    assert_eq!(driven.later(1).0, ["expire a"]);
    assert_eq!(driven.prolong(Some("b"), Ends::Now).0, ["expire b"]);
    driven.prolong(None, Ends::At(driven.now.unix_s + 5));
    assert_eq!(driven.later(30).0, ["close 3005 connection expired"]);
}
