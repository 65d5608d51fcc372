//! The configuration of the monitor.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use mainstay_rpc::{BreakerSection, ClientTls, EndpointList, Secret, ServerConfig, UpstreamConfig};
use mainstay_runtime::{Problems, ServiceConfig, TelemetryConfig};
use serde::{Deserialize, Serialize};

mod datastore;
mod keep;
mod notify;
mod probe;
mod scrape;
mod slo;
mod targets;
mod watched;

#[cfg(test)]
mod tests;

pub use crate::calendar::{Day, Weekly};
pub use crate::quiet::{InhibitionConfig, MaintenanceConfig};
pub use crate::rule::definition::{Comparison, RuleKind, RuleSpec};
use crate::rule::{definition, import};
pub use datastore::DatastoreConfig;
pub use keep::{HostConfig, StoreConfig};
pub use notify::{ChannelConfig, ChannelKind, NotifyConfig};
pub use probe::{ProbeConfig, ProbeKind};
pub use scrape::ScrapeConfig;
pub use slo::SloConfig;
pub use targets::NamedEndpoint;

/// Configures the whole service.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The internal port.
    pub server: ServerConfig,
    /// Logs and spans.
    pub telemetry: TelemetryConfig,
    /// Who is watched, by the name of the service.
    pub targets: BTreeMap<String, TargetConfig>,
    /// Who else shows metrics, by name.
    pub scrapes: BTreeMap<String, ScrapeConfig>,
    /// Servers of Redis and Sentinels, by name.
    pub redis: BTreeMap<String, DatastoreConfig>,
    /// Servers of PostgreSQL, by name.
    pub postgres: BTreeMap<String, DatastoreConfig>,
    /// Consoles of PgBouncers, by name.
    pub pgbouncer: BTreeMap<String, DatastoreConfig>,
    /// What is asked whether it answers as it should, by name.
    pub probes: BTreeMap<String, ProbeConfig>,
    /// How they are asked.
    pub collect: CollectConfig,
    /// How much is remembered.
    pub history: HistoryConfig,
    /// When it is an alert.
    pub alerts: AlertsConfig,
    /// Where what must survive a restart is kept.
    pub store: StoreConfig,
    /// What is read of the host.
    pub host: HostConfig,
    /// Rules about figures, by name; they replace stock rules of that name.
    pub rules: BTreeMap<String, RuleSpec>,
    /// What was promised, by name.
    pub slos: BTreeMap<String, SloConfig>,
    /// Times of the week in which nobody is told of some alerts, by name.
    pub maintenance: BTreeMap<String, MaintenanceConfig>,
    /// Which alert explains which others, by name; they replace stock ones of that name.
    pub inhibitions: BTreeMap<String, InhibitionConfig>,
    /// Who is told of alerts.
    pub notify: NotifyConfig,
}

/// Configures one watched service: sections `targets.<service>`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TargetConfig {
    /// Internal addresses of its instances; none means that it is not watched.
    pub endpoints: EndpointList,
    /// Each address that the name of an endpoint has in DNS is an instance, and comes and goes with it.
    pub dns: bool,
    /// How often each of them is pulled; none: every `collect.every`.
    #[serde(with = "humantime_serde")]
    pub every: Option<Duration>,
    /// Service token shown to it; empty means none.
    pub token: Secret,
    /// Certificates for `https` endpoints.
    pub tls: ClientTls,
}

/// Configures the collection: section `collect`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CollectConfig {
    /// How often each target is pulled.
    #[serde(with = "humantime_serde")]
    pub every: Duration,
    /// Time for one pull; a target that takes longer does not answer.
    #[serde(with = "humantime_serde")]
    pub within: Duration,
    /// How often the names of targets with `dns` are looked up.
    #[serde(with = "humantime_serde")]
    pub dns_every: Duration,
    /// How long an instance that has left DNS is still looked at, without being missed.
    #[serde(with = "humantime_serde")]
    pub dns_forget_after: Duration,
    /// Server that is asked, `address:port`; empty: as every program on this machine does.
    pub dns_server: String,
}

/// Configures the history: section `history`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HistoryConfig {
    /// How far back it reaches.
    #[serde(with = "humantime_serde")]
    pub keep: Duration,
    /// Series held at once; newer ones are refused.
    pub max_series: usize,
    /// Histograms whose buckets have a history too: for quantiles.
    pub buckets: BTreeSet<String>,
}

