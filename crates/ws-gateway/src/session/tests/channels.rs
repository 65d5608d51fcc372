//! What clients ask of channels.

use std::time::Duration;

use mainstay_auth::jwt::Claims;
use serde_json::{Value, json};

use super::{Driven, START_UNIX_S, rules, token, user};
use crate::session::Rules;

#[test]
fn subscriptions_carry_what_the_client_asked_for() {
    let mut driven = Driven::connected(rules());
    for (body, expected) in [
        (json!({"channel": "a"}), "2 subscribe a"),
        (json!({"channel": "chat#7,42"}), "2 subscribe chat#7,42"),
        (
            json!({"channel": "full:b", "recover": true, "epoch": "x", "offset": 7, "flag": 3}),
            "2 subscribe full:b since 7 x or not at all",
        ),
        (
            json!({"channel": "a", "positioned": true, "recoverable": true, "join_leave": true}),
            "2 subscribe a positioned recoverable hearing",
        ),
        (json!({"channel": "a", "tf": {"key": "k", "cmp": "eq", "val": "v"}}), "2 subscribe a filtered"),
    ] {
        assert_eq!(driven.command(&json!({"id": 2, "subscribe": body})), [expected]);
    }
    assert_eq!(driven.text(r#"{"id":4,"unsubscribe":{"channel":"a"}}"#), ["4 unsubscribe a"]);
}

#[test]
fn commands_that_cannot_be_carried_out_are_answered_with_an_error() {
    let long = "x".repeat(256);
    let mut driven = Driven::connected(rules());
    for (method, body, code) in [
        ("subscribe", json!({"channel": "a b"}), 107),
        ("subscribe", json!({"channel": long}), 107),
        ("subscribe", json!({"channel": "unknown:a"}), 102),
        ("subscribe", json!({"channel": "chat#7"}), 103),
        ("subscribe", json!({"channel": "$private"}), 103),
        ("subscribe", json!({"channel": "closed:a"}), 103),
        ("subscribe", json!({"channel": "map", "type": 1}), 108),
        ("subscribe", json!({"channel": "b", "tf": {"key": "k"}}), 107),
        ("publish", json!({"channel": "a", "data": {}}), 103),
        ("publish", json!({"channel": "unknown:a", "data": {}}), 102),
        ("presence", json!({"channel": "a"}), 108),
        ("presence_stats", json!({"channel": "a"}), 108),
        ("presence", json!({"channel": "unknown:a"}), 102),
        ("history", json!({"channel": "a"}), 108),
        ("history", json!({"channel": "unknown:a"}), 102),
        ("rpc", json!({"method": "m"}), 108),
        ("ping", json!({}), 108),
        ("sub_refresh", json!({"channel": "a", "token": "t"}), 103),
        ("something_new", json!({}), 104),
    ] {
        let answer = driven.command(&json!({"id": 9, method: body}));
        let [answer] = &answer[..] else { panic!("{method} {body}: {answer:?}") };
        let answer: Value = serde_json::from_str(answer).unwrap();
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(9), &json!(code)), "{method} {body}");
    }
}

