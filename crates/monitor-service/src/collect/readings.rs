//! Which samples of a target are worth a history.

use std::collections::BTreeSet;

use mainstay_openmetrics::{Exposition, Family, Kind, Sample};

use crate::series::Reading;

/// Picks the samples that become series.
///
/// Counters keep their raw, cumulative values. Of a histogram `_count` and `_sum` stay, which give rate and mean at
/// two series instead of a dozen; its buckets, unless asked for, the times of creation and facts (`_info`) are left out.
pub(crate) fn readings<'e>(
    exposition: &'e Exposition,
    with_buckets: &'e BTreeSet<String>,
) -> impl Iterator<Item = Reading<'e>> {
    let families = exposition.families.iter().filter(|family| family.kind != Kind::Info);
    let samples = families.flat_map(|family| {
        let buckets = with_buckets.contains(&family.name);
        family.samples.iter().filter(move |sample| is_wanted(family, sample, buckets))
    });
    samples.map(|sample| Reading { metric: &sample.name, labels: &sample.labels, value: sample.value })
}

fn is_wanted(family: &Family, sample: &Sample, buckets: bool) -> bool {
    let suffix = sample.name.strip_prefix(&family.name).unwrap_or_default();
    match family.kind {
        Kind::Histogram | Kind::GaugeHistogram => suffix != "_created" && (buckets || suffix != "_bucket"),
        Kind::Counter | Kind::Summary => suffix != "_created",
        Kind::Gauge | Kind::Info | Kind::StateSet | Kind::Unknown => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mainstay_openmetrics::{Limits, parse};

    #[test]
    fn buckets_facts_and_times_of_creation_get_no_history() {
        let text = "# TYPE hits counter\nhits_total 7\nhits_created 1\n\
                    # TYPE wait histogram\nwait_bucket{le=\"+Inf\"} 3\nwait_count 3\nwait_sum 0.5\n\
                    # TYPE build info\nbuild_info{version=\"1\"} 1\n\
                    # TYPE queue_created gauge\nqueue_created 5\n# EOF\n";
        let exposition = parse(text, Limits::default()).unwrap();
        let none = BTreeSet::new();
        let kept: Vec<_> =
            readings(&exposition, &none).map(|reading| (reading.metric, reading.value)).collect();
        assert_eq!(
            kept,
            [("hits_total", 7.0), ("wait_count", 3.0), ("wait_sum", 0.5), ("queue_created", 5.0)]
        );
    }
}
