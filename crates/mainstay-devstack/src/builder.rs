//! Collects what a stack consists of, and starts it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    Component, Devstack, Error, MissingPrograms,
    credentials::Credentials,
    demo,
    devstack::Parts,
    guard::Guard,
    layout::{Layout, Wishes, endpoints},
    manifest::Manifest,
    node::Node,
    ports::Ports,
    postgres::setup::PostgresPlan,
    programs::{Programs, Wanted, find_in, places},
    redis::MinReplicas,
    run_as::{RunAs, first_closed_ancestor},
    services::{Service, ServicePlan, Surroundings},
    stack_dir::{self, StackDir},
};

type Progress = Arc<dyn Fn(&str) + Send + Sync>;

/// Collects what a stack consists of. Nothing is on unless asked for.
#[derive(Clone, Default)]
pub struct Builder {
    dir: Option<PathBuf>,
    wishes: Wishes,
    bin_dir: Option<PathBuf>,
    extra_env: Vec<(Service, String, String)>,
    progress: Option<Progress>,
}

impl Builder {
    /// Uses this directory, new, empty or of an earlier stack, and keeps it afterwards. Without it a new one is made
    /// below the system's temporary directory and removed at the end.
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    pub fn ports(mut self, ports: Ports) -> Self {
        self.wishes.ports = ports;
        self
    }

    /// Starts Redis primary, replica and three Sentinels.
    pub fn redis(mut self, on: bool) -> Self {
        self.wishes.redis = on;
        self
    }

    /// Starts a Redis Cluster of three primaries with a replica each, beside or without the other Redis.
    pub fn redis_cluster(mut self, on: bool) -> Self {
        self.wishes.redis_cluster = on;
        self
    }

    pub fn min_replicas(mut self, min_replicas: MinReplicas) -> Self {
        self.wishes.min_replicas = min_replicas;
        self
    }

    /// Lets Redis write an append-only file (default: off).
    pub fn append_only(mut self, on: bool) -> Self {
        self.wishes.append_only = on;
        self
    }

    /// Sets how long a Redis server may be silent before a Sentinel thinks it dead (default: 1 s).
    pub fn down_after(mut self, silence: Duration) -> Self {
        self.wishes.down_after = Some(silence);
        self
    }

    /// Starts a PostgreSQL primary and two replicas.
    pub fn postgres(mut self, on: bool) -> Self {
        self.wishes.postgres = on;
        self
    }

    /// Puts a PgBouncer in front of each PostgreSQL server.
    pub fn pgbouncer(mut self, on: bool) -> Self {
        self.wishes.pgbouncer = on;
        self
    }

    /// Lets the clock of one PostgreSQL server (0 is the primary) go wrong by so many seconds: ahead, or behind if negative.
    pub fn clock(mut self, server: usize, ahead_s: i32) -> Self {
        self.wishes.clocks.insert(server, ahead_s);
        self
    }

    /// Lets PostgreSQL wait for the disk (default: off, which only a crash of the machine would notice).
    pub fn fsync(mut self, on: bool) -> Self {
        self.wishes.fsync = on;
        self
    }

    /// Fills the database with [`demo`](mod@crate::demo) data.
    pub fn demo_data(mut self, on: bool) -> Self {
        self.wishes.demo_data = on;
        self
    }

    pub fn services(mut self, services: impl IntoIterator<Item = Service>) -> Self {
        self.wishes.services = services.into_iter().collect();
        self
    }

