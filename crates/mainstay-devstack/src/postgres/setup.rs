//! Makes the three servers and their PgBouncers, and starts them.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use futures_util::future::try_join_all;
use rustix::process::Signal;

use super::{
    Bouncer, DATABASE, MONITOR_ROLE, Postgres, PostgresNode, REPLICATOR_ROLE, SERVICE_ROLE, SUPERUSER, sql,
};
use crate::{
    Error,
    credentials::Credentials,
    manifest::{Kind, Manifest},
    node::{Node, NodeParams},
    probe::Probe,
    process::{self, Launch},
    programs::Programs,
    run_as::RunAs,
    stack_dir::write_private,
    wait::wait_until,
};

const READY_WITHIN: Duration = Duration::from_mins(2);
const ROLES_WITHIN: Duration = Duration::from_mins(2);
const STREAMING_WITHIN: Duration = Duration::from_mins(2);
const LOOK_EVERY: Duration = Duration::from_millis(10);

pub(crate) struct PostgresPlan {
    pub(crate) dir: PathBuf,
    /// The primary first.
    pub(crate) nodes: Vec<NodePlan>,
    pub(crate) credentials: Credentials,
    pub(crate) run_as: Option<RunAs>,
    /// Waits for the disk at each commit; off loses data when the machine dies, not when a process does.
    pub(crate) fsync: bool,
}

pub(crate) struct NodePlan {
    pub(crate) name: String,
    pub(crate) listen: SocketAddr,
    pub(crate) public: SocketAddr,
    /// Where this replica reaches the primary for WAL.
    pub(crate) upstream: SocketAddr,
    /// Where PgBouncer listens and where clients reach it.
    pub(crate) bouncer: Option<(SocketAddr, SocketAddr)>,
    /// How many seconds its clock is ahead.
    pub(crate) clock_ahead_s: Option<i32>,
}

impl PostgresPlan {
    pub(crate) fn build(&self, programs: &Programs, manifest: &Arc<Manifest>) -> Result<Postgres, Error> {
        let nodes =
            self.nodes.iter().map(|node| self.node(node, programs, manifest)).collect::<Result<_, _>>()?;
        Ok(Postgres { nodes })
    }

    /// Makes and starts everything; returns when both replicas stream and every PgBouncer takes queries.
    pub(crate) async fn start(&self, postgres: &Postgres, programs: &Programs) -> Result<(), Error> {
        let primary = postgres.first_primary();
        self.init_primary(programs).await?;
        primary.start().await?;
        self.make_roles(primary).await?;
        let replicas = postgres.first_replicas().iter().zip(&self.nodes[1..]);
        let starts = replicas.map(|(node, plan)| async move {
            self.copy_primary(plan, programs).await?;
            node.start().await
        });
        try_join_all(starts).await?;
        self.wait_streaming(primary).await?;
        for bouncer in postgres.nodes().iter().filter_map(PostgresNode::bouncer) {
            bouncer.launch()?;
        }
        for bouncer in postgres.nodes().iter().filter_map(PostgresNode::bouncer) {
            bouncer.wait_ready().await?;
        }
        Ok(())
    }

    fn node(
        &self,
        plan: &NodePlan,
        programs: &Programs,
        manifest: &Arc<Manifest>,
    ) -> Result<PostgresNode, Error> {
        let home = self.home(plan);
        self.make_dir(&self.dir.join("postgres"))?;
        self.make_dir(&home)?;
        let superuser =
            sql::config(plan.listen, DATABASE, SUPERUSER, &self.credentials.postgres_superuser_password);
        let mut first_look = superuser.clone();
        // The database of the services does not exist yet when the primary starts for the first time.
        first_look.dbname("postgres");
        let node = Node::new(NodeParams {
            launch: Launch {
                name: format!("postgres-{}", plan.name),
                kind: Kind::Postgres,
                program: programs.postgres.clone(),
                args: vec!["-D".to_owned(), home.join("data").display().to_string()],
                envs: plan.clock_ahead_s.map_or_else(Vec::new, |ahead_s| clock(ahead_s, programs)),
                run_as: self.run_as,
                dir: home.clone(),
                log: self.log(&format!("postgres-{}", plan.name)),
                data: Some(home.join("data")),
            },
            probe: Probe::Postgres(Box::new(first_look)),
            address: plan.listen,
            // Fast shutdown: sessions are ended, a checkpoint is written.
            stop_signal: Signal::INT,
            ready_within: READY_WITHIN,
            manifest: Arc::clone(manifest),
        });
        let bouncer = match plan.bouncer {
            Some((listen, public)) => {
                let node = self.bouncer(plan, listen, programs, manifest)?;
                Some(Bouncer { node, public })
            }
            None => None,
        };
        Ok(PostgresNode { node, public: plan.public, bouncer, superuser })
    }

    fn home(&self, plan: &NodePlan) -> PathBuf {
        self.dir.join("postgres").join(&plan.name)
    }

    fn data(&self, plan: &NodePlan) -> PathBuf {
        self.home(plan).join("data")
    }

