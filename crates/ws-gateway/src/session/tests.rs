use std::sync::Arc;
use std::time::Duration;

use mainstay_auth::jwt::{Claims, Verifier, VerifierConfig, sign_hs256};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Action, Ask, Now, Rules, Session};
use crate::config::{ChannelsConfig, NamespaceConfig, Recovery, Who};
use crate::namespace::Namespaces;

mod anything;
mod channels;
mod corpus;
mod hooks;

const SECRET: &[u8] = b"a secret of at least thirty-two bytes";
const START_UNIX_S: u64 = 1_700_000_000;

/// A session with its own time.
struct Driven {
    session: Session,
    now: Now,
}

/// The options of channels without a namespace, and of the namespace `full`, in which everything is on.
fn namespaces(default: NamespaceConfig) -> Arc<Namespaces> {
    let full = NamespaceConfig {
        publish: Who::Users,
        presence: true,
        history_size: 10,
        recovery: Recovery::Stream,
        subscribe: Who::Users,
        see_history: Who::Everyone,
        ..NamespaceConfig::default()
    };
    let closed = NamespaceConfig { subscribe: Who::Nobody, filters: false, ..NamespaceConfig::default() };
    Arc::new(Namespaces::new(&ChannelsConfig {
        default,
        namespaces: [("full".to_owned(), full), ("closed".to_owned(), closed)].into(),
        ..ChannelsConfig::default()
    }))
}

fn rules() -> Rules {
    let config = VerifierConfig {
        hs256_secrets: vec![SECRET.to_vec()],
        require_exp: false,
        ..VerifierConfig::default()
    };
    Rules {
        verifier: Some(Verifier::try_new(config).unwrap()),
        allow_anonymous: false,
        namespaces: namespaces(NamespaceConfig::default()),
        personal_channels: false,
        max_channel_bytes: 255,
        max_channels: 3,
        history_limit: 300,
        rpc: false,
        hooks: crate::config::HooksConfig::default(),
        asks_at_once: 2,
        max_data_bytes: 1 << 16,
        rates: crate::config::RatesConfig::default(),
        ping_every: Duration::from_secs(20),
        pong_within: Duration::from_secs(8),
        connect_within: Duration::from_secs(10),
        refresh_within: Duration::from_secs(25),
        version: "mainstay test".into(),
    }
}

fn token(claims: &Claims) -> String {
    sign_hs256(claims, SECRET).unwrap()
}

fn user(sub: &str) -> Claims {
    Claims { sub: sub.to_owned(), ..Claims::default() }
}

impl Driven {
    fn new(rules: Rules) -> Self {
        let now = Now { at: Instant::now(), unix_s: START_UNIX_S };
        Self { session: Session::new(Arc::new(rules), "C", now, 0.5), now }
    }

    /// A connected session of user 42, whose first ping is due after 15 s.
    fn connected(rules: Rules) -> Self {
        let mut driven = Self::new(rules);
        let actions = driven.connect(&token(&user("42")));
        assert!(actions[0].starts_with("admit 42"), "{actions:?}");
        driven
    }

    fn connect(&mut self, token: &str) -> Vec<String> {
        self.command(&json!({"id": 1, "connect": {"token": token, "name": "js", "version": "5"}}))
    }

    fn command(&mut self, command: &Value) -> Vec<String> {
        self.text(&command.to_string())
    }

    fn text(&mut self, frame: &str) -> Vec<String> {
        let mut actions = Vec::new();
        self.session.on_text(frame, self.now, &mut actions);
        shown(&actions)
    }

    fn after(&mut self, seconds: f64) -> Vec<String> {
        self.now.at += Duration::from_secs_f64(seconds);
        self.now.unix_s += seconds as u64;
        let mut actions = Vec::new();
        self.session.on_timer(self.now, &mut actions);
        shown(&actions)
    }

    fn next_in(&self) -> Option<f64> {
        self.session.next_at().map(|at| at.saturating_duration_since(self.now.at).as_secs_f64())
    }
}

fn shown(actions: &[Action]) -> Vec<String> {
    let text = |frame: &bytes::Bytes| String::from_utf8(frame.to_vec()).unwrap();
    let show = |action: &Action| match action {
        Action::Admit(profile) => {
            format!("admit {} {} {}", profile.user, profile.client_name, profile.client_version)
        }
        Action::Reply { frame, method, code } => {
            assert!(*code == 0 || text(frame).contains(&format!("\"code\":{code}")));
            assert!(*code != 0 || text(frame).contains(method.as_str()));
            text(frame)
        }
        Action::Send(message) => format!("send {}", text(message)),
        Action::Open(open) => {
            let channels = open.subscriptions.iter().map(|wanted| wanted.channel.as_str());
            let channels: Vec<_> = channels.collect();
            format!("open {} {} ttl {} {}", open.id, open.client, open.lifetime.ttl, channels.join(","))
        }
        Action::Ask { id, ask } => format!("{id} {}", asked(ask)),
        Action::Call { id, call } => format!("{id} call {}", call.method),
        Action::Consult(matter) => format!("ask {}", matter.hook()),
        Action::Expire(channel) => format!("expire {}", channel.as_str()),
        Action::RoundTrip(took) => format!("round trip {took:?}"),
        Action::Close(disconnect) => format!("close {} {}", disconnect.code, disconnect.reason),
    };
    actions.iter().map(show).collect()
}