/// Configures rules and alerts: section `alerts`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AlertsConfig {
    /// How long a component may be unhealthy or degraded, or a figure too high, before the alert fires.
    #[serde(with = "humantime_serde")]
    pub unhealthy_for: Duration,
    /// How long a target may be silent or not ready before the alert fires.
    #[serde(with = "humantime_serde")]
    pub missing_for: Duration,
    /// How long all must be well before an alert is resolved.
    #[serde(with = "humantime_serde")]
    pub clear_for: Duration,
    /// How often the rules are looked at.
    #[serde(with = "humantime_serde")]
    pub evaluate_every: Duration,
    /// Alerts kept, open and resolved together.
    pub keep: usize,
    /// Files of rules in the syntax of Prometheus; a rule of `rules` replaces one of the same name.
    pub rule_files: Vec<PathBuf>,
    /// Staleness of a PostgreSQL replica above which it is a warning.
    #[serde(with = "humantime_serde")]
    pub replica_lag_warning: Duration,
    /// Staleness of a PostgreSQL replica above which it is critical.
    #[serde(with = "humantime_serde")]
    pub replica_lag_critical: Duration,
}

impl Default for Config {
    fn default() -> Self {
        let target = |(service, port): (&str, u16)| {
            let endpoints = [format!("http://127.0.0.1:{port}")].into_iter().collect();
            (service.to_owned(), TargetConfig { endpoints, ..TargetConfig::default() })
        };
        let services = [
            ("cache-service", 4010),
            ("edge-gateway", 4001),
            ("replica-service", 4030),
            ("ws-gateway", 4020),
        ];
        Self {
            server: ServerConfig {
                listen: SocketAddr::from(([127, 0, 0, 1], 4040)),
                ..ServerConfig::default()
            },
            telemetry: TelemetryConfig::default(),
            targets: services.map(target).into(),
            scrapes: BTreeMap::new(),
            redis: BTreeMap::new(),
            postgres: BTreeMap::new(),
            pgbouncer: BTreeMap::new(),
            probes: BTreeMap::new(),
            collect: CollectConfig::default(),
            history: HistoryConfig::default(),
            alerts: AlertsConfig::default(),
            store: StoreConfig::default(),
            host: HostConfig::default(),
            rules: BTreeMap::new(),
            slos: BTreeMap::new(),
            maintenance: BTreeMap::new(),
            inhibitions: BTreeMap::new(),
            notify: NotifyConfig::default(),
        }
    }
}

impl Default for CollectConfig {
    fn default() -> Self {
        Self {
            every: Duration::from_secs(1),
            within: Duration::from_millis(800),
            dns_every: Duration::from_secs(5),
            dns_forget_after: Duration::from_mins(1),
            dns_server: String::new(),
        }
    }
}

impl Default for HistoryConfig {
    fn default() -> Self {
        Self {
            keep: Duration::from_hours(1),
            max_series: 20_000,
            buckets: ["mainstay_edge_request_seconds".to_owned()].into(),
        }
    }
}

impl Default for AlertsConfig {
    fn default() -> Self {
        Self {
            unhealthy_for: Duration::from_secs(2),
            missing_for: Duration::from_secs(3),
            clear_for: Duration::from_secs(2),
            evaluate_every: Duration::from_millis(250),
            keep: 1000,
            rule_files: Vec::new(),
            replica_lag_warning: Duration::from_secs(10),
            replica_lag_critical: Duration::from_secs(30),
        }
    }
}

/// The `service` of the host's own figures.
pub const HOST: &str = "host";
/// Pulls remembered per target at most.
const TICKS_MAX: u128 = 86_400;

impl ServiceConfig for Config {
    fn server(&self) -> &ServerConfig {
        &self.server
    }

    fn telemetry(&self) -> &TelemetryConfig {
        &self.telemetry
    }

