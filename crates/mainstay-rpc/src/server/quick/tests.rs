use std::convert::Infallible;
use std::time::Duration;

use futures_util::StreamExt as _;
use http_body_util::{BodyExt as _, StreamBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mainstay_proto::cache::v1::{Entry, GetRequest, GetResponse};
use prost::Message as _;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Response};

use super::*;
use crate::testing::{Answers, GET, House, get, soon};
use crate::{Call, ErrorCode, Secret, Upstream, UpstreamConfig};

const QUICK: u64 = 1;
const USUAL: u64 = 2;

fn found(version: u64) -> GetResponse {
    GetResponse { entry: Some(Entry { version, ..Entry::default() }), ..GetResponse::default() }
}

/// Answers what begins with `quick`.
struct Quick;

impl AtOnce for Quick {
    fn answer(&self, request: &Bytes, answer: &mut BytesMut) -> bool {
        let Ok(GetRequest { key, .. }) = GetRequest::decode(request.clone()) else { return false };
        assert!(key != "boom");
        found(QUICK).encode(answer).unwrap();
        key.starts_with("quick")
    }
}

async fn house(adjust: impl FnOnce(&mut crate::ServerConfig)) -> House {
    let answers = Answers::with(|_| async { Ok(Response::new(found(USUAL))) });
    House::open_quick(answers, vec![QuickMethod::new(GET, Quick)], |config, _| adjust(config)).await
}

async fn asked(house: &House, key: &str) -> Result<u64, crate::Failure> {
    let upstream = Upstream::try_new("cache", &UpstreamConfig::of([house.uri()])).unwrap();
    let answer = get(&upstream, Call::write(GET), key).await;
    answer.map(|answer| answer.entry.unwrap().version)
}

#[tokio::test]
async fn what_is_not_answered_at_once_goes_the_usual_way_and_all_is_counted_once() {
    let house = house(|_| {}).await;
    assert_eq!(asked(&house, "quick").await.unwrap(), QUICK);
    assert_eq!(asked(&house, "other").await.unwrap(), USUAL);
    let metrics = house.metrics();
    for line in [
        "mainstay_rpc_in_flight 0",
        r#"mainstay_rpc_requests_total{method="mainstay.cache.v1.CacheService/Get",code="OK"} 2"#,
        r#"mainstay_rpc_request_seconds_count{method="mainstay.cache.v1.CacheService/Get"} 2"#,
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    assert!(!metrics.contains("CANCELLED"), "{metrics}");
}

#[tokio::test]
async fn the_rules_of_the_stack_hold() {
    let with_token = house(|config| config.token = Secret::from("right")).await;
    let refused = asked(&with_token, "quick").await.unwrap_err();
    assert_eq!(refused.reason(), "UPSTREAM_REFUSED_TOKEN");
    let full = house(|config| config.max_in_flight = 0).await;
    let refused = asked(&full, "quick").await.unwrap_err();
    assert_eq!((refused.code(), refused.reason()), (ErrorCode::ResourceExhausted, "OVERLOADED"));
    assert!(full.metrics().contains("mainstay_rpc_shed_total 1"));
    let house = house(|_| {}).await;
    let failed = asked(&house, "boom").await.unwrap_err();
    assert_eq!((failed.code(), failed.reason()), (ErrorCode::Internal, "PANIC"));
    assert_eq!(asked(&house, "quick").await.unwrap(), QUICK, "others are not touched");
}

fn framed(key: &str) -> Vec<u8> {
    let message = GetRequest { key: key.to_owned(), ..GetRequest::default() }.encode_to_vec();
    [&[0, 0, 0, 0, u8::try_from(message.len()).unwrap()][..], &message].concat()
}

/// Sends a request as these pieces, each when the one before has been taken.
async fn sent(house: &House, pieces: Vec<Vec<u8>>) -> (Code, Option<u64>) {
    let stream = TcpStream::connect(house.address).await.unwrap();
    let client = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut client, connection) = client.await.unwrap();
    let over = CancellationToken::new();
    let connection = over.clone().run_until_cancelled_owned(connection);
    let (give, given) = mpsc::channel::<Vec<u8>>(1);
    let given = tokio_stream_of(given).map(|piece| Ok::<_, Infallible>(Frame::data(Bytes::from(piece))));
    let request = Request::post(format!("{}/{GET}", house.uri()))
        .header(CONTENT_TYPE, "application/grpc")
        .body(StreamBody::new(given))
        .unwrap();
    let answer = client.send_request(request);
    let feed = async move {
        for piece in pieces {
            give.send(piece).await.unwrap();
            // So that each is a frame of its own, and most come late.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let answered = async {
        let (parts, body) = answer.await.unwrap().into_parts();
        let body = body.collect().await.unwrap();
        over.cancel();
        (parts, body)
    };
    let all = futures_util::future::join3(answered, feed, connection);
    let ((parts, body), (), _) = soon("an answer", all).await;
    let status = parts.headers.get("grpc-status").or_else(|| body.trailers()?.get("grpc-status")).cloned();
    let message = body.to_bytes();
    let version = message
        .get(PREFIX_BYTES..)
        .map(|message| GetResponse::decode(message).unwrap().entry.unwrap().version);
    (Code::from_bytes(status.expect("a grpc-status").as_bytes()), version)
}

fn tokio_stream_of(mut given: mpsc::Receiver<Vec<u8>>) -> impl futures_util::Stream<Item = Vec<u8>> {
    futures_util::stream::poll_fn(move |cx| given.poll_recv(cx))
}

#[tokio::test]
async fn a_request_is_whole_whichever_way_it_came() {
    let house = house(|_| {}).await;
    let quick = framed("quick");
    let other = framed("other");
    let piece = |bytes: &[u8]| bytes.to_vec();
    // In pieces it may be late or not; what is said of it is the same.
    for pieces in
        [vec![other.clone()], other.chunks(1).map(piece).collect(), other.chunks(5).map(piece).collect()]
    {
        assert_eq!(sent(&house, pieces).await, (Code::Ok, Some(USUAL)));
    }
    for pieces in [vec![quick.clone()], quick.chunks(3).map(piece).collect()] {
        let (code, version) = sent(&house, pieces).await;
        assert_eq!(code, Code::Ok);
        assert!(version.is_some());
    }
    let large = framed(&"k".repeat(100));
    let mut too_long = large.clone();
    too_long[3] = 1;
    let mut packed = quick.clone();
    packed[0] = 1;
    for (pieces, what) in [
        (vec![], "nothing"),
        (vec![quick[..3].to_vec()], "half a prefix"),
        (vec![too_long], "a message that ends early"),
        (vec![packed], "a message said to be packed"),
    ] {
        assert_eq!(sent(&house, pieces).await, (Code::Internal, None), "{what}");
    }
}
