//! A Redis Cluster: three primaries with a replica each.

use std::{fs, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use rustix::process::Signal;

use crate::{
    Error, RedisNode, RedisReply,
    credentials::random_hex,
    manifest::{Kind, Manifest},
    node::{Node, NodeParams},
    probe::Probe,
    process::Launch,
    programs::Programs,
    wait::wait_until,
};

pub(crate) const N_PRIMARIES: usize = 3;
const N_NODES: usize = 2 * N_PRIMARIES;
const N_SLOTS: usize = 16_384;
/// Silence after which the other nodes give a node up. Tests wait for it.
const NODE_TIMEOUT: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(20);
const READY_WITHIN: Duration = Duration::from_mins(2);
const SETTLED_WITHIN: Duration = Duration::from_mins(2);

/// Controls the cluster of the stack.
#[derive(Debug)]
pub struct RedisCluster {
    /// The first three began as primaries, each with a third of the slots; the others as their replicas, in the same order.
    nodes: Vec<RedisNode>,
    ids: Vec<String>,
    password: String,
}

pub(crate) struct RedisClusterPlan {
    pub(crate) dir: PathBuf,
    /// Where each node listens, for clients and for the other nodes.
    pub(crate) nodes: Vec<(SocketAddr, SocketAddr)>,
    pub(crate) password: String,
}

impl RedisClusterPlan {
    /// Returns how many nodes are to have addresses.
    pub(crate) const N_NODES: usize = N_NODES;

    pub(crate) fn build(self, programs: &Programs, manifest: &Arc<Manifest>) -> Result<RedisCluster, Error> {
        let ids: Vec<String> = self.nodes.iter().map(|_| random_hex(20)).collect();
        let nodes = (0..self.nodes.len()).map(|index| self.node(index, &ids, programs, manifest));
        let nodes = nodes.collect::<Result<_, _>>()?;
        Ok(RedisCluster { nodes, ids, password: self.password })
    }

    fn node(
        &self,
        index: usize,
        ids: &[String],
        programs: &Programs,
        manifest: &Arc<Manifest>,
    ) -> Result<RedisNode, Error> {
        let name = format!("redis-cluster-{index}");
        let (listen, _) = self.nodes[index];
        let dir = self.dir.join("redis").join(&name);
        let step = || format!("write the configuration of {name}");
        fs::create_dir_all(&dir).map_err(Error::io(step()))?;
        for (file, text) in [("redis.conf", self.config(index)), ("nodes.conf", self.known(index, ids))] {
            crate::stack_dir::write_private(&dir.join(file), &text).map_err(Error::io(step()))?;
        }
        let node = Node::new(NodeParams {
            launch: Launch {
                log: self.dir.join("logs").join(format!("{name}.log")),
                name,
                kind: Kind::Kill,
                program: programs.redis_server.clone(),
                args: vec!["redis.conf".to_owned()],
                envs: Vec::new(),
                run_as: None,
                dir,
                data: None,
            },
            probe: Probe::Redis { address: listen, password: self.password.clone() },
            address: listen,
            stop_signal: Signal::TERM,
            ready_within: READY_WITHIN,
            manifest: Arc::clone(manifest),
        });
        Ok(RedisNode::new(node, listen, self.password.clone()))
    }

    /// Lets what is left of the slots be served when some have no primary: one part is no reason to stop all.
    fn config(&self, index: usize) -> String {
        let ((listen, bus), password) = (self.nodes[index], &self.password);
        format!(
            "bind 127.0.0.1\nport {}\ncluster-enabled yes\ncluster-port {}\ncluster-config-file nodes.conf\n\
             cluster-node-timeout {}\ncluster-require-full-coverage no\ncluster-replica-validity-factor 0\n\
             requirepass {password}\nmasterauth {password}\nsave \"\"\nappendonly no\n\
             repl-diskless-sync yes\nrepl-diskless-sync-delay 0\nrepl-ping-replica-period 1\n\
             shutdown-timeout 1\nenable-debug-command local\ndaemonize no\nlogfile \"\"\n",
            listen.port(),
            bus.port(),
            NODE_TIMEOUT.as_millis(),
        )
    }

    /// Writes what a node would know after it had met all others: meeting takes seconds.
    fn known(&self, index: usize, ids: &[String]) -> String {
        let line = |of: usize| {
            let (listen, bus) = self.nodes[of];
            let (shard, is_primary) = (of % N_PRIMARIES, of < N_PRIMARIES);
            let myself = if of == index { "myself," } else { "" };
            let role = if is_primary { "master -".to_owned() } else { format!("slave {}", ids[shard]) };
            let slots = if is_primary {
                format!(" {}-{}", shard * N_SLOTS / N_PRIMARIES, (shard + 1) * N_SLOTS / N_PRIMARIES - 1)
            } else {
                String::new()
            };
            let (id, epoch) = (&ids[of], shard + 1);
            format!("{id} {listen}@{} {myself}{role} 0 0 {epoch} connected{slots}\n", bus.port())
        };
        let lines: String = (0..self.nodes.len()).map(line).collect();
        format!("{lines}vars currentEpoch {N_PRIMARIES} lastVoteEpoch 0\n")
    }
}

impl RedisCluster {
    /// Starts all nodes and waits until each of them knows that all slots are served and all replicas are in sync.
    pub(crate) async fn start(&self) -> Result<(), Error> {
        for node in &self.nodes {
            node.launch()?;
        }
        for node in &self.nodes {
            node.wait_ready().await?;
        }
        self.wait_settled().await
    }

    /// Returns all nodes; the first three began as primaries, the others as their replicas in the same order.
    pub fn nodes(&self) -> &[RedisNode] {
        &self.nodes
    }

    pub fn password(&self) -> &str {
        &self.password
    }

    /// Waits until all nodes that run agree that three primaries serve all slots, each with a replica in sync if that runs.
    pub async fn wait_settled(&self) -> Result<(), Error> {
        wait_until("the redis cluster to settle", LOOK_EVERY, SETTLED_WITHIN, || async {
            for node in self.nodes.iter().filter(|node| node.is_running()) {
                let info = node.ask(&["CLUSTER", "INFO"]).await?;
                let is_whole =
                    ["cluster_state:ok", "cluster_slots_ok:16384"].iter().all(|w| info.contains(w));
                let replication = node.ask(&["INFO", "replication"]).await?;
                let is_linked =
                    !replication.contains("role:slave") || replication.contains("master_link_status:up");
                if !is_whole || !is_linked {
                    return Err(format!("{}: {} {}", node.name(), one_line(&info), one_line(&replication)));
                }
            }
            Ok(())
        })
        .await?;
        Ok(())
    }

    /// Returns the node that serves a slot.
    pub async fn owner(&self, slot: u16) -> Result<&RedisNode, Error> {
        let mut seen = String::new();
        for node in self.nodes.iter().filter(|node| node.is_running()) {
            let step = || format!("find slot {slot}");
            let nodes = node.ask(&["CLUSTER", "NODES"]).await;
            let nodes = nodes.map_err(|answer| Error::Redis { step: step(), answer })?;
            let me = nodes.lines().find(|line| line.contains("myself,master")).unwrap_or_default();
            if me.split(' ').skip(8).any(|range| contains(range, slot)) {
                return Ok(node);
            }
            seen = nodes;
        }
        Err(Error::Redis { step: format!("find slot {slot}"), answer: seen })
    }

    /// Begins to give a slot to another node: keys may be moved by [`move_keys`](Self::move_keys) from now on.
    pub async fn begin_move(&self, slot: u16, from: &RedisNode, to: &RedisNode) -> Result<(), Error> {
        let (slot, from_id, to_id) = (slot.to_string(), self.id(from), self.id(to));
        to.command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", from_id]).await?;
        from.command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", to_id]).await.map(drop)
    }

    /// Moves at most so many keys of a slot, and returns how many it were.
    pub async fn move_keys(
        &self,
        slot: u16,
        from: &RedisNode,
        to: &RedisNode,
        most: usize,
    ) -> Result<usize, Error> {
        let (slot, most) = (slot.to_string(), most.to_string());
        let keys = from.command(&["CLUSTER", "GETKEYSINSLOT", &slot, &most]).await?;
        let RedisReply::List(keys) = keys else { return Ok(0) };
        let keys: Vec<&str> = keys.iter().filter_map(RedisReply::text).collect();
        if !keys.is_empty() {
            let (host, port) = (to.address().ip().to_string(), to.address().port().to_string());
            let mut words = vec!["MIGRATE", &host, &port, "", "0", "2000", "AUTH", &self.password, "KEYS"];
            words.extend(&keys);
            from.command(&words).await?;
        }
        Ok(keys.len())
    }

    /// Tells all primaries that the slot was moved.
    pub async fn end_move(&self, slot: u16, from: &RedisNode, to: &RedisNode) -> Result<(), Error> {
        let (slot, id) = (slot.to_string(), self.id(to));
        for node in [to, from] {
            node.command(&["CLUSTER", "SETSLOT", &slot, "NODE", id]).await?;
        }
        Ok(())
    }

    fn id(&self, node: &RedisNode) -> &str {
        let index = self.nodes.iter().position(|one| one.address() == node.address());
        index.map_or("", |index| &self.ids[index])
    }

    pub(crate) fn all_nodes(&self) -> Vec<Node> {
        self.nodes.iter().map(|node| Node::clone(node)).collect()
    }
}

fn contains(range: &str, slot: u16) -> bool {
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let number = |text: &str| text.parse::<u16>().ok();
    number(first).zip(number(last)).is_some_and(|(first, last)| (first..=last).contains(&slot))
}

fn one_line(text: &str) -> String {
    text.replace("\r\n", " ")
}
