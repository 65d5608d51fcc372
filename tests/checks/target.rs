//! The stack under check, as a client of its edge sees it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method};
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use serde_json::Value;

use crate::door::Door;
use crate::environment::Environment;

pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(10);

pub(crate) struct Target {
    pub(crate) environment: Environment,
    pub(crate) door: Arc<Door>,
    /// How long each check of the load suite lasts.
    pub(crate) load_for: Duration,
    /// Answers that checks of single fields share.
    seen: Mutex<HashMap<&'static str, Result<Value, String>>>,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) took: Duration,
}

impl Target {
    pub(crate) fn new(
        environment: Environment,
        token: Option<String>,
        load_for: Duration,
    ) -> anyhow::Result<Self> {
        let door = Arc::new(Door::new(&environment, token)?);
        Ok(Self { environment, door, load_for, seen: Mutex::default() })
    }

    pub(crate) fn has_token(&self) -> bool {
        self.door.has_token()
    }

    /// GETs `path` with the credentials of AUTH_TOKEN, once in a run; gives the JSON of a 200.
    pub(crate) async fn json_once(&self, path: &'static str) -> Result<Value, String> {
        if let Some(seen) = self.seen.lock().get(path) {
            return seen.clone();
        }
        let json = self.json(path).await;
        self.seen.lock().insert(path, json.clone());
        json
    }

    /// GETs `path` with the credentials of AUTH_TOKEN; gives the JSON of a 200.
    pub(crate) async fn json(&self, path: &str) -> Result<Value, String> {
        let answer = self.get(path).await?;
        if answer.status != 200 {
            return Err(format!("GET {path} answers {}", answer.status));
        }
        answer.json()
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Answer, String> {
        self.send(Method::GET, path, &[], Bytes::new()).await
    }

    /// GETs `path` without credentials.
    pub(crate) async fn get_as_nobody(&self, path: &str) -> Result<Answer, String> {
        self.exchange(Method::GET, path, &[], Bytes::new(), false).await
    }

    pub(crate) async fn send_json(&self, method: Method, path: &str, body: &Value) -> Result<Answer, String> {
        self.send(method, path, &[(CONTENT_TYPE.as_str(), "application/json")], body.to_string().into()).await
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Answer, String> {
        self.exchange(method, path, headers, body, true).await
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
        authorised: bool,
    ) -> Result<Answer, String> {
        let what = format!("{method} {path}");
        let exchange = self.try_exchange(method, path, headers, body, authorised);
        match tokio::time::timeout(ANSWER_WITHIN, exchange).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(format!("{what}: {error:#}")),
            Err(_) => Err(format!("{what}: no answer within {} s", ANSWER_WITHIN.as_secs())),
        }
    }

    async fn try_exchange(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
        authorised: bool,
    ) -> anyhow::Result<Answer> {
        let request = self.door.request(method, path, headers, body, authorised)?;
        let (mut sender, driver) = self.door.open().await?;
        let exchange = async {
            let begun = Instant::now();
            let (parts, body) = sender.send_request(request).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body, took: begun.elapsed() })
        };
        tokio::pin!(exchange, driver);
        tokio::select! {
            biased;
            answer = &mut exchange => answer,
            ended = &mut driver => {
                ended?;
                // What the connection read before its end may be the whole answer.
                exchange.await
            }
        }
    }
}

impl Answer {
    pub(crate) fn json(&self) -> Result<Value, String> {
        serde_json::from_slice(&self.body).map_err(|error| format!("not JSON: {error}"))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}
