use std::time::Duration;

use proptest::prelude::*;
use rusqlite::Connection;

use super::work::SeriesIds;
use super::*;
use crate::config::StoreConfig;
use crate::roster::tests::at;

fn metrics() -> MonitorMetrics {
    MonitorMetrics::register(&mut prometheus_client::registry::Registry::default())
}

pub(in crate::store) fn point(values: &[f64]) -> TierPoint {
    TierPoint {
        n: values.len() as i64,
        min: values.iter().copied().fold(f64::INFINITY, f64::min),
        max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        mean: values.iter().sum::<f64>() / values.len() as f64,
        last: *values.last().unwrap(),
    }
}

pub(in crate::store) fn database() -> Connection {
    let mut connection = Connection::open_in_memory().unwrap();
    schema::prepare(&mut connection).unwrap();
    connection
}

/// Does something in a transaction.
pub(in crate::store) fn within<T>(
    connection: &mut Connection,
    act: impl FnOnce(&rusqlite::Transaction<'_>, Tables<'_>) -> Result<T, StoreError>,
) -> T {
    let transaction = connection.transaction().unwrap();
    let done = act(&transaction, Tables { connection: &transaction, metrics: &metrics() }).unwrap();
    transaction.commit().unwrap();
    done
}

fn add(connection: &mut Connection, points: &Points) {
    within(connection, |transaction, tables| {
        let mut steps = tiers::Steps::new(Tier::TenSeconds);
        work::points(transaction, &mut SeriesIds::default(), points, &mut steps)?;
        steps.write(tables)
    });
}

pub(in crate::store) fn insert(connection: &mut Connection, at_s: i64, values: &[f64]) {
    let labels = r#"{"service":"s","endpoint":"e"}"#;
    let points = vec![SeriesPoint { metric: "m".into(), labels: labels.into(), point: point(values) }];
    add(connection, &Points { at_s, points });
}

pub(in crate::store) fn query(tier: Tier, from_s: i64, to_s: i64) -> TierQuery {
    TierQuery {
        metric: "m".to_owned(),
        labels: [("service".to_owned(), "s".to_owned())].into(),
        from_s,
        to_s,
        tier,
        known_from_s: Default::default(),
    }
}

pub(in crate::store) fn read(connection: &Connection, query: &TierQuery) -> Vec<TierSeries> {
    tiers::read(Tables { connection, metrics: &metrics() }, query).unwrap()
}

