//! What a socket may carry: frames byte by byte, and the Protobuf form.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::client::{Client, refusal};
use crate::node::{Node, PATIENCE, config, token, user};

/// Writes a frame of a client whose mask is all zeros.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..=125 => frame.push(0x80 | len as u8),
        len => {
            frame.push(0x80 | 126);
            frame.extend((len as u16).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// Sends bytes on an open connection and returns what comes back until the server ends the stream.
async fn answer_to(node: &Node, pieces: &[&[u8]]) -> Vec<u8> {
    let mut client = Client::connected(node, &token(&user("42"))).await;
    let stream = client.socket.get_mut();
    stream.set_nodelay(true).unwrap();
    for piece in pieces {
        stream.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    answer
}

#[tokio::test]
async fn frames_that_break_websocket_itself_are_closed_by_its_codes() {
    let node = Node::start(config()).await;
    for (name, bytes, code) in [
        ("not masked", vec![0x81, 0x02, b'{', b'}'], 1002_u16),
        ("reserved bit", frame(0xc1, b""), 1002),
        ("reserved opcode", frame(0x83, b""), 1002),
        ("reserved control opcode", frame(0x8b, b""), 1002),
        ("fragmented ping", frame(0x09, b""), 1002),
        ("long ping", frame(0x89, &[0; 126]), 1002),
        ("continuation of nothing", frame(0x80, b""), 1002),
        ("text inside a message", [frame(1, b"{"), frame(0x81, b"}")].concat(), 1002),
        ("length not minimal", vec![0x81, 0xfe, 0, 2, 0, 0, 0, 0, b'{', b'}'], 1002),
        ("close of one byte", frame(0x88, &[3]), 1002),
        ("close code 1005", frame(0x88, &1005_u16.to_be_bytes()), 1002),
        ("not utf-8", frame(0x81, &[0xff]), 1007),
        ("half a character", frame(0x81, b"\xe2\x82"), 1007),
        ("reason not utf-8", frame(0x88, &[3, 0xe8, 0xff]), 1007),
        ("larger than allowed", vec![0x81, 0xff, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0], 1009),
    ] {
        let answer = answer_to(&node, &[&bytes]).await;
        assert_eq!(answer.get(2..4), Some(&code.to_be_bytes()[..]), "{name}: {answer:?}");
    }
    node.wait_until_empty().await;
}

#[tokio::test]
async fn frames_may_come_in_any_pieces_and_pings_between_them() {
    let node = Node::start(config()).await;
    let command = br#"{"id":2,"subscribe":{"channel":"caf\u00e9"}}"#;
    let stream = [
        frame(1, &command[..20]),
        frame(0x89, b"hello"),
        frame(0x80, &command[20..]),
        frame(0x8a, b"unasked"),
        frame(0x88, &4001_u16.to_be_bytes()),
    ]
    .concat();
    let bytes: Vec<_> = stream.chunks(1).collect();
    for pieces in [&[&stream[..]][..], &bytes] {
        let answer = answer_to(&node, pieces).await;
        assert!(answer.starts_with(b"\x8a\x05hello"), "{answer:?}");
        assert!(answer.ends_with(&[0x88, 2, 0x0f, 0xa1]), "the close code is not repeated: {answer:?}");
    }
    node.wait_until_empty().await;
}

#[tokio::test]
async fn a_message_larger_than_the_buffers_arrives_whole() {
    let node = Node::start(config()).await;
    let mut client = Client::subscribed(&node, &token(&user("42")), "a").await;
    let texts: Vec<_> = (0..40).map(|n| n.to_string().repeat(15_000)).collect();
    for text in &texts {
        node.publish("a", &json!(text).to_string()).await.unwrap();
    }
    for text in &texts {
        assert_eq!(client.publication().await, json!(text));
    }
}

#[tokio::test]
async fn handshakes_that_are_none_are_told_what_is_missing() {
    let node = Node::start(config()).await;
    for (headers, status) in [
        ("", "400"),
        ("connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 8\r\n", "426"),
        ("connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n", "400"),
    ] {
        let mut stream = TcpStream::connect(node.websocket).await.unwrap();
        let request = format!("GET /connection/websocket HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        timeout(PATIENCE, stream.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(&answer[9..], status.as_bytes(), "{headers}");
    }
    let refused = Client::try_open(&node, "", &[("origin", "https://evil.net")]).await;
    assert_eq!(refusal(refused).0, 403);
}

/// Opens a Protobuf connection and connects as user 42.
async fn protobuf(node: &Node, query: &str, headers: &[(&'static str, &str)]) -> Client {
    let mut client = Client::try_open(node, query, headers).await.unwrap();
    let token = token(&user("42"));
    let connect =
        [&[0x0a, token.len() as u8 | 0x80, (token.len() >> 7) as u8][..], token.as_bytes()].concat();
    let command =
        [&[0x08, 1, 0x22, connect.len() as u8 | 0x80, (connect.len() >> 7) as u8][..], &connect].concat();
    let frame = [&[command.len() as u8 | 0x80, (command.len() >> 7) as u8][..], &command].concat();
    client.socket.send(Message::binary(frame)).await.unwrap();
    let reply = binary(&mut client).await;
    // id = 1, connect = {client = "..."}
    assert_eq!((&reply[1..4], &reply[5..7]), (&[0x08, 1, 0x2a][..], &[0x0a, 36][..]), "{reply:?}");
    client
}

async fn binary(client: &mut Client) -> Vec<u8> {
    match timeout(PATIENCE, client.socket.next()).await.unwrap() {
        Some(Ok(Message::Binary(data))) => data.to_vec(),
        other => panic!("expected a binary frame, got {other:?}"),
    }
}

#[tokio::test]
async fn both_forms_of_the_protocol_meet_in_one_channel() {
    let node = Node::start(config()).await;
    let offered = &[("sec-websocket-protocol", "centrifuge-protobuf")][..];
    let mut json = Client::subscribed(&node, &token(&user("7")), "a").await;
    for (query, headers) in [("", offered), ("?format=protobuf", &[]), ("?x=1&cf_protocol=protobuf", &[])] {
        let mut client = protobuf(&node, query, headers).await;
        // Two commands in one frame: subscribe to "a", and something that is not served.
        let frame = b"\x07\x08\x02\x2a\x03\x0a\x01a\x04\x08\x03\x6a\x00";
        client.socket.send(Message::binary(&frame[..])).await.unwrap();
        let mut replies = Vec::new();
        while !replies.ends_with(b"not available") {
            replies.extend(binary(&mut client).await);
        }
        assert!(replies.starts_with(b"\x04\x08\x02\x32\x00"), "{replies:?}");
        node.publish("a", r#"{"n":1}"#).await.unwrap();
        assert_eq!(json.publication().await, json!({"n": 1}));
        assert_eq!(binary(&mut client).await, *b"\x10\x22\x0e\x12\x01a\x22\x09\x22\x07{\"n\":1}");
    }
    drop(json);
    node.wait_until_empty().await;
}

#[tokio::test]
async fn a_protobuf_client_is_pinged_and_held_to_its_form() {
    let (ping_every, pong_within) = (Duration::from_millis(40), Duration::from_secs(5));
    let websocket = ws_gateway::WebSocketConfig { ping_every, pong_within, ..config().websocket };
    let node = Node::start(ws_gateway::GatewayConfig { websocket, ..config() }).await;
    for (frame, code) in
        [(Message::text("{}"), 3506), (Message::binary(vec![]), 3501), (Message::binary(vec![9, 8]), 3501)]
    {
        let mut client = protobuf(&node, "?format=protobuf", &[]).await;
        assert_eq!(binary(&mut client).await, [0], "a ping is an empty message");
        client.socket.send(Message::binary(vec![0])).await.unwrap();
        assert_eq!(binary(&mut client).await, [0], "it lives on");
        client.socket.send(frame.clone()).await.unwrap();
        let close = loop {
            match timeout(PATIENCE, client.socket.next()).await.unwrap() {
                Some(Ok(Message::Close(Some(frame)))) => break u16::from(frame.code),
                Some(Ok(_)) => {}
                Some(Err(Error::ConnectionClosed)) | None => panic!("no close frame"),
                Some(Err(error)) => panic!("{error}"),
            }
        };
        assert_eq!(close, code, "{frame:?}");
    }
}