fn asked(ask: &Ask) -> String {
    let only = |members_only: &bool| if *members_only { " if subscribed" } else { "" };
    match ask {
        Ask::Subscribe(wanted) => {
            let mut text = format!("subscribe {}", wanted.channel.as_str());
            if let Some(since) = &wanted.recover {
                text += &format!(" since {} {}", since.offset, since.epoch);
            }
            for (part, is_there) in [
                (" or not at all", wanted.reject_unrecovered),
                (" positioned", wanted.positioned),
                (" recoverable", wanted.recoverable),
                (" hearing", wanted.join_leave),
                (" filtered", !wanted.filters.is_empty()),
            ] {
                text += if is_there { part } else { "" };
            }
            if let Some(info) = &wanted.chan_info {
                text += &format!(" as {info}");
            }
            if wanted.lifetime.expires {
                text += &format!(" ttl {}", wanted.lifetime.ttl);
            }
            text
        }
        Ask::Unsubscribe(channel) => format!("unsubscribe {}", channel.as_str()),
        Ask::Renew { channel, lifetime, .. } => format!("renew {} ttl {}", channel.as_str(), lifetime.ttl),
        Ask::Publish { channel, data, members_only, .. } => {
            format!("publish {} {data}{}", channel.as_str(), only(members_only))
        }
        Ask::Presence { channel, members_only } => {
            format!("presence {}{}", channel.as_str(), only(members_only))
        }
        Ask::PresenceStats { channel, members_only } => {
            format!("stats {}{}", channel.as_str(), only(members_only))
        }
        Ask::History { channel, query, members_only, .. } => {
            let since = query.since.as_ref().map(|since| since.offset);
            let (n, way) = (query.max_items, if query.reverse { "back" } else { "on" });
            format!("history {} {n} {way} {since:?}{}", channel.as_str(), only(members_only))
        }
    }
}

#[test]
fn a_good_token_opens_the_session_with_its_channels() {
    let mut driven = Driven::new(rules());
    let claims = Claims {
        exp: Some(START_UNIX_S + 60),
        channels: vec!["news".into(), "$private".into(), "news".into()],
        ..user("42")
    };
    assert_eq!(driven.connect(&token(&claims)), ["admit 42 js 5", "open 1 C ttl 60 news,$private"]);
}

#[test]
fn a_connecting_client_says_where_it_was_in_its_own_channels() {
    let mut driven = Driven::new(rules());
    let claims = Claims { channels: vec!["full:a".into(), "full:b".into()], ..user("42") };
    let subs =
        json!({"full:a": {"recover": true, "epoch": "E", "offset": 7}, "full:other": {"recover": true}});
    let mut actions = Vec::new();
    let connect = json!({"id": 1, "connect": {"token": token(&claims), "subs": subs}});
    driven.session.on_text(&connect.to_string(), driven.now, &mut actions);
    let Action::Open(open) = &actions[1] else { panic!("{actions:?}") };
    let since: Vec<_> = open.subscriptions.iter().map(|wanted| wanted.recover.as_ref()).collect();
    assert!(
        matches!(since[..], [Some(since), None] if since.offset == 7 && &*since.epoch == "E"),
        "{since:?}"
    );
}

#[test]
fn users_listen_to_their_own_channel_where_that_is_configured() {
    let personal = || Rules { personal_channels: true, allow_anonymous: true, ..rules() };
    let mut driven = Driven::new(personal());
    let claims = Claims { channels: vec!["a".into()], ..user("42") };
    assert_eq!(driven.connect(&token(&claims))[1], "open 1 C ttl 0 a,#42");
    assert_eq!(Driven::new(personal()).connect("")[1], "open 1 C ttl 0 ");
    let mut driven = Driven::new(personal());
    assert_eq!(driven.connect(&token(&user("4 2"))), ["close 3500 invalid token"], "no name of a channel");
}

