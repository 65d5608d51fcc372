use std::sync::OnceLock;
use std::time::Duration;

use fred::interfaces::LuaInterface as _;
use fred::types::{FromValue, Value};
use tokio::time::Instant;

use crate::error::RedisError;
use crate::redis::Redis;

/// A script that Redis runs as one step.
#[derive(Debug)]
pub struct Script {
    text: &'static str,
    /// As the first server gave it, and any other would: it is the SHA-1 of the text.
    hash: OnceLock<String>,
}

impl Script {
    /// Keeps the text; the server is told at the first use.
    pub const fn new(text: &'static str) -> Self {
        Self { text, hash: OnceLock::new() }
    }

    /// Returns what it was made of.
    pub const fn text(&self) -> &'static str {
        self.text
    }
}

impl Redis {
    /// Runs a script over keys, which get the prefix.
    ///
    /// After [`RedisError::Timeout`], [`RedisError::Lost`] or [`RedisError::Connection`] it may have run or not.
    ///
    /// # Errors
    /// Fails when there is no connection, when it is lost, when the server refuses, and at the deadline.
    pub async fn run_script<T: FromValue + Send>(
        &self,
        script: &Script,
        keys: &[&str],
        arguments: Vec<Value>,
        within: Duration,
    ) -> Result<T, RedisError> {
        self.run_script_at(script, keys, |_| arguments, within).await
    }

    /// Runs a script as [`Redis::run_script`] does, with arguments that depend on the id of the server that runs it.
    ///
    /// # Errors
    /// As [`Redis::run_script`].
    pub async fn run_script_at<T: FromValue + Send>(
        &self,
        script: &Script,
        keys: &[&str],
        arguments: impl FnOnce(&str) -> Vec<Value> + Send,
        within: Duration,
    ) -> Result<T, RedisError> {
        let started = Instant::now();
        let left = || within.saturating_sub(started.elapsed());
        let link = self.link()?;
        let arguments = arguments(link.server_id());
        let keys: Vec<String> = keys.iter().map(|key| self.full(key)).collect();
        if let Some(hash) = script.hash.get() {
            let client = link.commands(within);
            let by_hash = client.evalsha(hash.as_str(), keys.clone(), arguments.clone());
            match self.run(&link, within, by_hash).await {
                // Refused before anything was done, so sending it once more cannot do it twice.
                Err(RedisError::NoScript) => {}
                answer => return answer,
            }
        }
        let loading = link.commands(left());
        let hash = self.run(&link, left(), loading.script_load(script.text)).await?;
        let client = link.commands(left());
        let by_hash = client.evalsha(script.hash.get_or_init(|| hash).as_str(), keys, arguments);
        self.run(&link, left(), by_hash).await
    }
}
