//! What a deployment does under load, as its clients see it: at even distances, so that waiting counts, and as fast as it
//! goes. Nothing here is held against a bar but the times that the environment calls slow.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use hdrhistogram::Histogram;
use http::Method;
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use serde_json::json;
use tokio::task::JoinSet;

use crate::check::{Check, Outcome, Verdict, ensure, pass};
use crate::door::{Door, Sender};
use crate::pace::paced;
use crate::smoke::skipped;
use crate::target::{ANSWER_WITHIN, Target};

const PACED: &str = "at even distances, whether or not earlier ones have ended";
const AT_ONCE: &str = "as fast as it goes";

/// Cache keys that are read and written.
const N_KEYS: u32 = 100;
const N_CONNECTIONS: usize = 16;
const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

pub(crate) fn checks() -> Vec<Check> {
    vec![
        Check::doing(PACED, "100 reads of the cache a second", |target| {
            Box::pin(at_even_distances(target, &Job::CacheRead, 100))
        }),
        Check::doing(PACED, "50 writes of the cache a second", |target| {
            Box::pin(at_even_distances(target, &Job::CacheWrite, 50))
        }),
        Check::doing(PACED, "50 reads of the database a second", |target| {
            Box::pin(at_even_distances(target, &Job::Query, 50))
        }),
        Check::doing(PACED, "50 publications a second", |target| {
            Box::pin(at_even_distances(target, &Job::Publish, 50))
        }),
        Check::doing(AT_ONCE, "reads of the cache, 16 connections", |target| {
            Box::pin(at_once(target, &Job::CacheRead))
        }),
        Check::doing(AT_ONCE, "reads of the database, 16 connections", |target| {
            Box::pin(at_once(target, &Job::Query))
        }),
    ]
}

/// What is asked of the edge again and again.
#[derive(Clone, Copy)]
enum Job {
    CacheRead,
    CacheWrite,
    Query,
    Publish,
}

impl Job {
    fn request(self, number: u32) -> (Method, String, &'static [(&'static str, &'static str)], Bytes) {
        let key = format!("/cache/checks/load-{}", number % N_KEYS);
        match self {
            Self::CacheRead => (Method::GET, key, &[], Bytes::new()),
            Self::CacheWrite => {
                let value = Bytes::from_static(&[b'x'; 256]);
                (Method::PUT, key, &[("content-type", "text/plain"), ("x-cache-ttl", "10m")], value)
            }
            Self::Query => {
                let body = json!({ "sql": "select $1::int as number", "params": [number] });
                (Method::POST, "/database/query".to_owned(), JSON, body.to_string().into())
            }
            Self::Publish => {
                let body = json!({ "channel": "checks", "data": { "number": number } });
                (Method::POST, "/realtime/publish".to_owned(), JSON, body.to_string().into())
            }
        }
    }
}

/// Keeps connections between requests, and counts how these end.
struct Load {
    door: Arc<Door>,
    job: Job,
    idle: Mutex<Vec<Sender>>,
    drivers: Mutex<JoinSet<()>>,
    answered: AtomicU64,
    limited: AtomicU64,
    failed: AtomicU64,
    first_failure: Mutex<Option<String>>,
}

impl Load {
    /// Begins with what is read being there.
    async fn prepare(target: &Target, job: Job) -> Result<Arc<Self>, String> {
        let load = Arc::new(Self {
            door: Arc::clone(&target.door),
            job,
            idle: Mutex::default(),
            drivers: Mutex::default(),
            answered: AtomicU64::new(0),
            limited: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            first_failure: Mutex::default(),
        });
        if matches!(job, Job::CacheRead) {
            for number in 0..N_KEYS {
                let put = load.answer(Job::CacheWrite, number).await.map_err(|error| format!("{error:#}"))?;
                ensure((200..300).contains(&put), || format!("PUT of what is to be read answers {put}"))?;
            }
        }
        Ok(load)
    }

