//! One word and one line about a target.

use mainstay_runtime::Health;

use super::{Entry, Report};

/// Sums up the state of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// How well it does.
    pub health: Health,
    /// Why, in one line.
    pub detail: String,
}

impl Verdict {
    /// Judges by what is known; an isolated monitor knows nothing about the present.
    pub(crate) fn of(entry: &Entry, isolated: bool) -> Self {
        let verdict = |health, detail| Self { health, detail };
        if let Some(failing) = &entry.failing {
            let health = if isolated { Health::Unknown } else { Health::Unhealthy };
            return verdict(health, format!("does not answer: {}", failing.reason));
        }
        let Some(report) = &entry.report else {
            return verdict(Health::Unknown, "not asked yet".to_owned());
        };
        let (health, mut detail) = of_report(report);
        if let Some(unreadable) = &entry.unreadable {
            detail = format!("{detail}; metrics unreadable: {unreadable}");
        }
        verdict(health, detail)
    }
}

fn of_report(report: &Report) -> (Health, String) {
    let ailing: Vec<String> = report
        .components
        .iter()
        .filter(|component| matches!(component.health, Health::Unhealthy | Health::Degraded))
        .map(|component| format!("{} {}", component.name, component.health.as_str()))
        .collect();
    if report.draining {
        (Health::Degraded, "shutting down".to_owned())
    } else if !report.ready {
        (Health::Unhealthy, format!("not ready: {}", report.not_ready_because.join(", ")))
    } else if ailing.is_empty() {
        (Health::Healthy, "ready".to_owned())
    } else {
        (Health::Degraded, ailing.join(", "))
    }
}