    /// Takes the binaries of the services from here (default: beside the running program, or one level above `deps`).
    pub fn bin_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.bin_dir = Some(dir.into());
        self
    }

    /// Sets one more variable for a service, such as `MAINSTAY__MEMORY__CAPACITY`; it wins over the stack's own.
    pub fn env(mut self, service: Service, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.extra_env.push((service, key.into(), value.into()));
        self
    }

    /// Lets the services export spans to this OTLP/gRPC endpoint.
    pub fn otlp_endpoint(mut self, url: impl Into<String>) -> Self {
        self.wishes.otlp_endpoint = Some(url.into());
        self
    }

    /// Puts a [`ChaosProxy`](crate::ChaosProxy) in front of a component and points everybody else at the proxy.
    pub fn proxied(mut self, component: Component) -> Self {
        self.wishes.proxied.insert(component);
        self
    }

    /// Tells each step as it ends, in one line.
    pub fn on_progress(mut self, tell: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.progress = Some(Arc::new(tell));
        self
    }

    /// Starts everything and waits until it is ready. Dropping the future ends what had been started.
    pub async fn start(self) -> Result<Devstack, Error> {
        let began = Instant::now();
        let (programs, binaries) = self.find_programs()?;
        let base = stack_dir::base()?;
        let dir = match &self.dir {
            Some(dir) => StackDir::named(dir)?,
            None => StackDir::ephemeral(&base)?,
        };
        let run_as = if self.wishes.postgres { self.check_postgres_user(&dir.path)? } else { None };
        let logs = dir.path.join("logs");
        std::fs::create_dir_all(&logs).map_err(Error::io(format!("create {}", logs.display())))?;
        let manifest = Arc::new(Manifest::create(&dir.path).map_err(Error::io("create the manifest"))?);
        // From here on every way out drops the guard, which ends what was started.
        let guard = Guard::start(&dir.path, dir.ephemeral, &manifest)?;
        let mut layout = Layout::new(&self.wishes, &base)?;
        let credentials = Credentials::random();

        let redis = match layout.redis_plan(&dir.path, &credentials)? {
            Some(plan) => Some(plan.build(&programs, &manifest)?),
            None => None,
        };
        let redis_cluster = match layout.redis_cluster_plan(&dir.path, &credentials)? {
            Some(plan) => Some(plan.build(&programs, &manifest)?),
            None => None,
        };
        let postgres_plan = layout.postgres_plan(&dir.path, &credentials, run_as)?;
        let postgres = match &postgres_plan {
            Some(plan) => Some(plan.build(&programs, &manifest)?),
            None => None,
        };
        let mut around = layout.surroundings(redis.as_ref(), postgres.as_ref(), &credentials)?;
        if let Some(cluster) = &redis_cluster {
            around.cluster = cluster.nodes().iter().map(|node| node.address()).collect();
        }
        let services = self.build_services(&dir.path, binaries, &around, &manifest)?;
        let endpoints = endpoints(&dir.path, redis.as_ref(), postgres.as_ref(), &services, &around);
        let Layout { claims, proxies, .. } = layout;
        let stack = Devstack::new(Parts {
            redis,
            redis_cluster,
            postgres,
            services,
            proxies,
            endpoints,
            guard,
            dir,
            claims,
        });

        self.start_parts(&stack, postgres_plan.as_ref(), &programs).await?;
        stack.endpoints().write()?;
        self.tell(&format!("ready in {:.1} s", began.elapsed().as_secs_f64()));
        Ok(stack)
    }

    async fn start_parts(
        &self,
        stack: &Devstack,
        postgres_plan: Option<&PostgresPlan>,
        programs: &Programs,
    ) -> Result<(), Error> {
        // Services could go first, they live with everything else missing; but then every run would begin with the
        // alerts of its own start.
        tokio::try_join!(
            Box::pin(self.start_redis(stack)),
            Box::pin(self.start_redis_cluster(stack)),
            self.start_postgres(stack, postgres_plan, programs)
        )?;
        for service in stack.services() {
            service.launch()?;
        }
        for service in stack.services() {
            let began = Instant::now();
            service.wait_ready().await?;
            let waited = began.elapsed().as_secs_f64();
            self.tell(&format!("{}: {}, ready {waited:.1} s later", service.name(), service.address()));
        }
        Ok(())
    }

    async fn start_redis(&self, stack: &Devstack) -> Result<(), Error> {
        let Some(redis) = stack.redis() else { return Ok(()) };
        let began = Instant::now();
        redis.start().await?;
        let [primary, replica] = redis.nodes().each_ref().map(crate::RedisNode::public_address);
        let n_sentinels = redis.sentinels().len();
        let took = began.elapsed().as_secs_f64();
        self.tell(&format!(
            "redis: primary {primary}, replica {replica}, {n_sentinels} sentinels, ready in {took:.1} s"
        ));
        Ok(())
    }

    async fn start_redis_cluster(&self, stack: &Devstack) -> Result<(), Error> {
        let Some(cluster) = stack.redis_cluster() else { return Ok(()) };
        let began = Instant::now();
        cluster.start().await?;
        let (n_nodes, took) = (cluster.nodes().len(), began.elapsed().as_secs_f64());
        self.tell(&format!("redis cluster: {n_nodes} nodes, ready in {took:.1} s"));
        Ok(())
    }

    async fn start_postgres(
        &self,
        stack: &Devstack,
        plan: Option<&PostgresPlan>,
        programs: &Programs,
    ) -> Result<(), Error> {
        let (Some(postgres), Some(plan)) = (stack.postgres(), plan) else { return Ok(()) };
        let began = Instant::now();
        plan.start(postgres, programs).await?;
        let took = began.elapsed().as_secs_f64();
        let name = |node: &crate::PostgresNode| format!("{} {}", node.short_name(), node.public_address());
        let nodes = postgres.nodes().iter().map(name).collect::<Vec<_>>().join(", ");
        let bouncers = if self.wishes.pgbouncer { ", a pgbouncer each" } else { "" };
        self.tell(&format!("postgres: {nodes}{bouncers}, ready in {took:.1} s"));
        if self.wishes.demo_data {
            let began = Instant::now();
            demo::fill(postgres, &plan.credentials.postgres_password).await?;
            self.tell(&format!("demo data: filled in {:.1} s", began.elapsed().as_secs_f64()));
        }
        Ok(())
    }

    fn find_programs(&self) -> Result<(Programs, BTreeMap<Service, PathBuf>), Error> {
        let wanted = Wanted {
            redis: self.wishes.redis || self.wishes.redis_cluster,
            postgres: self.wishes.postgres,
            pgbouncer: self.wishes.postgres && self.wishes.pgbouncer,
            libfaketime: self.wishes.postgres && !self.wishes.clocks.is_empty(),
        };
        let programs = Programs::find(wanted, &places());
        let bin_dirs = self.bin_dir.clone().map_or_else(default_bin_dirs, |dir| vec![dir]);
        let mut binaries = BTreeMap::new();
        let mut missing = Vec::new();
        for service in &self.wishes.services {
            match find_in(&bin_dirs, service.name()) {
                Some(path) => drop(binaries.insert(*service, path)),
                None => {
                    missing.push((service.name().to_owned(), bin_dirs.first().cloned().unwrap_or_default()))
                }
            }
        }
        match programs {
            Ok(programs) if missing.is_empty() => Ok((programs, binaries)),
            Ok(_) => Err(MissingPrograms { programs: Vec::new(), binaries: missing }.into()),
            Err(error) => Err(MissingPrograms { binaries: missing, ..error }.into()),
        }
    }

    fn check_postgres_user(&self, dir: &Path) -> Result<Option<RunAs>, Error> {
        let run_as = RunAs::choose()?;
        match first_closed_ancestor(dir) {
            Some(closed) if run_as.is_some() => Err(Error::DirClosed { dir: dir.to_path_buf(), closed }),
            _ => Ok(run_as),
        }
    }

    fn build_services(
        &self,
        dir: &Path,
        binaries: BTreeMap<Service, PathBuf>,
        around: &Surroundings,
        manifest: &Arc<Manifest>,
    ) -> Result<BTreeMap<Service, Node>, Error> {
        let build = |(service, binary)| {
            let extra = self
                .extra_env
                .iter()
                .filter(|(whose, ..)| *whose == service)
                .map(|(_, key, value)| (key.clone(), value.clone()))
                .collect();
            let plan = ServicePlan { dir, binary, service, around, extra, manifest };
            Ok((service, plan.build()?))
        };
        binaries.into_iter().map(build).collect()
    }

    fn tell(&self, line: &str) {
        if let Some(tell) = &self.progress {
            tell(line);
        }
    }
}

/// Looks beside the running program, and above it: tests run in `target/debug/deps`.
fn default_bin_dirs() -> Vec<PathBuf> {
    let Ok(program) = std::env::current_exe() else { return Vec::new() };
    let Some(dir) = program.parent() else { return Vec::new() };
    let above = dir.parent().filter(|_| dir.ends_with("deps")).map(Path::to_path_buf);
    above.into_iter().chain([dir.to_path_buf()]).collect()
}
