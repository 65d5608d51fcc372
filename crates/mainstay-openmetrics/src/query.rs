use std::collections::BTreeMap;

use crate::{Exposition, Kind, Sample};

impl Exposition {
    /// Returns the value of the first sample of this name that has all these labels.
    ///
    /// `name` is a full sample name, or that of a family: then the sample that stands for the family is meant
    /// (`_total` of a counter, `_info` of an info; a histogram has none). Where several sources are merged, name the
    /// labels that tell them apart, or ask for the [`sum`](Self::sum).
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.samples(name, labels).next().map(|sample| sample.value)
    }

    /// Adds up all samples of this name that have all these labels; none if there are none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.samples(name, labels).map(|sample| sample.value).reduce(|sum, value| sum + value)
    }

    /// Lists all samples of this name (see [`value`](Self::value)) that have all these labels.
    pub fn samples<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = &'a Sample> + 'a {
        self.families
            .iter()
            .filter(move |family| name.starts_with(&family.name))
            .flat_map(move |family| {
                let main = if family.name == name { family.kind.main_suffix() } else { None };
                let full = main.map(|suffix| format!("{name}{suffix}"));
                family.samples.iter().filter(move |sample| sample.name == *full.as_deref().unwrap_or(name))
            })
            .filter(move |sample| has_labels(sample, labels))
    }

    /// Estimates the `q`-quantile of all observations of a histogram family that have all these labels.
    ///
    /// Buckets of the matching series are added up first, so they should have the same bounds. Within a bucket
    /// observations are taken to be spread evenly; above the highest finite bound that bound is the answer. This is
    /// how Prometheus estimates. None without observations, without a `+Inf` bucket, or with `q` outside `[0, 1]`.
    pub fn histogram_quantile(&self, family: &str, labels: &[(&str, &str)], q: f64) -> Option<f64> {
        let is_histogram = |kind| matches!(kind, Kind::Histogram | Kind::GaugeHistogram);
        let family = self.families.iter().find(|held| held.name == family && is_histogram(held.kind))?;
        let bucket = format!("{}_bucket", family.name);
        let mut counts = BTreeMap::<Bound, f64>::new();
        for sample in family.samples.iter().filter(|s| s.name == bucket && has_labels(s, labels)) {
            let bound = sample.label("le")?.parse().ok().filter(|bound: &f64| !bound.is_nan())?;
            *counts.entry(Bound(bound)).or_default() += sample.value;
        }
        let buckets: Vec<_> = counts.into_iter().map(|(Bound(bound), count)| (bound, count)).collect();
        quantile(&buckets, q)
    }
}

fn has_labels(sample: &Sample, labels: &[(&str, &str)]) -> bool {
    labels.iter().all(|(name, value)| sample.label(name) == Some(value))
}

/// Estimates a quantile from cumulative counts by rising upper bound.
fn quantile(buckets: &[(f64, f64)], q: f64) -> Option<f64> {
    let (last, total) = *buckets.last()?;
    let sensible = (0.0..=1.0).contains(&q) && last == f64::INFINITY && total > 0.0 && total.is_finite();
    if !sensible {
        return None;
    }
    let rank = q * total;
    let position = buckets.iter().position(|(_, count)| *count >= rank)?;
    let (upper, count) = buckets[position];
    if upper == f64::INFINITY {
        return position.checked_sub(1).map(|highest| buckets[highest].0);
    }
    let (lower, below) = match position.checked_sub(1) {
        Some(previous) => buckets[previous],
        None if upper <= 0.0 => return Some(upper),
        None => (0.0, 0.0),
    };
    // The bucket before has fewer than the rank, so this one has at least one observation; rank 0 may find none.
    let within = if count > below { (rank - below) / (count - below) } else { 0.0 };
    Some(lower + (upper - lower) * within)
}

/// An upper bound, which is never NaN and so has a total order.
#[derive(PartialEq)]
struct Bound(f64);

impl Eq for Bound {}

impl PartialOrd for Bound {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Bound {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Limits, parse};

    fn read(text: &str) -> Exposition {
        parse(text, Limits::default()).unwrap()
    }

    const TEXT: &str = r#"# TYPE hits counter
hits_total{service="a",layer="l1"} 5
hits_total{service="b",layer="l1"} 7
hits_created{service="b",layer="l1"} 100
# TYPE build info
build_info{version="1"} 1
# TYPE temp gauge
temp 21.5
# TYPE temp_max gauge
temp_max 30
# TYPE wait histogram
wait_bucket{service="a",le="1"} 2
wait_bucket{service="a",le="2"} 4
wait_bucket{service="a",le="+Inf"} 4
wait_count{service="a"} 4
wait_bucket{service="b",le="1.0"} 0
wait_bucket{service="b",le="2"} 0
wait_bucket{service="b",le="+Inf"} 4
wait_count{service="b"} 4
# EOF
"#;

