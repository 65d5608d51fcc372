use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use fred::interfaces::ClientLike as _;
use fred::types::{ClusterHash, CustomCommand, Value};
use futures_util::future::join_all;
use mainstay_resilience::backoff::Backoff;
use mainstay_runtime::{Activate, Component, ComponentKind, Context};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Answers, Map, Nodes};
use crate::config::{Address, RedisConfig};
use crate::error::RedisError;
use crate::link::Link;
use crate::partition::{Partition, slot};
use crate::redis::Redis;
use crate::soon::Soon;
use crate::view::{ClusterView, RedisView, ShardView, pick_fields, put_together};
use crate::watch::Watch;

/// Keeps a connection to each primary that has one of our partitions: asks the nodes who that is, connects, and leads every
/// partition to its primary.
pub(crate) struct ClusterWatch {
    redis: Arc<Redis>,
    config: RedisConfig,
    cx: Context,
    /// What keeps values.
    redis_component: Component,
    /// The nodes, also those that we do not need now.
    cluster_component: Component,
    nodes: Nodes,
    seeds: Vec<Address>,
    map: Map,
    /// The slot of each partition.
    slots: Vec<u16>,
    places: Arc<Mutex<HashMap<Address, Place>>>,
    /// All processes cut the keys into the same number of partitions.
    agreed: bool,
    trouble: String,
    turn: usize,
    soon: Soon,
}

/// A node to be connected to.
struct Place {
    link: Option<Arc<Link>>,
    is_opening: bool,
    backoff: Backoff,
    not_before: Option<Instant>,
    trouble: String,
}

/// The number of partitions, as the first process has put it.
const AGREEMENT: &str = "!partitions";
/// Nodes asked at once while all is well, and while something is not.
const ASKED: usize = 8;
const ASKED_IN_TROUBLE: usize = 24;

impl ClusterWatch {
    pub(crate) fn new(redis: Arc<Redis>, config: &RedisConfig, cx: &Context, is_critical: bool) -> Self {
        let slots = redis.partitions().map(|partition| slot(redis.part(partition).full("").as_bytes()));
        Self {
            slots: slots.collect(),
            redis,
            config: config.clone(),
            cx: cx.clone(),
            redis_component: cx.component("redis", ComponentKind::Datastore, is_critical),
            cluster_component: cx.component("cluster", ComponentKind::Datastore, false),
            nodes: Nodes::new(config),
            seeds: config.nodes.iter().filter_map(|node| node.parse().ok()).collect(),
            map: Map::default(),
            places: Arc::default(),
            agreed: false,
            trouble: "no node of the cluster has answered yet".to_owned(),
            turn: 0,
            soon: Soon::default(),
        }
    }

    /// Asks the nodes that are needed; when one of these is missing, all there may be.
    async fn ask(&mut self) -> Answers {
        let linked: BTreeSet<Address> = self.redis.partitions().filter_map(|p| self.primary(p)).collect();
        let is_whole = self.redis.partitions().all(|partition| self.primary(partition).is_some());
        let mut asked: Vec<Address> = linked.into_iter().collect();
        if is_whole && asked.len() > ASKED {
            self.turn = self.turn.wrapping_add(ASKED) % asked.len();
            asked.rotate_left(self.turn);
            asked.truncate(ASKED);
        } else if !is_whole {
            let known = self.map.addresses();
            // Those that were configured may be all that is left.
            for address in known.into_iter().take(ASKED_IN_TROUBLE / 2).chain(self.seeds.iter().cloned()) {
                if asked.len() < ASKED_IN_TROUBLE && !asked.contains(&address) {
                    asked.push(address);
                }
            }
        }
        self.nodes.ask_all(&asked).await
    }

    fn primary(&self, partition: Partition) -> Option<Address> {
        self.redis.part(partition).primary()
    }

    fn agreement_key(&self) -> String {
        [&self.config.prefix, AGREEMENT].concat()
    }

