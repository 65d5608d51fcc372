//! Early refresh: "Optimal Probabilistic Cache Stampede Prevention" (Vattani, Chierichetti, Lowenstein, 2015).

use std::time::Duration;

/// Tells whether an entry should be loaded again before it ends. `random` is uniform in 0 to 1; `cost` is what a load
/// takes. The nearer the end and the dearer the load, the likelier.
pub(super) fn is_due(ttl_left: Duration, cost: Duration, random: f64) -> bool {
    let gap = cost.as_secs_f64() * -random.max(f64::MIN_POSITIVE).ln();
    gap >= ttl_left.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_free_load_is_never_early_and_an_ended_entry_always_due() {
        assert!(!is_due(Duration::from_millis(1), Duration::ZERO, 1e-9));
        assert!(is_due(Duration::ZERO, Duration::from_millis(1), 0.999));
    }

    proptest! {
        /// What is due stays due nearer the end, for dearer loads, and for smaller random numbers.
        #[test]
        fn it_grows_likelier(left_ms in 0_u64..10_000, cost_ms in 0_u64..10_000, random in 0.0_f64..1.0) {
            let ms = Duration::from_millis;
            if is_due(ms(left_ms), ms(cost_ms), random) {
                prop_assert!(is_due(ms(left_ms / 2), ms(cost_ms), random));
                prop_assert!(is_due(ms(left_ms), ms(cost_ms * 2), random));
                prop_assert!(is_due(ms(left_ms), ms(cost_ms), random / 2.0));
            }
        }
    }
}