    async fn call(&self, number: u32) {
        let failure = match tokio::time::timeout(ANSWER_WITHIN, self.answer(self.job, number)).await {
            Ok(Ok(200..300)) => {
                self.answered.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Ok(Ok(429)) => {
                self.limited.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Ok(Ok(status)) => format!("answers {status}"),
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => format!("no answer within {} s", ANSWER_WITHIN.as_secs()),
        };
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.first_failure.lock().get_or_insert(failure);
    }

    async fn answer(&self, job: Job, number: u32) -> anyhow::Result<u16> {
        let kept = self.idle.lock().pop();
        let mut sender = match kept.filter(|sender| !sender.is_closed()) {
            Some(sender) => sender,
            None => self.open().await?,
        };
        sender.ready().await?;
        let (method, path, headers, body) = job.request(number);
        let answer = sender.send_request(self.door.request(method, &path, headers, body, true)?).await?;
        let status = answer.status().as_u16();
        answer.into_body().collect().await?;
        self.idle.lock().push(sender);
        Ok(status)
    }

    async fn open(&self) -> anyhow::Result<Sender> {
        let (sender, driver) = self.door.open().await?;
        self.drivers.lock().spawn(async move {
            // Its sender hears of it.
            let _ = driver.await;
        });
        Ok(sender)
    }

    /// Tells the figures; fails when an answer failed or most were too slow.
    fn verdict(&self, target: &Target, times: &Histogram<u64>, more: &str) -> Outcome {
        let [answered, limited, failed] =
            [&self.answered, &self.limited, &self.failed].map(|count| count.load(Ordering::Relaxed));
        let ms = |share: f64| times.value_at_quantile(share) as f64 / 1e3;
        let p50 = ms(0.5);
        let mut told = format!(
            "{answered} answered{more}, p50 {p50:.1} ms, p95 {:.1}, p99 {:.1}, longest {:.1}",
            ms(0.95),
            ms(0.99),
            times.max() as f64 / 1e3
        );
        if limited > 0 {
            told = format!("{told}; {limited} refused by a rate limit of this key");
        }
        ensure(failed == 0, || {
            format!(
                "{told}; {failed} failed, the first: {}",
                self.first_failure.lock().as_deref().unwrap_or("")
            )
        })?;
        ensure(p50 <= target.environment.too_slow_ms, || told.clone())?;
        if limited > 0 || p50 > target.environment.slow_ms { Ok(Verdict::Warn(told)) } else { pass(told) }
    }
}

async fn at_even_distances(target: &Target, job: &Job, per_second: u32) -> Outcome {
    if let Some(verdict) = skipped(target) {
        return Ok(verdict);
    }
    let load = Load::prepare(target, *job).await?;
    let n_calls = per_second * u32::try_from(target.load_for.as_secs()).unwrap_or(u32::MAX / per_second);
    let caller = Arc::clone(&load);
    let begin = move |number| {
        let caller = Arc::clone(&caller);
        async move {
            caller.call(number).await;
            Ok(())
        }
    };
    let times = paced(per_second, n_calls, begin).await.map_err(|error| format!("{error:#}"))?;
    load.verdict(target, &times, "")
}

async fn at_once(target: &Target, job: &Job) -> Outcome {
    if let Some(verdict) = skipped(target) {
        return Ok(verdict);
    }
    let load = Load::prepare(target, *job).await?;
    let times = Mutex::new(Histogram::<u64>::new(3).map_err(|error| error.to_string())?);
    let begun = Instant::now();
    let lanes = (0..N_CONNECTIONS).map(|lane| {
        let (load, times) = (&load, &times);
        async move {
            for number in (lane as u32..).step_by(N_CONNECTIONS) {
                let left = target.load_for.saturating_sub(begun.elapsed());
                if left == Duration::ZERO || load.failed.load(Ordering::Relaxed) > 0 {
                    break;
                }
                let called_at = Instant::now();
                load.call(number).await;
                let took_us = u64::try_from(called_at.elapsed().as_micros()).unwrap_or(u64::MAX);
                // It grows with what it is given; only a time of years would not fit.
                let _ = times.lock().record(took_us);
            }
        }
    });
    join_all(lanes).await;
    let per_second = load.answered.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64();
    let times = times.into_inner();
    load.verdict(target, &times, &format!(" ({per_second:.0}/s)"))
}
