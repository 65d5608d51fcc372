//! What is watched.

use std::num::NonZeroUsize;
use std::time::Duration;

use crate::alert::Severity;

/// Names one address of one service; the process behind it may change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Position among all targets.
    pub index: usize,
    /// Name of the service, or of what else is watched, from the configuration.
    pub service: String,
    /// Address it is pulled from, e.g. `http://127.0.0.1:4010`.
    pub endpoint: String,
    /// How it is dealt with.
    pub terms: Terms,
}

/// Says what a target is and how much is expected of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// What it is.
    pub kind: TargetKind,
    /// Pulls remembered; none: as many as of a service.
    pub ticks: Option<NonZeroUsize>,
    /// How much longer than a service's a figure of it counts as new.
    pub patience: Duration,
    /// Pulls in a row that must fail before it is held against it.
    pub failures: u32,
    /// Series it may have.
    pub max_series: usize,
    /// How bad it is when a probe fails.
    pub severity: Severity,
}

/// Says what a target is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TargetKind {
    /// A service of this house: it tells of itself through introspection.
    #[default]
    Service,
    /// Anything that shows metrics as Prometheus text or OpenMetrics.
    Scrape,
    /// A server of Redis, or a Sentinel.
    Redis,
    /// A server of PostgreSQL.
    Postgres,
    /// The console of a PgBouncer.
    Pgbouncer,
    /// Something that is asked only whether it answers as it should.
    Probe,
}

impl TargetKind {
    /// Returns the lower-case name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Scrape => "scrape",
            Self::Redis => "redis",
            Self::Postgres => "postgres",
            Self::Pgbouncer => "pgbouncer",
            Self::Probe => "probe",
        }
    }
}

impl TargetKind {
    /// Returns the section of the configuration that names such targets.
    pub(crate) fn section(self) -> &'static str {
        match self {
            Self::Service => "targets",
            Self::Scrape => "scrapes",
            Self::Probe => "probes",
            Self::Redis | Self::Postgres | Self::Pgbouncer => self.as_str(),
        }
    }
}

impl Default for Terms {
    /// Those of a service.
    fn default() -> Self {
        Self {
            kind: TargetKind::Service,
            ticks: None,
            patience: Duration::ZERO,
            failures: 1,
            max_series: usize::MAX,
            severity: Severity::Critical,
        }
    }
}

impl Target {
    /// Names it as a component and a task do: `cache-service@127.0.0.1:4010`.
    pub fn name(&self) -> String {
        let address = self.endpoint.split_once("://").map_or(self.endpoint.as_str(), |(_, address)| address);
        format!("{}@{address}", self.service)
    }
}