#[test]
fn who_cannot_prove_who_it_is_stays_out() {
    let expired = r#"{"id":1,"error":{"code":109,"message":"token expired"}}"#;
    let invalid = "close 3500 invalid token";
    let other_secret = sign_hs256(&user("42"), b"another secret of thirty-two bytes!!").unwrap();
    for (token, expected) in [
        (String::new(), invalid),
        ("x.y.z".to_owned(), invalid),
        (other_secret, invalid),
        (token(&user("")), invalid),
        (token(&Claims { nbf: Some(START_UNIX_S + 60), ..user("42") }), invalid),
        (token(&Claims { channel: Some("news".into()), ..user("42") }), invalid),
        (token(&Claims { channels: vec!["a b".into()], ..user("42") }), invalid),
        (token(&Claims { channels: vec!["unknown:a".into()], ..user("42") }), invalid),
        (
            token(&Claims { channels: ["a", "b", "c", "d"].map(String::from).into(), ..user("42") }),
            "close 3505 channel limit",
        ),
        (token(&Claims { exp: Some(START_UNIX_S - 60), ..user("42") }), expired),
        (token(&Claims { exp: Some(START_UNIX_S - 1), ..user("42") }), expired),
        (token(&Claims { expire_at: Some(START_UNIX_S), ..user("42") }), expired),
    ] {
        assert_eq!(Driven::new(rules()).connect(&token), [expected], "{token}");
    }
}

#[test]
fn anonymous_clients_come_in_only_when_allowed() {
    let mut driven = Driven::new(Rules { verifier: None, allow_anonymous: true, ..rules() });
    assert!(driven.connect("")[0].starts_with("admit "), "no token");
    let mut driven = Driven::new(Rules { allow_anonymous: true, ..rules() });
    assert!(driven.connect(&token(&user("")))[0].starts_with("admit "), "a token without sub");
    let mut driven = Driven::new(Rules { verifier: None, allow_anonymous: true, ..rules() });
    assert_eq!(driven.connect(&token(&user("42"))), ["close 3500 invalid token"]);
}

#[test]
fn names_of_clients_are_cut_to_size() {
    let mut driven = Driven::new(Rules { allow_anonymous: true, ..rules() });
    let name = "\u{e9}".repeat(100);
    let actions = driven.command(&json!({"id": 1, "connect": {"name": name}}));
    assert_eq!(actions[0], format!("admit  {} ", "\u{e9}".repeat(32)));
}

