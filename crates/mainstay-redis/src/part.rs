use std::sync::Arc;
use std::time::Duration;

use fred::clients::{Client, WithOptions};
use fred::interfaces::ClientLike as _;

use crate::config::Address;
use crate::error::RedisError;
use crate::link::Link;
use crate::redis::Redis;
use crate::way::Way;

mod redirect;

pub(crate) use redirect::{MOST_REDIRECTS, Onward, asking};

/// So many commands in a row without an answer mean that the server does not hear us.
const TIMEOUTS_TO_REPLACE: u32 = 3;
/// So many do, even if the server answers on another connection.
const TIMEOUTS_AT_MOST: u32 = 12;

/// Asks for what lies together: everything, or, in a cluster, one partition of it.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    pub(crate) redis: &'a Redis,
    pub(crate) way: &'a Way,
    pub(crate) prefix: &'a str,
}

impl<'a> Part<'a> {
    /// Runs one command, which ends after `within`; `command` is given the client to send it with.
    ///
    /// After [`RedisError::Timeout`], [`RedisError::Lost`] or [`RedisError::Connection`] it may have been done or not.
    ///
    /// # Errors
    /// Fails when there is no connection, when it is lost, when the server refuses, and at the deadline.
    pub async fn command<T, F>(
        self,
        within: Duration,
        command: impl FnOnce(WithOptions<Client>) -> F,
    ) -> Result<T, RedisError>
    where
        T: Send,
        F: Future<Output = Result<T, fred::error::Error>> + Send,
    {
        let link = self.link()?;
        let answer = command(link.commands(within));
        self.run(&link, within, answer).await
    }

    /// Returns the text of INFO.
    pub(crate) async fn info(self, within: Duration) -> Result<String, RedisError> {
        self.command(within, |client| async move { client.info(None).await }).await
    }

    /// Returns the address of the server that commands go to.
    pub fn primary(self) -> Option<Address> {
        self.way.link().map(|link| link.address().clone())
    }

    /// Waits until commands go to another server than this one.
    pub async fn leads_elsewhere(self, than: &Address) {
        self.way.leads_elsewhere(than).await;
    }

    /// Asks, on a thread and a connection of their own, how long the server takes to answer; none when it does not, or
    /// there is no connection to one. What is slower than that was late in this process.
    pub async fn pulse(self) -> Option<Duration> {
        self.way.link()?.pulse().ask().await
    }

    /// Counts the connections that led here since the start.
    pub fn n_connections(self) -> u32 {
        self.way.n_connections()
    }

    /// Returns the name under which a key lies in Redis: with the prefix.
    pub fn full(self, key: &str) -> String {
        [self.prefix, key].concat()
    }

    pub(crate) fn link(self) -> Result<Arc<Link>, RedisError> {
        self.way.link().ok_or_else(|| {
            self.failed();
            RedisError::NotConnected
        })
    }

    pub(crate) fn run<'b, T: Send + 'b>(
        self,
        link: &'b Arc<Link>,
        within: Duration,
        command: impl Future<Output = Result<T, fred::error::Error>> + Send + 'b,
    ) -> impl Future<Output = Result<T, RedisError>> + Send + 'b
    where
        'a: 'b,
    {
        let command = link.run(within, command);
        async move {
            let _slot = self.redis.in_flight.try_acquire().map_err(|_| RedisError::Overloaded)?;
            let answer = command.await;
            self.judge(link, within, &answer);
            answer
        }
    }

    fn judge<T>(self, link: &Arc<Link>, within: Duration, answer: &Result<T, RedisError>) {
        match answer {
            Ok(_) | Err(RedisError::Refused(_) | RedisError::NoScript | RedisError::Moving) => {
                self.way.answered()
            }
            Err(RedisError::WriteRefused(_) | RedisError::Elsewhere { .. }) => {
                self.way.answered();
                // The primary may have moved.
                self.redis.complain();
            }
            Err(RedisError::Overloaded) => {}
            Err(RedisError::Timeout) => {
                self.failed();
                // A caller in a hurry proves nothing about the server.
                if within >= link.command_within() {
                    let in_a_row = self.way.timed_out();
                    if in_a_row >= TIMEOUTS_AT_MOST {
                        self.give_up(link);
                    } else if in_a_row >= TIMEOUTS_TO_REPLACE {
                        // It may be this process that takes answers late.
                        link.doubt();
                    }
                }
            }
            Err(_) => self.failed(),
        }
    }

    fn failed(self) {
        self.way.failed();
        self.redis.complain();
    }

    /// Drops a connection that no longer answers, unless it has been replaced already.
    fn give_up(self, link: &Arc<Link>) {
        if self.way.give_up(link) {
            tracing::warn!(address = %link.address(), "redis does not answer, replacing the connection");
            if self.redis.is_cluster() {
                // Other partitions are behind it, too.
                link.close();
            }
        }
        self.redis.complain();
    }
}
