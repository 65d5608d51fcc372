//! Redis: a primary, a replica and three Sentinels.

use std::{
    fs,
    net::SocketAddr,
    ops::Deref,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustix::process::Signal;

use crate::{
    Error,
    credentials::random_hex,
    manifest::{Kind, Manifest},
    node::{Node, NodeParams},
    probe::Probe,
    process::Launch,
    programs::Programs,
    resp::{RedisReply, redis_command},
    wait::wait_until,
};

/// The name under which the Sentinels know the primary.
pub const MASTER_NAME: &str = "mainstay";
pub(crate) const N_SENTINELS: usize = 3;
const QUORUM: usize = 2;
/// Sentinel's `down-after-milliseconds` unless asked otherwise.
pub(crate) const DOWN_AFTER: Duration = Duration::from_secs(1);
const ASK_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(10);
const READY_WITHIN: Duration = Duration::from_mins(2);
const SETTLED_WITHIN: Duration = Duration::from_mins(2);
const FAILOVER_WITHIN: Duration = Duration::from_mins(2);

/// Chooses which nodes refuse writes while no replica follows closely (`min-replicas-to-write 1`, max lag 1 s).
///
/// Without the guard a planned failover or a frozen primary loses acknowledged writes: the old primary goes on
/// answering until Sentinel demotes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MinReplicas {
    Off,
    /// Only the first primary: after a failover the survivor takes writes alone.
    #[default]
    FirstPrimary,
    /// Both nodes: after a failover writes wait until the old primary is back as a replica.
    Everywhere,
}

/// Controls the Redis part of the stack.
#[derive(Debug)]
pub struct Redis {
    /// `[0]` began as the primary, `[1]` as the replica; Sentinel may have swapped the roles since.
    nodes: [RedisNode; 2],
    sentinels: Vec<Node>,
    /// Where clients reach the Sentinels: proxies where asked for.
    sentinel_addresses: Vec<SocketAddr>,
    password: String,
}

/// Is one Redis server: a [`Node`] that can also be asked.
#[derive(Debug, Clone)]
pub struct RedisNode {
    node: Node,
    public: SocketAddr,
    password: String,
}

pub(crate) struct RedisPlan {
    pub(crate) dir: PathBuf,
    /// Where each server listens, and the address under which everybody else knows it.
    pub(crate) nodes: [(SocketAddr, SocketAddr); 2],
    pub(crate) sentinels: Vec<(SocketAddr, SocketAddr)>,
    pub(crate) password: String,
    pub(crate) min_replicas: MinReplicas,
    pub(crate) append_only: bool,
    pub(crate) down_after: Duration,
}

impl RedisPlan {
    pub(crate) fn build(self, programs: &Programs, manifest: &Arc<Manifest>) -> Result<Redis, Error> {
        let nodes = [self.server(0, programs, manifest)?, self.server(1, programs, manifest)?];
        let ids: Vec<String> = self.sentinels.iter().map(|_| random_hex(20)).collect();
        let sentinels = (0..self.sentinels.len())
            .map(|index| self.sentinel(index, &ids, programs, manifest))
            .collect::<Result<_, _>>()?;
        let sentinel_addresses = self.sentinels.iter().map(|(_, public)| *public).collect();
        Ok(Redis { nodes, sentinels, sentinel_addresses, password: self.password })
    }

    fn server(
        &self,
        index: usize,
        programs: &Programs,
        manifest: &Arc<Manifest>,
    ) -> Result<RedisNode, Error> {
        let name = ["redis-primary", "redis-replica"][index];
        let (listen, public) = self.nodes[index];
        let config = self.server_config(index);
        let dir = self.write_config(name, &config)?;
        let node = Node::new(NodeParams {
            launch: self.launch(name, &programs.redis_server, dir, vec!["redis.conf".to_owned()]),
            probe: Probe::Redis { address: listen, password: self.password.clone() },
            address: listen,
            stop_signal: Signal::TERM,
            ready_within: READY_WITHIN,
            manifest: Arc::clone(manifest),
        });
        Ok(RedisNode { node, public, password: self.password.clone() })
    }

    /// Writes `redis.conf` for a server.
    ///
    /// A node behind a proxy announces the proxy, and Sentinel watches it there: a cut proxy is a node off the net.
    fn server_config(&self, index: usize) -> String {
        let (listen, public) = self.nodes[index];
        let password = &self.password;
        let append_only = if self.append_only { "yes" } else { "no" };
        let mut config = format!(
            "bind 127.0.0.1\nport {}\nrequirepass {password}\nmasterauth {password}\n\
             replica-announce-ip {}\nreplica-announce-port {}\n\
             save \"\"\nappendonly {append_only}\nappendfsync everysec\n\
             repl-diskless-sync yes\nrepl-diskless-sync-delay 0\nrepl-ping-replica-period 1\n\
             shutdown-timeout 1\nenable-debug-command local\ndaemonize no\nlogfile \"\"\n",
            listen.port(),
            public.ip(),
            public.port(),
        );
        if index == 1 {
            let primary = self.nodes[0].1;
            config.push_str(&format!("replicaof {} {}\n", primary.ip(), primary.port()));
        }
        let guarded = match self.min_replicas {
            MinReplicas::Off => false,
            MinReplicas::FirstPrimary => index == 0,
            MinReplicas::Everywhere => true,
        };
        if guarded {
            config.push_str("min-replicas-to-write 1\nmin-replicas-max-lag 1\n");
        }
        config
    }

