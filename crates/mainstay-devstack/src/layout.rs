//! Who listens where, and which of them stand behind a proxy.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::Path,
    process,
    time::Duration,
};

use crate::{
    Bouncer, ChaosProxy, Error, PostgresNode, RedisNode,
    credentials::Credentials,
    endpoints::{Endpoints, PostgresEndpoint, PostgresEndpoints, RedisEndpoints},
    node::Node,
    ports::{PortClaims, Ports, local},
    postgres::{
        DATABASE, N_REPLICAS, Postgres, SERVICE_ROLE,
        setup::{NodePlan, PostgresPlan},
    },
    redis::{DOWN_AFTER, MinReplicas, N_SENTINELS, Redis, RedisPlan},
    redis_cluster::RedisClusterPlan,
    run_as::RunAs,
    services::{Service, ServiceAddress, Surroundings},
};

/// Names a place where a [`ChaosProxy`] can stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Component {
    /// In front of the first primary, for everybody: services, replica and Sentinels. Sentinel tells clients the
    /// address of the proxy, so cutting it takes the node off the net.
    RedisPrimary,
    /// The same for the first replica.
    RedisReplica,
    /// In front of one Sentinel, for clients.
    Sentinel(usize),
    /// In front of one PostgreSQL server (0 is the primary), for services and PgBouncer; replication passes beside.
    Postgres(usize),
    /// In front of the PgBouncer of one server.
    PgBouncer(usize),
    /// Between the primary and one replica (1 or 2): only its WAL stream.
    Replication(usize),
    /// In front of the internal port of a service, for the other services.
    Service(Service),
}

const REDIS_PORT: u16 = 6390;
const SENTINEL_PORT: u16 = 26_390;
const POSTGRES_PORT: u16 = 5440;
const PGBOUNCER_PORT: u16 = 6440;

/// What a stack consists of; nothing unless asked for.
#[derive(Clone, Default)]
pub(crate) struct Wishes {
    pub(crate) ports: Ports,
    pub(crate) redis: bool,
    pub(crate) redis_cluster: bool,
    pub(crate) min_replicas: MinReplicas,
    pub(crate) append_only: bool,
    pub(crate) down_after: Option<Duration>,
    pub(crate) postgres: bool,
    pub(crate) pgbouncer: bool,
    /// PostgreSQL servers whose clocks are wrong, and by how many seconds.
    pub(crate) clocks: BTreeMap<usize, i32>,
    pub(crate) fsync: bool,
    pub(crate) demo_data: bool,
    pub(crate) services: BTreeSet<Service>,
    pub(crate) otlp_endpoint: Option<String>,
    pub(crate) proxied: BTreeSet<Component>,
}

/// Hands out ports and proxies.
pub(crate) struct Layout<'a> {
    wishes: &'a Wishes,
    pub(crate) claims: PortClaims,
    pub(crate) proxies: BTreeMap<Component, ChaosProxy>,
}

impl<'a> Layout<'a> {
    pub(crate) fn new(wishes: &'a Wishes, base: &Path) -> Result<Self, Error> {
        Ok(Self { wishes, claims: PortClaims::new(wishes.ports, base)?, proxies: BTreeMap::new() })
    }

    /// Claims an address to listen on, and one for others, which is a proxy where asked for.
    fn place(
        &mut self,
        fixed: u16,
        name: &str,
        component: Component,
    ) -> Result<(SocketAddr, SocketAddr), Error> {
        if !self.wishes.proxied.contains(&component) {
            let address = self.claims.claim(fixed, name)?;
            return Ok((address, address));
        }
        // People look for the part on the fixed port: the proxy gets it.
        let public = self.claims.claim(fixed, name)?;
        let listen = self.claims.claim_free()?;
        let proxy = ChaosProxy::start_on(public, listen)?;
        self.proxies.insert(component, proxy);
        Ok((listen, public))
    }

    pub(crate) fn redis_plan(
        &mut self,
        dir: &Path,
        credentials: &Credentials,
    ) -> Result<Option<RedisPlan>, Error> {
        if !self.wishes.redis {
            return Ok(None);
        }
        let nodes = [
            self.place(REDIS_PORT, "redis primary", Component::RedisPrimary)?,
            self.place(REDIS_PORT + 1, "redis replica", Component::RedisReplica)?,
        ];
        let sentinels = (0..N_SENTINELS)
            .map(|index| {
                let port = SENTINEL_PORT + index as u16;
                self.place(port, &format!("sentinel {index}"), Component::Sentinel(index))
            })
            .collect::<Result<_, _>>()?;
        Ok(Some(RedisPlan {
            dir: dir.to_path_buf(),
            nodes,
            sentinels,
            password: credentials.redis_password.clone(),
            min_replicas: self.wishes.min_replicas,
            append_only: self.wishes.append_only,
            down_after: self.wishes.down_after.unwrap_or(DOWN_AFTER),
        }))
    }

