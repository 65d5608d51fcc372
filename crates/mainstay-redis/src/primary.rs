use std::sync::Arc;
use std::time::Duration;

use mainstay_resilience::backoff::Backoff;
use mainstay_runtime::{Activate, Component, ComponentKind, Context};
use tokio::time::Instant;

use crate::config::{Address, RedisConfig, RedisMode};
use crate::error::RedisError;
use crate::link::Link;
use crate::redis::Redis;
use crate::sentinel::{Listener, Poll, Sentinels};
use crate::soon::Soon;
use crate::view::{RedisView, SentinelView, pick_fields};
use crate::watch::Watch;

/// Keeps the connection to the one primary: looks where it is, connects, asks how it is, and tells the components.
pub(crate) struct PrimaryWatch {
    redis: Arc<Redis>,
    config: RedisConfig,
    place: Place,
    cx: Context,
    component: Component,
    backoff: Backoff,
    connect_not_before: Option<Instant>,
    /// What `backoff` is for: another address is tried at once.
    tried: Option<Address>,
    last_trouble: String,
    /// A fixed address leads to a replica: behind it may be another server by now.
    look_behind_address: bool,
    /// It answers, and takes no writes: any other server that is named is better.
    is_replica: bool,
    ahead: Option<Ahead>,
    soon: Soon,
}

/// A replica that an elected Sentinel has made the primary, and not announced yet.
struct Ahead {
    promoted: Address,
    /// What the Sentinels still name.
    instead_of: Option<Address>,
    until: Instant,
}

/// Where the primary is.
enum Place {
    Fixed(Address),
    Named { sentinels: Box<Sentinels>, component: Component },
}

impl PrimaryWatch {
    /// While a server is waited for, the Sentinels are asked this often whether it still is the primary.
    const ASK_AGAIN_EVERY: Duration = Duration::from_millis(100);
    /// A Sentinel looks once a second whether its order was carried out, and then tells the others.
    const ANNOUNCED_WITHIN: Duration = Duration::from_secs(10);

    pub(crate) fn new(redis: Arc<Redis>, config: &RedisConfig, cx: &Context, is_critical: bool) -> Self {
        let place = match config.mode {
            RedisMode::Sentinel => {
                let component = cx.component("sentinel", ComponentKind::Datastore, false);
                let sentinels = Box::new(Sentinels::new(config));
                for listener in Listener::of_all(&sentinels, &redis) {
                    cx.spawn("redis.sentinel", listener.run(cx.stopping()));
                }
                Place::Named { sentinels, component }
            }
            _ => Place::Fixed(config.address.parse().expect("checked with the configuration")),
        };
        let component = cx.component("redis", ComponentKind::Datastore, is_critical);
        let backoff =
            Backoff::try_new(Watch::RETRY_FIRST, Watch::EVERY).expect("both are above zero and in order");
        Self {
            redis,
            config: config.clone(),
            place,
            cx: cx.clone(),
            component,
            backoff,
            connect_not_before: None,
            tried: None,
            last_trouble: "not connected yet".to_owned(),
            look_behind_address: false,
            is_replica: false,
            ahead: None,
            soon: Soon::default(),
        }
    }

    async fn find_primary(&mut self) -> (Option<Address>, Option<SentinelView>) {
        match &self.place {
            Place::Fixed(address) => (Some(address.clone()), None),
            Place::Named { sentinels, component } => {
                let started = Instant::now();
                let (poll, target) = self.ask(sentinels).await;
                component.latency(started.elapsed());
                report_sentinels(component, &poll);
                let master = poll.favourite().map(|(master, _)| master.to_string()).unwrap_or_default();
                let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
                let (n_configured, n_reachable) = (count(poll.n_asked()), count(poll.n_reachable()));
                let view = SentinelView { master, n_configured, n_reachable };
                if let Some(promoted) = poll.promoted() {
                    self.ahead = Some(Ahead {
                        promoted: promoted.clone(),
                        instead_of: poll.favourite().map(|(named, _)| named.clone()),
                        until: Instant::now() + Self::ANNOUNCED_WITHIN,
                    });
                }
                (target, Some(view))
            }
        }
    }

    /// Asks the Sentinels, and says which server to be connected to.
    async fn ask(&self, sentinels: &Sentinels) -> (Poll, Option<Address>) {
        let working = || self.redis.first().primary().filter(|_| !self.is_replica);
        let poll = sentinels.ask_all(working().is_none()).await;
        let target = match (working(), &self.ahead) {
            // Nothing is left to lose: the old primary does not answer, and an elected Sentinel has chosen the new one.
            (None, _) => poll.promoted().cloned().or_else(|| poll.decide(None)),
            (Some(working), Some(ahead)) if ahead.explains(&working, &poll) => Some(working),
            (working @ Some(_), _) => poll.decide(working.as_ref()),
        };
        (poll, target)
    }

    /// Ends when the Sentinels come to want another server; never in mode `single`. A server that says nothing may be
    /// waited for in vain.
    async fn moves_from(&self, address: &Address) {
        let Place::Named { sentinels, .. } = &self.place else { return std::future::pending().await };
        loop {
            tokio::time::sleep(Self::ASK_AGAIN_EVERY).await;
            let (_, target) = self.ask(sentinels).await;
            if target.is_some_and(|target| target != *address) {
                return;
            }
        }
    }

