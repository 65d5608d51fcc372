//! Instances that DNS names: each address of a name, and each place of a service, is one, and comes and goes with it.

mod dns;
mod membership;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::join_all;
use mainstay_runtime::{Activate, Component, ComponentKind, Context};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use self::dns::{DnsError, Found, Resolver};
use self::membership::{Change, MEMBERS_MAX, Member, Membership};
use super::service::Service;
use super::{Puller, one_line};
use crate::config::{Config, NamedEndpoint};
use crate::metrics::LookupResult;
use crate::monitor::Monitor;
use crate::target::Target;

/// Looks up the names of one service, over and over, and keeps one puller for each address.
pub(super) struct Names {
    cx: Context,
    config: Config,
    monitor: Arc<Monitor>,
    service: String,
    endpoints: Vec<NamedEndpoint>,
    resolver: Resolver,
    membership: Membership,
    instances: BTreeMap<Member, Instance>,
    /// As they were named when they were last found.
    hosts: BTreeMap<Member, String>,
    component: Component,
}

/// One address that is pulled.
struct Instance {
    target: Arc<Target>,
    ends: CancellationToken,
}

impl Names {
    /// Knows no address yet.
    pub(super) fn new(
        cx: &Context,
        config: &Config,
        monitor: &Arc<Monitor>,
        (service, endpoints): (String, Vec<NamedEndpoint>),
    ) -> Self {
        let server: Option<SocketAddr> = config.collect.dns_server.parse().ok();
        let component = cx.component(format!("dns.{service}"), ComponentKind::Upstream, false);
        Self {
            cx: cx.clone(),
            config: config.clone(),
            monitor: Arc::clone(monitor),
            service,
            endpoints,
            resolver: server.map_or(Resolver::Machine, Resolver::Server),
            membership: Membership::default(),
            instances: BTreeMap::new(),
            hosts: BTreeMap::new(),
            component,
        }
    }

    fn apply(&mut self, change: Change) -> anyhow::Result<()> {
        match change {
            Change::Joined(member) => self.begin(member)?,
            Change::Left(member) | Change::Back(member) => {
                if let Some(instance) = self.instances.get(&member) {
                    self.monitor.leaves(&instance.target, matches!(change, Change::Left(_)));
                }
            }
            Change::Forgotten(member) => {
                if let Some(instance) = self.instances.remove(&member) {
                    instance.ends.cancel();
                    self.monitor.forget(&instance.target);
                }
            }
        }
        Ok(())
    }

    fn begin(&mut self, member: Member) -> anyhow::Result<()> {
        let (endpoint, address) = (self.endpoints.get(member.0).context("an endpoint of ours")?, member.1);
        let target =
            self.monitor.join(&self.service, endpoint.at(address), self.config.service_terms(&self.service));
        let mut upstream = self.config.upstream(&target);
        if endpoint.scheme == "https" && upstream.tls.domain.is_empty() {
            // Certificates are for the name.
            upstream.tls.domain.clone_from(self.hosts.get(&member).unwrap_or(&endpoint.host));
        }
        let source = Service::try_new(&self.service, &upstream)?;
        let monitor = Arc::clone(&self.monitor);
        let puller = Puller { target: Arc::clone(&target), source, monitor, component: None };
        let ends = self.cx.stopping().child_token();
        let every = self.config.every(&target);
        self.cx.spawn("collect.dns", pull(puller, every, ends.clone()));
        self.instances.insert(member, Instance { target, ends });
        Ok(())
    }

    /// Takes where an endpoint is: what was found, and what a place had before whose name gives nothing now.
    fn take(&mut self, index: usize, Found { places, missing }: Found) -> BTreeSet<SocketAddr> {
        let stays = |host: &String| missing.iter().any(|(name, _)| name == host);
        self.hosts.retain(|(of, _), host| *of != index || stays(host));
        self.hosts.extend(places.into_iter().map(|(address, host)| ((index, address), host)));
        self.hosts.keys().filter(|(of, _)| *of == index).map(|(_, address)| *address).collect()
    }

    fn tell(&self, trouble: Option<&str>) {
        let n = self.membership.n_in_dns();
        self.monitor.in_dns(&self.service, n);
        let detail = format!("{n} instances");
        match trouble {
            Some(trouble) => self.component.degraded(format!("{detail}, as found before; {trouble}")),
            None if n >= MEMBERS_MAX => self.component.degraded(format!("{detail}; more are not watched")),
            None => self.component.healthy(detail),
        }
    }
}

impl Activate for Names {
    /// A name that gives nothing keeps what it gave last: whether those are down is found out by asking them.
    async fn activate(&mut self) -> anyhow::Result<()> {
        let lookups = self.endpoints.iter().map(|endpoint| self.resolver.places(endpoint));
        let (mut found, mut trouble) = (BTreeMap::new(), Vec::new());
        for (index, answer) in join_all(lookups).await.into_iter().enumerate() {
            self.monitor.looked_up(&self.service, LookupResult::of(&answer));
            match answer {
                Ok(answer) => {
                    trouble.extend(answer.missing.iter().map(told));
                    found.insert(index, self.take(index, answer));
                }
                Err(error) => trouble.push(told(&(self.endpoints[index].host.clone(), error))),
            }
        }
        let trouble = (!trouble.is_empty()).then(|| trouble.join("; "));
        let forget_after = self.config.collect.dns_forget_after;
        for change in self.membership.update(&found, forget_after, Instant::now()) {
            self.apply(change)?;
        }
        self.tell(trouble.as_deref());
        trouble.map_or(Ok(()), |trouble| Err(anyhow::anyhow!(trouble)))
    }
}

impl LookupResult {
    fn of(answer: &Result<Found, DnsError>) -> Self {
        match answer {
            Ok(found) if found.missing.is_empty() => Self::Ok,
            Ok(_) => Self::Partial,
            Err(_) => Self::Failed,
        }
    }
}

fn told((host, error): &(String, DnsError)) -> String {
    format!("addresses of {host}: {}", one_line(error))
}

/// Pulls one address until it is forgotten; what fails is on record as of every target.
async fn pull(mut puller: Puller<Service>, every: Duration, ends: CancellationToken) -> anyhow::Result<()> {
    let mut tick = tokio::time::interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let round = async {
            tick.tick().await;
            puller.activate().await
        };
        let done = tokio::select! {
            () = ends.cancelled() => return Ok(()),
            done = round => done,
        };
        if let Err(error) = done {
            tracing::debug!(endpoint = puller.target.endpoint, %error, "pull failed");
        }
    }
}

impl NamedEndpoint {
    fn at(&self, address: SocketAddr) -> String {
        format!("{}://{address}", self.scheme)
    }
}