    fn log(&self, name: &str) -> PathBuf {
        self.dir.join("logs").join(format!("{name}.log"))
    }

    /// Makes a directory for the user that runs PostgreSQL, and only for it.
    fn make_dir(&self, path: &Path) -> Result<(), Error> {
        let step = || format!("create {}", path.display());
        fs::create_dir_all(path).map_err(Error::io(step()))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(Error::io(step()))?;
        self.give(path)
    }

    fn give(&self, path: &Path) -> Result<(), Error> {
        self.run_as
            .map_or(Ok(()), |run_as| run_as.own(path))
            .map_err(Error::io(format!("give {} to the user that runs PostgreSQL", path.display())))
    }

    async fn init_primary(&self, programs: &Programs) -> Result<(), Error> {
        let plan = &self.nodes[0];
        let password_file = self.home(plan).join("superuser.password");
        write_private(&password_file, &self.credentials.postgres_superuser_password)
            .map_err(Error::io("write the password file of initdb"))?;
        self.give(&password_file)?;
        let mut initdb = Command::new(&programs.initdb);
        initdb
            .args(["--no-sync", "--no-instructions", "--encoding=UTF8", "--locale=C", "--auth-local=trust"])
            .args(["--auth-host=scram-sha-256", "--username", SUPERUSER, "--pwfile"])
            .arg(&password_file)
            .arg("-D")
            .arg(self.data(plan));
        process::run("initialise the primary", initdb, self.run_as).await?;
        fs::remove_file(&password_file).map_err(Error::io("remove the password file of initdb"))?;
        self.append_config(plan, &server_config(self.fsync))?;
        self.append_config(plan, &node_config(plan))
    }

    fn append_config(&self, plan: &NodePlan, text: &str) -> Result<(), Error> {
        let path = self.data(plan).join("postgresql.conf");
        OpenOptions::new()
            .append(true)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(Error::io(format!("write {}", path.display())))
    }

    async fn make_roles(&self, primary: &PostgresNode) -> Result<(), Error> {
        let Credentials {
            postgres_password, postgres_monitor_password, postgres_replicator_password, ..
        } = &self.credentials;
        // The passwords are hex, made by us: nothing in them needs quoting.
        let roles = format!(
            // The service role reads statistics too: the state of a WAL receiver is hidden from others.
            "create role {SERVICE_ROLE} login password '{postgres_password}' in role pg_monitor; \
             create role {MONITOR_ROLE} login password '{postgres_monitor_password}' in role pg_monitor; \
             create role {REPLICATOR_ROLE} login replication password '{postgres_replicator_password}';"
        );
        let mut config = primary.superuser.clone();
        config.dbname("postgres");
        sql::batch(&config, "create the roles", &roles, ROLES_WITHIN).await?;
        let database = format!("create database {DATABASE} owner {SERVICE_ROLE}");
        sql::batch(&config, "create the database", &database, ROLES_WITHIN).await
    }

    /// Copies the primary for one replica, over the connection that the replica will stream from.
    async fn copy_primary(&self, plan: &NodePlan, programs: &Programs) -> Result<(), Error> {
        let mut copy = Command::new(&programs.pg_basebackup);
        let connection = format!(
            "host={} port={} user={REPLICATOR_ROLE} application_name={}",
            plan.upstream.ip(),
            plan.upstream.port(),
            plan.name
        );
        copy.args([
            "-R",
            "-X",
            "stream",
            "-C",
            "-S",
            &plan.name,
            "-c",
            "fast",
            "--no-sync",
            "-d",
            &connection,
        ])
        .arg("-D")
        .arg(self.data(plan))
        .env("PGPASSWORD", &self.credentials.postgres_replicator_password);
        process::run(&format!("copy the primary for {}", plan.name), copy, self.run_as).await?;
        self.append_config(plan, &node_config(plan))
    }

    async fn wait_streaming(&self, primary: &PostgresNode) -> Result<(), Error> {
        let wanted = self.nodes.len() - 1;
        wait_until("the replicas to stream", LOOK_EVERY, STREAMING_WITHIN, || async {
            let sql = "select coalesce(string_agg(application_name || ' ' || state, ', '), 'none') \
                       || '|' || count(*) filter (where state = 'streaming') from pg_stat_replication";
            let seen =
                primary.query_text(sql).await.map_err(|error| crate::chain(&error))?.unwrap_or_default();
            match seen.rsplit_once('|') {
                Some((_, streaming)) if streaming == wanted.to_string() => Ok(()),
                _ => Err(seen),
            }
        })
        .await?;
        Ok(())
    }

