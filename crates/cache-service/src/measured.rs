use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use mainstay_runtime::Context;

use crate::config::CacheConfig;
use crate::engine::{Engine, Set};
use crate::entry::Condition;
use crate::key::{ContentType, Key, Tags};
use crate::service::assemble;

/// The engine without its doors, for `benches/engine.rs` and nobody else.
#[doc(hidden)]
pub struct MeasuredEngine(Arc<Engine>);

const WITHIN: Duration = Duration::from_secs(5);

impl MeasuredEngine {
    /// Starts everything behind the doors.
    pub fn start(cx: &Context, config: &CacheConfig) -> anyhow::Result<Self> {
        assemble(cx, config).map(Self)
    }

    /// Stores a value in every layer of its namespace; fails if one did not take it.
    pub async fn set(&self, namespace: &str, key: &str, value: Bytes) -> anyhow::Result<()> {
        let set = Set {
            key: Key::try_new(namespace, key)?,
            value,
            ttl: None,
            content_type: ContentType::default(),
            condition: Condition::Always,
            tags: Tags::default(),
            lease: None,
            fence: None,
            once: None,
        };
        let stored = self.0.set(set, WITHIN).await?;
        anyhow::ensure!(!stored.is_degraded(), "Redis did not confirm the write");
        Ok(())
    }

    /// Reads as a call does that the quick door does not answer.
    pub async fn get(&self, namespace: &str, key: &str) -> anyhow::Result<Bytes> {
        let found = self.0.get(&Key::try_new(namespace, key)?, WITHIN).await?;
        anyhow::ensure!(!found.degraded, "Redis did not answer");
        Ok(found.entry.context("a miss")?.value)
    }

    /// Reads as a unary call does that memory can answer: returns the size of the value.
    pub fn hit(&self, namespace: &str, key: &str) -> Option<usize> {
        self.0.hits(namespace)?.look(key, |seen| seen.value.len())
    }

    /// Reads as a batch does: returns the sum of the sizes of what memory has of these keys.
    pub fn look(&self, namespace: &str, keys: &[String]) -> usize {
        let Some(mut hits) = self.0.hits(namespace) else { return 0 };
        let (mut n_taken, mut n_bytes) = (0, 0);
        while n_taken < keys.len() {
            let n_shown = hits.look_at_once(keys[n_taken..].iter().map(String::as_str), |_, seen| {
                n_bytes += seen.value.len();
                true
            });
            n_taken += (n_shown as usize).max(1);
        }
        n_bytes
    }
}