    /// Begins connections that are missing, and ends those that are not needed.
    fn connect(&self) {
        let mut slots = self.slots.clone();
        if !self.agreed {
            slots.push(slot(self.agreement_key().as_bytes()));
        }
        let owners = slots.iter().filter_map(|slot| self.map.owner(*slot));
        let needed: BTreeSet<Address> = owners.chain(self.map.heirs(&slots)).cloned().collect();
        let mut places = self.places.lock();
        places.retain(|address, _| needed.contains(address));
        for address in needed {
            let place = places.entry(address.clone()).or_insert_with(Place::new);
            place.link.take_if(|link| link.is_closed());
            let too_early = place.not_before.is_some_and(|at| Instant::now() < at);
            if place.link.is_none() && !place.is_opening && !too_early {
                place.is_opening = true;
                self.open(address);
            }
        }
    }

    /// Connects aside: a node that says nothing must not hold up the others.
    fn open(&self, address: Address) {
        let (redis, places) = (Arc::clone(&self.redis), Arc::clone(&self.places));
        let (config, cx) = (self.config.clone(), self.cx.clone());
        self.cx.spawn_work(async move {
            let opened = Link::open(address.clone(), &config, &cx).await;
            if let Some(place) = places.lock().get_mut(&address) {
                place.is_opening = false;
                match opened {
                    Ok(link) => {
                        tracing::info!(%address, "connected to a node of the redis cluster");
                        redis.connected();
                        place.link = Some(Arc::new(link));
                        place.backoff.reset();
                        place.not_before = None;
                        place.trouble.clear();
                    }
                    Err(error) => {
                        place.trouble = error.in_full();
                        place.not_before = Some(Instant::now() + place.backoff.next(rand::random()));
                        return;
                    }
                }
            }
            redis.look_again();
        });
    }

    fn link_to(&self, slot: u16) -> Option<Arc<Link>> {
        let owner = self.map.owner(slot)?;
        let places = self.places.lock();
        places.get(owner)?.link.clone().filter(|link| !link.is_closed())
    }

    /// Leads every partition to the primary that has its slot.
    fn lead(&mut self) {
        self.trouble.clear();
        for partition in self.redis.partitions() {
            let slot = self.slots[partition.index()];
            let link = self.link_to(slot);
            if link.is_none() {
                self.trouble = match self.map.owner(slot) {
                    None => format!("no primary has slot {slot}"),
                    Some(owner) => {
                        let places = self.places.lock();
                        let trouble = places.get(owner).map_or("", |place| place.trouble.as_str());
                        format!("{owner}: {}", if trouble.is_empty() { "not connected" } else { trouble })
                    }
                };
            }
            self.redis.way(partition).lead_to(link.as_ref());
        }
        let places = self.places.lock();
        self.redis.use_links(places.values().filter_map(|place| place.link.clone()).collect());
    }

