//! Probes: what is asked from outside only whether it answers as it should.

mod grpc;
mod http;
mod websocket;

use std::time::{Duration, SystemTime};

use mainstay_runtime::Clock;
use tokio::time::{Instant, timeout};

use super::dial::{DialError, Dialer};
use super::figures::Figures;
use super::scrape::late;
use super::{Answer, Miss, Source, one_line};
use crate::config::{ProbeConfig, ProbeKind};
use crate::roster::Report;

use self::grpc::HealthProbe;
use self::http::HttpProbe;
use self::websocket::WebsocketProbe;

/// Asks one address whether it answers as it should.
///
/// Who answers, but not as it should, has been reached: that says that the monitor is not cut off.
pub(super) struct Probe {
    asked: Asked,
    within: Duration,
    slow_after: Option<Duration>,
}

enum Asked {
    Http(HttpProbe),
    /// Also of TLS: then the handshake is part of it.
    Connection(Dialer),
    Grpc(HealthProbe),
    Websocket(WebsocketProbe),
}

/// Says why a probe failed.
#[derive(Debug, PartialEq, Eq)]
enum Failure {
    /// Nobody answers.
    Silent(String),
    /// Somebody answers, but not as it should be.
    Wrong(String),
}

impl Probe {
    /// Prepares the probes; opens no connection.
    pub(super) fn try_new(url: &str, config: ProbeConfig) -> anyhow::Result<Self> {
        let (within, slow_after) = (config.within, config.slow_after);
        let asked = match config.kind {
            ProbeKind::Http => Asked::Http(HttpProbe::try_new(url, config)?),
            ProbeKind::Tcp | ProbeKind::Tls => Asked::Connection(Dialer::try_new(url, &config.tls)?),
            ProbeKind::Grpc => Asked::Grpc(HealthProbe::try_new(url, config)?),
            ProbeKind::Websocket => Asked::Websocket(WebsocketProbe::try_new(url, config)?),
        };
        Ok(Self { asked, within, slow_after })
    }

    /// Asks once, and tells the status of HTTP if there was one.
    async fn look(&self) -> (Result<(), Failure>, Option<u16>) {
        match &self.asked {
            Asked::Http(probe) => probe.look().await,
            Asked::Connection(dialer) => (dialer.dial().await.map(drop).map_err(Failure::from), None),
            Asked::Grpc(probe) => (probe.look().await, None),
            Asked::Websocket(probe) => (probe.look().await, None),
        }
    }

    fn certificate_ends_at_s(&self) -> Option<i64> {
        match &self.asked {
            Asked::Http(probe) => probe.dialer().certificate_ends_at_s(),
            Asked::Connection(dialer) => dialer.certificate_ends_at_s(),
            Asked::Websocket(probe) => probe.dialer().certificate_ends_at_s(),
            Asked::Grpc(_) => None,
        }
    }

    fn figures(&self, succeeded: bool, took: Duration, status: Option<u16>, now: SystemTime) -> Figures {
        let mut figures = Figures::default();
        figures.add("probe_success", if succeeded { 1.0 } else { 0.0 });
        figures.add("probe_seconds", took.as_secs_f64());
        figures.add_known("probe_http_status", status.map(f64::from));
        if let Some(ends_at_s) = self.certificate_ends_at_s() {
            let now_s = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
            figures.add("probe_tls_expires_at_seconds", ends_at_s as f64);
            figures.add("probe_tls_days_left", (ends_at_s as f64 - now_s) / 86_400.0);
        }
        figures
    }
}

impl Source for Probe {
    async fn ask(&mut self, clock: &Clock) -> Result<Answer, Miss> {
        let started_at = Instant::now();
        let looked = timeout(self.within, self.look()).await;
        let (looked, status) = looked.unwrap_or_else(|_| (Err(Failure::Silent(late(self.within))), None));
        let took = started_at.elapsed();
        let looked = looked.and_then(|()| match self.slow_after.filter(|after| took > *after) {
            Some(after) => Err(Failure::Wrong(slow(took, after))),
            None => Ok(()),
        });
        let now = clock.now();
        let figures = self.figures(looked.is_ok(), took, status, now).into_exposition();
        let wrong = match looked {
            Ok(()) => Vec::new(),
            Err(Failure::Wrong(reason)) => vec![reason],
            Err(Failure::Silent(reason)) => return Err(Miss { reason, figures }),
        };
        let report = Report::of_stranger(now, took, String::new(), wrong);
        Ok(Answer { report, metrics: Ok(figures) })
    }
}

fn slow(took: Duration, after: Duration) -> String {
    let took = Duration::from_millis(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
    format!("took {}, more than {}", humantime::format_duration(took), humantime::format_duration(after))
}

impl From<DialError> for Failure {
    fn from(error: DialError) -> Self {
        let reason = one_line(&error);
        if error.is_reached() { Self::Wrong(reason) } else { Self::Silent(reason) }
    }
}
