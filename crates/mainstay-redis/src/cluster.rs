//! Where the primaries of a Redis Cluster are, as its nodes tell.

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
use crate::tls;

mod map;
mod watch;

pub(crate) use map::Map;
use map::Node;
pub(crate) use watch::ClusterWatch;

/// Once half of those asked have answered, the others have this long.
const STRAGGLERS_WITHIN: Duration = Duration::from_millis(100);
/// A thousand nodes take less to tell of.
const LONGEST_ANSWER: usize = 1 << 20;

/// Asks nodes what they know of the cluster.
#[derive(Debug, Clone)]
pub(crate) struct Nodes {
    username: String,
    password: String,
    tls: ClientTls,
    within: Duration,
}

/// What the nodes said that were asked.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    views: Vec<Vec<Node>>,
    troubles: BTreeMap<Address, String>,
}

impl Nodes {
    pub(crate) fn new(config: &RedisConfig) -> Self {
        Self {
            username: config.username.clone(),
            password: config.password.expose().to_owned(),
            tls: config.tls.clone(),
            within: config.connect_within,
        }
    }

    /// Asks all at once; takes no longer than `redis.connect_within`, and not much longer than half of them do.
    pub(crate) async fn ask_all(&self, addresses: &[Address]) -> Answers {
        let mut until = Instant::now() + self.within;
        let ask = async |address: &Address| (address.clone(), self.ask(address).await);
        let mut asking: FuturesUnordered<_> = addresses.iter().map(ask).collect();
        let mut answers = Answers::default();
        let late = || "no answer in time".to_owned();
        answers.troubles = addresses.iter().map(|address| (address.clone(), late())).collect();
        while let Ok(Some((address, answer))) = timeout_at(until, asking.next()).await {
            match answer {
                Ok(view) => {
                    answers.troubles.remove(&address);
                    answers.views.push(view);
                }
                Err(error) => drop(answers.troubles.insert(address, error.to_string())),
            }
            if answers.views.len() * 2 >= addresses.len() {
                until = until.min(Instant::now() + STRAGGLERS_WITHIN);
            }
        }
        answers
    }

    async fn ask(&self, address: &Address) -> io::Result<Vec<Node>> {
        let stream = TcpStream::connect((address.host.as_str(), address.port)).await?;
        let mut stream = BufReader::new(tls::secure(&self.tls, address, stream).await?);
        if !self.password.is_empty() {
            let sign_in = ["AUTH", &self.username, &self.password];
            let words: Vec<&str> = sign_in.into_iter().filter(|word| !word.is_empty()).collect();
            stream.write_all(&resp::encode(&words)).await?;
            understood(resp::read(&mut stream).await?)?;
        }
        stream.write_all(&resp::encode(&["CLUSTER", "NODES"])).await?;
        let text = understood(resp::read_up_to(&mut stream, LONGEST_ANSWER).await?)?;
        Ok(map::parse(&text, &address.host))
    }
}

impl Answers {
    /// Says in one line what went wrong, e.g. `127.0.0.1:7000: connection refused`.
    pub(crate) fn troubles(&self) -> String {
        let troubles = self.troubles.iter().map(|(address, trouble)| format!("{address}: {trouble}"));
        troubles.collect::<Vec<_>>().join("; ")
    }
}

fn understood(reply: Reply) -> io::Result<String> {
    match reply {
        Reply::Text(text) => Ok(text),
        Reply::Error(text) => Err(io::Error::other(text)),
        other => Err(io::Error::other(format!("unexpected answer {other:?}"))),
    }
}
