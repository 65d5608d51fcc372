//! Collection by pull: one background task per target, so that a hung one delays nobody.

mod decode;
mod pull;
mod readings;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use mainstay_openmetrics::Exposition;
use mainstay_rpc::{InvalidUpstream, Upstream};
use mainstay_runtime::Activate;

use crate::config::Config;
use crate::monitor::Monitor;
use crate::roster::Report;
use crate::target::Target;

pub(crate) use readings::readings;

/// Pulls one target, over and over.
pub(crate) struct Puller {
    target: Arc<Target>,
    upstream: Upstream,
    within: Duration,
    monitor: Arc<Monitor>,
}

/// Holds what one pull brought.
#[derive(Debug)]
pub(crate) struct Answer {
    /// What the process says about itself.
    pub report: Report,
    /// Its metrics, or why they could not be read.
    pub metrics: Result<Exposition, String>,
}

impl Puller {
    /// Prepares the pulls; opens no connection.
    pub(crate) fn try_new(
        target: Arc<Target>,
        config: &Config,
        monitor: Arc<Monitor>,
    ) -> Result<Self, InvalidUpstream> {
        let upstream = Upstream::try_new(target.service.as_str(), &config.upstream(&target))?;
        Ok(Self { target, upstream, within: config.collect.within, monitor })
    }

    /// Names the task, e.g. `collect.cache-service@127.0.0.1:4010`.
    pub(crate) fn name(&self) -> String {
        let endpoint = &self.target.endpoint;
        let address = endpoint.split_once("://").map_or(endpoint.as_str(), |(_, address)| address);
        format!("collect.{}@{address}", self.target.service)
    }
}

impl Activate for Puller {
    /// A pull that fails is recorded like any other; the error is for the log and the status of the task.
    async fn activate(&mut self) -> anyhow::Result<()> {
        match pull::pull(&self.upstream, self.within, self.monitor.clock()).await {
            Ok(answer) => {
                let unreadable = answer.metrics.as_ref().err().cloned();
                self.monitor.answered(&self.target, answer);
                unreadable.map_or(Ok(()), |reason| Err(anyhow::anyhow!("metrics unreadable: {reason}")))
            }
            Err(error) => {
                self.monitor.missed(&self.target, error.reason());
                Err(error).with_context(|| format!("no answer from {}", self.target.endpoint))
            }
        }
    }
}
