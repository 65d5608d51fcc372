use std::collections::HashMap;

use proptest::prelude::*;
use prost::Message as _;
use serde_json::{Value, json};

use super::{from_json, to_json};

/// Messages written by another encoder, with the numbers of the protocol's own description.
#[derive(Clone, PartialEq, prost::Message)]
struct Command {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(message, tag = "4")]
    connect: Option<Connect>,
    #[prost(message, tag = "5")]
    subscribe: Option<Subscribe>,
    #[prost(message, tag = "7")]
    publish: Option<Publish>,
    #[prost(message, tag = "10")]
    history: Option<History>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Connect {
    #[prost(string, tag = "1")]
    token: String,
    #[prost(bytes = "vec", tag = "2")]
    data: Vec<u8>,
    #[prost(map = "string, message", tag = "3")]
    subs: HashMap<String, Subscribe>,
    #[prost(string, tag = "4")]
    name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Subscribe {
    #[prost(string, tag = "1")]
    channel: String,
    #[prost(bool, tag = "3")]
    recover: bool,
    #[prost(string, tag = "6")]
    epoch: String,
    #[prost(uint64, tag = "7")]
    offset: u64,
    #[prost(message, tag = "13")]
    tf: Option<Filter>,
    #[prost(int64, tag = "14")]
    flag: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Filter {
    #[prost(string, tag = "1")]
    op: String,
    #[prost(string, repeated, tag = "5")]
    vals: Vec<String>,
    #[prost(message, repeated, tag = "6")]
    nodes: Vec<Filter>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Publish {
    #[prost(string, tag = "1")]
    channel: String,
    #[prost(bytes = "vec", tag = "2")]
    data: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct History {
    #[prost(string, tag = "1")]
    channel: String,
    #[prost(int32, tag = "7")]
    limit: i32,
    #[prost(bool, tag = "9")]
    reverse: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Reply {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(message, tag = "2")]
    error: Option<ErrorBody>,
    #[prost(message, tag = "4")]
    push: Option<Push>,
    #[prost(message, tag = "8")]
    publish: Option<Nothing>,
    #[prost(message, tag = "9")]
    presence: Option<Presence>,
    #[prost(message, tag = "11")]
    history: Option<HistoryResult>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ErrorBody {
    #[prost(uint32, tag = "1")]
    code: u32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(bool, tag = "3")]
    temporary: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Nothing {}

#[derive(Clone, PartialEq, prost::Message)]
struct Push {
    #[prost(string, tag = "2")]
    channel: String,
    #[prost(message, tag = "4")]
    publication: Option<Publication>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Publication {
    #[prost(bytes = "vec", tag = "4")]
    data: Vec<u8>,
    #[prost(message, tag = "5")]
    info: Option<ClientInfo>,
    #[prost(uint64, tag = "6")]
    offset: u64,
    #[prost(map = "string, string", tag = "7")]
    tags: HashMap<String, String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ClientInfo {
    #[prost(string, tag = "1")]
    user: String,
    #[prost(bytes = "vec", tag = "3")]
    conn_info: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Presence {
    #[prost(map = "string, message", tag = "1")]
    presence: HashMap<String, ClientInfo>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HistoryResult {
    #[prost(message, repeated, tag = "1")]
    publications: Vec<Publication>,
    #[prost(string, tag = "2")]
    epoch: String,
    #[prost(uint64, tag = "3")]
    offset: u64,
}

fn read(commands: &[Command]) -> Vec<Value> {
    let frame: Vec<u8> = commands.iter().flat_map(Command::encode_length_delimited_to_vec).collect();
    let lines = to_json(&frame).unwrap();
    lines.split('\n').map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn written(reply: &Value) -> Reply {
    let frame = from_json(reply.to_string().as_bytes());
    Reply::decode_length_delimited(&frame[..]).unwrap()
}

#[test]
fn commands_become_lines() {
    let was = Subscribe { recover: true, epoch: "e".into(), offset: u64::MAX, ..Subscribe::default() };
    let connect = Connect {
        token: "a\"b".into(),
        data: b"not even JSON".into(),
        subs: [("news".to_owned(), was)].into(),
        name: "js".into(),
    };
    let leaf = Filter { vals: vec!["x".into(), String::new()], ..Filter::default() };
    let tf = Filter { op: "and".into(), nodes: vec![leaf], ..Filter::default() };
    let subscribe = Subscribe { channel: "a".into(), tf: Some(tf), flag: 2, ..Subscribe::default() };
    let publish = Publish { channel: "a".into(), data: b"{\"n\":\n1.0}".into() };
    let history = History { channel: "a".into(), limit: -1, reverse: true };
    let lines = read(&[
        Command { id: 1, connect: Some(connect), ..Command::default() },
        Command::default(),
        Command { id: 2, subscribe: Some(subscribe), ..Command::default() },
        Command { id: 3, publish: Some(publish), ..Command::default() },
        Command { id: u32::MAX, history: Some(history), ..Command::default() },
    ]);
    let news = json!({"recover": true, "epoch": "e", "offset": u64::MAX});
    let tf = json!({"op": "and", "nodes": [{"vals": ["x", ""]}]});
    assert_eq!(
        lines,
        [
            json!({"id": 1, "connect": {"token": "a\"b", "data": null, "name": "js", "subs": {"news": news}}}),
            json!({}),
            json!({"id": 2, "subscribe": {"channel": "a", "tf": tf, "flag": 2}}),
            json!({"id": 3, "publish": {"channel": "a", "data": {"n": 1.0}}}),
            json!({"id": u32::MAX, "history": {"channel": "a", "limit": -1, "reverse": true}}),
        ]
    );
}

#[test]
fn replies_become_messages() {
    assert_eq!(from_json(b"{}"), [0][..], "a ping is one byte");
    let reply = written(&json!({"id": 7, "error": {"code": 109, "message": "token expired"}}));
    let error = ErrorBody { code: 109, message: "token expired".into(), temporary: false };
    assert_eq!(reply, Reply { id: 7, error: Some(error), ..Reply::default() });
    let reply = written(&json!({"id": 8, "publish": {}}));
    assert_eq!(reply, Reply { id: 8, publish: Some(Nothing {}), ..Reply::default() });

    let client = ClientInfo { user: "42".into(), conn_info: b"{\"a\":[1]}".into() };
    let publication = Publication {
        data: b"{\"n\":1}".into(),
        info: Some(client.clone()),
        offset: 300,
        tags: [("k".to_owned(), "v".to_owned())].into(),
    };
    let shown = json!({
        "data": {"n": 1}, "info": {"user": "42", "conn_info": {"a": [1]}}, "offset": 300, "tags": {"k": "v"},
        "not in the schema": true,
    });
    let push = Push { channel: "a".into(), publication: Some(publication.clone()) };
    let reply = written(&json!({"push": {"channel": "a", "pub": shown}}));
    assert_eq!(reply, Reply { push: Some(push), ..Reply::default() });

    let reply =
        written(&json!({"id": 9, "history": {"publications": [shown, shown], "epoch": "e", "offset": 2}}));
    let publications = vec![publication.clone(), publication];
    let history = HistoryResult { publications, epoch: "e".into(), offset: 2 };
    assert_eq!(reply, Reply { id: 9, history: Some(history), ..Reply::default() });
    let info = json!({"user": "42", "conn_info": {"a": [1]}});
    let reply = written(&json!({"id": 9, "presence": {"presence": {"c1": info}}}));
    let presence = Presence { presence: [("c1".to_owned(), client)].into() };
    assert_eq!(reply, Reply { id: 9, presence: Some(presence), ..Reply::default() });
}

#[test]
fn what_is_no_message_is_refused() {
    let mut nested = Filter::default();
    for _ in 0..100 {
        nested = Filter { nodes: vec![nested], ..Filter::default() };
    }
    let deep = Subscribe { tf: Some(nested), ..Subscribe::default() };
    let deep = Command { subscribe: Some(deep), ..Command::default() }.encode_length_delimited_to_vec();
    let publish = |data: &[u8]| {
        let publish = Publish { channel: "a".into(), data: data.into() };
        Command { id: 1, publish: Some(publish), ..Command::default() }.encode_length_delimited_to_vec()
    };
    for (name, frame) in [
        ("a length beyond the end", vec![5, 8, 1]),
        ("an endless length", vec![0xff; 11]),
        ("half a number", vec![2, 8, 0x80]),
        ("a group", vec![1, 0x0b]),
        ("a text where a number belongs", vec![3, 0x0a, 1, b'x']),
        ("a number where a message belongs", vec![2, 0x20, 1]),
        ("a text that is not utf-8", vec![5, 0x22, 3, 0x0a, 1, 0xff]),
        ("messages in messages without end", deep),
        ("data that is not JSON", publish(b"{")),
        ("data that is two documents", publish(b"1 2")),
        ("data that is not utf-8", publish(b"\"\xff\"")),
    ] {
        assert!(to_json(&frame).is_err(), "{name}");
    }
    assert_eq!(to_json(b"").unwrap(), "", "no command");
    // Fields of other wire types, as a later protocol may have.
    assert_eq!(to_json(&[15, 0xf9, 0x06, 0, 0, 0, 0, 0, 0, 0, 0, 0xfd, 0x06, 0, 0]).ok(), None);
    assert_eq!(to_json(&[8, 0x08, 3, 0xfd, 0x06, 0, 0, 0, 0]).unwrap(), "{\"id\":3}");
}

proptest! {
    #[test]
    fn no_frame_makes_the_reader_panic(frame in prop::collection::vec(any::<u8>(), 0..100)) {
        if let Ok(lines) = to_json(&frame) {
            for line in lines.split('\n').filter(|line| !line.is_empty()) {
                serde_json::from_str::<Value>(line).unwrap();
            }
        }
    }

    #[test]
    fn data_arrives_as_it_was_written(data in "[a-z\n\"\\\\{}\\[\\]:,0-9 ]{0,30}", number in any::<i64>()) {
        let document = json!({"text": data, "number": number}).to_string();
        let publish = Publish { channel: "a".to_owned(), data: document.clone().into() };
        let lines = read(&[Command { id: 1, publish: Some(publish), ..Command::default() }]);
        prop_assert_eq!(lines[0]["publish"]["data"].to_string(), document.as_str());
        let line = format!("{{\"push\":{{\"channel\":\"a\",\"pub\":{{\"data\":{document}}}}}}}");
        let reply = Reply::decode_length_delimited(&from_json(line.as_bytes())[..]).unwrap();
        prop_assert_eq!(reply.push.unwrap().publication.unwrap().data, document.into_bytes());
    }
}
