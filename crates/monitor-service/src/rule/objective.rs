//! The built-in rule about objectives.

use std::collections::BTreeMap;

use super::{Facts, own_key, timing};
use crate::alert::{Breach, Severity};
use crate::analysis::slo::Pair;
use crate::config::AlertsConfig;

/// Tells that the error budget of an objective is used up too fast.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Burning {
    /// Name of the objective.
    pub slo: String,
    /// The windows that say so.
    pub pair: Pair,
    /// Times faster than allowed, in the calmer of the two windows.
    pub rate: f64,
}

pub(crate) const SLO_BURN: &str = "slo_burn";

pub(super) fn slo_burn(facts: &Facts<'_>, config: &AlertsConfig) -> Vec<Breach> {
    let breach = |Burning { slo, pair, rate }: &Burning| {
        let shown = humantime::format_duration;
        let labels = [
            ("slo".to_owned(), slo.clone()),
            ("long_window".to_owned(), shown(pair.long).to_string()),
            ("short_window".to_owned(), shown(pair.short).to_string()),
        ];
        Breach {
            key: own_key(SLO_BURN, slo),
            severity: if pair.is_urgent { Severity::Critical } else { Severity::Warning },
            summary: format!(
                "the error budget of {slo} is used up {rate:.1} times faster than allowed, over {} and {}",
                shown(pair.long),
                shown(pair.short)
            ),
            value: *rate,
            threshold: pair.burn,
            labels: BTreeMap::from(labels),
            since: None,
            timing: timing(std::time::Duration::ZERO, config),
        }
    };
    facts.burning.iter().map(breach).collect()
}
