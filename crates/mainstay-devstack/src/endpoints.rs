//! What runs where: the file that scripts and people read.

use std::{
    collections::BTreeMap,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    Error,
    credentials::Credentials,
    postgres::{DATABASE, SERVICE_ROLE},
    redis::MASTER_NAME,
    services::ServiceAddress,
    stack_dir::write_private,
};

/// Lists every address of a running stack with what it takes to log in; written as `endpoints.json`, mode 0600.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    pub dir: PathBuf,
    /// Of the process that owns the stack.
    pub pid: u32,
    pub redis: Option<RedisEndpoints>,
    pub postgres: Option<PostgresEndpoints>,
    /// By service name; only those that run.
    pub services: BTreeMap<String, ServiceAddress>,
    pub credentials: Credentials,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedisEndpoints {
    /// At start; Sentinel may swap the two.
    pub primary: SocketAddr,
    pub replica: SocketAddr,
    pub sentinels: Vec<SocketAddr>,
    pub master_name: String,
    /// Of the primary at start.
    pub url: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostgresEndpoints {
    pub database: String,
    pub user: String,
    pub nodes: Vec<PostgresEndpoint>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostgresEndpoint {
    pub name: String,
    pub address: SocketAddr,
    pub pgbouncer: Option<SocketAddr>,
    /// Of the service role, direct.
    pub dsn: String,
    /// Of the service role, through PgBouncer.
    pub pgbouncer_dsn: Option<String>,
}

const FILE: &str = "endpoints.json";

impl Endpoints {
    pub(crate) fn write(&self) -> Result<(), Error> {
        let path = self.dir.join(FILE);
        let text = serde_json::to_string_pretty(self).map_err(io::Error::from);
        text.and_then(|text| write_private(&path, &text))
            .map_err(Error::io(format!("write {}", path.display())))
    }

    /// Reads what the stack in `dir` wrote when it was ready.
    pub fn read(dir: &Path) -> Result<Self, Error> {
        let path = dir.join(FILE);
        let step = format!("read {} (is a stack running there?)", path.display());
        let text = fs::read_to_string(&path);
        text.and_then(|text| serde_json::from_str(&text).map_err(io::Error::from)).map_err(Error::io(step))
    }
}

impl RedisEndpoints {
    pub(crate) fn new(nodes: [SocketAddr; 2], sentinels: &[SocketAddr], password: &str) -> Self {
        Self {
            primary: nodes[0],
            replica: nodes[1],
            sentinels: sentinels.to_vec(),
            master_name: MASTER_NAME.to_owned(),
            url: format!("redis://:{password}@{}/0", nodes[0]),
        }
    }
}

impl PostgresEndpoint {
    pub(crate) fn new(
        name: &str,
        address: SocketAddr,
        pgbouncer: Option<SocketAddr>,
        password: &str,
    ) -> Self {
        let dsn = |address| format!("postgresql://{SERVICE_ROLE}:{password}@{address}/{DATABASE}");
        Self {
            name: name.to_owned(),
            address,
            pgbouncer,
            dsn: dsn(address),
            pgbouncer_dsn: pgbouncer.map(dsn),
        }
    }
}
