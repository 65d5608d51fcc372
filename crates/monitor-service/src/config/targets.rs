//! Everything that is watched, from all sections that name it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use mainstay_rpc::{EndpointList, UpstreamConfig};
use mainstay_runtime::Problems;

use super::watched::ticks;
use super::{Config, DatastoreConfig, HOST};
use crate::target::{Target, TargetKind, Terms};

/// An endpoint whose host is a name, so that it may stand for several instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedEndpoint {
    /// `http` or `https`.
    pub scheme: String,
    /// The name.
    pub host: String,
    /// The port, the same for all of its addresses; of no meaning where it is the name of a service.
    pub port: u16,
}

impl NamedEndpoint {
    /// Reads an endpoint; none where its host is an address already.
    fn parse(endpoint: &str) -> Option<Self> {
        let uri: Uri = endpoint.parse().ok()?;
        let (scheme, host) = (uri.scheme_str()?.to_owned(), uri.host()?.to_owned());
        let is_address = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
        let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
        (!is_address).then_some(Self { scheme, host, port })
    }

    /// Tells whether it is the name of a service (RFC 2782), `_grpc._tcp.cache.internal`, whose places have ports of their own.
    pub fn is_service(&self) -> bool {
        self.host.starts_with('_')
    }
}

impl Config {
    /// Lists, by service, the endpoints whose names are looked up.
    pub fn named_endpoints(&self) -> Vec<(String, Vec<NamedEndpoint>)> {
        let named = |endpoints: &EndpointList| -> Vec<NamedEndpoint> {
            endpoints.iter().filter_map(|endpoint| NamedEndpoint::parse(endpoint)).collect()
        };
        let looked_up = self.targets.iter().filter(|(_, target)| target.dns);
        let by_service = looked_up.map(|(name, target)| (name.clone(), named(&target.endpoints)));
        by_service.filter(|(_, endpoints)| !endpoints.is_empty()).collect()
    }

    /// Lists every fixed address to watch: services first, then the rest, each in the order of names.
    pub fn all_targets(&self) -> Vec<Arc<Target>> {
        let keep = self.history.keep;
        let fixed: Vec<(&String, EndpointList)> = self
            .targets
            .iter()
            .map(|(name, target)| {
                let is_fixed = |endpoint: &&str| !target.dns || NamedEndpoint::parse(endpoint).is_none();
                (name, target.endpoints.iter().map(|endpoint| &**endpoint).filter(is_fixed).collect())
            })
            .collect();
        let services = fixed.iter().map(|(name, endpoints)| (*name, endpoints, self.service_terms(name)));
        let scrapes = self.scrapes.iter().map(|(name, scrape)| (name, &scrape.urls, scrape.terms(keep)));
        let probes = self.probes.iter().map(|(name, probe)| (name, &probe.urls, probe.terms(keep)));
        let datastores = self
            .datastores()
            .map(|(kind, name, datastore)| (name, &datastore.addresses, datastore.terms(kind, keep)));
        let mut all = Vec::new();
        for (service, endpoints, terms) in services.chain(scrapes).chain(datastores).chain(probes) {
            for endpoint in endpoints.iter() {
                let endpoint = match terms.kind {
                    TargetKind::Service => endpoint.trim_end_matches('/').to_owned(),
                    TargetKind::Scrape | TargetKind::Probe => endpoint.clone(),
                    TargetKind::Redis | TargetKind::Postgres | TargetKind::Pgbouncer => {
                        format!("{}://{endpoint}", terms.kind.as_str())
                    }
                };
                let service = service.clone();
                all.push(Arc::new(Target { index: all.len(), service, endpoint, terms: terms.clone() }));
            }
        }
        all
    }

    /// Lists what has a history: every target, and at the end the host.
    pub fn all_sources(&self) -> Vec<Arc<Target>> {
        let mut sources = self.all_targets();
        let (index, service) = (sources.len(), HOST.to_owned());
        sources.push(Arc::new(Target {
            index,
            service,
            endpoint: String::new(),
            terms: self.service_terms(HOST),
        }));
        sources
    }

    /// Tells how often a target is asked.
    pub(crate) fn every(&self, target: &Target) -> Duration {
        let name = &target.service;
        let every = match target.terms.kind {
            TargetKind::Service => self.targets.get(name).and_then(|target| target.every),
            TargetKind::Scrape => self.scrapes.get(name).map(|scrape| scrape.every),
            TargetKind::Redis => self.redis.get(name).map(|redis| redis.every),
            TargetKind::Postgres => self.postgres.get(name).map(|postgres| postgres.every),
            TargetKind::Pgbouncer => self.pgbouncer.get(name).map(|pgbouncer| pgbouncer.every),
            TargetKind::Probe => self.probes.get(name).map(|probe| probe.every),
        };
        every.unwrap_or(self.collect.every)
    }

    /// Tells what is expected of the instances of a service, and of the host.
    pub(crate) fn service_terms(&self, service: &str) -> Terms {
        let own = self.targets.get(service).and_then(|target| target.every);
        let every = own.unwrap_or(self.collect.every);
        // Where there is a second or less between two figures, rules are patient enough.
        let patience = every.saturating_sub(Duration::from_secs(1)) * 2;
        Terms { ticks: own.and_then(|every| ticks(self.history.keep, every)), patience, ..Terms::default() }
    }

    pub(super) fn datastores(&self) -> impl Iterator<Item = (TargetKind, &String, &DatastoreConfig)> {
        let kinds = [
            (TargetKind::Redis, &self.redis),
            (TargetKind::Postgres, &self.postgres),
            (TargetKind::Pgbouncer, &self.pgbouncer),
        ];
        kinds
            .into_iter()
            .flat_map(|(kind, sections)| sections.iter().map(move |(name, section)| (kind, name, section)))
    }

    /// Two things of one name could not be told apart in history and alerts.
    pub(super) fn check_names(&self, problems: &mut Problems) {
        let services = self.targets.keys().map(|name| ("targets", name));
        let scrapes = self.scrapes.keys().map(|name| ("scrapes", name));
        let datastores = self.datastores().map(|(kind, name, _)| (kind.as_str(), name));
        let probes = self.probes.keys().map(|name| ("probes", name));
        let mut taken: BTreeSet<&str> = [HOST].into();
        for (section, name) in services.chain(scrapes).chain(datastores).chain(probes) {
            let key = format!("{section}.{name}");
            let legal =
                |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
            if name.is_empty() || name.len() > 64 || !name.chars().all(legal) {
                problems.add(&key, "must be a name of at most 64 letters a-z, digits and dashes");
            }
            problems.ensure(taken.insert(name), &key, "is the name of something else that is watched");
        }
    }

    /// Returns how to call a target.
    pub fn upstream(&self, target: &Target) -> UpstreamConfig {
        let section = self.targets.get(&target.service).cloned().unwrap_or_default();
        let within = self.collect.within.min(self.every(target));
        section.upstream([target.endpoint.as_str()].into_iter().collect(), within)
    }

    /// Returns how many pulls of a target are remembered.
    pub fn ticks(&self) -> NonZeroUsize {
        let ticks = usize::try_from(self.n_ticks()).unwrap_or(usize::MAX);
        NonZeroUsize::new(ticks).unwrap_or(NonZeroUsize::MIN)
    }

    pub(super) fn n_ticks(&self) -> u128 {
        self.history.keep.as_nanos().div_ceil(self.collect.every.as_nanos().max(1))
    }
}
