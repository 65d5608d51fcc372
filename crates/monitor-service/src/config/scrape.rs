//! Metrics of programs that are none of ours.

use std::collections::BTreeMap;
use std::time::Duration;

use mainstay_rpc::{ClientTls, EndpointList, Secret};
use mainstay_runtime::Problems;
use serde::{Deserialize, Serialize};

use super::watched;
use crate::alert::Severity;
use crate::target::{TargetKind, Terms};

/// Configures who shows metrics: sections `scrapes.<name>`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScrapeConfig {
    /// Where they are shown, one url for each instance.
    pub urls: EndpointList,
    /// How often they are read.
    #[serde(with = "humantime_serde")]
    pub every: Duration,
    /// Time for one scrape.
    #[serde(with = "humantime_serde")]
    pub within: Duration,
    /// Scrapes in a row that must fail before the instance is taken to be down.
    pub failures: u32,
    /// Added to every sample; one of that name which is there already becomes `exported_<name>`.
    pub labels: BTreeMap<String, String>,
    /// Bearer token; empty means none.
    pub token: Secret,
    /// Who logs in (basic); empty means nobody does.
    pub user: String,
    /// Password of that user.
    pub password: Secret,
    /// Certificates for `https`; without `ca` whom the host trusts is trusted.
    pub tls: ClientTls,
    /// Length of an answer; a longer one is a failed scrape.
    pub max_bytes: usize,
    /// Series of one instance; the newest beyond are not kept. Ten times as many samples are a failed scrape.
    pub max_series: usize,
}

impl Default for ScrapeConfig {
    fn default() -> Self {
        Self {
            urls: EndpointList::default(),
            every: Duration::from_secs(15),
            within: Duration::from_secs(5),
            failures: 2,
            labels: BTreeMap::new(),
            token: Secret::default(),
            user: String::new(),
            password: Secret::default(),
            tls: ClientTls::default(),
            max_bytes: 8 * 1024 * 1024,
            max_series: 5_000,
        }
    }
}

impl ScrapeConfig {
    pub(super) fn check(&self, name: &str, problems: &mut Problems) {
        let section = format!("scrapes.{name}");
        let key = |field: &str| format!("{section}.{field}");
        watched::check_urls(&key("urls"), &self.urls, &["http", "https"], false, problems);
        watched::check_pace(&section, self.every, self.within, self.failures, problems);
        watched::check_login(&section, &self.token, &self.user, &self.password, problems);
        watched::check_tls(&section, &self.tls, problems);
        let legal = |name: &String| {
            let letters = name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
            letters
                && !name.is_empty()
                && name.len() <= 100
                && !name.starts_with(|first: char| first.is_ascii_digit())
        };
        let labels = self.labels.len() <= 20 && self.labels.keys().all(legal);
        problems.ensure(
            labels,
            &key("labels"),
            "must be at most 20, named by letters, digits and underscores",
        );
        problems.range(&key("max_bytes"), self.max_bytes, 1_024..=256 * 1024 * 1024);
        problems.range(&key("max_series"), self.max_series, 10..=1_000_000);
    }

    pub(super) fn terms(&self, keep: Duration) -> Terms {
        Terms {
            kind: TargetKind::Scrape,
            ticks: watched::ticks(keep, self.every),
            patience: watched::patience(self.every, self.within),
            failures: self.failures,
            max_series: self.max_series,
            severity: Severity::Critical,
        }
    }
}
