//! Somebody who has the dashboard open.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use crate::Rest;

/// There is one each second; a machine may stand still for longer.
const EVENT_WITHIN: Duration = Duration::from_mins(1);

/// One watcher of the event stream.
pub struct Watcher {
    body: Incoming,
    rest: String,
}

/// Name and value of each field of one event.
pub type Event = BTreeMap<String, String>;

impl Watcher {
    /// Begins to watch.
    ///
    /// # Panics
    /// When the edge does not answer with a stream.
    pub async fn of(rest: &Rest) -> Self {
        let answer = rest.begin(Method::GET, "/monitoring/live", Bytes::new()).await;
        let answer = answer.expect("the edge answers");
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Self { body: answer.into_body(), rest: String::new() }
    }

    /// Returns the next event.
    ///
    /// # Panics
    /// When none comes, or the stream ends.
    pub async fn next(&mut self) -> Event {
        let next = async {
            loop {
                if let Some((event, rest)) = self.rest.split_once("\n\n") {
                    let fields = event.lines().filter_map(|line| line.split_once(": "));
                    let event = fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
                    self.rest = rest.to_owned();
                    return event;
                }
                let frame =
                    self.body.frame().await.expect("the stream goes on").expect("the stream is whole");
                self.rest
                    .push_str(std::str::from_utf8(&frame.into_data().expect("no trailers")).expect("text"));
            }
        };
        tokio::time::timeout(EVENT_WITHIN, next).await.expect("an event each second")
    }

    /// Returns the next figures.
    ///
    /// # Panics
    /// As [`next`](Self::next).
    pub async fn figures(&mut self) -> Event {
        loop {
            let event = self.next().await;
            if event["event"] == "figures" {
                return event;
            }
        }
    }
}
