//! Rate, errors and duration of every route and method, from what their counters and histograms gained.

use std::collections::BTreeMap;
use std::time::Duration;

/// Names a route or method of one service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// Whose.
    pub service: String,
    /// `rest` or `grpc`.
    pub protocol: &'static str,
    /// Method and path of a route, or the full name of a gRPC method.
    pub name: String,
}

/// Holds what an endpoint gained in a stretch of time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Gained {
    /// Requests answered, by how: a status or a code.
    pub answered: BTreeMap<String, f64>,
    /// Requests timed.
    pub timed: f64,
    /// Seconds that they took together.
    pub seconds: f64,
    /// Requests up to each bound in seconds, sorted by bound; empty where buckets have no history.
    pub buckets: Vec<(f64, f64)>,
}

/// Sums an endpoint up.
#[derive(Debug, Clone, PartialEq)]
pub struct Red {
    /// Whose figures.
    pub endpoint: Endpoint,
    /// Requests in a second.
    pub rate: f64,
    /// Share answered with an error of ours; none without requests.
    pub errors: Option<f64>,
    /// Share answered with an error of the caller's; none without requests.
    pub refused: Option<f64>,
    /// Seconds of a request on average; none without requests.
    pub mean: Option<f64>,
    /// Seconds that so many requests of a hundred do not exceed: 50, 95, 99; none without buckets or requests.
    pub quantiles: Option<[f64; 3]>,
    /// Seconds of work in a second: what the service is busy with.
    pub busy: f64,
}

/// Codes with which a service says that the caller is wrong.
const REFUSALS: [&str; 9] = [
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "CONFLICT",
    "UNAUTHENTICATED",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "CANCELLED",
    "UNIMPLEMENTED",
];

/// Sums every endpoint up, the busiest first.
pub fn sum_up(gained: BTreeMap<Endpoint, Gained>, over: Duration) -> Vec<Red> {
    let seconds = over.as_secs_f64().max(f64::MIN_POSITIVE);
    let red = |(endpoint, gained): (Endpoint, Gained)| {
        let total: f64 = gained.answered.values().sum();
        let total = total.max(gained.timed);
        let of = |is: fn(&str) -> bool| {
            // A sum of nothing would be minus zero.
            let answered = gained.answered.iter().filter(|(how, _)| is(how));
            let sum = answered.fold(0.0, |sum: f64, (_, n)| sum + n);
            (total > 0.0).then(|| sum / total)
        };
        let quantile = |share: f64| in_buckets(&gained.buckets, share);
        let quantiles = quantile(0.5).zip(quantile(0.95)).zip(quantile(0.99));
        Red {
            rate: total / seconds,
            errors: of(is_error),
            refused: of(is_refusal),
            mean: (gained.timed > 0.0).then(|| gained.seconds / gained.timed),
            quantiles: quantiles.map(|((half, most), nearly_all)| [half, most, nearly_all]),
            busy: gained.seconds / seconds,
            endpoint,
        }
    };
    let mut all: Vec<Red> = gained.into_iter().map(red).filter(|red| red.rate > 0.0).collect();
    all.sort_by(|one, other| other.busy.total_cmp(&one.busy).then_with(|| one.endpoint.cmp(&other.endpoint)));
    all
}

fn is_refusal(how: &str) -> bool {
    matches!(how.parse::<u16>(), Ok(400..500)) || REFUSALS.contains(&how)
}

fn is_error(how: &str) -> bool {
    match how.parse::<u16>() {
        Ok(status) => status >= 500,
        Err(_) => how != "OK" && !is_refusal(how),
    }
}

/// Finds the bound below which a share lies, by a straight line within its bucket.
fn in_buckets(buckets: &[(f64, f64)], share: f64) -> Option<f64> {
    let rank = share * buckets.last().map(|(_, count)| *count).filter(|count| *count > 0.0)?;
    let (mut lower, mut below) = (0.0, 0.0);
    for (bound, count) in buckets {
        if *count >= rank {
            let within = bound.is_finite() && *count > below;
            return Some(if within {
                lower + (bound - lower) * ((rank - below) / (count - below))
            } else {
                lower
            });
        }
        (lower, below) = (*bound, *count);
    }
    Some(lower)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busiest_endpoint_comes_first_with_rate_errors_and_duration() {
        let endpoint =
            |name: &str| Endpoint { service: "s".to_owned(), protocol: "rest", name: name.to_owned() };
        let answered = |pairs: &[(&str, f64)]| pairs.iter().map(|(how, n)| ((*how).to_owned(), *n)).collect();
        let slow = Gained {
            answered: answered(&[("200", 90.0), ("404", 5.0), ("503", 5.0)]),
            timed: 100.0,
            seconds: 50.0,
            buckets: vec![(0.1, 0.0), (0.5, 50.0), (1.0, 100.0), (f64::INFINITY, 100.0)],
        };
        let fast = Gained {
            answered: answered(&[("OK", 900.0), ("INTERNAL", 100.0)]),
            timed: 1_000.0,
            seconds: 1.0,
            buckets: Vec::new(),
        };
        let idle = Gained::default();
        let gained = [(endpoint("a"), idle), (endpoint("b"), fast), (endpoint("c"), slow)].into();
        let [slow, fast] = sum_up(gained, Duration::from_secs(100)).try_into().unwrap();
        assert_eq!((slow.endpoint.name.as_str(), slow.rate, slow.busy), ("c", 1.0, 0.5));
        assert_eq!((slow.errors, slow.refused, slow.mean), (Some(0.05), Some(0.05), Some(0.5)));
        let [half, most, _] = slow.quantiles.unwrap();
        assert!((half - 0.5).abs() < 1e-9 && (most - 0.95).abs() < 1e-9, "{half} {most}");
        assert_eq!((fast.errors, fast.quantiles), (Some(0.1), None));
    }
}
