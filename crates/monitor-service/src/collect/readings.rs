//! Which samples of a target are worth a history.

use mainstay_openmetrics::{Exposition, Family, Kind, Sample};

use crate::series::Reading;

/// Picks the samples that become series.
///
/// Counters keep their raw, cumulative values. Of a histogram `_count` and `_sum` stay, which give rate and mean at
/// two series instead of a dozen; its buckets, the times of creation and facts (`_info`) are left out.
pub(crate) fn readings(exposition: &Exposition) -> impl Iterator<Item = Reading<'_>> {
    let families = exposition.families.iter().filter(|family| family.kind != Kind::Info);
    let samples =
        families.flat_map(|family| family.samples.iter().filter(|sample| is_wanted(family, sample)));
    samples.map(|sample| Reading { metric: &sample.name, labels: &sample.labels, value: sample.value })
}

fn is_wanted(family: &Family, sample: &Sample) -> bool {
    let suffix = sample.name.strip_prefix(&family.name).unwrap_or_default();
    match family.kind {
        Kind::Histogram | Kind::GaugeHistogram => !matches!(suffix, "_bucket" | "_created"),
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
        let kept: Vec<_> = readings(&exposition).map(|reading| (reading.metric, reading.value)).collect();
        assert_eq!(
            kept,
            [("hits_total", 7.0), ("wait_count", 3.0), ("wait_sum", 0.5), ("queue_created", 5.0)]
        );
    }
}
