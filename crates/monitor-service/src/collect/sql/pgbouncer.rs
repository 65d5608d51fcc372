//! What a PgBouncer does, by the SHOW commands of its console.

use std::collections::BTreeMap;

use tokio_postgres::SimpleQueryRow;

use super::super::figures::Figures;
use super::line::Line;

/// Columns of SHOW POOLS, summed over the users of a database.
const POOLS: [(&str, &str); 6] = [
    ("cl_active", "pgbouncer_clients_active"),
    ("cl_waiting", "pgbouncer_clients_waiting"),
    ("sv_active", "pgbouncer_servers_active"),
    ("sv_idle", "pgbouncer_servers_idle"),
    ("sv_used", "pgbouncer_servers_used"),
    ("sv_login", "pgbouncer_servers_logging_in"),
];
/// Columns of SHOW STATS, and what makes seconds of them.
const STATS: [(&str, &str, f64); 6] = [
    ("total_xact_count", "pgbouncer_transactions_total", 1.0),
    ("total_query_count", "pgbouncer_queries_total", 1.0),
    ("total_received", "pgbouncer_received_bytes_total", 1.0),
    ("total_sent", "pgbouncer_sent_bytes_total", 1.0),
    ("total_query_time", "pgbouncer_query_seconds_total", 1e-6),
    ("total_wait_time", "pgbouncer_wait_seconds_total", 1e-6),
];
/// Items of SHOW LISTS.
const LISTS: [(&str, &str); 4] = [
    ("databases", "pgbouncer_databases"),
    ("pools", "pgbouncer_pools"),
    ("used_clients", "pgbouncer_clients"),
    ("used_servers", "pgbouncer_servers"),
];

/// Asks once; returns the figures and the version.
pub(super) async fn look(line: &mut Line) -> Result<(Figures, String), String> {
    let mut figures = Figures::default();
    pools(&mut figures, &line.ask("SHOW POOLS").await?);
    for row in line.ask("SHOW STATS").await? {
        let database = text(&row, "database").unwrap_or_default();
        for (column, metric, unit) in STATS {
            if let Some(value) = number(&row, column) {
                figures.add_of(metric, &[("database", database)], value * unit);
            }
        }
    }
    for row in line.ask("SHOW LISTS").await? {
        let listed = LISTS.iter().find(|(item, _)| text(&row, "list") == Some(item));
        if let Some((_, metric)) = listed {
            figures.add_known(metric, number(&row, "items"));
        }
    }
    let version = line.ask("SHOW VERSION").await?;
    let version = version.first().and_then(|row| text(row, "version")).unwrap_or_default();
    Ok((figures, version.trim_start_matches("PgBouncer ").to_owned()))
}

fn pools(figures: &mut Figures, rows: &[SimpleQueryRow]) {
    let mut sums: BTreeMap<(&str, &str), f64> = BTreeMap::new();
    let mut waits_s: BTreeMap<&str, f64> = BTreeMap::new();
    for row in rows {
        let database = text(row, "database").unwrap_or_default();
        for (column, metric) in POOLS {
            *sums.entry((metric, database)).or_default() += number(row, column).unwrap_or_default();
        }
        let wait_s =
            number(row, "maxwait").unwrap_or_default() + number(row, "maxwait_us").unwrap_or_default() * 1e-6;
        let longest_s = waits_s.entry(database).or_default();
        *longest_s = longest_s.max(wait_s);
    }
    for ((metric, database), sum) in sums {
        figures.add_of(metric, &[("database", database)], sum);
    }
    for (database, longest_s) in waits_s {
        figures.add_of("pgbouncer_longest_wait_seconds", &[("database", database)], longest_s);
    }
}

fn text<'r>(row: &'r SimpleQueryRow, column: &str) -> Option<&'r str> {
    row.try_get(column).ok().flatten()
}

fn number(row: &SimpleQueryRow, column: &str) -> Option<f64> {
    text(row, column)?.parse().ok()
}