    #[test]
    fn values_are_found_by_family_and_by_sample() {
        let metrics = read(TEXT);
        for (name, labels, expected) in [
            ("hits", &[][..], Some(5.0)),
            ("hits_total", &[("service", "b")], Some(7.0)),
            ("hits", &[("service", "b"), ("layer", "l1")], Some(7.0)),
            ("hits", &[("service", "c")], None),
            ("hits_created", &[], Some(100.0)),
            ("build", &[("version", "1")], Some(1.0)),
            ("temp", &[], Some(21.5)),
            ("temp_max", &[], Some(30.0)),
            ("wait", &[], None),
            ("wait_count", &[], Some(4.0)),
            ("hit", &[], None),
        ] {
            assert_eq!(metrics.value(name, labels), expected, "{name} {labels:?}");
        }
    }

    #[test]
    fn sums_cover_all_matching_samples() {
        let metrics = read(TEXT);
        assert_eq!(metrics.sum("hits", &[]), Some(12.0));
        assert_eq!(metrics.sum("hits", &[("layer", "l2")]), None);
        assert_eq!(metrics.sum("wait_count", &[]), Some(8.0));
    }

    #[test]
    fn quantiles_are_interpolated_within_a_bucket() {
        let metrics = read(TEXT);
        let of = |labels: &[_], q| metrics.histogram_quantile("wait", labels, q);
        assert_eq!(of(&[("service", "a")], 0.5), Some(1.0));
        assert_eq!(of(&[("service", "a")], 0.75), Some(1.5));
        assert_eq!(of(&[("service", "a")], 0.25), Some(0.5));
        assert_eq!(of(&[("service", "a")], 0.0), Some(0.0));
        assert_eq!(of(&[("service", "b")], 0.5), Some(2.0), "beyond the highest bound");
        assert_eq!(of(&[], 0.25), Some(1.0), "both services together");
        assert_eq!(of(&[("service", "c")], 0.5), None);
        assert_eq!((of(&[], -0.1), of(&[], 1.1), of(&[], f64::NAN)), (None, None, None));
        assert_eq!(metrics.histogram_quantile("temp", &[], 0.5), None);
    }

    #[test]
    fn histograms_without_observations_or_without_an_end_have_no_quantile() {
        let table = [
            "# TYPE h histogram\nh_bucket{le=\"1\"} 0\nh_bucket{le=\"+Inf\"} 0\n",
            "# TYPE h histogram\nh_bucket{le=\"1\"} 5\n",
            "# TYPE h histogram\nh_bucket{le=\"+Inf\"} 5\n",
            "# TYPE h histogram\nh_bucket{le=\"x\"} 5\nh_bucket{le=\"+Inf\"} 5\n",
            "# TYPE h histogram\nh_bucket 5\nh_bucket{le=\"+Inf\"} 5\n",
            "# TYPE h histogram\nh_sum 5\n",
        ];
        for text in table {
            assert_eq!(read(text).histogram_quantile("h", &[], 0.5), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn estimates_lie_in_the_bucket_of_the_true_quantile(
            mut observed in prop::collection::vec(0.001_f64..100.0, 1..100), q in 0.0_f64..=1.0,
        ) {
            let bounds = [1.0, 5.0, 10.0, 50.0, 100.0, f64::INFINITY];
            let count = |bound: f64| observed.iter().filter(|value| **value <= bound).count() as f64;
            let buckets = bounds.map(|bound| (bound, count(bound)));
            let estimate = quantile(&buckets, q).unwrap();
            observed.sort_by(f64::total_cmp);
            let rank = (q * observed.len() as f64).ceil().max(1.0) as usize;
            let truth = observed[rank - 1];
            let upper = *bounds.iter().find(|bound| truth <= **bound).unwrap();
            let lower = bounds.iter().rev().find(|bound| **bound < truth).copied().unwrap_or(0.0);
            prop_assert!(lower - 1e-9 <= estimate && estimate <= upper + 1e-9 || q == 0.0, "{estimate} for {truth}");
        }

        #[test]
        fn quantiles_rise_with_q(counts in prop::collection::vec(0_u32..50, 2..8), a in 0.0..=1.0, b in 0.0..=1.0) {
            let mut total = 0.0;
            let mut buckets: Vec<_> = counts.iter().enumerate().map(|(n, count)| {
                total += f64::from(*count);
                (n as f64 - 2.0, total)
            }).collect();
            buckets.last_mut().unwrap().0 = f64::INFINITY;
            let (low, high) = (f64::min(a, b), f64::max(a, b));
            if let (Some(low), Some(high)) = (quantile(&buckets, low), quantile(&buckets, high)) {
                prop_assert!(low <= high + 1e-9);
            }
        }
    }
}