#[test]
fn frames_that_are_out_of_order_or_malformed_close_the_session() {
    let fresh: &[&str] = &[
        "",
        "\n \n",
        "{}",
        "nonsense",
        r#"{"id":1,"subscribe":{"channel":"a"}}"#,
        r#"{"id":1,"connect":[]}"#,
        r#"{"connect":{}}"#,
        r#"{"send":{}}"#,
    ];
    for frame in fresh {
        let mut driven = Driven::new(rules());
        assert_eq!(driven.text(frame), ["close 3501 bad request"], "{frame:?}");
        assert_eq!(driven.text("{}"), [""; 0], "nothing follows a close");
        assert_eq!(driven.next_in(), None);
    }
    let connected: &[(&str, &str)] = &[
        ("{}", "close 3501 bad request"),
        (r#"{"id":2,"connect":{}}"#, "close 3501 bad request"),
        (r#"{"id":2,"subscribe":{}}"#, "close 3501 bad request"),
        (r#"{"id":2,"unsubscribe":{}}"#, "close 3501 bad request"),
        (r#"{"id":2,"publish":{"data":{}}}"#, "close 3501 bad request"),
        (r#"{"id":2,"refresh":{}}"#, "close 3501 bad request"),
        (r#"{"id":2,"sub_refresh":{"channel":"a"}}"#, "close 3501 bad request"),
        (r#"{"id":2,"history":{}}"#, "close 3501 bad request"),
        (r#"{"id":2,"presence":{}}"#, "close 3501 bad request"),
        (r#"{"send":{"data":{}}}"#, "close 3508 not available"),
        (r#"{"id":2,"refresh":{"token":"x"}}"#, "close 3500 invalid token"),
    ];
    for (frame, expected) in connected {
        assert_eq!(Driven::connected(rules()).text(frame), [*expected], "{frame}");
    }
    let mut driven = Driven::connected(rules());
    let mut actions = Vec::new();
    driven.session.on_binary(&mut actions);
    assert_eq!(shown(&actions), ["close 3506 inappropriate protocol"]);
}

#[test]
fn after_a_refused_connect_only_leaving_is_possible() {
    let expired = token(&Claims { exp: Some(START_UNIX_S - 60), ..user("42") });
    for frame in ["{}", r#"{"id":2,"connect":{}}"#, r#"{"id":2,"subscribe":{"channel":"a"}}"#] {
        let mut driven = Driven::new(rules());
        driven.connect(&expired);
        assert_eq!(driven.text(frame), ["close 3501 bad request"], "{frame}");
    }
    let mut driven = Driven::new(rules());
    driven.connect(&expired);
    assert_eq!(driven.after(10.0), ["close 3502 stale"]);
}

#[test]
fn one_frame_may_hold_many_commands() {
    let mut driven = Driven::new(rules());
    let connect = json!({"id": 1, "connect": {"token": token(&user("42"))}});
    let frame = format!(
        "{connect}\n\n{{\"id\":2,\"subscribe\":{{\"channel\":\"a\"}}}}\r\n{{\"id\":3,\"rpc\":{{}}}}\n"
    );
    let actions = driven.text(&frame);
    assert_eq!(actions.len(), 4, "{actions:?}");
    assert_eq!(actions[2], "2 subscribe a");
    // What stands before a bad line counts, what stands behind it does not.
    let frame =
        "{\"id\":4,\"unsubscribe\":{\"channel\":\"a\"}}\noops\n{\"id\":5,\"subscribe\":{\"channel\":\"a\"}}";
    assert_eq!(driven.text(frame), ["4 unsubscribe a", "close 3501 bad request"]);
}

#[test]
fn a_client_that_does_not_connect_is_stale() {
    let mut driven = Driven::new(rules());
    assert_eq!(driven.next_in(), Some(10.0));
    assert_eq!(driven.after(9.9), [""; 0]);
    assert_eq!(driven.after(0.2), ["close 3502 stale"]);
}

#[test]
fn pings_come_in_time_and_want_an_answer() {
    let mut driven = Driven::connected(rules());
    assert_eq!(driven.next_in(), Some(15.0), "half the period and half of the other half");
    assert_eq!(driven.after(14.0), [""; 0]);
    assert_eq!(driven.after(1.0), ["send {}"]);
    assert_eq!(driven.next_in(), Some(8.0));
    assert_eq!(driven.after(0.25), [""; 0]);
    assert_eq!(driven.text("{}"), ["round trip 250ms"]);
    assert_eq!(driven.next_in(), Some(19.75));
    assert_eq!(driven.after(19.75), ["send {}"]);
    driven.text(r#"{"id":2,"rpc":{}}"#);
    assert_eq!(driven.after(8.0), ["close 3012 no pong"], "another command is no pong");
}

#[test]
fn the_first_ping_comes_in_the_second_half_of_the_period() {
    for (jitter, expected) in [(0.0, 10.0), (0.5, 15.0), (1.0, 20.0)] {
        let now = Now { at: Instant::now(), unix_s: START_UNIX_S };
        let mut session =
            Session::new(Arc::new(Rules { allow_anonymous: true, ..rules() }), "C", now, jitter);
        session.on_text(r#"{"id":1,"connect":{}}"#, now, &mut Vec::new());
        assert_eq!(session.next_at().unwrap() - now.at, Duration::from_secs_f64(expected));
    }
}

#[test]
fn an_expiring_connection_lives_as_long_as_it_is_refreshed() {
    let until = |seconds| token(&Claims { exp: Some(START_UNIX_S + seconds), ..user("42") });
    let quiet = || Rules { ping_every: Duration::from_secs(3_000), ..rules() };
    let mut driven = Driven::new(quiet());
    driven.connect(&until(60));
    assert_eq!(driven.next_in(), Some(85.0));
    assert_eq!(driven.after(84.0), [""; 0]);
    let result = r#"{"id":2,"refresh":{"client":"C","version":"mainstay test","expires":true,"ttl":16}}"#;
    assert_eq!(driven.command(&json!({"id": 2, "refresh": {"token": until(100)}})), [result]);
    assert_eq!(driven.after(40.0), [""; 0]);
    assert_eq!(driven.after(1.0), ["close 3005 connection expired"]);

    let mut driven = Driven::new(quiet());
    driven.connect(&until(60));
    let forever = token(&Claims { expire_at: Some(0), exp: Some(START_UNIX_S + 60), ..user("42") });
    driven.command(&json!({"id": 2, "refresh": {"token": forever}}));
    assert_eq!(driven.next_in(), Some(2_250.0), "only the ping is left to come");
}

#[test]
fn a_refresh_needs_a_valid_token_of_the_same_user() {
    for (claims, expected) in [
        (Claims { exp: Some(START_UNIX_S - 60), ..user("42") }, "close 3005 connection expired"),
        (user("43"), "close 3500 invalid token"),
        (user(""), "close 3500 invalid token"),
        (Claims { channel: Some("a".into()), ..user("42") }, "close 3500 invalid token"),
    ] {
        let refresh = json!({"id": 2, "refresh": {"token": token(&claims)}});
        assert_eq!(Driven::connected(rules()).command(&refresh), [expected]);
    }
}

#[test]
fn an_expiry_beyond_all_time_is_harmless() {
    let mut driven = Driven::new(rules());
    let actions = driven.connect(&token(&Claims { exp: Some(u64::MAX), ..user("42") }));
    assert_eq!(actions[1], "open 1 C ttl 4294967295 ");
}