/// Rolls up and folds, as the writer does.
pub(in crate::store) fn roll_up(connection: &mut Connection, now_s: i64) {
    within(connection, |_, tables| {
        tiers::roll_up(tables, now_s)?;
        tiers::fold(tables)
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn rolled_up_figures_equal_a_direct_computation(
        steps in proptest::collection::vec(proptest::collection::vec(-1e6..1e6_f64, 1..5), 6..30),
    ) {
        let mut connection = database();
        for (index, values) in steps.iter().enumerate() {
            insert(&mut connection, index as i64 * 10, values);
        }
        let whole_minutes = steps.len() / 6;
        // In several goes, and once too often: the same.
        for now in [60, 130, steps.len() as i64 * 10, steps.len() as i64 * 10] {
            roll_up(&mut connection, now.min(steps.len() as i64 * 10));
        }
        let found = read(&connection, &query(Tier::Minute, 0, whole_minutes as i64 * 60));
        prop_assert_eq!(found[0].points.len(), whole_minutes);
        for (minute, (at, rolled)) in found[0].points.iter().enumerate() {
            let values: Vec<f64> = steps[minute * 6..minute * 6 + 6].concat();
            let direct = point(&values);
            prop_assert_eq!(*at, minute as i64 * 60);
            prop_assert_eq!((rolled.n, rolled.min, rolled.max, rolled.last), (direct.n, direct.min, direct.max, direct.last));
            prop_assert!((rolled.mean - direct.mean).abs() < 1e-6 * (1.0 + direct.mean.abs()));
        }
    }
}

/// What was sampled in each step of this width, by the second the step begins.
fn by_step(samples: &[(u64, f64)], width_s: u64) -> Vec<(i64, Vec<f64>)> {
    let mut steps: std::collections::BTreeMap<u64, Vec<f64>> = Default::default();
    for (second, value) in samples {
        steps.entry(second - second % width_s).or_default().push(*value);
    }
    steps.into_iter().map(|(second, values)| (second as i64, values)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn samples_in_memory_and_in_each_tier_sum_up_to_the_same(
        samples in proptest::collection::vec((1..30_u64, -1e6..1e6_f64), 300..600),
        goes in proptest::collection::vec(0..14_400_i64, 0..6),
    ) {
        let begin = SystemTime::UNIX_EPOCH;
        let mut second = 0;
        let samples: Vec<(u64, f64)> = samples.into_iter()
            .map(|(gap, value)| { second += gap; (second, value) })
            .take_while(|(second, _)| *second < 14_400)
            .collect();
        let targets = crate::roster::tests::targets(&["s"]);
        let mut history = crate::series::History::new(&targets, std::num::NonZeroUsize::new(14_400).unwrap(), 10);
        for (second, value) in &samples {
            let reading = crate::series::Reading { metric: "m", labels: &[], value: *value };
            history.record(&targets[0], begin + Duration::from_secs(*second), [reading]);
        }
        let mut connection = database();
        let last = samples.last().unwrap().0;
        for at_s in (0..=last).step_by(10) {
            let rolled = history.roll(0, begin + Duration::from_secs(at_s), Duration::from_secs(10));
            let points = rolled.into_iter().map(|rolled| SeriesPoint {
                metric: rolled.metric.into(),
                labels: serde_json::to_string(&rolled.labels).unwrap().into(),
                point: TierPoint { n: rolled.n.into(), min: rolled.min, max: rolled.max, mean: rolled.mean, last: rolled.last },
            });
            add(&mut connection, &Points { at_s: at_s as i64, points: points.collect() });
            // Whenever it is rolled up, and however often.
            if goes.iter().any(|go| (at_s as i64..at_s as i64 + 10).contains(go)) {
                roll_up(&mut connection, at_s as i64 + 10);
            }
        }
        let end = last as i64 - last as i64 % 3_600;
        roll_up(&mut connection, last as i64);
        for tier in Tier::ALL {
            let found = read(&connection, &query(tier, 0, end));
            let found = found.first().map(|series| series.points.clone()).unwrap_or_default();
            let expected: Vec<_> = by_step(&samples, tier.width_s() as u64)
                .into_iter().filter(|(second, _)| *second < end).collect();
            prop_assert_eq!(found.len(), expected.len(), "{:?}", tier);
            for ((at, rolled), (second, values)) in found.iter().zip(&expected) {
                let direct = point(values);
                prop_assert_eq!(at, second);
                prop_assert_eq!((rolled.n, rolled.min, rolled.max, rolled.last), (direct.n, direct.min, direct.max, direct.last));
                prop_assert!((rolled.mean - direct.mean).abs() < 1e-6 * (1.0 + direct.mean.abs()), "{:?}: {} != {}", tier, rolled.mean, direct.mean);
            }
        }
    }
}

#[test]
fn where_a_coarse_tier_ends_a_finer_one_goes_on() {
    let mut connection = database();
    for step in 0..8 {
        insert(&mut connection, step * 10, &[step as f64]);
    }
    roll_up(&mut connection, 80);
    let found = read(&connection, &query(Tier::Minute, 0, 1_000));
    let places: Vec<i64> = found[0].points.iter().map(|(at, _)| *at).collect();
    assert_eq!(places, [0, 60, 70]);
    let mut partly = query(Tier::Minute, 0, 1_000);
    partly.known_from_s = [(("s".to_owned(), "e".to_owned()), 70)].into();
    let found = read(&connection, &partly);
    assert_eq!(found[0].points.last().map(|(at, _)| *at), Some(60), "memory knows the rest");
    partly.known_from_s = [(("s".to_owned(), "e".to_owned()), 65)].into();
    let found = read(&connection, &partly);
    assert_eq!(found[0].points.last().map(|(at, _)| *at), Some(60), "memory knows half of it");
}

#[test]
fn step_begun_before_a_restart_goes_on() {
    let mut connection = database();
    insert(&mut connection, 0, &[1.0, 5.0]);
    insert(&mut connection, 0, &[3.0]);
    let found = read(&connection, &query(Tier::TenSeconds, 0, 10));
    assert_eq!(found[0].points, [(0, TierPoint { n: 3, min: 1.0, max: 5.0, mean: 3.0, last: 3.0 })]);
}

#[test]
fn what_is_too_old_is_forgotten_with_its_series() {
    let mut connection = database();
    insert(&mut connection, 0, &[1.0]);
    roll_up(&mut connection, 3_600);
    let hour = Duration::from_hours(1);
    let retention = Retention { ten_seconds: hour, minute: hour, hour };
    // As long as a block may hold one of its points.
    let last = 3_600 + 10 * 24 * 3_600;
    for (now, left) in [(3_600, 1_i64), (last, 1), (last + 1, 0)] {
        within(&mut connection, |_, tables| tiers::expire(tables, &retention, now));
        let series: i64 = connection.query_row("SELECT count(*) FROM series", [], |row| row.get(0)).unwrap();
        assert_eq!(series, left, "at {now}");
    }
}

#[test]
fn coarsest_tier_that_is_fine_enough_and_reaches_back_is_chosen() {
    let retention = StoreConfig::default().retention();
    let (s, h) = (Duration::from_secs, Duration::from_hours);
    for (step, age, expected) in [
        (s(1), h(1), Tier::TenSeconds),
        (s(59), h(2), Tier::TenSeconds),
        (s(60), h(2), Tier::Minute),
        (s(7_200), h(2), Tier::Hour),
        (s(10), h(48), Tier::Minute),
        (s(10), h(24 * 90), Tier::Hour),
        (s(10), h(24 * 9_000), Tier::Hour),
    ] {
        assert_eq!(Tier::for_step(step, age, &retention), expected, "{step:?} {age:?}");
    }
}

#[test]
fn damaged_file_is_put_aside_and_the_store_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("monitor.db");
    std::fs::write(&path, vec![0x5a; 64 * 1024]).unwrap();
    let config = StoreConfig { path: path.clone(), ..StoreConfig::default() };
    let opened = open(&config, metrics(), at(7)).unwrap();
    assert_eq!(opened.restored.alerts.len(), 0);
    let names: Vec<String> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(names.iter().any(|name| name.contains(".damaged-")), "{names:?}");
    assert!(path.exists(), "a new one is there");
}

#[test]
fn path_that_cannot_be_used_leaves_memory() {
    let folder = tempfile::tempdir().unwrap();
    let config = StoreConfig { path: folder.path().to_owned(), ..StoreConfig::default() };
    assert!(open(&config, metrics(), at(7)).is_ok(), "a folder is no database; the service goes on");
    assert!(folder.path().exists(), "and nothing is renamed");
}

/// Hands everything that waits to the writer's desk, as its task does.
fn commit(opened: &mut Opened, now_s: i64) {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now_s.unsigned_abs());
    let outbox = crate::notify::Outbox::new(&crate::config::NotifyConfig::default(), metrics());
    opened.writer.commit_some(100, now, &outbox, true);
}

#[test]
fn store_that_is_too_large_loses_its_oldest_finest_history_and_nothing_else() {
    const N_SERIES: usize = 100;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("monitor.db");
    let max_size = bytesize::ByteSize::kib(1_536);
    let config = StoreConfig { path: path.clone(), max_size, ..StoreConfig::default() };
    let mut opened = open(&config, metrics(), at(0)).unwrap();
    let label = |series: usize| format!(r#"{{"endpoint":"e","n":"{series}","service":"s"}}"#);
    let silence = Silence {
        id: uuid::Uuid::from_u128(1),
        matchers: Default::default(),
        starts_at: at(0),
        ends_at: at(9),
        by: "ann".to_owned(),
        comment: "why".to_owned(),
    };
    let changes = Changes { silences: vec![(silence.id, Some(silence))], ..Changes::default() };
    opened.store.queue(changes);
    // Two hours and a half, a look at everything every 10 s, and each figure another one.
    let begin_s = unix_ms(at(0)) / 1000 / 3_600 * 3_600;
    let n_steps: i64 = 6 * 150 + 1;
    for step in 0..n_steps {
        let each = (0..N_SERIES).map(|series| SeriesPoint {
            metric: "m".into(),
            labels: label(series).into(),
            point: point(&[((step * 100) as f64 + series as f64).sin(), 0.1 * series as f64]),
        });
        opened.store.points(Points { at_s: begin_s + step * 10, points: each.collect() });
        if step % 6 == 0 {
            commit(&mut opened, begin_s + step * 10 + 16);
        }
    }
    drop(opened);

    let connection = Connection::open(&path).unwrap();
    let size = size::measure(&connection).unwrap();
    assert!(size.used <= max_size.as_u64(), "{size:?}");
    let first = |tier: Tier| {
        let asked = query(tier, begin_s, begin_s + 7_200);
        read(&connection, &asked).iter().map(|series| series.points[0].0).collect::<Vec<_>>()
    };
    let oldest: i64 = ["blocks_10s", "head_10s"]
        .into_iter()
        .zip([2_400, 10])
        .find_map(|(table, unit_s)| {
            let select = format!("SELECT min(key) >> 32 FROM {table}");
            let oldest: Option<i64> = connection.query_row(&select, [], |row| row.get(0)).unwrap();
            oldest.map(|time| time * unit_s)
        })
        .unwrap();
    let newest = begin_s + (n_steps - 1) * 10;
    assert!(oldest > begin_s + 600, "the oldest steps are gone: {oldest}");
    assert!(oldest < newest - 300, "and not more than must be");
    assert_eq!(
        (first(Tier::Minute), first(Tier::Hour)),
        (vec![begin_s; 100], vec![begin_s; 100]),
        "coarser ones are whole"
    );

    // Where the fine steps are gone, the minutes tell.
    let mut asked = query(Tier::TenSeconds, begin_s, newest + 10);
    asked.labels.insert("n".to_owned(), "7".to_owned());
    let found = read(&connection, &asked);
    let places: Vec<i64> = found[0].points.iter().map(|(at, _)| *at).collect();
    assert_eq!((places[0], *places.last().unwrap()), (begin_s, newest));
    let widest = places.windows(2).map(|pair| pair[1] - pair[0]).max();
    assert!(places.windows(2).all(|pair| pair[1] > pair[0]) && widest <= Some(3_600), "{widest:?}");
    let n_fine = places.windows(2).filter(|pair| pair[1] - pair[0] == 10).count();
    assert!(n_fine > 30, "{n_fine}");
    let n_silences: i64 =
        connection.query_row("SELECT count(*) FROM silences", [], |row| row.get(0)).unwrap();
    assert_eq!(n_silences, 1, "what is no history stays");

    // A smaller bound from now on: what is freed is given back to the disk.
    let smaller = bytesize::ByteSize::kib(256);
    let before = std::fs::metadata(&path).unwrap().len();
    drop(connection);
    let mut opened = open(&StoreConfig { max_size: smaller, ..config }, metrics(), at(0)).unwrap();
    for minute in 1..=5 {
        let points = vec![SeriesPoint { metric: "m".into(), labels: label(0).into(), point: point(&[1.0]) }];
        opened.store.points(Points { at_s: newest + minute * 60, points });
        commit(&mut opened, newest + minute * 60 + 16);
    }
    drop(opened);
    let after = std::fs::metadata(&path).unwrap().len();
    assert!(after <= smaller.as_u64().max(before / 4), "{before} bytes became {after}");
}