    /// Makes sure that all processes find the same keys, and the same logs, in the same partitions.
    async fn agree(&mut self) -> Result<(), String> {
        let key = self.agreement_key();
        let owner = slot(key.as_bytes());
        let link = self.link_to(owner).ok_or_else(|| {
            let owner = self.map.owner(owner).map_or_else(|| "nobody".to_owned(), ToString::to_string);
            format!("the number of partitions is not known yet: {owner} has it")
        })?;
        let within = self.config.command_within;
        let ask = async |command: &'static str, arguments: Vec<Value>| {
            let command = CustomCommand::new_static(command, ClusterHash::FirstKey, false);
            let client = link.commands(within);
            let answer = link.run(within, client.custom::<Value, Value>(command, arguments)).await;
            answer.map_err(|error: RedisError| format!("{}: {}", link.address(), error.in_full()))
        };
        let ours = self.config.partitions.to_string();
        ask("SETNX", vec![key.as_str().into(), ours.as_str().into()]).await?;
        let agreed = ask("GET", vec![key.into()]).await?.into_string().unwrap_or_default();
        if agreed != ours {
            return Err(format!("redis.partitions is {ours} here and {agreed} in the cluster"));
        }
        self.agreed = true;
        Ok(())
    }

    /// Asks every primary in use how it is.
    async fn look(&self) -> HashMap<Address, String> {
        let mut first_of: HashMap<Address, Partition> = HashMap::new();
        for partition in self.redis.partitions() {
            if let Some(address) = self.primary(partition) {
                first_of.entry(address).or_insert(partition);
            }
        }
        let ask = first_of.into_iter().map(async |(address, partition)| {
            let info = self.redis.part(partition).info(self.config.command_within).await;
            (address, info)
        });
        let infos = join_all(ask).await.into_iter();
        let infos: HashMap<Address, String> =
            infos.filter_map(|(address, info)| info.ok().map(|info| (address, info))).collect();
        // It has answered for all that it has.
        for partition in self.redis.partitions() {
            if self.primary(partition).is_some_and(|address| infos.contains_key(&address)) {
                self.redis.way(partition).answered();
            }
        }
        infos
    }

    fn view(&self, infos: &HashMap<Address, String>) -> RedisView {
        let ours: Vec<Option<Address>> = self.redis.partitions().map(|p| self.primary(p)).collect();
        let shards = self.map.shards().map(|(address, n_slots, n_replicas)| ShardView {
            address: address.to_string(),
            n_slots,
            n_replicas,
            n_partitions: ours.iter().filter(|ours| ours.as_ref() == Some(address)).count() as u32,
            answers: infos.contains_key(address),
            info: infos.get(address).map(|info| pick_fields(info)).unwrap_or_default(),
        });
        let shards: Vec<ShardView> = shards.collect();
        let served = ours.iter().filter(|ours| ours.as_ref().is_some_and(|ours| infos.contains_key(ours)));
        let cluster = ClusterView {
            n_nodes: self.map.n_nodes() as u32,
            n_failing: self.map.failing().len() as u32,
            n_partitions: ours.len() as u32,
            n_partitions_served: served.count() as u32,
            shards,
        };
        let info =
            put_together(&cluster.shards.iter().filter(|shard| shard.answers).map(|shard| &shard.info));
        RedisView { info, sentinel: None, cluster: Some(cluster) }
    }

    fn report(&self, view: &RedisView, answers: &Answers) {
        let Some(cluster) = &view.cluster else { return };
        let (served, all) = (cluster.n_partitions_served, cluster.n_partitions);
        let component = &self.redis_component;
        component.attribute("mode", self.config.mode.as_str());
        component.attribute("partitions", format!("{served}/{all}"));
        for (attribute, field) in [("version", "redis_version"), ("used_memory_bytes", "used_memory")] {
            component.attribute(attribute, view.info.get(field).map_or("", String::as_str));
        }
        let trouble = if self.trouble.is_empty() { "a primary does not answer" } else { &self.trouble };
        match served {
            0 => component.unhealthy(trouble),
            _ if served < all => {
                component.degraded(format!("{} of {all} partitions out of reach: {trouble}", all - served));
            }
            _ => component.healthy(format!("all {all} partitions are served")),
        }
        let component = &self.cluster_component;
        component.attribute("nodes", cluster.n_nodes.to_string());
        component.attribute("primaries", cluster.shards.len().to_string());
        let failing = self.map.failing();
        if self.map.is_empty() {
            component.unhealthy(answers.troubles());
        } else if failing.is_empty() {
            let (n_nodes, n_shards) = (cluster.n_nodes, cluster.shards.len());
            component.healthy(format!("{n_nodes} nodes, {n_shards} primaries"));
        } else {
            component.degraded(format!("other nodes cannot reach {}", failing.join(", ")));
        }
    }
}

impl Place {
    fn new() -> Self {
        let backoff = Backoff::try_new(Watch::RETRY_FIRST, Watch::EVERY);
        Self {
            link: None,
            is_opening: false,
            backoff: backoff.expect("both are above zero and in order"),
            not_before: None,
            trouble: String::new(),
        }
    }
}

impl Activate for ClusterWatch {
    async fn activate(&mut self) -> anyhow::Result<()> {
        let mut answers = self.ask().await;
        if !answers.views.is_empty() {
            self.map = Map::of(std::mem::take(&mut answers.views));
        }
        self.connect();
        if !self.agreed
            && let Err(trouble) = self.agree().await
        {
            self.trouble = if self.map.is_empty() { answers.troubles() } else { trouble };
        }
        if self.agreed {
            self.lead();
        }
        let infos = self.look().await;
        let view = self.view(&infos);
        self.report(&view, &answers);
        self.redis.saw(view);
        let is_missing = self.redis.partitions().any(|partition| self.primary(partition).is_none());
        self.soon.looked(is_missing, &self.redis, &self.cx);
        // A cluster that is away is the components' news, not a failure of the look.
        Ok(())
    }
}
