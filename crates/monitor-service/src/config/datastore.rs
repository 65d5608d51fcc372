//! Stores that are asked themselves, so that they are seen also when the service before them is not.

use std::time::Duration;

use mainstay_rpc::{ClientTls, EndpointList, Secret};
use mainstay_runtime::Problems;
use serde::{Deserialize, Serialize};

use super::watched;
use crate::target::{TargetKind, Terms};

/// Configures one kind of server: sections `redis.<name>`, `postgres.<name>` and `pgbouncer.<name>`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DatastoreConfig {
    /// Servers, each `host:port`; of Redis also Sentinels.
    pub addresses: EndpointList,
    /// How often they are asked.
    #[serde(with = "humantime_serde")]
    pub every: Duration,
    /// Time for one answer.
    #[serde(with = "humantime_serde")]
    pub within: Duration,
    /// Times in a row that one must not answer before it is taken to be down.
    pub failures: u32,
    /// Who asks; of Redis empty means the default user.
    pub user: String,
    /// Password of that user.
    pub password: Secret,
    /// `postgres`: database that is connected to; any will do.
    pub database: String,
    /// How servers are known, and this client proves itself; without `ca` there is no TLS.
    pub tls: ClientTls,
}

impl Default for DatastoreConfig {
    fn default() -> Self {
        Self {
            addresses: EndpointList::default(),
            every: Duration::from_secs(5),
            within: Duration::from_secs(2),
            failures: 2,
            user: String::new(),
            password: Secret::default(),
            database: "postgres".to_owned(),
            tls: ClientTls::default(),
        }
    }
}

impl DatastoreConfig {
    pub(super) fn check(&self, kind: TargetKind, name: &str, problems: &mut Problems) {
        let section = format!("{}.{name}", kind.as_str());
        let key = |field: &str| format!("{section}.{field}");
        problems.ensure(!self.addresses.is_empty(), &key("addresses"), "must name at least one");
        for (index, address) in self.addresses.iter().enumerate() {
            let legal = address.rsplit_once(':').is_some_and(|(host, port)| {
                let is_whole = !host.contains(':') || (host.starts_with('[') && host.ends_with(']'));
                !host.is_empty() && is_whole && !host.contains(['/', '@']) && port.parse::<u16>().is_ok()
            });
            problems.ensure(legal, &format!("{}.{index}", key("addresses")), "must be host:port");
            let is_again = self.addresses.iter().take(index).any(|earlier| earlier == address);
            problems.ensure(!is_again, &key("addresses"), "names an address twice");
        }
        watched::check_pace(&section, self.every, self.within, self.failures, problems);
        watched::check_tls(&section, &self.tls, problems);
        let logs_in = kind == TargetKind::Redis || !self.user.is_empty();
        problems.ensure(logs_in, &key("user"), "must not be empty");
        let named = kind != TargetKind::Postgres || !self.database.is_empty();
        problems.ensure(named, &key("database"), "must not be empty");
        let alone = !self.user.is_empty() && self.password.is_empty() && kind == TargetKind::Redis;
        problems.ensure(!alone, &key("password"), "must not be empty where `user` is set");
    }

    pub(super) fn terms(&self, kind: TargetKind, keep: Duration) -> Terms {
        Terms {
            kind,
            ticks: watched::ticks(keep, self.every),
            patience: watched::patience(self.every, self.within),
            failures: self.failures,
            max_series: SERIES_MAX,
            ..Terms::default()
        }
    }
}

/// Databases, replicas and slots have figures of their own; a server may have thousands of them.
const SERIES_MAX: usize = 5_000;