    fn check(&self, problems: &mut Problems) {
        let (ms, s, h) = (Duration::from_millis, Duration::from_secs, Duration::from_hours);
        for (service, target) in &self.targets {
            target.check(service, self.collect.within, problems);
        }
        for (name, scrape) in &self.scrapes {
            scrape.check(name, problems);
        }
        for (kind, name, datastore) in self.datastores() {
            datastore.check(kind, name, problems);
        }
        for (name, probe) in &self.probes {
            probe.check(name, problems);
        }
        self.check_names(problems);
        problems.duration("collect.every", self.collect.every, ms(100)..=s(60));
        problems.duration("collect.within", self.collect.within, ms(10)..=s(60));
        problems.ensure(
            self.collect.within <= self.collect.every,
            "collect.within",
            "must not be longer than collect.every",
        );
        problems.duration("collect.dns_every", self.collect.dns_every, s(1)..=s(300));
        problems.duration("collect.dns_forget_after", self.collect.dns_forget_after, Duration::ZERO..=h(24));
        let server = &self.collect.dns_server;
        problems.ensure(
            server.is_empty() || server.parse::<SocketAddr>().is_ok(),
            "collect.dns_server",
            "must be an address and a port, or empty",
        );
        problems.duration("history.keep", self.history.keep, s(60)..=h(24));
        problems.range("history.max_series", self.history.max_series, 100..=1_000_000);
        problems.ensure(
            self.n_ticks() <= TICKS_MAX,
            "history.keep",
            format!("must not be more than {TICKS_MAX} times collect.every"),
        );
        let alerts = &self.alerts;
        problems.duration("alerts.unhealthy_for", alerts.unhealthy_for, Duration::ZERO..=h(1));
        problems.duration("alerts.missing_for", alerts.missing_for, Duration::ZERO..=h(1));
        problems.duration("alerts.clear_for", alerts.clear_for, Duration::ZERO..=h(1));
        problems.duration("alerts.evaluate_every", alerts.evaluate_every, ms(50)..=s(60));
        problems.range("alerts.keep", alerts.keep, 10..=100_000);
        problems.duration("alerts.replica_lag_warning", alerts.replica_lag_warning, ms(100)..=h(24));
        problems.ensure(
            alerts.replica_lag_critical >= alerts.replica_lag_warning,
            "alerts.replica_lag_critical",
            "must not be below alerts.replica_lag_warning",
        );
        for (index, problem) in
            import::read_all(&alerts.rule_files, self.history.keep).err().into_iter().flatten()
        {
            problems.add(format!("alerts.rule_files.{index}"), problem);
        }
        for (name, rule) in &self.rules {
            problems.under(&format!("rules.{name}"), |report| {
                definition::check_name(name, report);
                rule.check(self.history.keep, report);
            });
        }
        for (name, window) in &self.maintenance {
            window.check(name, problems);
        }
        for (name, inhibition) in &self.inhibitions {
            inhibition.check(name, problems);
        }
        for (name, slo) in &self.slos {
            slo.check(name, problems);
        }
        self.store.check(problems);
        self.host.check(problems);
        self.notify.check(problems);
    }
}

impl TargetConfig {
    fn check(&self, service: &str, within: Duration, problems: &mut Problems) {
        let section = format!("targets.{service}");
        if self.endpoints.is_empty() {
            return;
        }
        problems.under(&section, |report| self.upstream(self.endpoints.clone(), within).check(report));
        if let Some(every) = self.every {
            let legal = Duration::from_millis(100)..=Duration::from_secs(60);
            problems.duration(&format!("{section}.every"), every, legal);
        }
        let distinct: BTreeSet<_> =
            self.endpoints.iter().map(|endpoint| endpoint.trim_end_matches('/')).collect();
        let twice = distinct.len() < self.endpoints.len();
        problems.ensure(!twice, &format!("{section}.endpoints"), "names an endpoint twice");
    }

    /// A pull is the probe itself, so no breaker may hold it back.
    fn upstream(&self, endpoints: EndpointList, within: Duration) -> UpstreamConfig {
        let never_opens = BreakerSection {
            min_calls: u32::MAX,
            consecutive_failures: 0,
            slow_after: Duration::from_hours(24),
            ..BreakerSection::default()
        };
        let defaults = UpstreamConfig::default();
        UpstreamConfig {
            endpoints,
            deadline: within,
            connect_within: defaults.connect_within.min(within),
            token: self.token.clone(),
            tls: self.tls.clone(),
            breaker: never_opens,
            ..defaults
        }
    }
}
