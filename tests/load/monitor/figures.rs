//! What watched programs show.

use std::fmt::Write as _;

/// Series that share a metric; each is of another kind.
pub(crate) const SHARDS: usize = 10;

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
    let mut text = String::with_capacity(n_series * 56);
    for index in 0..n_series / SHARDS {
        let name = metric(index);
        let is_counter = index.is_multiple_of(2);
        let family = name.trim_end_matches("_total");
        let _ = writeln!(text, "# TYPE {family} {}", if is_counter { "counter" } else { "gauge" });
        for shard in 0..SHARDS {
            let seed = (index * SHARDS + shard) as u64;
            let value = if is_counter { counter(shard, seed, pull) } else { gauge(shard, seed, pull) };
            let _ = writeln!(text, "{name}{{shard=\"{shard}\"}} {value}");
        }
    }
    text
}

/// Tells a counter: of events, of bytes or of seconds, each second another step, or one that hardly moves.
fn counter(kind: usize, seed: u64, pull: u64) -> f64 {
    // Grows by `step` a pull on average, and never the same twice.
    let grown = |step: f64| (pull as f64 + noise(seed, pull)) * step;
    match kind {
        // Requests, at many and at few a second.
        0 | 1 | 6 => (grown([900.0, 25.0][kind % 2]) + seed as f64).floor(),
        // Now and then one: errors, retries.
        2 | 9 => ((pull + seed) / 45) as f64,
        3 => grown(1_400_000.0).floor(),
        // Time spent: a sum of measured durations has all its digits.
        4 | 7 => grown(0.37) + seed as f64,
        // What never happened.
        _ => 0.0,
    }
}

/// Tells a gauge: what is set, what is queued, what is used, and what is measured.
fn gauge(kind: usize, seed: u64, pull: u64) -> f64 {
    let noise_now = noise(seed, pull);
    let wave = (pull as f64 / 600.0 + seed as f64).sin();
    match kind {
        // A queue, and connections in use.
        2 | 8 => (40.0 + 20.0 * wave + 9.0 * noise_now).floor(),
        // Memory in pages.
        3 => ((50_000.0 + 3_000.0 * wave + 200.0 * noise_now).floor()) * 4_096.0,
        // A share, with all its digits.
        4 => 0.5 + 0.2 * wave + 0.1 * noise_now,
        // What its program measures every 15 s, with one decimal.
        5 => ((42.0 + 8.0 * wave + 3.0 * noise(seed, pull / 15)) * 10.0).round() / 10.0,
        // An age in milliseconds, of what is made anew every five minutes.
        7 => ((pull + seed) % 300) as f64 + (noise_now * 1e3).floor() / 1e3,
        // A limit, a size, a state.
        _ => [1.0, 64.0, 1_073_741_824.0][(seed % 3) as usize],
    }
}

/// Gives the same number between 0 and 1 for the same place, and another one for each (SplitMix64).
fn noise(seed: u64, pull: u64) -> f64 {
    let mut bits = (seed << 32 ^ pull).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((bits ^ bits >> 31) >> 11) as f64 / (1_u64 << 53) as f64
}