    /// Gives the nodes any free ports: nobody is told where they are but by the stack.
    pub(crate) fn redis_cluster_plan(
        &mut self,
        dir: &Path,
        credentials: &Credentials,
    ) -> Result<Option<RedisClusterPlan>, Error> {
        if !self.wishes.redis_cluster {
            return Ok(None);
        }
        let mut nodes = Vec::new();
        for _ in 0..RedisClusterPlan::N_NODES {
            nodes.push((self.claims.claim_free()?, self.claims.claim_free()?));
        }
        let (dir, password) = (dir.to_path_buf(), credentials.redis_password.clone());
        Ok(Some(RedisClusterPlan { dir, nodes, password }))
    }

    pub(crate) fn postgres_plan(
        &mut self,
        dir: &Path,
        credentials: &Credentials,
        run_as: Option<RunAs>,
    ) -> Result<Option<PostgresPlan>, Error> {
        if !self.wishes.postgres {
            return Ok(None);
        }
        let mut nodes: Vec<NodePlan> = Vec::new();
        for index in 0..=N_REPLICAS {
            let name = if index == 0 { "primary".to_owned() } else { format!("replica{index}") };
            let port = POSTGRES_PORT + index as u16;
            let (listen, public) =
                self.place(port, &format!("postgres {name}"), Component::Postgres(index))?;
            let mut upstream = nodes.first().map_or(listen, |primary| primary.listen);
            if index > 0 && self.wishes.proxied.contains(&Component::Replication(index)) {
                let proxy = ChaosProxy::start_on(self.claims.claim_free()?, upstream)?;
                upstream = proxy.address();
                self.proxies.insert(Component::Replication(index), proxy);
            }
            let bouncer = if self.wishes.pgbouncer {
                let port = PGBOUNCER_PORT + index as u16;
                let wanted_by = format!("pgbouncer of {name}");
                Some(self.place(port, &wanted_by, Component::PgBouncer(index))?)
            } else {
                None
            };
            let clock_ahead_s = self.wishes.clocks.get(&index).copied();
            nodes.push(NodePlan { name, listen, public, upstream, bouncer, clock_ahead_s });
        }
        let dir = dir.to_path_buf();
        Ok(Some(PostgresPlan {
            dir,
            nodes,
            credentials: credentials.clone(),
            run_as,
            fsync: self.wishes.fsync,
        }))
    }

    /// Gives each service an address, started or not, so that a test can run one of its own there.
    pub(crate) fn surroundings(
        &mut self,
        redis: Option<&Redis>,
        postgres: Option<&Postgres>,
        credentials: &Credentials,
    ) -> Result<Surroundings, Error> {
        let mut services = BTreeMap::new();
        for service in Service::ALL {
            let (fixed, outer) = service.fixed_ports();
            let address = if self.wishes.services.contains(&service) || self.wishes.ports == Ports::Free {
                let (internal, internal_public) =
                    self.place(fixed, service.name(), Component::Service(service))?;
                let outer = outer.map(|port| self.claims.claim(port, service.name())).transpose()?;
                ServiceAddress { internal, internal_public, outer }
            } else {
                // A fixed port that nobody here listens on may belong to anybody.
                let internal = local(fixed);
                ServiceAddress { internal, internal_public: internal, outer: outer.map(local) }
            };
            services.insert(service, address);
        }
        let node = |node: &PostgresNode| {
            let bouncer = node.bouncer().map(Bouncer::public_address);
            (node.short_name().to_owned(), node.public_address(), bouncer)
        };
        Ok(Surroundings {
            services,
            running: self.wishes.services.clone(),
            sentinels: redis.map(|redis| redis.sentinel_addresses().to_vec()).unwrap_or_default(),
            cluster: Vec::new(),
            postgres: postgres
                .map(|postgres| postgres.nodes().iter().map(node).collect())
                .unwrap_or_default(),
            demo_data: self.wishes.postgres && self.wishes.demo_data,
            credentials: credentials.clone(),
            otlp_endpoint: self.wishes.otlp_endpoint.clone(),
        })
    }
}

pub(crate) fn endpoints(
    dir: &Path,
    redis: Option<&Redis>,
    postgres: Option<&Postgres>,
    services: &BTreeMap<Service, Node>,
    around: &Surroundings,
) -> Endpoints {
    let credentials = around.credentials.clone();
    let redis = redis.map(|redis| {
        let nodes = redis.nodes().each_ref().map(RedisNode::public_address);
        RedisEndpoints::new(nodes, redis.sentinel_addresses(), redis.password())
    });
    let postgres = postgres.map(|_| {
        let nodes = around.postgres.iter().map(|(name, address, bouncer)| {
            PostgresEndpoint::new(name, *address, *bouncer, &credentials.postgres_password)
        });
        PostgresEndpoints {
            database: DATABASE.to_owned(),
            user: SERVICE_ROLE.to_owned(),
            nodes: nodes.collect(),
        }
    });
    let services =
        services.keys().map(|service| (service.name().to_owned(), around.services[service])).collect();
    Endpoints { dir: dir.to_path_buf(), pid: process::id(), redis, postgres, services, credentials }
}
