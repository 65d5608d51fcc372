use rusqlite::Connection;

use super::*;
use crate::metrics::MonitorMetrics;
use crate::store::tests::{database, insert, point, query, read, roll_up, within};

fn count(connection: &Connection, table: &str) -> i64 {
    connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
}

/// Fills the finest tier with a figure that grows by 1 a step.
fn grow(connection: &mut Connection, steps: std::ops::Range<i64>) {
    for step in steps {
        insert(connection, step * 10, &[step as f64]);
        if step % 6 == 5 {
            roll_up(connection, (step + 1) * 10);
        }
    }
}

#[test]
fn span_that_is_over_and_rolled_up_becomes_a_block_and_reads_the_same() {
    let mut connection = database();
    grow(&mut connection, 0..239);
    let all = query(Tier::TenSeconds, 0, 10_000);
    let before = read(&connection, &all);
    assert_eq!((count(&connection, "head_10s"), count(&connection, "blocks_10s")), (239, 0));
    grow(&mut connection, 239..252);
    assert_eq!((count(&connection, "head_10s"), count(&connection, "blocks_10s")), (12, 1));
    let after = read(&connection, &all);
    assert_eq!(after[0].points[..239], before[0].points);
    assert_eq!(after[0].points.len(), 252);
    let some = read(&connection, &query(Tier::TenSeconds, 2_390, 2_410));
    let places: Vec<i64> = some[0].points.iter().map(|(at, _)| *at).collect();
    assert_eq!(places, [2_390, 2_400], "across the edge of a block");
}

#[test]
fn step_that_comes_late_joins_its_block() {
    let mut connection = database();
    grow(&mut connection, 0..252);
    // The clock was set back: one step goes on, and one that was left out comes.
    insert(&mut connection, 50, &[100.0]);
    let expected = TierPoint { n: 2, min: 5.0, max: 100.0, mean: 52.5, last: 100.0 };
    let all = query(Tier::TenSeconds, 0, 10_000);
    assert_eq!(read(&connection, &all)[0].points[5], (50, expected), "in the head still");
    roll_up(&mut connection, 2_520);
    assert_eq!((count(&connection, "head_10s"), count(&connection, "blocks_10s")), (12, 1));
    assert_eq!(read(&connection, &all)[0].points[5], (50, expected), "in the block");
}

