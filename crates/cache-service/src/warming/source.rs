//! Where the keys of a run come from, page by page.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::fs::File;
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;

use super::lines::{Line, Lines, Wanted};
use crate::config::{WarmPlan, WarmSource, WarmingConfig};
use crate::engine::{Engine, Policy};
use crate::key::Key;
use crate::origin::{KeyPage, OriginError};

const CHUNK_BYTES: usize = 64 << 10;
/// Everything of a line beside its value.
const LINE_EXTRA_BYTES: u64 = 64 << 10;
/// A file system that takes longer for a chunk is broken.
const READ_WITHIN: Duration = Duration::from_secs(5);
/// A key list may take longer than one load.
const LIST_WITHIN: Duration = Duration::from_secs(10);

/// A list of keys that is being read.
#[derive(Debug)]
pub(super) enum Source {
    /// All of it is here.
    Log(Vec<Line>),
    File {
        file: File,
        lines: Lines,
    },
    Origin {
        namespace: String,
        origin: Box<str>,
        /// None behind the last page.
        next: Option<String>,
        lines: Lines,
        n_keys: u64,
    },
}

/// Says why a source gives no more keys.
#[derive(Debug, thiserror::Error)]
pub(super) enum SourceError {
    #[error("the file cannot be read: {0}")]
    File(io::Error),
    #[error("the key list of the origin cannot be read: {}", in_full(.0))]
    Origin(OriginError),
    #[error("the origin names the same page again")]
    Circle,
    #[error("no access log is kept")]
    NoLog,
}

impl Source {
    pub(super) async fn open(
        source: WarmSource,
        namespace: &str,
        plan: &WarmPlan,
        engine: &Arc<Engine>,
        config: &WarmingConfig,
        policy: &Policy,
    ) -> Result<Self, SourceError> {
        // Base64 makes four bytes of three.
        let most_bytes = usize::try_from(policy.max_value_bytes * 2 + LINE_EXTRA_BYTES).unwrap_or(usize::MAX);
        let lines = Lines::new(namespace, most_bytes);
        match source {
            WarmSource::AccessLog => {
                let recorder = engine.insight.recorder().ok_or(SourceError::NoLog)?;
                let is_ours = |key: &str| key.split_once(':').is_some_and(|(of, _)| of == namespace);
                let hottest = recorder.lock().hottest(is_ours);
                Ok(Self::Log(hottest.into_iter().zip(1..).map(logged).collect()))
            }
            WarmSource::File => {
                let opening = File::open(config.files.join(&plan.file));
                let file = timeout(READ_WITHIN, opening).await.map_err(late)?.map_err(SourceError::File)?;
                Ok(Self::File { file, lines })
            }
            WarmSource::Origin => Ok(Self::Origin {
                namespace: namespace.to_owned(),
                origin: policy.origin.clone(),
                next: Some(String::new()),
                lines,
                n_keys: 0,
            }),
        }
    }

    /// Returns the next lines; none when there are no more.
    pub(super) async fn next(&mut self, engine: &Engine) -> Result<Option<Vec<Line>>, SourceError> {
        match self {
            Self::Log(lines) => Ok((!lines.is_empty()).then(|| std::mem::take(lines))),
            Self::File { file, lines } => {
                let mut chunk = vec![0; CHUNK_BYTES];
                let reading = timeout(READ_WITHIN, file.read(&mut chunk)).await;
                let n_bytes = reading.map_err(late)?.map_err(SourceError::File)?;
                if n_bytes == 0 {
                    return Ok(lines.finish().map(|line| vec![line]));
                }
                Ok(Some(lines.push(&chunk[..n_bytes])))
            }
            Self::Origin { namespace, origin, next, lines, n_keys } => {
                let Some(page) = next.take() else { return Ok(None) };
                let listed = engine.loads.origins.list_keys(origin, namespace, &page, LIST_WITHIN).await;
                match listed.map_err(SourceError::Origin)? {
                    KeyPage::Lines(text) => {
                        let mut all = lines.push(&text);
                        all.extend(lines.finish());
                        Ok(Some(all))
                    }
                    KeyPage::Keys { next: following, .. } if following == page && !page.is_empty() => {
                        Err(SourceError::Circle)
                    }
                    KeyPage::Keys { keys, next: following } => {
                        *next = (!following.is_empty()).then_some(following);
                        Ok(Some(keys.into_iter().map(|key| listed_key(namespace, &key, n_keys)).collect()))
                    }
                }
            }
        }
    }
}

fn late(_: tokio::time::error::Elapsed) -> SourceError {
    SourceError::File(io::Error::from(io::ErrorKind::TimedOut))
}

fn logged(((key, n_reads), number): ((Box<str>, u64), u64)) -> Line {
    let key = Key::from_text(&key).ok_or_else(|| "is no key".to_owned());
    Line { number, wanted: key.map(|key| Wanted { key, value: None, n_reads }) }
}

fn listed_key(namespace: &str, key: &str, n_keys: &mut u64) -> Line {
    *n_keys += 1;
    let key = Key::try_new(namespace, key).map_err(|invalid| format!("key: {invalid}"));
    Line { number: *n_keys, wanted: key.map(|key| Wanted { key, value: None, n_reads: 0 }) }
}

fn in_full(error: &OriginError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(below) = cause {
        text = format!("{text}: {below}");
        cause = below.source();
    }
    text
}
