use mainstay_tests::ChurnPlan;

/// The short form of `bench-churn`, which prints what is resident too: of so little memory the process itself is the larger
/// part.
const SHORT: ChurnPlan = ChurnPlan { capacity_mib: 12, rounds: 4, turns_each: 3, small_entries: 20_000 };

#[tokio::test]
async fn memory_keeps_its_bound_while_ten_times_as_much_goes_through_it() {
    let outcome = SHORT.run().await.expect("the cache runs");
    assert!(outcome.written_bytes >= 10 * outcome.capacity_bytes, "{outcome}");
    assert!(outcome.off_bound() <= 0.05, "{outcome}");
    assert!(outcome.most_counted_bytes <= outcome.capacity_bytes, "{outcome}");
    assert!(outcome.evictions > 0, "{outcome}");
    assert!(outcome.overhead.counted_bytes <= 150.0, "{outcome}");
}
