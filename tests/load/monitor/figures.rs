//! What watched programs show.

use std::fmt::Write as _;

/// Series that share a metric.
const SHARDS: usize = 10;

/// Names a metric; half of them are counters.
pub(crate) fn metric(index: usize) -> String {
    if index.is_multiple_of(2) {
        format!("bench_requests_{index}_total")
    } else {
        format!("bench_depth_{index}")
    }
}

/// Writes so many series as OpenMetrics, as they are at the nth pull, without the end.
pub(crate) fn text(n_series: usize, pull: u64) -> String {
    let mut text = String::with_capacity(n_series * 48);
    for index in 0..n_series / SHARDS {
        let name = metric(index);
        let counter = index.is_multiple_of(2);
        let family = name.trim_end_matches("_total");
        let _ = writeln!(text, "# TYPE {family} {}", if counter { "counter" } else { "gauge" });
        for shard in 0..SHARDS {
            // What real figures do: most counters grow a little or rest, most gauges rest or move by small steps.
            let step = (pull * (shard as u64 + 1) + index as u64) / 3;
            let value = if counter { step * (index as u64 % 7) } else { 40 + (step * 7_919) % 9 };
            let _ = writeln!(text, "{name}{{shard=\"{shard}\"}} {value}");
        }
    }
    text
}