    fn bouncer(
        &self,
        plan: &NodePlan,
        listen: SocketAddr,
        programs: &Programs,
        manifest: &Arc<Manifest>,
    ) -> Result<Node, Error> {
        let name = format!("pgbouncer-{}", plan.name);
        let home = self.dir.join("postgres").join(&name);
        self.make_dir(&home)?;
        let Credentials { postgres_password, postgres_monitor_password, .. } = &self.credentials;
        // Plain passwords: PgBouncer needs them to log in to the server by SCRAM.
        let users = format!(
            "\"{SERVICE_ROLE}\" \"{postgres_password}\"\n\"{MONITOR_ROLE}\" \"{postgres_monitor_password}\"\n"
        );
        for (file, text) in [("users.txt", users), ("pgbouncer.ini", bouncer_config(plan, listen, &home))] {
            let path = home.join(file);
            write_private(&path, &text).map_err(Error::io(format!("write {}", path.display())))?;
            self.give(&path)?;
        }
        let probe = sql::config(listen, DATABASE, SERVICE_ROLE, postgres_password);
        Ok(Node::new(NodeParams {
            launch: Launch {
                kind: Kind::Kill,
                program: programs.pgbouncer.clone(),
                args: vec!["-q".to_owned(), home.join("pgbouncer.ini").display().to_string()],
                envs: Vec::new(),
                run_as: self.run_as,
                log: self.log(&name),
                dir: home,
                data: None,
                name,
            },
            probe: Probe::Postgres(Box::new(probe)),
            address: listen,
            // TERM ends at once; INT would wait for the clients.
            stop_signal: Signal::TERM,
            ready_within: READY_WITHIN,
            manifest: Arc::clone(manifest),
        }))
    }
}

/// Has a process see a clock that is ahead, or behind; what measures time that passes is left as it is.
fn clock(ahead_s: i32, programs: &Programs) -> Vec<(String, String)> {
    [
        ("LD_PRELOAD", programs.libfaketime.display().to_string()),
        ("FAKETIME", format!("{ahead_s:+}")),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// Returns what all three servers have in common; the replicas get it with the copy.
fn server_config(fsync: bool) -> String {
    let fsync = if fsync { "on" } else { "off" };
    format!(
        "\n# --- mainstay devstack\n\
         listen_addresses = '127.0.0.1'\n\
         unix_socket_directories = ''\n\
         max_connections = 100\n\
         shared_buffers = 32MB\n\
         # Files below the data directory instead of /dev/shm: they go with it after a kill.\n\
         dynamic_shared_memory_type = mmap\n\
         fsync = {fsync}\n\
         full_page_writes = {fsync}\n\
         wal_level = replica\n\
         max_wal_size = 1GB\n\
         max_wal_senders = 10\n\
         max_replication_slots = 10\n\
         # Both copies start at once, and one's checkpoint must not remove the first segment of the other, which\n\
         # pg_basebackup protects by its slot only a moment later.\n\
         wal_keep_size = 128MB\n\
         # A replica that stays away must not fill the disk of the primary.\n\
         max_slot_wal_keep_size = 2GB\n\
         # Lets pg_rewind bring a former primary back.\n\
         wal_log_hints = on\n\
         hot_standby = on\n\
         # On purpose: reads are routed to replicas, and without it a vacuum on the primary cancels them\n\
         # (SQLSTATE 40001). The price is bloat on the primary for as long as a replica's longest read.\n\
         hot_standby_feedback = on\n\
         # What replay waited for, and for how long.\n\
         log_recovery_conflict_waits = on\n\
         # Its timer wakes a replay that waits for a page before deadlock_timeout does, so that a deadlock with a read is\n\
         # found only after max_standby_streaming_delay (versions 15 and later).\n\
         log_startup_progress_interval = 0\n\
         wal_receiver_status_interval = 1s\n\
         # A replica comes back within a second of its primary, not within five.\n\
         wal_retrieve_retry_interval = 500ms\n\
         # A walsender whose replica is gone without a word lets go of it soon.\n\
         wal_sender_timeout = 10s\n\
         wal_receiver_timeout = 10s\n\
         password_encryption = scram-sha-256\n\
         log_line_prefix = '%m [%p] %q%u@%d/%a '\n\
         timezone = 'UTC'\n\
         log_timezone = 'UTC'\n"
    )
}

/// Returns what differs; appended after the common part, where the last line wins.
fn node_config(plan: &NodePlan) -> String {
    format!("port = {}\ncluster_name = '{}'\n", plan.listen.port(), plan.name)
}

/// Writes `pgbouncer.ini` for Debian's 1.18: transaction mode, where named prepared statements do not work.
fn bouncer_config(plan: &NodePlan, listen: SocketAddr, home: &Path) -> String {
    format!(
        "[databases]\n{DATABASE} = host={} port={} dbname={DATABASE}\n\n\
         [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {}\nunix_socket_dir =\n\
         auth_type = scram-sha-256\nauth_file = {}\nstats_users = {MONITOR_ROLE}\n\
         pool_mode = transaction\nmax_client_conn = 500\ndefault_pool_size = 20\nreserve_pool_size = 5\n\
         server_login_retry = 1\nserver_connect_timeout = 3\nquery_wait_timeout = 10\n\
         tcp_keepalive = 1\nignore_startup_parameters = extra_float_digits,options\n",
        plan.public.ip(),
        plan.public.port(),
        listen.port(),
        home.join("users.txt").display(),
    )
}