    fn sentinel(
        &self,
        index: usize,
        ids: &[String],
        programs: &Programs,
        manifest: &Arc<Manifest>,
    ) -> Result<Node, Error> {
        let name = format!("sentinel-{index}");
        let (listen, _) = self.sentinels[index];
        let dir = self.write_config(&name, &self.sentinel_config(index, ids))?;
        Ok(Node::new(NodeParams {
            launch: self.launch(&name, &programs.redis_sentinel, dir, vec!["redis.conf".to_owned()]),
            probe: Probe::Sentinel { address: listen },
            address: listen,
            stop_signal: Signal::TERM,
            ready_within: READY_WITHIN,
            manifest: Arc::clone(manifest),
        }))
    }

    /// Writes the configuration of a Sentinel that already knows its peers and the replica.
    ///
    /// Left to itself a Sentinel finds its peers after 2 s and the replica after up to 10 s.
    fn sentinel_config(&self, index: usize, ids: &[String]) -> String {
        let (primary, replica) = (self.nodes[0].1, self.nodes[1].1);
        let mut config = format!(
            "bind 127.0.0.1\nport {}\ndaemonize no\nlogfile \"\"\nsentinel myid {}\n\
             sentinel monitor {MASTER_NAME} {} {} {QUORUM}\n\
             sentinel auth-pass {MASTER_NAME} {}\n\
             sentinel down-after-milliseconds {MASTER_NAME} {}\n\
             sentinel failover-timeout {MASTER_NAME} 5000\n\
             sentinel parallel-syncs {MASTER_NAME} 1\n\
             sentinel known-replica {MASTER_NAME} {} {}\n",
            self.sentinels[index].0.port(),
            ids[index],
            primary.ip(),
            primary.port(),
            self.password,
            self.down_after.as_millis(),
            replica.ip(),
            replica.port(),
        );
        for (peer, id) in ids.iter().enumerate().filter(|(peer, _)| *peer != index) {
            let address = self.sentinels[peer].0;
            let (ip, port) = (address.ip(), address.port());
            config.push_str(&format!("sentinel known-sentinel {MASTER_NAME} {ip} {port} {id}\n"));
        }
        config
    }

    fn write_config(&self, name: &str, config: &str) -> Result<PathBuf, Error> {
        let dir = self.dir.join("redis").join(name);
        let step = || format!("write the configuration of {name}");
        fs::create_dir_all(&dir).map_err(Error::io(step()))?;
        crate::stack_dir::write_private(&dir.join("redis.conf"), config).map_err(Error::io(step()))?;
        Ok(dir)
    }

    fn launch(&self, name: &str, program: &Path, dir: PathBuf, args: Vec<String>) -> Launch {
        Launch {
            name: name.to_owned(),
            kind: Kind::Kill,
            program: program.to_path_buf(),
            args,
            envs: Vec::new(),
            run_as: None,
            dir,
            log: self.dir.join("logs").join(format!("{name}.log")),
            data: None,
        }
    }
}

impl Redis {
    /// Starts all five processes and waits until the replica is in sync and every Sentinel sees a quorum.
    pub(crate) async fn start(&self) -> Result<(), Error> {
        // A replica that finds no primary tries again only after a second: the primary goes first.
        self.nodes[0].start().await?;
        self.nodes[1].launch()?;
        for sentinel in &self.sentinels {
            sentinel.launch()?;
        }
        self.nodes[1].wait_ready().await?;
        for sentinel in &self.sentinels {
            sentinel.wait_ready().await?;
        }
        self.wait_settled().await
    }

    /// Returns the node that began as the primary.
    pub fn first_primary(&self) -> &RedisNode {
        &self.nodes[0]
    }

    /// Returns the node that began as the replica.
    pub fn first_replica(&self) -> &RedisNode {
        &self.nodes[1]
    }

    pub fn nodes(&self) -> &[RedisNode; 2] {
        &self.nodes
    }

    pub fn sentinels(&self) -> &[Node] {
        &self.sentinels
    }

    /// Returns where clients reach the Sentinels.
    pub fn sentinel_addresses(&self) -> &[SocketAddr] {
        &self.sentinel_addresses
    }

    pub fn password(&self) -> &str {
        &self.password
    }

