//! Being sent from one node of a cluster to another. A command that was answered so was not done: it may be sent again.

use std::sync::Arc;
use std::time::Duration;

use fred::interfaces::ClientLike as _;
use fred::types::{ClusterHash, CustomCommand, FromValue, Value};
use tokio::time::{Instant, sleep_until};

use super::Part;
use crate::error::RedisError;
use crate::link::Link;

/// While keys are on their way from one node to another they are asked for this often.
const MOVING_FOR: Duration = Duration::from_millis(20);
/// Beyond so many in one command the nodes send us round in circles.
pub(crate) const MOST_REDIRECTS: u32 = 64;

/// Where a command goes that one node has refused.
pub(crate) struct Onward {
    pub(crate) link: Arc<Link>,
    /// That node does not have the slot yet, and must be told that we know.
    pub(crate) asking: bool,
}

impl Part<'_> {
    /// Reads, as [`Part::send`] does.
    ///
    /// # Errors
    /// As [`Part::command`].
    pub fn read<T: FromValue + Send>(
        self,
        command: &'static str,
        arguments: Vec<Value>,
        within: Duration,
    ) -> impl Future<Output = Result<T, RedisError>> {
        self.send(command, arguments, within)
    }

    /// Runs one command and goes where the keys are, also while they are being moved. Arguments are whole keys.
    ///
    /// # Errors
    /// As [`Part::command`].
    pub async fn send<T: FromValue + Send>(
        self,
        command: &'static str,
        arguments: Vec<Value>,
        within: Duration,
    ) -> Result<T, RedisError> {
        let until = Instant::now() + within;
        let mut onward = Onward { link: self.link()?, asking: false };
        let mut n_redirects = 0;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let custom = CustomCommand::new_static(command, ClusterHash::FirstKey, false);
            let (client, arguments) = (onward.link.commands(left), arguments.clone());
            let answer = if onward.asking {
                let run = async move {
                    let both = client.pipeline();
                    let _: Value = both.custom(asking(), Vec::<Value>::new()).await?;
                    let _: Value = both.custom(custom, arguments).await?;
                    both.last().await
                };
                self.run(&onward.link, left, run).await
            } else {
                self.run(&onward.link, left, async move { client.custom(custom, arguments).await }).await
            };
            match answer {
                Err(error) if error.is_redirect() && n_redirects < MOST_REDIRECTS => {
                    n_redirects += 1;
                    onward = self.onward(&onward.link, error, until).await?;
                }
                answer => return answer,
            }
        }
    }

    /// Returns where to send a command that was refused so, as soon as there is such a place.
    ///
    /// # Errors
    /// Gives the refusal back when there is none in time.
    pub(crate) async fn onward(
        self,
        from: &Arc<Link>,
        refusal: RedisError,
        until: Instant,
    ) -> Result<Onward, RedisError> {
        match &refusal {
            RedisError::Elsewhere { to, asking: true } => {
                if let Some(link) = self.redis.redirected(to.as_ref()) {
                    return Ok(Onward { link, asking: true });
                }
            }
            RedisError::Elsewhere { to, asking: false } => {
                if let Some(link) = self.redis.redirected(to.as_ref()) {
                    // All of the partition is there: it is one slot.
                    self.way.lead_to(Some(&link));
                    return Ok(Onward { link, asking: false });
                }
                let link = self.way.after(from, until).await.ok_or(refusal)?;
                return Ok(Onward { link, asking: false });
            }
            _ => drop(self.redis.redirected(None)),
        }
        let again_at = Instant::now() + MOVING_FOR;
        if again_at >= until {
            return Err(refusal);
        }
        sleep_until(again_at).await;
        match self.way.link() {
            Some(link) => Ok(Onward { link, asking: false }),
            None => Err(refusal),
        }
    }
}

/// Says that we know that the slot is not there yet. It holds for the next command on the connection.
pub(crate) fn asking() -> CustomCommand {
    CustomCommand::new_static("ASKING", ClusterHash::FirstKey, false)
}
