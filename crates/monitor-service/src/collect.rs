//! Collection by pull: one background task per target, so that a hung one delays nobody.
//!
//! A [`Source`] is what can be asked for figures, a [`Puller`] asks it again and again. Every kind of target is one source.

mod dial;
mod figures;
mod http;
mod names;
mod probe;
mod readings;
mod redis;
mod scrape;
mod service;
mod sql;

use std::future::Future;
use std::sync::Arc;

use anyhow::Context as _;
use mainstay_openmetrics::Exposition;
use mainstay_runtime::{Activate, Clock, Component, ComponentKind, Context, Schedule};

use crate::config::Config;
use crate::monitor::Monitor;
use crate::roster::Report;
use crate::target::{Target, TargetKind};

use names::Names;
use probe::Probe;
use redis::Redis;
use scrape::Scrape;
use service::Service;
use sql::{Question, Sql};

pub(crate) use readings::readings;

/// Something that can be asked for figures.
trait Source: Send + 'static {
    /// Asks once. Ends within a deadline of its own, whatever the other side does.
    fn ask(&mut self, clock: &Clock) -> impl Future<Output = Result<Answer, Miss>> + Send;
}

/// Holds what one pull brought.
#[derive(Debug)]
pub(crate) struct Answer {
    /// What the target says about itself.
    pub report: Report,
    /// Its metrics, or why they could not be read.
    pub metrics: Result<Exposition, String>,
}

/// Tells that a target did not answer.
#[derive(Debug, Default)]
pub(crate) struct Miss {
    /// Why, in one line for a person.
    pub reason: String,
    /// What there is to know nevertheless.
    pub figures: Exposition,
}

/// Pulls one target, over and over.
struct Puller<S> {
    target: Arc<Target>,
    source: S,
    monitor: Arc<Monitor>,
    /// Says how a target does that does not speak for itself.
    component: Option<Component>,
}

/// Begins to pull every target.
pub(crate) fn begin(cx: &Context, config: &Config, monitor: &Arc<Monitor>) -> anyhow::Result<()> {
    for target in config.all_targets() {
        let section = format!("{}.{}", target.terms.kind.section(), target.service);
        begin_one(cx, config, monitor, target).context(section)?;
    }
    for named in config.named_endpoints() {
        let task = format!("dns.{}", named.0);
        let names = Names::new(cx, config, monitor, named);
        cx.background(task, Schedule::Every(config.collect.dns_every), names);
    }
    Ok(())
}

fn begin_one(
    cx: &Context,
    config: &Config,
    monitor: &Arc<Monitor>,
    target: Arc<Target>,
) -> anyhow::Result<()> {
    let (name, endpoint, every) = (target.service.clone(), target.endpoint.clone(), config.every(&target));
    let address = endpoint.split_once("://").map_or(endpoint.as_str(), |(_, address)| address);
    let kind = match target.terms.kind {
        TargetKind::Redis | TargetKind::Postgres => ComponentKind::Datastore,
        _ => ComponentKind::Upstream,
    };
    // A service speaks for itself.
    let speaks = target.terms.kind == TargetKind::Service;
    let component = (!speaks).then(|| cx.component(target.name(), kind, false));
    match target.terms.kind {
        TargetKind::Service => {
            let service = Service::try_new(&name, &config.upstream(&target))?;
            pull(cx, monitor, (target, component), every, service);
        }
        TargetKind::Scrape => {
            let section = config.scrapes.get(&name).cloned().unwrap_or_default();
            pull(cx, monitor, (target, component), every, Scrape::try_new(&endpoint, section)?);
        }
        TargetKind::Redis => {
            let section = config.redis.get(&name).cloned().unwrap_or_default();
            pull(cx, monitor, (target, component), every, Redis::try_new(address, section)?);
        }
        TargetKind::Postgres => {
            let section = config.postgres.get(&name).cloned().unwrap_or_default();
            let sql = Sql::try_new(address, &section, Question::Postgres)?;
            pull(cx, monitor, (target, component), every, sql);
        }
        TargetKind::Pgbouncer => {
            let section = config.pgbouncer.get(&name).cloned().unwrap_or_default();
            let sql = Sql::try_new(address, &section, Question::Pgbouncer)?;
            pull(cx, monitor, (target, component), every, sql);
        }
        TargetKind::Probe => {
            let section = config.probes.get(&name).cloned().unwrap_or_default();
            pull(cx, monitor, (target, component), every, Probe::try_new(&endpoint, section)?);
        }
    }
    Ok(())
}

fn pull(
    cx: &Context,
    monitor: &Arc<Monitor>,
    (target, component): (Arc<Target>, Option<Component>),
    every: std::time::Duration,
    source: impl Source,
) {
    let name = format!("collect.{}", target.name());
    let puller = Puller { target, source, monitor: Arc::clone(monitor), component };
    cx.background(name, Schedule::Every(every), puller);
}

impl<S: Source> Activate for Puller<S> {
    /// A pull that fails is recorded like any other; the error is for the log and the status of the task.
    async fn activate(&mut self) -> anyhow::Result<()> {
        match self.source.ask(self.monitor.clock()).await {
            Ok(answer) => {
                let unreadable = answer.metrics.as_ref().err().cloned();
                self.tell(&answer.report);
                self.monitor.answered(&self.target, answer);
                unreadable.map_or(Ok(()), |reason| Err(anyhow::anyhow!("metrics unreadable: {reason}")))
            }
            Err(miss) => {
                let error = anyhow::anyhow!("no answer from {}: {}", self.target.endpoint, miss.reason);
                if let Some(component) = &self.component {
                    component.unhealthy(&*miss.reason);
                }
                self.monitor.missed(&self.target, miss);
                Err(error)
            }
        }
    }
}

impl<S> Puller<S> {
    fn tell(&self, report: &Report) {
        let Some(component) = &self.component else { return };
        component.latency(report.latency);
        match (report.ready, report.version.is_empty()) {
            (true, true) => component.healthy("answers"),
            (true, false) => component.healthy(format!("answers; version {}", report.version)),
            (false, _) => component.unhealthy(report.not_ready_because.join(", ")),
        }
    }
}

/// Puts an error and its causes into one line.
fn one_line(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    line.replace(['\n', '\r'], " ")
}
