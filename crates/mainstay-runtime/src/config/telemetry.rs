use std::str::FromStr as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;

use super::Problems;

/// Says what the process writes about itself, and where to.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetryConfig {
    /// What is logged: a level, or levels by module, e.g. `info,fred=warn`.
    pub log: String,
    /// How a log line looks.
    pub log_format: LogFormat,
    /// Where spans go, as OTLP over gRPC, e.g. `http://127.0.0.1:4317`; empty: nowhere.
    pub otlp_endpoint: String,
    /// Share of the traces begun here that are recorded, 0 to 1; for the others the caller has decided.
    pub sample_ratio: f64,
    /// How often finished spans are sent.
    #[serde(with = "humantime_serde")]
    pub export_every: Duration,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One line for a person.
    Human,
    /// One JSON object per line.
    Json,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            log: "info".to_owned(),
            log_format: LogFormat::Human,
            otlp_endpoint: String::new(),
            sample_ratio: 1.0,
            export_every: Duration::from_secs(1),
        }
    }
}

impl TelemetryConfig {
    pub(crate) fn check(&self, problems: &mut Problems) {
        problems.ensure(
            is_filter(&self.log),
            "telemetry.log",
            format!("must be a level or a list like info,fred=warn, is {:?}", self.log),
        );
        problems.range("telemetry.sample_ratio", self.sample_ratio, 0.0..=1.0);
        problems.duration(
            "telemetry.export_every",
            self.export_every,
            Duration::from_millis(10)..=Duration::from_secs(60),
        );
        let endpoint = &self.otlp_endpoint;
        let address = endpoint.strip_prefix("http://").unwrap_or_default();
        let usable = !address.is_empty() && endpoint.parse::<http::Uri>().is_ok();
        problems.ensure(
            endpoint.is_empty() || usable,
            "telemetry.otlp_endpoint",
            format!("must read http://host:port, is {endpoint:?}"),
        );
    }
}

/// A lone word must be a level: `tracing` would take a misspelt one for the name of a module.
fn is_filter(log: &str) -> bool {
    let level_first = |part: &str| part.contains('=') || LevelFilter::from_str(part).is_ok();
    log.split(',').all(level_first) && Targets::from_str(log).is_ok()
}
