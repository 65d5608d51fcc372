//! Which server the Sentinels call the primary.
//!
//! We ask every configured Sentinel ourselves. fred's own Sentinel mode asks one, then replaces the configured list by
//! what that one says of the others (unreachable behind NAT), and looks again only after losing its connection, so a
//! demoted primary that still answers is written to for seconds.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use mainstay_rpc::ClientTls;
use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::config::{Address, RedisConfig};
use crate::resp::{self, Reply};
use crate::tls::{self, Stream};

mod listener;

pub(crate) use listener::Listener;

type Connection = BufReader<Box<dyn Stream>>;

/// Once more than half agree, the others have this long. The host of a lost primary often was a Sentinel's, too.
const STRAGGLERS_WITHIN: Duration = Duration::from_millis(100);

/// Asks the configured Sentinels.
#[derive(Debug, Clone)]
pub(crate) struct Sentinels {
    addresses: Vec<Address>,
    master_name: String,
    password: Option<String>,
    tls: ClientTls,
    within: Duration,
}

/// What the Sentinels said, each with its address.
#[derive(Debug)]
pub(crate) struct Poll {
    answers: Vec<(Address, Result<Address, SentinelError>)>,
    promoted: Option<Address>,
}

impl Sentinels {
    pub(crate) fn new(config: &RedisConfig) -> Self {
        let password = config.sentinel_password.expose();
        Self {
            addresses: config.sentinels.iter().filter_map(|address| address.parse().ok()).collect(),
            master_name: config.master_name.clone(),
            password: (!password.is_empty()).then(|| password.to_owned()),
            tls: config.sentinel_tls.clone(),
            within: config.connect_within,
        }
    }

    /// Asks all at once; takes no longer than `redis.connect_within`, and not much longer than it takes most to agree.
    /// With `promoted` also asks whether one of them is making a replica the primary.
    pub(crate) async fn ask_all(&self, promoted: bool) -> Poll {
        let mut until = Instant::now() + self.within;
        let ask = async |address: &Address| (address.clone(), self.ask(address, promoted).await);
        let mut asking: FuturesUnordered<_> = self.addresses.iter().map(ask).collect();
        let mut poll = Poll { answers: Vec::with_capacity(self.addresses.len()), promoted: None };
        while let Ok(Some((address, answer))) = timeout_at(until, asking.next()).await {
            let answer = answer.map(|(named, promoted)| {
                poll.promoted = poll.promoted.take().or(promoted);
                named
            });
            poll.answers.push((address, answer));
            if poll.favourite().is_some_and(|(_, n_votes)| n_votes * 2 > self.addresses.len()) {
                until = until.min(Instant::now() + STRAGGLERS_WITHIN);
            }
        }
        for address in &self.addresses {
            if !poll.answers.iter().any(|(answered, _)| answered == address) {
                poll.answers.push((address.clone(), Err(SentinelError::Timeout)));
            }
        }
        poll
    }

    async fn connect(&self, address: &Address) -> Result<Connection, SentinelError> {
        let connected = TcpStream::connect((address.host.as_str(), address.port)).await;
        let connected = connected.map_err(SentinelError::Connect)?;
        let secured = tls::secure(&self.tls, address, connected).await.map_err(SentinelError::Tls)?;
        let mut stream = BufReader::new(secured);
        if let Some(password) = &self.password {
            exchange(&mut stream, &["AUTH", password]).await?;
        }
        Ok(stream)
    }

    /// Returns the server it names, and the one that it is making the primary.
    async fn ask(
        &self,
        address: &Address,
        promoted: bool,
    ) -> Result<(Address, Option<Address>), SentinelError> {
        let mut stream = self.connect(address).await?;
        let named = self.named(&mut stream).await?;
        let promoted = if promoted { self.promoted(&mut stream).await? } else { None };
        Ok((named, promoted))
    }

    /// Asks which replica was chosen by the Sentinel that was elected for a failover. Only that one has the flag, from its
    /// choice until the replica is the announced primary.
    async fn promoted(&self, stream: &mut Connection) -> Result<Option<Address>, SentinelError> {
        let reply = exchange(stream, &["SENTINEL", "REPLICAS", &self.master_name]).await?;
        let Reply::Lists(replicas) = reply else { return Ok(None) };
        Ok(replicas.iter().find_map(|fields| promoted_replica(fields)))
    }

    async fn named(&self, stream: &mut Connection) -> Result<Address, SentinelError> {
        match exchange(stream, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", &self.master_name]).await? {
            Reply::List(parts) => match parts.as_slice() {
                [host, port] => {
                    let port = port.parse().map_err(|_| SentinelError::Answer)?;
                    Ok(Address { host: host.clone(), port })
                }
                _ => Err(SentinelError::Answer),
            },
            Reply::Nil => Err(SentinelError::UnknownMaster),
            Reply::Text(_) | Reply::Lists(_) | Reply::Error(_) => Err(SentinelError::Answer),
        }
    }
}

/// Reads names and values of a replica in turn.
fn promoted_replica(fields: &[String]) -> Option<Address> {
    let field = |name: &str| fields.chunks_exact(2).find(|pair| pair[0] == name).map(|pair| pair[1].as_str());
    let is_promoted = field("flags")?.split(',').any(|flag| flag == "promoted");
    let address = || Some(Address { host: field("ip")?.to_owned(), port: field("port")?.parse().ok()? });
    if is_promoted { address() } else { None }
}

