use std::time::Duration;

use anyhow::Context as _;
use mainstay_auth::jwt::{KeySet, RotatingKeys};
use mainstay_runtime::{Activate, Component, ComponentKind, Context, Schedule};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::time::{Instant, timeout};

use crate::config::JwksConfig;
use crate::fetch::Fetch;

/// How often the keeper looks whether there is something to do.
const TICK_EVERY: Duration = Duration::from_secs(1);
/// Soonest next look at the source after one that failed, or for a key that is missing: tokens with made-up key ids must
/// not become a load on the issuer.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// Keeps `keys` as the source has them, by a background job called `jwks`, which also reports as a component.
///
/// Until the first look succeeds, and when the last one is longer ago than `max_stale`, no key is trusted.
///
/// # Errors
/// Fails when the source or its certificate authorities cannot be used at all.
pub fn keep(cx: &Context, config: &JwksConfig, keys: RotatingKeys) -> anyhow::Result<()> {
    let source = config.source().map_err(anyhow::Error::msg).context("source")?;
    let keeper = Keeper {
        fetch: Fetch::try_new(config, source).context("reading ca")?,
        plan: Plan::new(config),
        fetch_within: config.fetch_within,
        keys,
        component: cx.component("jwks", ComponentKind::Upstream, false),
        figures: cx.metrics(Figures::register),
    };
    cx.background("jwks", Schedule::Every(TICK_EVERY), keeper);
    Ok(())
}

struct Keeper {
    fetch: Fetch,
    plan: Plan,
    fetch_within: Duration,
    keys: RotatingKeys,
    component: Component,
    figures: Figures,
}

impl Activate for Keeper {
    async fn activate(&mut self) -> anyhow::Result<()> {
        let missed = self.keys.take_missed();
        let mut outcome = Ok(());
        if self.plan.is_due(Instant::now(), missed) {
            outcome = self.look().await;
        }
        if self.plan.is_stale(Instant::now()) {
            self.keys.forget();
            self.figures.keys.set(0);
        }
        if let Some(age) = self.plan.age(Instant::now()) {
            self.figures.age_seconds.set(i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
        }
        outcome
    }
}

impl Keeper {
    async fn look(&mut self) -> anyhow::Result<()> {
        let began_at = Instant::now();
        let read = async {
            let text = self.fetch.read().await?;
            Ok::<_, anyhow::Error>(KeySet::from_jwks(&text)?)
        };
        let looked = timeout(self.fetch_within, read).await;
        let looked = looked.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer in time")));
        self.component.latency(began_at.elapsed());
        let now = Instant::now();
        self.plan.looked(now, looked.is_ok());
        self.figures.counted(looked.is_ok());
        match looked {
            Ok(set) => {
                let n_keys = set.len();
                self.figures.keys.set(i64::try_from(n_keys).unwrap_or(i64::MAX));
                self.keys.replace(set);
                self.component.healthy(format!("{n_keys} keys"));
                Ok(())
            }
            Err(error) => {
                match self.plan.age(now) {
                    Some(age) if !self.plan.is_stale(now) => {
                        self.component.degraded(format!("keys are {} s old: {error:#}", age.as_secs()));
                    }
                    _ => self.component.unhealthy(format!("no key is trusted: {error:#}")),
                }
                Err(error.context("reading the key set"))
            }
        }
    }
}

/// Decides when to look and when to stop trusting.
#[derive(Debug)]
struct Plan {
    refresh_every: Duration,
    max_stale: Duration,
    looked_at: Option<Instant>,
    loaded_at: Option<Instant>,
    last_failed: bool,
}

impl Plan {
    fn new(config: &JwksConfig) -> Self {
        Self {
            refresh_every: config.refresh_every,
            max_stale: config.max_stale,
            looked_at: None,
            loaded_at: None,
            last_failed: false,
        }
    }

    fn is_due(&self, now: Instant, missed: bool) -> bool {
        let wait =
            if self.last_failed || missed { AGAIN_AFTER.min(self.refresh_every) } else { self.refresh_every };
        self.looked_at.is_none_or(|at| now.duration_since(at) >= wait)
    }

    fn looked(&mut self, now: Instant, well: bool) {
        self.looked_at = Some(now);
        self.last_failed = !well;
        if well {
            self.loaded_at = Some(now);
        }
    }

    fn is_stale(&self, now: Instant) -> bool {
        self.age(now).is_some_and(|age| age > self.max_stale)
    }

    fn age(&self, now: Instant) -> Option<Duration> {
        self.loaded_at.map(|at| now.duration_since(at))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Clone, Default)]
struct Figures {
    looks: Family<OutcomeLabels, Counter>,
    keys: Gauge,
    age_seconds: Gauge,
}

impl Figures {
    fn register(registry: &mut Registry) -> Self {
        let figures = Self::default();
        let registry = registry.sub_registry_with_prefix("mainstay_jwks");
        registry.register("looks", "Looks at the source of the key set", figures.looks.clone());
        registry.register("keys", "Keys that are trusted", figures.keys.clone());
        registry.register("age_seconds", "Time since the key set was read", figures.age_seconds.clone());
        figures
    }

    fn counted(&self, well: bool) {
        let outcome = if well { "ok" } else { "failed" };
        self.looks.get_or_create(&OutcomeLabels { outcome }).inc();
    }
}

#[cfg(test)]
mod tests;
