//! Anything that shows metrics as Prometheus text or OpenMetrics.

use std::time::Duration;

use ::http::header::{ACCEPT, CONTENT_TYPE};
use ::http::{HeaderValue, StatusCode};
use mainstay_openmetrics::{Dialect, Exposition, Limits, parse_as};
use mainstay_runtime::Clock;
use tokio::time::{Instant, timeout};

use super::dial::InvalidAddress;
use super::http::{Getter, Got, headers};
use super::{Answer, Miss, Source, one_line};
use crate::config::ScrapeConfig;
use crate::roster::Report;

/// Reads the metrics that one url shows.
pub(super) struct Scrape {
    getter: Getter,
    config: ScrapeConfig,
}

const ACCEPTED: HeaderValue = HeaderValue::from_static(
    "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
);
/// A target may show so many times more samples than it may have series: buckets of histograms are not kept.
const SAMPLES_PER_SERIES: usize = 10;

impl Scrape {
    /// Prepares the scrapes; opens no connection.
    pub(super) fn try_new(url: &str, config: ScrapeConfig) -> Result<Self, InvalidAddress> {
        let mut headers = headers(&config.token, &config.user, &config.password);
        headers.insert(ACCEPT, ACCEPTED);
        Ok(Self { getter: Getter::try_new(url, &config.tls, headers, config.max_bytes)?, config })
    }

    async fn read(&self) -> Result<Exposition, String> {
        let got = self.getter.get().await.map_err(|error| one_line(&error))?;
        if got.status != StatusCode::OK {
            return Err(format!("answered {}", got.status.as_u16()));
        }
        let limits = Limits {
            max_samples: self.config.max_series.saturating_mul(SAMPLES_PER_SERIES),
            max_bytes: self.config.max_bytes,
        };
        // Megabytes of text must not hold up what else this thread has to do.
        let read = tokio::task::spawn_blocking(move || exposition(&got, limits)).await;
        let exposition = read.map_err(|error| one_line(&error))??;
        let labels: Vec<(&str, &str)> =
            self.config.labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        Ok(exposition.with_labels(&labels))
    }
}

impl Source for Scrape {
    async fn ask(&mut self, clock: &Clock) -> Result<Answer, Miss> {
        let started_at = Instant::now();
        let read = timeout(self.config.within, self.read()).await;
        let read = read.unwrap_or_else(|_| Err(late(self.config.within)));
        let exposition = read.map_err(|reason| Miss { reason, ..Miss::default() })?;
        let report = Report::of_stranger(clock.now(), started_at.elapsed(), String::new(), Vec::new());
        Ok(Answer { report, metrics: Ok(exposition) })
    }
}

/// Says that time is up.
pub(super) fn late(within: Duration) -> String {
    format!("no answer within {}", humantime::format_duration(within))
}

fn exposition(got: &Got, limits: Limits) -> Result<Exposition, String> {
    let text = std::str::from_utf8(&got.body).map_err(|_| "the answer is not UTF-8".to_owned())?;
    let kind = got.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let dialect = if kind.starts_with("application/openmetrics-text") {
        Dialect::OpenMetrics
    } else {
        Dialect::Prometheus
    };
    parse_as(text, dialect, limits).map_err(|error| format!("metrics cannot be read: {error}"))
}