#[test]
fn block_that_is_damaged_is_the_loss_of_one_span_of_one_series_and_is_told() {
    let mut connection = database();
    grow(&mut connection, 0..500);
    assert_eq!(count(&connection, "blocks_10s"), 2);
    let oldest = "SELECT key, body FROM blocks_10s ORDER BY key LIMIT 1";
    let (key, mut body): (i64, Vec<u8>) =
        connection.query_row(oldest, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    body[9] ^= 1;
    let damage = "UPDATE blocks_10s SET body = ?2 WHERE key = ?1";
    assert_eq!(connection.execute(damage, rusqlite::params![key, body]).unwrap(), 1);
    let mut registry = prometheus_client::registry::Registry::default();
    let metrics = MonitorMetrics::register(&mut registry);
    let asked = query(Tier::TenSeconds, 0, 10_000);
    let found = super::read(Tables { connection: &connection, metrics: &metrics }, &asked).unwrap();
    let steps: Vec<i64> = found[0].points.iter().map(|(at, _)| *at).collect();
    // Minutes tell of the span that was lost, steps of what follows.
    assert_eq!(steps[..40], (0..40).map(|minute| minute * 60).collect::<Vec<_>>());
    assert_eq!(steps[40..], (240..500).map(|step| step * 10).collect::<Vec<_>>());
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    assert!(text.contains("mainstay_monitor_store_damaged_total{tier=\"10s\"} 1\n"), "{text}");
}

#[test]
fn store_of_version_1_is_read_where_it_lies_and_moved_little_by_little() {
    const BEGAN: i64 = 1_728_000_000;
    let mut connection = Connection::open_in_memory().unwrap();
    connection.execute_batch(include_str!("../version-1.sql")).unwrap();
    crate::store::schema::prepare(&mut connection).unwrap();
    let expected = |kind: &str, from_s: i64, width_s: i64| {
        let (first, n) = (from_s as f64, width_s as f64);
        let figures = match kind {
            "grows" => [first, first + n - 1.0, first + (n - 1.0) / 2.0],
            _ => [0.1; 3],
        };
        let [min, max, mean] = figures;
        (BEGAN + from_s, TierPoint { n: width_s, min, max, mean, last: max })
    };
    let check = |connection: &Connection, when: &str| {
        for tier in Tier::ALL {
            let found = read(connection, &query(tier, BEGAN, BEGAN + 7_200));
            assert_eq!(found.len(), 2, "{when}");
            for series in found {
                let n = 7_200 / tier.width_s();
                let all: Vec<_> = (0..n)
                    .map(|step| expected(&series.labels["kind"], step * tier.width_s(), tier.width_s()))
                    .collect();
                assert_eq!(series.points, all, "{when}: {tier:?}");
            }
        }
    };
    check(&connection, "as it was");
    // The next minute goes on where the rows end.
    within(&mut connection, |_, tables| take_over(tables));
    roll_up(&mut connection, BEGAN + 7_265);
    let minute = read(&connection, &query(Tier::Minute, BEGAN + 7_200, BEGAN + 7_260));
    let (at, point) = minute[0].points[0];
    let (expected_at, direct) = expected("grows", 7_200, 60);
    assert_eq!(
        (at, point.n, point.min, point.max, point.last),
        (expected_at, 60, direct.min, direct.max, direct.last)
    );
    assert!((point.mean - direct.mean).abs() < 1e-6, "{point:?}");
    check(&connection, "while it moves");
    while within(&mut connection, |_, tables| take_over(tables)) > 0 {
        roll_up(&mut connection, BEGAN + 7_265);
        check(&connection, "while it moves");
    }
    roll_up(&mut connection, BEGAN + 7_265);
    check(&connection, "when it has moved");
    let left = "SELECT count(*) FROM sqlite_master WHERE name LIKE 'tier_%'";
    assert_eq!(connection.query_row(left, [], |row| row.get::<_, i64>(0)).unwrap(), 0);
    assert_eq!(count(&connection, "blocks_10s"), 2 * 3, "two hours are three spans");
    // Two rows of the head, for the series lie far apart, for each step that is left.
    assert_eq!(count(&connection, "head_10s"), 2 * 9);
    within(&mut connection, |_, tables| {
        let day = Duration::from_hours(24);
        expire(tables, &Retention { ten_seconds: day, minute: day, hour: day }, BEGAN + 7_265)
    });
    assert_eq!(count(&connection, "series"), 2, "series are as young as their points");
}

#[test]
fn many_series_are_read_from_the_head_and_from_blocks_alike() {
    let mut connection = database();
    for step in 0..252 {
        within(&mut connection, |_, tables| {
            let mut steps = Steps::new(Tier::TenSeconds);
            for series in 1..=300 {
                // Each has steps of its own.
                if (step + series) % 3 > 0 {
                    steps.add(step * 10, series, point(&[(step * series) as f64]));
                }
            }
            steps.write(tables)
        });
    }
    for series in 1..=300 {
        let labels = format!(r#"{{"n":"{series}","service":"s"}}"#);
        let insert = "INSERT INTO series (id, metric, labels, seen_s) VALUES (?1, 'm', ?2, 0)";
        connection.execute(insert, rusqlite::params![series, labels]).unwrap();
    }
    let check = |connection: &Connection| {
        let found = read(connection, &query(Tier::TenSeconds, 100, 2_500));
        assert_eq!(found.len(), 100, "of one metric not more are told");
        for TierSeries { labels, points } in found {
            let series: i64 = labels["n"].parse().unwrap();
            let expected: Vec<_> = (10..250)
                .filter(|step| (step + series) % 3 > 0)
                .map(|step| (step * 10, point(&[(step * series) as f64])))
                .collect();
            assert_eq!(points, expected, "series {series}");
        }
    };
    check(&connection);
    roll_up(&mut connection, 2_520);
    assert_eq!(count(&connection, "blocks_10s"), 300);
    check(&connection);
}
