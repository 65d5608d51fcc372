use std::sync::{Arc, OnceLock};
use std::time::Duration;

use fred::interfaces::{ClientLike as _, LuaInterface as _};
use fred::types::{ClusterHash, CustomCommand, FromValue, Value};
use tokio::time::Instant;

use crate::error::RedisError;
use crate::link::Link;
use crate::part::{MOST_REDIRECTS, Onward, Part, asking};
use crate::redis::number;

/// A script that Redis runs as one step.
#[derive(Debug)]
pub struct Script {
    text: &'static str,
    /// As the first server gave it, and any other would: it is the SHA-1 of the text.
    hash: OnceLock<String>,
}

/// A script with what it is to be run over.
struct Call<'c> {
    script: &'c Script,
    keys: &'c [String],
    arguments: Vec<Value>,
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

impl Part<'_> {
    /// Runs a script over keys, which get the prefix. In a cluster it goes where the keys are.
    ///
    /// After [`RedisError::Timeout`], [`RedisError::Lost`] or [`RedisError::Connection`] it may have run or not.
    ///
    /// # Errors
    /// Fails when there is no connection, when it is lost, when the server refuses, and at the deadline.
    pub async fn run_script<T: FromValue + Send>(
        self,
        script: &Script,
        keys: &[&str],
        arguments: Vec<Value>,
        within: Duration,
    ) -> Result<T, RedisError> {
        self.run_script_at(script, keys, |_| arguments.clone(), within).await
    }

    /// Runs a script as [`Part::run_script`] does, with arguments that depend on the id of the server that runs it.
    ///
    /// # Errors
    /// As [`Part::run_script`].
    pub async fn run_script_at<T: FromValue + Send>(
        self,
        script: &Script,
        keys: &[&str],
        arguments: impl Fn(&str) -> Vec<Value> + Send,
        within: Duration,
    ) -> Result<T, RedisError> {
        let until = Instant::now() + within;
        let mut onward = Onward { link: self.link()?, asking: false };
        let keys: Vec<String> = keys.iter().map(|key| self.full(key)).collect();
        let mut n_redirects = 0;
        loop {
            let arguments = arguments(onward.link.server_id());
            let call = Call { script, keys: &keys, arguments };
            match self.call(&onward, &call, until).await {
                // Refused before anything was done, so sending it once more cannot do it twice.
                Err(error) if error.is_redirect() && n_redirects < MOST_REDIRECTS => {
                    n_redirects += 1;
                    onward = self.onward(&onward.link, error, until).await?;
                }
                answer => return answer,
            }
        }
    }

    async fn call<T: FromValue + Send>(
        self,
        to: &Onward,
        call: &Call<'_>,
        until: Instant,
    ) -> Result<T, RedisError> {
        let left = || until.saturating_duration_since(Instant::now());
        if let Some(hash) = call.script.hash.get() {
            match self.call_by_hash(to, hash, call, left()).await {
                // The same holds for it.
                Err(RedisError::NoScript) => {}
                answer => return answer,
            }
        }
        let hash = self.load(&to.link, call.script, left()).await?;
        self.call_by_hash(to, call.script.hash.get_or_init(|| hash), call, left()).await
    }

    async fn load(self, link: &Arc<Link>, script: &Script, within: Duration) -> Result<String, RedisError> {
        let client = link.commands(within);
        self.run(link, within, client.script_load(script.text)).await
    }

    async fn call_by_hash<T: FromValue + Send>(
        self,
        to: &Onward,
        hash: &str,
        call: &Call<'_>,
        within: Duration,
    ) -> Result<T, RedisError> {
        let client = to.link.commands(within);
        let (keys, arguments) = (call.keys.to_vec(), call.arguments.clone());
        if !to.asking {
            return self.run(&to.link, within, client.evalsha(hash, keys, arguments)).await;
        }
        let evalsha = CustomCommand::new_static("EVALSHA", ClusterHash::FirstKey, false);
        let mut words: Vec<Value> = vec![hash.into(), number(keys.len() as u64)];
        words.extend(keys.into_iter().map(Value::from).chain(arguments));
        let run = async move {
            let both = client.pipeline();
            let _: Value = both.custom(asking(), Vec::<Value>::new()).await?;
            let _: Value = both.custom(evalsha, words).await?;
            both.last().await
        };
        self.run(&to.link, within, run).await
    }
}