    /// Connects; gives none for a replica that has yet to become the primary.
    async fn open(&self, primary: &Address) -> Result<Option<Link>, RedisError> {
        let link = Link::open(primary.clone(), &self.config, &self.cx).await?;
        let is_ahead = self.ahead.as_ref().is_some_and(|ahead| ahead.is_at(primary));
        Ok(if is_ahead && !link.is_primary().await? { None } else { Some(link) })
    }

    /// Connects to `primary` unless that is done; waits ever longer between attempts that fail.
    async fn connect(&mut self, primary: Option<&Address>) {
        let Some(primary) = primary else {
            "no Sentinel names a primary".clone_into(&mut self.last_trouble);
            return;
        };
        let connected = self.redis.first().primary().as_ref() == Some(primary);
        if self.tried.as_ref() != Some(primary) {
            self.tried = Some(primary.clone());
            self.backoff.reset();
            self.connect_not_before = None;
        }
        let too_early = self.connect_not_before.is_some_and(|at| Instant::now() < at);
        if too_early || (connected && !self.look_behind_address) {
            return;
        }
        let opened = tokio::select! {
            opened = self.open(primary) => opened,
            () = self.moves_from(primary) => {
                self.redis.look_again();
                return;
            }
        };
        match opened {
            Ok(Some(link)) => {
                if !connected {
                    tracing::info!(address = %primary, "connected to redis");
                }
                self.redis.use_link(Some(Arc::new(link)));
                self.backoff.reset();
                self.connect_not_before = None;
            }
            Ok(None) => {
                self.last_trouble = format!("{primary} is about to become the primary");
                self.connect_not_before = Some(Instant::now() + Watch::RETRY_FIRST);
            }
            Err(error) => {
                self.last_trouble = format!("{primary}: {}", error.in_full());
                if !connected {
                    // The old connection, if it lives, leads to a server that is no longer the primary.
                    self.redis.use_link(None);
                }
                self.connect_not_before = Some(Instant::now() + self.backoff.next(rand::random()));
            }
        }
    }

    async fn look(&mut self) -> Option<String> {
        let started = Instant::now();
        let address = self.redis.first().primary()?;
        let answer = tokio::select! {
            answer = self.redis.first().info(self.config.command_within) => answer,
            () = self.moves_from(&address) => {
                self.redis.look_again();
                return None;
            }
        };
        match answer {
            Ok(info) => {
                self.component.latency(started.elapsed());
                Some(info)
            }
            Err(RedisError::NotConnected) => None,
            Err(error) => {
                self.last_trouble = error.in_full();
                None
            }
        }
    }

    fn report(&self, view: &RedisView) {
        let component = &self.component;
        let address = self.redis.first().primary().map(|address| address.to_string()).unwrap_or_default();
        component.attribute("mode", self.config.mode.as_str());
        component.attribute("address", address.as_str());
        for (attribute, field) in ATTRIBUTES {
            component.attribute(attribute, view.info.get(field).map_or("", String::as_str));
        }
        let role = view.info.get("role").map(String::as_str);
        match role {
            None => component.unhealthy(self.last_trouble.as_str()),
            Some("master") => component.healthy(format!("{address} answers")),
            Some(_) => component.degraded(format!("{address} is a replica and refuses writes")),
        }
    }
}

impl Ahead {
    /// Tells whether the Sentinels name another server than the working one only because they are behind.
    fn explains(&self, working: &Address, poll: &Poll) -> bool {
        let named = poll.favourite().map(|(named, _)| named);
        self.is_at(working) && named == self.instead_of.as_ref()
    }

    fn is_at(&self, address: &Address) -> bool {
        self.promoted == *address && Instant::now() < self.until
    }
}

/// Attributes of the component, and the fields of INFO they show.
const ATTRIBUTES: [(&str, &str); 5] = [
    ("role", "role"),
    ("version", "redis_version"),
    ("connected_replicas", "connected_slaves"),
    ("used_memory_bytes", "used_memory"),
    ("max_memory_bytes", "maxmemory"),
];

impl Activate for PrimaryWatch {
    async fn activate(&mut self) -> anyhow::Result<()> {
        let (primary, sentinel) = self.find_primary().await;
        self.connect(primary.as_ref()).await;
        let info = self.look().await;
        let is_replica = info.as_deref().is_some_and(|info| info.contains("role:slave"));
        self.is_replica = is_replica;
        self.look_behind_address = is_replica && matches!(self.place, Place::Fixed(_));
        let view =
            RedisView { info: info.as_deref().map(pick_fields).unwrap_or_default(), sentinel, cluster: None };
        self.report(&view);
        self.redis.saw(view);
        let is_missing = is_replica || self.redis.first().primary().is_none();
        self.soon.looked(is_missing, &self.redis, &self.cx);
        // A Redis that is away is the component's news, not a failure of the look.
        Ok(())
    }
}

fn report_sentinels(component: &Component, poll: &Poll) {
    let (n_asked, n_reachable) = (poll.n_asked(), poll.n_reachable());
    let favourite = poll.favourite();
    component.attribute("reachable", format!("{n_reachable}/{n_asked}"));
    component.attribute("master", favourite.map(|(master, _)| master.to_string()).unwrap_or_default());
    match favourite {
        None => component.unhealthy(poll.troubles()),
        Some((master, n_votes)) if n_votes < n_reachable => {
            component
                .degraded(format!("{n_votes} of {n_reachable} name {master}, the others another server"));
        }
        Some(_) if n_reachable < n_asked => component.degraded(poll.troubles()),
        Some((master, _)) => component.healthy(format!("all {n_asked} name {master}")),
    }
}