async fn exchange(stream: &mut Connection, words: &[&str]) -> Result<Reply, SentinelError> {
    stream.write_all(&resp::encode(words)).await.map_err(SentinelError::Talk)?;
    match resp::read(stream).await.map_err(SentinelError::Talk)? {
        Reply::Error(text) => Err(SentinelError::Refused(text)),
        reply => Ok(reply),
    }
}

impl Poll {
    pub(crate) fn n_asked(&self) -> usize {
        self.answers.len()
    }

    pub(crate) fn n_reachable(&self) -> usize {
        self.answers.iter().filter(|(_, answer)| answer.is_ok()).count()
    }

    /// Returns the replica that an elected Sentinel has chosen as the primary, if it was asked for.
    pub(crate) fn promoted(&self) -> Option<&Address> {
        self.promoted.as_ref()
    }

    /// Returns the server that most of those who answered name, and how many do; of equals the lower address.
    pub(crate) fn favourite(&self) -> Option<(&Address, usize)> {
        let mut votes: BTreeMap<&Address, usize> = BTreeMap::new();
        for (_, answer) in &self.answers {
            if let Ok(named) = answer {
                *votes.entry(named).or_default() += 1;
            }
        }
        votes.into_iter().rev().max_by_key(|(_, n_votes)| *n_votes)
    }

    /// Decides which server to be connected to, given the one we are connected to and that works.
    ///
    /// A working connection is left only when more than half of all Sentinels name another server: one that is cut off
    /// from the rest may go on naming the old primary. Without a connection any named server is better than none.
    pub(crate) fn decide(&self, working: Option<&Address>) -> Option<Address> {
        let Some((named, n_votes)) = self.favourite() else { return working.cloned() };
        match working {
            Some(working) if n_votes * 2 <= self.n_asked() => Some(working.clone()),
            _ => Some(named.clone()),
        }
    }

    /// Says in one line what went wrong, e.g. `127.0.0.1:26379: cannot be reached: connection refused`.
    pub(crate) fn troubles(&self) -> String {
        let troubles = self.answers.iter().filter_map(|(address, answer)| {
            let error = answer.as_ref().err()?;
            Some(match std::error::Error::source(error) {
                Some(source) => format!("{address}: {error}: {source}"),
                None => format!("{address}: {error}"),
            })
        });
        troubles.collect::<Vec<_>>().join("; ")
    }
}

/// Says why a Sentinel did not name a server.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SentinelError {
    #[error("no answer in time")]
    Timeout,
    #[error("cannot be reached")]
    Connect(#[source] io::Error),
    #[error("TLS failed")]
    Tls(#[source] io::Error),
    #[error("the connection failed")]
    Talk(#[source] io::Error),
    #[error("refused: {0}")]
    Refused(String),
    #[error("does not know redis.master_name")]
    UnknownMaster,
    #[error("did not answer with an address")]
    Answer,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> Address {
        Address { host: "10.0.0.1".to_owned(), port }
    }

    /// A port is a vote for it; 0 is a Sentinel that does not answer.
    fn poll(votes: &[u16]) -> Poll {
        let answer = |port: u16| if port == 0 { Err(SentinelError::Timeout) } else { Ok(address(port)) };
        Poll { answers: votes.iter().map(|port| (address(26379), answer(*port))).collect(), promoted: None }
    }

    #[test]
    fn a_working_connection_is_left_only_for_what_more_than_half_name() {
        for (votes, working, expected) in [
            (&[1, 1, 1][..], None, Some(1)),
            (&[1, 0, 0], None, Some(1)),
            (&[0, 0, 0], None, None),
            (&[0, 0, 0], Some(1), Some(1)),
            (&[2, 0, 0], Some(1), Some(1)),
            (&[2, 1, 1], Some(1), Some(1)),
            (&[2, 2, 1], Some(1), Some(2)),
            (&[2, 2, 0], Some(1), Some(2)),
            (&[2, 2, 1, 1], Some(1), Some(1)),
            (&[2], Some(1), Some(2)),
            (&[2, 1], None, Some(1)),
        ] {
            let decided = poll(votes).decide(working.map(address).as_ref());
            assert_eq!(decided, expected.map(address), "votes {votes:?}, working {working:?}");
        }
    }

    #[test]
    fn only_the_replica_with_the_flag_is_the_promoted_one() {
        let fields = |flags: &str| {
            ["name", "r", "ip", "10.0.0.1", "port", "6380", "flags", flags].map(str::to_owned).to_vec()
        };
        for (flags, expected) in [
            ("slave", None),
            ("slave,promoted", Some(6380)),
            ("s_down,slave,promoted", Some(6380)),
            ("slave,unpromoted", None),
        ] {
            assert_eq!(promoted_replica(&fields(flags)), expected.map(address), "{flags}");
        }
        assert_eq!(promoted_replica(&["flags".to_owned(), "promoted".to_owned()]), None);
    }

    #[test]
    fn troubles_name_each_sentinel_that_did_not_answer() {
        assert_eq!(poll(&[1, 0]).troubles(), "10.0.0.1:26379: no answer in time");
        assert_eq!(poll(&[1, 1]).troubles(), "");
    }
}