    /// Asks the Sentinels which node is the primary now.
    pub async fn primary(&self) -> Result<&RedisNode, Error> {
        let mut answer = "no Sentinel runs".to_owned();
        for sentinel in self.sentinels.iter().filter(|sentinel| sentinel.is_running()) {
            let args = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER_NAME];
            match redis_command(sentinel.address(), None, &args, ASK_WITHIN).await {
                Ok(reply) => match self.nodes.iter().find(|node| is_address(&reply, node.public)) {
                    Some(node) => return Ok(node),
                    None => answer = format!("{reply:?}"),
                },
                Err(error) => answer = error,
            }
        }
        Err(Error::Redis { step: "ask the Sentinels for the primary".to_owned(), answer })
    }

    /// Makes `node` the primary by a planned failover (`SENTINEL FAILOVER`) and waits until it takes writes as such
    /// and every running Sentinel says so.
    pub async fn promote(&self, node: &RedisNode) -> Result<(), Error> {
        if self.primary().await?.public == node.public {
            return Ok(());
        }
        let asked = self.sentinels.iter().find(|sentinel| sentinel.is_running());
        let sentinel = asked.ok_or_else(|| Error::NotRunning { name: "every sentinel".to_owned() })?;
        let accepted = AtomicBool::new(false);
        wait_until(format!("{} to become primary", node.name()), LOOK_EVERY, FAILOVER_WITHIN, || async {
            if !accepted.load(Ordering::Relaxed) {
                // NOGOODSLAVE until the Sentinel has had a fresh INFO of the replica.
                let args = ["SENTINEL", "FAILOVER", MASTER_NAME];
                redis_command(sentinel.address(), None, &args, ASK_WITHIN).await?;
                accepted.store(true, Ordering::Relaxed);
            }
            self.agreed_primary(node).await
        })
        .await?;
        Ok(())
    }

    /// Waits until Sentinels and servers agree on one primary with one replica in sync; that is the state at start.
    pub async fn wait_settled(&self) -> Result<(), Error> {
        wait_until("redis to settle", LOOK_EVERY, SETTLED_WITHIN, || async {
            let primary = self.primary().await.map_err(|error| error.to_string())?;
            self.agreed_primary(primary).await?;
            let replication = primary.info("replication").await?;
            if replication.contains("connected_slaves:1") && replication.contains("state=online") {
                Ok(())
            } else {
                Err(replication.replace("\r\n", " "))
            }
        })
        .await?;
        Ok(())
    }

    async fn agreed_primary(&self, node: &RedisNode) -> Result<(), String> {
        for sentinel in self.sentinels.iter().filter(|sentinel| sentinel.is_running()) {
            let args = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER_NAME];
            let reply = redis_command(sentinel.address(), None, &args, ASK_WITHIN).await?;
            if !is_address(&reply, node.public) {
                return Err(format!("{} names {reply:?}", sentinel.name()));
            }
        }
        let replication = node.info("replication").await?;
        if replication.contains("role:master") {
            Ok(())
        } else {
            Err(format!("{} is not a primary", node.name()))
        }
    }

    pub(crate) fn all_nodes(&self) -> Vec<Node> {
        // Sentinels first: they must not see the servers go and start a failover.
        self.sentinels.iter().cloned().chain(self.nodes.iter().map(|node| node.node.clone())).collect()
    }
}

impl RedisNode {
    pub(crate) fn new(node: Node, public: SocketAddr, password: String) -> Self {
        Self { node, public, password }
    }

    /// Returns the address under which the rest of the stack knows this node: a proxy where asked for.
    pub fn public_address(&self) -> SocketAddr {
        self.public
    }

    /// Sends one command to the process itself, past any proxy.
    pub async fn command(&self, args: &[&str]) -> Result<RedisReply, Error> {
        redis_command(self.node.address(), Some(&self.password), args, ASK_WITHIN)
            .await
            .map_err(|answer| Error::Redis { step: format!("{} on {}", args.join(" "), self.name()), answer })
    }

    async fn info(&self, section: &str) -> Result<String, String> {
        self.ask(&["INFO", section]).await
    }

    /// Asks for a text; the error is what was seen instead.
    pub(crate) async fn ask(&self, args: &[&str]) -> Result<String, String> {
        let reply = redis_command(self.node.address(), Some(&self.password), args, ASK_WITHIN).await?;
        reply.text().map(str::to_owned).ok_or_else(|| format!("{} answered {reply:?}", args.join(" ")))
    }
}

impl Deref for RedisNode {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

fn is_address(reply: &RedisReply, address: SocketAddr) -> bool {
    let RedisReply::List(items) = reply else { return false };
    let [ip, port] = items.as_slice() else { return false };
    ip.text() == Some(&address.ip().to_string()) && port.text() == Some(&address.port().to_string())
}
