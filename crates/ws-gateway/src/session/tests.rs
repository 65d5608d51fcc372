use std::sync::Arc;
use std::time::Duration;

use mainstay_auth::jwt::{Claims, Verifier, VerifierConfig, sign_hs256};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Action, Now, Rules, Session};

const SECRET: &[u8] = b"a secret of at least thirty-two bytes";
const START_UNIX_S: u64 = 1_700_000_000;

/// A session with its own time.
struct Driven {
    session: Session,
    now: Now,
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
        client_publish: false,
        max_channel_bytes: 255,
        max_channels: 3,
        ping_every: Duration::from_secs(20),
        pong_within: Duration::from_secs(8),
        connect_within: Duration::from_secs(10),
        refresh_within: Duration::from_secs(25),
        version: "mainstay test".to_owned(),
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
        Action::Join(channel) => format!("join {}", channel.as_str()),
        Action::Leave(channel) => format!("leave {}", channel.as_str()),
        Action::Publish { channel, push } => format!("publish {} {}", channel.as_str(), text(push)),
        Action::RoundTrip(took) => format!("round trip {took:?}"),
        Action::Close(disconnect) => format!("close {} {}", disconnect.code, disconnect.reason),
    };
    actions.iter().map(show).collect()
}

#[test]
fn a_good_token_opens_the_session_with_its_channels() {
    let mut driven = Driven::new(rules());
    let claims = Claims {
        exp: Some(START_UNIX_S + 60),
        channels: vec!["news".into(), "$private".into(), "news".into()],
        ..user("42")
    };
    let result = concat!(
        r#"{"id":1,"connect":{"client":"C","version":"mainstay test","expires":true,"ttl":60,"#,
        r#""subs":{"$private":{},"news":{}},"ping":20,"pong":true}}"#
    );
    assert_eq!(driven.connect(&token(&claims)), ["admit 42 js 5", result, "join news", "join $private"]);
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
fn subscriptions_are_answered_before_they_begin() {
    let mut driven = Driven::connected(rules());
    assert_eq!(
        driven.text(r#"{"id":2,"subscribe":{"channel":"a"}}"#),
        [r#"{"id":2,"subscribe":{}}"#, "join a"]
    );
    assert_eq!(
        driven.text(r#"{"id":3,"subscribe":{"channel":"b","recover":true,"epoch":"x","offset":7}}"#),
        [r#"{"id":3,"subscribe":{"was_recovering":true}}"#, "join b"]
    );
    assert_eq!(
        driven.text(r#"{"id":4,"unsubscribe":{"channel":"a"}}"#),
        ["leave a", r#"{"id":4,"unsubscribe":{}}"#]
    );
    assert_eq!(driven.text(r#"{"id":5,"unsubscribe":{"channel":"a"}}"#), [r#"{"id":5,"unsubscribe":{}}"#]);
}

#[test]
fn commands_that_cannot_be_carried_out_are_answered_with_an_error() {
    let long = "x".repeat(256);
    let mut driven = Driven::connected(rules());
    driven.text("{\"id\":2,\"subscribe\":{\"channel\":\"a\"}}");
    for (method, body, code) in [
        ("subscribe", json!({"channel": "a"}), 105),
        ("subscribe", json!({"channel": "a b"}), 107),
        ("subscribe", json!({"channel": long}), 107),
        ("subscribe", json!({"channel": "chat#7"}), 103),
        ("subscribe", json!({"channel": "$private"}), 108),
        ("subscribe", json!({"channel": "map", "type": 1}), 108),
        ("subscribe", json!({"channel": "b", "tf": {"key": "k", "cmp": "eq", "val": "v"}}), 107),
        ("subscribe", json!({"channel": "b", "recover": true, "flag": 2}), 112),
        ("publish", json!({"channel": "a", "data": {}}), 103),
        ("presence", json!({"channel": "a"}), 108),
        ("presence_stats", json!({"channel": "a"}), 108),
        ("history", json!({"channel": "a"}), 108),
        ("rpc", json!({"method": "m"}), 108),
        ("ping", json!({}), 108),
        ("sub_refresh", json!({"channel": "a", "token": "t"}), 108),
        ("something_new", json!({}), 104),
    ] {
        let answer = driven.command(&json!({"id": 9, method: body}));
        let [answer] = &answer[..] else { panic!("{method} {body}: {answer:?}") };
        let answer: Value = serde_json::from_str(answer).unwrap();
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(9), &json!(code)), "{method} {body}");
    }
    driven.text(
        "{\"id\":3,\"subscribe\":{\"channel\":\"b\"}}\n{\"id\":4,\"subscribe\":{\"channel\":\"chat#7,42\"}}",
    );
    let over = driven.text(r#"{"id":5,"subscribe":{"channel":"c"}}"#);
    assert_eq!(over, [r#"{"id":5,"error":{"code":106,"message":"limit exceeded"}}"#]);
}

#[test]
fn clients_publish_where_they_may_listen() {
    let rules = || Rules { client_publish: true, ..rules() };
    let mut driven = Driven::new(rules());
    let info = json!({"name": "Ann"});
    driven.connect(&token(&Claims { info: Some(info), channels: vec!["$vip".into()], ..user("42") }));
    let push = concat!(
        r#"publish a {"push":{"channel":"a","pub":{"data":{"n":1.0},"#,
        r#""info":{"user":"42","client":"C","conn_info":{"name":"Ann"}}}}}"#
    );
    assert_eq!(
        driven.text(r#"{"id":2,"publish":{"channel":"a","data":{"n":1.0}}}"#),
        [push, r#"{"id":2,"publish":{}}"#]
    );
    assert!(driven.text(r#"{"id":3,"publish":{"channel":"$vip","data":1}}"#)[0].starts_with("publish $vip"));
    for (body, code) in [
        (json!({"channel": "a"}), 107),
        (json!({"channel": "a", "data": null}), 107),
        (json!({"channel": "chat#7", "data": 1}), 103),
        (json!({"channel": "$other", "data": 1}), 108),
        (json!({"channel": "a", "data": 1, "type": 1}), 108),
        (json!({"channel": "a b", "data": 1}), 107),
    ] {
        let answer = driven.command(&json!({"id": 4, "publish": body}));
        assert!(answer[0].contains(&format!("\"code\":{code},")), "{body}: {answer:?}");
    }
}

#[test]
fn one_frame_may_hold_many_commands() {
    let mut driven = Driven::new(rules());
    let connect = json!({"id": 1, "connect": {"token": token(&user("42"))}});
    let frame = format!(
        "{connect}\n\n{{\"id\":2,\"subscribe\":{{\"channel\":\"a\"}}}}\r\n{{\"id\":3,\"rpc\":{{}}}}\n"
    );
    let actions = driven.text(&frame);
    assert_eq!(actions.len(), 5, "{actions:?}");
    assert_eq!(actions[2..4], [r#"{"id":2,"subscribe":{}}"#, "join a"]);
    // What stands before a bad line counts, what stands behind it does not.
    let frame =
        "{\"id\":4,\"unsubscribe\":{\"channel\":\"a\"}}\noops\n{\"id\":5,\"subscribe\":{\"channel\":\"a\"}}";
    assert_eq!(driven.text(frame), ["leave a", r#"{"id":4,"unsubscribe":{}}"#, "close 3501 bad request"]);
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
    assert!(actions[1].contains("\"ttl\":4294967295"), "{actions:?}");
}