#[test]
fn what_a_namespace_allows_is_passed_on() {
    let mut driven = Driven::connected(rules());
    for (command, expected) in [
        (
            json!({"id": 2, "publish": {"channel": "full:a", "data": {"n": 1.0}}}),
            "2 publish full:a {\"n\":1.0}",
        ),
        (json!({"id": 2, "publish": {"channel": "$full:a", "data": 1}}), "2 publish $full:a 1 if subscribed"),
        (json!({"id": 2, "presence": {"channel": "full:a"}}), "2 presence full:a if subscribed"),
        (json!({"id": 2, "presence_stats": {"channel": "full:a"}}), "2 stats full:a if subscribed"),
        (json!({"id": 2, "history": {"channel": "full:a"}}), "2 history full:a 0 on None"),
        (
            json!({"id": 2, "history": {"channel": "full:a", "limit": -1, "reverse": true}}),
            "2 history full:a 300 back None",
        ),
        (
            json!({"id": 2, "history": {"channel": "full:a#7", "limit": 999, "since": {"offset": 4, "epoch": "E"}}}),
            "2 history full:a#7 300 on Some(4) if subscribed",
        ),
    ] {
        assert_eq!(driven.command(&command), [expected]);
    }
    for body in [json!({"channel": "full:a"}), json!({"channel": "full:a", "data": null})] {
        let answer = driven.command(&json!({"id": 4, "publish": body}));
        assert!(answer[0].contains("\"code\":107,"), "{body}: {answer:?}");
    }
    let mut anonymous = Driven::new(Rules { allow_anonymous: true, ..rules() });
    anonymous.connect("");
    for command in [
        json!({"id": 2, "subscribe": {"channel": "full:a"}}),
        json!({"id": 2, "publish": {"channel": "full:a", "data": 1}}),
    ] {
        assert!(anonymous.command(&command)[0].contains("\"code\":103,"), "{command}");
    }
}

#[test]
fn a_subscription_token_opens_one_channel_for_one_user() {
    let info = Some(json!({"seat": 1}));
    let good = Claims { channel: Some("$a".into()), info, ..user("42") };
    let until = |seconds| Some(START_UNIX_S + seconds);
    for (channel, claims, expected) in [
        ("$a", good.clone(), Ok("2 subscribe $a as {\"seat\":1}")),
        ("$a", Claims { exp: until(60), info: None, ..good.clone() }, Ok("2 subscribe $a ttl 60")),
        ("closed:a", Claims { channel: Some("closed:a".into()), ..user("42") }, Ok("2 subscribe closed:a")),
        ("$b", good.clone(), Err(103)),
        ("$a", Claims { channel: None, ..good.clone() }, Err(103)),
        ("$a", Claims { sub: "43".into(), ..good.clone() }, Err(103)),
        ("$a", Claims { exp: Some(START_UNIX_S - 60), ..good.clone() }, Err(109)),
        ("$a", Claims { expire_at: Some(START_UNIX_S), ..good }, Err(109)),
    ] {
        let mut driven = Driven::connected(rules());
        let subscribe = json!({"id": 2, "subscribe": {"channel": channel, "token": token(&claims)}});
        let answer = driven.command(&subscribe);
        match expected {
            Ok(expected) => assert_eq!(answer, [expected]),
            Err(code) => assert!(answer[0].contains(&format!("\"code\":{code},")), "{answer:?}"),
        }
    }
}

#[test]
fn a_subscription_lives_as_long_as_it_is_refreshed() {
    let quiet = || Rules { ping_every: Duration::from_secs(3_000), ..rules() };
    let mut driven = Driven::connected(quiet());
    let until = |seconds| {
        let exp = Some(START_UNIX_S + seconds);
        token(&Claims { exp, channel: Some("$a".into()), ..user("42") })
    };
    driven.command(&json!({"id": 2, "subscribe": {"channel": "$a", "token": until(60)}}));
    assert_eq!(driven.next_in(), Some(85.0));
    driven.after(50.0);
    let refresh = json!({"id": 3, "sub_refresh": {"channel": "$a", "token": until(100)}});
    assert_eq!(driven.command(&refresh), ["3 renew $a ttl 50"]);
    assert_eq!(driven.next_in(), Some(75.0));
    let late = json!({"id": 4, "sub_refresh": {"channel": "$a", "token": until(40)}});
    assert!(driven.command(&late)[0].contains("\"code\":110,"));
    assert_eq!(driven.after(74.0), [""; 0]);
    assert_eq!(driven.after(1.0), ["expire $a"]);
    assert_eq!(driven.after(1.0), [""; 0]);

    driven.command(&json!({"id": 5, "subscribe": {"channel": "$a", "token": until(200)}}));
    driven.command(&json!({"id": 6, "unsubscribe": {"channel": "$a"}}));
    assert!(driven.next_in() > Some(1_000.0), "only the ping is left to come");
}
