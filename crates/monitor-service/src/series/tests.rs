use super::*;
use crate::target::Terms;
use proptest::prelude::*;
use std::time::{Duration, UNIX_EPOCH};

const START_S: u64 = 1_700_000_000;

fn at(second: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(START_S + second)
}

fn targets(n: usize) -> Vec<Arc<Target>> {
    let target = |index| {
        Arc::new(Target {
            index,
            service: "cache-service".to_owned(),
            endpoint: format!("http://127.0.0.1:401{index}"),
            terms: Terms::default(),
        })
    };
    (0..n).map(target).collect()
}

fn history(ticks: usize, max_series: usize) -> (History, Vec<Arc<Target>>) {
    let targets = targets(2);
    (History::new(&targets, NonZeroUsize::new(ticks).unwrap(), max_series), targets)
}

fn reading(metric: &str, value: f64) -> Reading<'_> {
    Reading { metric, labels: &[], value }
}

fn labels(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn range(metric: &str, from: u64, to: u64, step_s: u64) -> Range {
    Range::try_new(metric, BTreeMap::new(), at(from), at(to), Duration::from_secs(step_s)).unwrap()
}

/// Sums a bucket up in the plainest way there is.
fn direct(values: &[f64]) -> (f64, f64, f64, f64) {
    let min = values.iter().copied().fold(f64::INFINITY, f64::min);
    let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (min, max, values.iter().sum::<f64>() / values.len() as f64, *values.last().unwrap())
}

proptest! {
    #[test]
    fn buckets_equal_a_direct_computation(
        values in proptest::collection::vec(proptest::option::weighted(0.9, -1e6..1e6), 1..400),
        from in 0..200_u64,
        width in 1..400_u64,
        step in 1..90_u64,
    ) {
        let (mut history, targets) = history(3600, 10);
        for (second, value) in values.iter().enumerate() {
            history.record(&targets[0], at(second as u64), value.map(|value| reading("m", value)));
        }
        let answer = history.range(&range("m", from, from + width, step));
        let points = answer.series.first().map(|series| series.points.clone()).unwrap_or_default();

        let mut expected: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
        for (second, value) in values.iter().enumerate().filter_map(|(second, value)| Some((second as u64, (*value)?))) {
            if (from..from + width).contains(&second) {
                expected.entry((second - from) / step).or_default().push(value);
            }
        }
        prop_assert_eq!(points.len(), expected.len());
        for (point, (index, values)) in points.iter().zip(&expected) {
            let (min, max, mean, last) = direct(values);
            prop_assert_eq!(point.at, at(from + index * step));
            prop_assert_eq!((point.min, point.max, point.last), (min, max, last));
            prop_assert!((point.mean - mean).abs() <= 1e-9 * mean.abs().max(1.0), "{} != {}", point.mean, mean);
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn memory_has_a_bound_whatever_comes(
        ticks in 1..300_usize,
        pulls in proptest::collection::vec(proptest::collection::vec((0..40_u32, any::<f64>()), 0..20), 0..900),
    ) {
        let (mut history, targets) = history(ticks, 12);
        for (second, pull) in pulls.iter().enumerate() {
            let names: Vec<_> = pull.iter().map(|(name, value)| (format!("m{name}"), *value)).collect();
            let readings = names.iter().map(|(name, value)| reading(name, *value));
            history.record(&targets[second % 2], at(second as u64), readings);
            prop_assert!(history.len() <= 12);
        }
        let held: usize = history.targets.iter().map(|tracked| tracked.series.len()).sum();
        prop_assert_eq!(history.len(), held);
        let chunks = ticks / column::CHUNK_TICKS as usize + 3;
        let bound = 12 * chunks * (column::CHUNK_TICKS as usize * 18 + 64) + 2 * 8 * (2 * ticks + 8);
        prop_assert!(history.sample_bytes() <= bound, "{} > {}", history.sample_bytes(), bound);
    }
}

#[test]
fn newest_series_is_refused_and_counted_until_there_is_room() {
    let (mut history, targets) = history(10, 2);
    let old = [reading("a", 1.0), reading("b", 1.0)];
    history.record(&targets[0], at(0), old);
    let recorded = history.record(&targets[1], at(0), [reading("a", 2.0)]);
    assert_eq!(recorded, Recorded { refused: 1, ..Recorded::default() });
    assert_eq!(history.refused_now(), 1);

    // `b` is not seen any more: once it has expired there is room.
    for second in 1..600 {
        history.record(&targets[0], at(second), [reading("a", 1.0)]);
    }
    let recorded = history.record(&targets[1], at(600), [reading("a", 2.0)]);
    assert_eq!(recorded.stored, 1);
    assert_eq!(history.refused_now(), 0);
}

#[test]
fn numbers_that_are_none_are_skipped() {
    let (mut history, targets) = history(10, 10);
    let recorded = history.record(
        &targets[0],
        at(0),
        [
            reading("a", f64::NAN),
            reading("b", f64::INFINITY),
            reading("c", f64::NEG_INFINITY),
            reading("d", 1.0),
        ],
    );
    assert_eq!(recorded, Recorded { stored: 1, skipped: 3, ..Recorded::default() });
    assert_eq!(history.names("", 10).1, 1);
}

#[test]
fn identity_ignores_label_order_and_tells_targets_apart() {
    let (mut history, targets) = history(10, 10);
    let there = labels(&[("layer", "l1"), ("namespace", "a,b")]);
    let back = labels(&[("namespace", "a,b"), ("layer", "l1")]);
    let one = Reading { metric: "m", labels: &there, value: 1.0 };
    let same = Reading { metric: "m", labels: &back, value: 2.0 };
    history.record(&targets[0], at(0), [one]);
    history.record(&targets[0], at(1), [same]);
    assert_eq!(history.len(), 1);
    history.record(&targets[1], at(1), [same]);
    assert_eq!(history.len(), 2);

    let labels = BTreeMap::from([("endpoint".to_owned(), targets[1].endpoint.clone())]);
    let asked = Range::try_new("m", labels, at(0), at(10), Duration::from_secs(1)).unwrap();
    let answer = history.range(&asked);
    assert_eq!(answer.series.len(), 1);
    assert_eq!(answer.series[0].labels["namespace"], "a,b");
    assert_eq!(answer.series[0].labels["service"], "cache-service");
}

#[test]
fn separator_in_a_label_does_not_merge_two_series() {
    let (mut history, targets) = history(10, 10);
    history.record(
        &targets[0],
        at(0),
        [Reading { metric: "m", labels: &labels(&[("a", "1,b=2")]), value: 1.0 }],
    );
    history.record(
        &targets[0],
        at(1),
        [Reading { metric: "m", labels: &labels(&[("a", "1"), ("b", "2")]), value: 1.0 }],
    );
    assert_eq!(history.len(), 2);
}

#[test]
fn label_that_the_target_sets_is_kept_under_another_name() {
    let (mut history, targets) = history(10, 10);
    history.record(
        &targets[0],
        at(0),
        [Reading { metric: "m", labels: &labels(&[("endpoint", "redis:6379")]), value: 1.0 }],
    );
    let (names, _) = history.names("m", 1);
    assert_eq!(names[0].labels["exported_endpoint"], "redis:6379");
    assert_eq!(names[0].labels["endpoint"], targets[0].endpoint);
}

#[test]
fn metric_whose_name_begins_like_another_is_not_mixed_in() {
    let (mut history, targets) = history(10, 10);
    history.record(&targets[0], at(0), [reading("hits", 1.0), reading("hits_total", 2.0)]);
    let answer = history.range(&range("hits", 0, 10, 1));
    assert_eq!(answer.series.len(), 1);
    assert_eq!(answer.series[0].points[0].last, 1.0);
    assert_eq!(history.names("hits", 10).1, 2);
    assert_eq!(history.names("hits_", 10).1, 1);
}

#[test]
fn only_what_the_timeline_remembers_is_answered() {
    let (mut history, targets) = history(60, 10);
    for second in 0..1000 {
        history.record(&targets[0], at(second), [reading("m", second as f64)]);
    }
    let answer = history.range(&range("m", 0, 2000, 1));
    assert_eq!(answer.series[0].points.len(), 60);
    assert_eq!(answer.series[0].points[0].last, 940.0);
}

#[test]
fn answer_stops_at_a_hundred_series_and_says_so() {
    let (mut history, targets) = history(10, 1000);
    let each: Vec<_> = (0..150).map(|index| labels(&[("index", &index.to_string())])).collect();
    let readings = each.iter().map(|labels| Reading { metric: "m", labels, value: 1.0 });
    history.record(&targets[0], at(0), readings);
    let answer = history.range(&range("m", 0, 10, 1));
    assert_eq!((answer.series.len(), answer.truncated), (SERIES_MAX, true));
}

#[test]
fn latest_value_is_not_older_than_asked() {
    let (mut history, targets) = history(10, 10);
    history.record(&targets[0], at(0), [reading("m", 1.0)]);
    history.record(&targets[0], at(5), [reading("other", 1.0)]);
    assert_eq!(history.latest("m", at(0))[0].value, 1.0);
    assert!(history.latest("m", at(1)).is_empty());
}

#[test]
fn impossible_ranges_name_the_field() {
    let cases = [
        ("", 0, 10, 1, "metric"),
        ("m", 10, 10, 1, "to"),
        ("m", 10, 0, 1, "to"),
        ("m", 0, 10, 0, "step"),
        ("m", 0, 11_001, 1, "step"),
    ];
    for (metric, from, to, step_s, field) in cases {
        let range = Range::try_new(metric, BTreeMap::new(), at(from), at(to), Duration::from_secs(step_s));
        assert_eq!(range.unwrap_err().field(), field, "{metric} {from} {to} {step_s}");
    }
}

#[test]
fn history_of_a_target_comes_and_goes_with_it() {
    let (mut history, fixed) = history(10, 100);
    let later = Arc::new(Target { index: fixed.len() + 3, ..Target::clone(&fixed[0]) });
    assert_eq!(history.record(&later, at(0), [reading("up", 1.0)]), Recorded::default(), "not known yet");
    history.add(&later);
    history.record(&later, at(0), [reading("up", 1.0), reading("ready", 1.0)]);
    history.record(&fixed[1], at(0), [reading("up", 1.0)]);
    assert_eq!((history.len(), history.indexes().last()), (3, Some(&later.index)));
    assert_eq!(history.roll(later.index, at(0), Duration::from_secs(10)).len(), 2);
    history.remove(&later);
    assert_eq!((history.len(), history.latest("up", at(0)).len()), (1, 1));
    assert_eq!(history.record(&later, at(1), [reading("up", 1.0)]), Recorded::default(), "too late");
}
