//! Reads of the cache over lasting streams: those that come together travel together, for a fraction of what calls cost.
//!
//! A stream is a shortcut and never the only way: whatever is not plainly answered goes as a call, with its deadline, its
//! breaker and its errors. So does everything while a stream is away or its peer has gone silent.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use mainstay_proto::cache::v1::cache_service_client::CacheServiceClient;
use mainstay_proto::cache::v1::outcome::Result as Outcome;
use mainstay_proto::cache::v1::{GetResponse, OperationError, StreamResponse};
use mainstay_rpc::{BreakerSection, Call, DEADLINE_EXCEEDED, ErrorCode, Failure, Upstream};
use mainstay_runtime::{Activate, Context, Schedule, UpstreamConfig};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

mod line;

use crate::config::CacheStreamConfig;
use crate::figures::Figures;
use line::{Line, Outbound};

const STREAM: &str = "mainstay.cache.v1.CacheService/Stream";
/// Time for a stream to begin.
const OPEN_WITHIN: Duration = Duration::from_secs(1);
/// How often a stream that is away is tried.
const OPEN_EVERY: Duration = Duration::from_millis(500);
/// The largest value with its framing; a larger answer would end the stream.
const MAX_ANSWER_BYTES: usize = 24 << 20;
/// The cache's timer runs ahead of ours by this much at most, because its answer says more than our timeout.
const HEAD_START: Duration = Duration::from_millis(10);

/// One stream to each endpoint of the cache.
pub(crate) struct CacheStreams {
    lines: Vec<Arc<Line>>,
    most_waiting: usize,
    within: Duration,
    figures: Figures,
}

impl CacheStreams {
    pub(crate) fn try_new(
        cache: &UpstreamConfig,
        config: &CacheStreamConfig,
        figures: Figures,
    ) -> anyhow::Result<Self> {
        let endpoints = cache.endpoints.iter().filter(|_| config.enabled);
        let line = |endpoint: &String| {
            // Looking is cheap: a peer that is back must be seen at the next try.
            let breaker = BreakerSection { open_for_max: OPEN_EVERY, ..cache.breaker.clone() };
            let alone = UpstreamConfig { endpoints: vec![endpoint.clone()].into(), breaker, ..cache.clone() };
            let name = endpoint.split_once("://").map_or(endpoint.as_str(), |(_, address)| address);
            Ok(Arc::new(Line::new(name, Upstream::try_new("cache-service", &alone)?)))
        };
        let lines = endpoints.map(line).collect::<anyhow::Result<_>>()?;
        Ok(Self { lines, most_waiting: config.max_in_flight as usize, within: cache.deadline, figures })
    }

    /// Keeps every stream open until the process stops.
    pub(crate) fn keep(&self, cx: &Context) {
        for line in &self.lines {
            let keeper =
                Keeper { line: Arc::clone(line), stopping: cx.stopping(), figures: self.figures.clone() };
            cx.background(format!("cache-stream@{}", line.name()), Schedule::Every(OPEN_EVERY), keeper);
        }
    }

    /// Reads one entry, or says that it has to be asked for by a call.
    pub(crate) async fn get(&self, namespace: &str, key: &str) -> Option<Result<GetResponse, Failure>> {
        let line = self.least_busy()?;
        let mut asked =
            line.ask(namespace, key, self.within - (self.within / 10).min(HEAD_START), self.most_waiting)?;
        match tokio::time::timeout(self.within, asked.answer()).await {
            Ok(outcome) => of_outcome(outcome?),
            Err(_) => {
                line.suspect();
                let message = format!("cache-service did not answer within {:?}", self.within);
                Some(Err(Failure::new(ErrorCode::DeadlineExceeded, DEADLINE_EXCEEDED, message)))
            }
        }
    }

    /// Returns what is left of the time for a read that began then.
    pub(crate) fn left_of(&self, began_at: Instant) -> Duration {
        self.within.saturating_sub(began_at.elapsed())
    }

    /// Picks the less busy of two random ones.
    fn least_busy(&self) -> Option<&Arc<Line>> {
        let n = self.lines.len();
        if n <= 1 {
            return self.lines.first();
        }
        let (one, other) = (rand::random_range(0..n), rand::random_range(1..n));
        let (one, other) = (&self.lines[one], &self.lines[(one + other) % n]);
        Some(if other.load() < one.load() { other } else { one })
    }
}

/// Reads an answer; none where a call would say more, or may do better.
fn of_outcome(outcome: Outcome) -> Option<Result<GetResponse, Failure>> {
    match outcome {
        Outcome::Get(answer) => Some(Ok(answer)),
        Outcome::Error(error) => of_error(error).map(Err),
        Outcome::Set(_) | Outcome::Delete(_) => None,
    }
}

fn of_error(error: OperationError) -> Option<Failure> {
    let code = ErrorCode::ALL.into_iter().find(|code| code.as_str() == error.code)?;
    // A call names the wrong fields; and its answers do not share a buffer.
    let is_of_streams = matches!(error.reason.as_str(), "STREAM_NOT_READ" | "RESPONSE_TOO_LARGE");
    if is_of_streams || code == ErrorCode::InvalidArgument {
        return None;
    }
    let mut failure = Failure::new(code, error.reason, error.message);
    for (name, value) in error.details {
        failure = failure.detail(name, value);
    }
    match error.retry_after.and_then(|after| Duration::try_from(after).ok()) {
        Some(after) => Some(failure.retry_after(after)),
        None => Some(failure),
    }
}

/// Opens a stream and hands out its answers until it ends.
struct Keeper {
    line: Arc<Line>,
    stopping: CancellationToken,
    figures: Figures,
}

impl Activate for Keeper {
    async fn activate(&mut self) -> anyhow::Result<()> {
        let number = self.line.begin();
        let call = Call::write(STREAM).within(OPEN_WITHIN);
        let line = &self.line;
        let opened = line.upstream().call(call, |lane| async move {
            let mut client = CacheServiceClient::new(lane).max_decoding_message_size(MAX_ANSWER_BYTES);
            client.stream(Outbound::new(Arc::clone(line), number)).await
        });
        let answers = opened.await.context("opening the stream")?;
        let _open = Open::new(&self.line, &self.figures);
        tokio::select! {
            () = self.stopping.cancelled() => Ok(()),
            ended = listen(&self.line, answers) => ended,
        }
    }
}

async fn listen(line: &Line, mut answers: Streaming<StreamResponse>) -> anyhow::Result<()> {
    loop {
        match answers.message().await {
            Ok(Some(answer)) => line.settle(answer),
            Ok(None) => anyhow::bail!("cache-service ended the stream"),
            Err(status) => return Err(Failure::from(status)).context("the stream broke"),
        }
    }
}

/// A stream that is open; whoever waits when it is dropped is told so.
struct Open<'a> {
    line: &'a Line,
    figures: &'a Figures,
}

impl<'a> Open<'a> {
    fn new(line: &'a Line, figures: &'a Figures) -> Self {
        line.opened();
        figures.cache_streams.inc();
        Self { line, figures }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.figures.cache_streams.dec();
        self.line.close();
    }
}

#[cfg(test)]
mod tests;
