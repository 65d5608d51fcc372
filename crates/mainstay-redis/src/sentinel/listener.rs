use std::sync::Arc;
use std::time::Duration;

use mainstay_resilience::backoff::Backoff;
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{SentinelError, Sentinels, exchange};
use crate::config::Address;
use crate::redis::Redis;
use crate::resp::{self, Reply};

const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MOST: Duration = Duration::from_secs(5);
/// A Sentinel says nothing for months; so it is asked whether it is there.
const PING_EVERY: Duration = Duration::from_secs(5);
const SWITCH: &str = "+switch-master";

/// Hears from one Sentinel when it comes to know a new primary, and asks for a look then. What it says is not acted upon:
/// the look asks all of them.
#[derive(Debug)]
pub(crate) struct Listener {
    sentinels: Sentinels,
    address: Address,
    redis: Arc<Redis>,
}

impl Listener {
    /// Makes one for each Sentinel.
    pub(crate) fn of_all(sentinels: &Sentinels, redis: &Arc<Redis>) -> Vec<Self> {
        let one = |address: &Address| Self {
            sentinels: sentinels.clone(),
            address: address.clone(),
            redis: Arc::clone(redis),
        };
        sentinels.addresses.iter().map(one).collect()
    }

    /// Listens until it is told to stop; connects anew as often as it must.
    pub(crate) async fn run(self, stopping: CancellationToken) -> anyhow::Result<()> {
        let mut backoff =
            Backoff::try_new(RETRY_FIRST, RETRY_MOST).expect("both are above zero and in order");
        loop {
            let ended = tokio::select! {
                ended = self.listen(&mut backoff) => ended,
                () = stopping.cancelled() => return Ok(()),
            };
            // That a Sentinel is away is told by the component, which asks it every second.
            tracing::debug!(sentinel = %self.address, error = %ended, "no longer heard");
            tokio::select! {
                () = tokio::time::sleep(backoff.next(rand::random())) => {}
                () = stopping.cancelled() => return Ok(()),
            }
        }
    }

    async fn listen(&self, backoff: &mut Backoff) -> SentinelError {
        match self.hear(backoff).await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn hear(&self, backoff: &mut Backoff) -> Result<std::convert::Infallible, SentinelError> {
        let subscribe = async {
            let mut stream = self.sentinels.connect(&self.address).await?;
            exchange(&mut stream, &["SUBSCRIBE", SWITCH]).await?;
            Ok(stream)
        };
        let subscribed = timeout(self.sentinels.within, subscribe).await;
        let mut stream = subscribed.unwrap_or(Err(SentinelError::Timeout))?;
        backoff.reset();
        // It may have switched while nobody listened.
        self.redis.look_again();
        let mut is_asked = false;
        loop {
            // A message that is cut in two by the time-out makes the next one unreadable, and the connection is made anew.
            match timeout(PING_EVERY, resp::read(&mut stream)).await {
                Ok(reply) => {
                    is_asked = false;
                    self.note(&reply.map_err(SentinelError::Talk)?);
                }
                Err(_) if is_asked => return Err(SentinelError::Timeout),
                Err(_) => {
                    is_asked = true;
                    let ping = resp::encode(&["PING"]);
                    let sent = timeout(self.sentinels.within, stream.write_all(&ping)).await;
                    let sent = sent.map_err(|_| SentinelError::Timeout)?;
                    sent.map_err(SentinelError::Talk)?;
                }
            }
        }
    }

    /// Reads `message +switch-master "<name> <old host> <old port> <new host> <new port>"`.
    fn note(&self, reply: &Reply) {
        let Reply::List(words) = reply else { return };
        let [kind, channel, switch] = words.as_slice() else { return };
        if kind == "message"
            && channel == SWITCH
            && switch.split(' ').next() == Some(self.sentinels.master_name.as_str())
        {
            tracing::info!(sentinel = %self.address, switch, "a Sentinel tells of a new primary");
            self.redis.heard_of_switch();
        }
    }
}
