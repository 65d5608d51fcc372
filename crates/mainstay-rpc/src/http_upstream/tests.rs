use std::future::pending;
use std::net::SocketAddr;

use axum::Router;
use axum::extract::Path;
use axum::http::HeaderMap as Headers;
use axum::response::IntoResponse as _;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::*;

/// Longer than any answer takes here.
const PATIENCE: Duration = Duration::from_secs(20);
const SOON: Duration = Duration::from_millis(50);

async fn serve() -> (SocketAddr, AbortOnDropHandle<()>) {
    let answer = async |Path(what): Path<String>, headers: Headers| match &*what {
        "never" => pending().await,
        "large" => "x".repeat(65).into_response(),
        "away" => StatusCode::BAD_GATEWAY.into_response(),
        "unknown" => (StatusCode::NOT_FOUND, "no").into_response(),
        _ => headers["x-who"].as_bytes().to_vec().into_response(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = Router::new().route("/{what}", get(answer));
    #[expect(clippy::disallowed_methods, reason = "a server of a test, aborted with it")]
    let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (address, AbortOnDropHandle::new(task))
}

struct Asked {
    server: HttpUpstream,
    address: SocketAddr,
}

impl Asked {
    fn new(address: SocketAddr, max_in_flight: u32) -> Self {
        let url = format!("http://{address}/").parse().unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("x-who", "me".parse().unwrap());
        let options = HttpUpstreamOptions {
            headers,
            connect_within: PATIENCE,
            tls: &ClientTls::default(),
            max_in_flight,
            max_answer_bytes: 64,
            breaker: BreakerSection {
                consecutive_failures: 3,
                open_for: Duration::from_secs(3_600),
                open_for_max: Duration::from_secs(3_600),
                ..BreakerSection::default()
            },
        };
        Self { server: HttpUpstream::try_new("test", &url, options).unwrap(), address }
    }

    async fn get(&self, what: &str, within: Duration) -> Result<HttpAnswer, HttpError> {
        let url = format!("http://{}/{what}", self.address).parse().unwrap();
        self.server.exchange(self.server.request(Method::GET, url, Bytes::new()), within).await
    }
}

#[tokio::test]
async fn answers_are_bounded_and_only_outages_open_the_breaker() {
    let (address, _serving) = serve().await;
    let asked = Asked::new(address, 4);
    for _ in 0..4 {
        assert_eq!(asked.get("unknown", PATIENCE).await.unwrap().status, StatusCode::NOT_FOUND);
        assert!(matches!(asked.get("large", PATIENCE).await, Err(HttpError::Body(_))));
    }
    assert_eq!((asked.server.breaker(), asked.server.in_flight()), (State::Closed, 0));
    for _ in 0..3 {
        assert_eq!(asked.get("away", PATIENCE).await.unwrap().status, StatusCode::BAD_GATEWAY);
    }
    assert!(matches!(asked.get("fine", PATIENCE).await, Err(HttpError::BreakerOpen)));
    assert_eq!(asked.server.breaker(), State::Open);
}

#[tokio::test]
async fn who_waits_for_a_turn_waits_within_the_deadline_and_who_leaves_counts_neither_way() {
    let (address, _serving) = serve().await;
    let asked = Asked::new(address, 1);
    {
        let mut first = Box::pin(asked.get("never", PATIENCE));
        assert!(timeout(SOON, first.as_mut()).await.is_err());
        assert_eq!(asked.server.in_flight(), 1);
        assert!(matches!(asked.get("fine", SOON).await, Err(HttpError::Timeout)));
    }
    // Nobody was asked the second time, and nobody waited for the first.
    assert_eq!((asked.server.breaker(), asked.server.in_flight()), (State::Closed, 0));
    for _ in 0..3 {
        assert!(matches!(asked.get("never", SOON).await, Err(HttpError::Timeout)));
    }
    assert_eq!(asked.server.breaker(), State::Open);
}

#[tokio::test]
async fn a_server_that_is_not_there_opens_the_breaker() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let asked = Asked::new(listener.local_addr().unwrap(), 1);
    drop(listener);
    for _ in 0..3 {
        assert!(matches!(asked.get("fine", PATIENCE).await, Err(HttpError::Broken(_))));
    }
    assert!(matches!(asked.get("fine", PATIENCE).await, Err(HttpError::BreakerOpen)));
}
