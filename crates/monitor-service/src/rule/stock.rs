//! The rules that every stack needs.

use std::time::Duration;

use super::definition::{Comparison, Rule, RuleKind, RuleSpec};

/// Returns the stock rules about figures; those about targets and components are code beside this.
pub(crate) fn stock() -> Vec<Rule> {
    let rule = |name: &str, spec: RuleSpec| Rule { name: name.to_owned(), spec };
    let get = || [("op".to_owned(), "get".to_owned())].into();
    vec![
        rule(
            "cache_hit_rate",
            RuleSpec {
                kind: RuleKind::Ratio,
                metric: "mainstay_cache_hits_total".to_owned(),
                divisor: "mainstay_cache_gets_total".to_owned(),
                comparison: Comparison::Below,
                warning: Some(0.7),
                critical: Some(0.5),
                clear: Some(0.75),
                min_traffic: 100.0,
                summary: "{percent} of the reads of the cache at {endpoint} are hits, less than {threshold:percent}"
                    .to_owned(),
                ..RuleSpec::default()
            },
        ),
        rule(
            "cache_get_time",
            RuleSpec {
                kind: RuleKind::Ratio,
                metric: "mainstay_cache_op_seconds_sum".to_owned(),
                labels: get(),
                divisor: "mainstay_cache_op_seconds_count".to_owned(),
                divisor_labels: get(),
                warning: Some(0.05),
                critical: Some(0.1),
                clear: Some(0.04),
                min_traffic: 10.0,
                summary: "a GET of the cache at {endpoint} takes {value:duration} on average, more than {threshold:duration}"
                    .to_owned(),
                ..RuleSpec::default()
            },
        ),
        rule(
            "invalidation_failures",
            RuleSpec {
                kind: RuleKind::Share,
                metric: "mainstay_cache_invalidation_failures_total".to_owned(),
                divisor: "mainstay_cache_invalidation_requests_total".to_owned(),
                warning: Some(0.05),
                critical: Some(0.1),
                clear: Some(0.04),
                window: Duration::from_mins(5),
                min_traffic: 20.0,
                summary: "{percent} of the invalidations at {endpoint} fail, more than {threshold:percent}".to_owned(),
                ..RuleSpec::default()
            },
        ),
        rule(
            "row_count_delta",
            RuleSpec {
                metric: "mainstay_replica_switchover_delta".to_owned(),
                comparison: Comparison::Beyond,
                warning: Some(10.0),
                critical: Some(100.0),
                summary: "the tables of {label.pair} differ by {value} rows, more than {threshold}"
                    .to_owned(),
                ..RuleSpec::default()
            },
        ),
        rule(
            "split_brain",
            RuleSpec {
                metric: "mainstay_replica_primaries".to_owned(),
                critical: Some(1.0),
                summary: "{value} servers take themselves for the primary of PostgreSQL, as {endpoint} sees it: writes are refused"
                    .to_owned(),
                ..RuleSpec::default()
            },
        ),
        rule(
            "breaker_open",
            RuleSpec {
                metric: "mainstay_replica_node_breaker_state".to_owned(),
                // Half open is 1: it may stay so for long where no statements come.
                warning: Some(1.0),
                fires_after: Some(Duration::from_secs(10)),
                summary: "statements fail on {label.node}, though it answers probes: {endpoint} holds them back"
                    .to_owned(),
                ..RuleSpec::default()
            },
        ),
        rule(
            "redis_unavailable",
            RuleSpec {
                metric: "mainstay_cache_l2_available".to_owned(),
                comparison: Comparison::Below,
                critical: Some(1.0),
                summary: "Redis does not answer {service} at {endpoint}".to_owned(),
                ..RuleSpec::default()
            },
        ),
        rule(
            "api_p95",
            RuleSpec {
                kind: RuleKind::Quantile,
                metric: "mainstay_edge_request_seconds".to_owned(),
                quantile: 0.95,
                warning: Some(0.1),
                critical: Some(0.2),
                clear: Some(0.08),
                min_traffic: 20.0,
                summary: "one in twenty requests to the API at {endpoint} takes {value:duration} or longer; it should be less than {threshold:duration}"
                    .to_owned(),
                ..RuleSpec::default()
            },
        ),
        rule(
            "tls_expiry",
            RuleSpec {
                metric: "probe_tls_days_left".to_owned(),
                comparison: Comparison::Below,
                warning: Some(21.0),
                critical: Some(7.0),
                summary: "a certificate of {endpoint} is good for {value} more days, less than {threshold}"
                    .to_owned(),
                ..RuleSpec::default()
            },
        ),
        rule(
            "redis_memory",
            share("redis_memory_used_ratio", "{percent} of the memory of Redis at {endpoint} is in use", 0.9, 0.97),
        ),
        rule(
            "redis_replication",
            lost("redis_replication_link_up", "Redis at {endpoint} does not follow its primary"),
        ),
        rule(
            "redis_primary",
            lost("redis_sentinel_primary_ok", "the Sentinel at {endpoint} takes {label.name} to be down"),
        ),
        rule(
            "postgres_connections",
            share(
                "postgres_connections_used_ratio",
                "{percent} of the connections of PostgreSQL at {endpoint} are in use",
                0.8,
                0.95,
            ),
        ),
        rule(
            "postgres_replication",
            lost(
                "postgres_replication_link_up",
                "PostgreSQL at {endpoint} does not receive from its primary",
            ),
        ),
        rule(
            "postgres_wraparound",
            share(
                "postgres_transaction_age_ratio",
                "{percent} of the transaction ids of {label.database} at {endpoint} are used up; at 100 % it stops to take writes",
                0.3,
                0.6,
            ),
        ),
        rule(
            "pgbouncer_wait",
            RuleSpec {
                metric: "pgbouncer_longest_wait_seconds".to_owned(),
                warning: Some(1.0),
                critical: Some(5.0),
                clear: Some(0.5),
                summary: "clients of {label.database} at {endpoint} wait {value:duration} for a connection"
                    .to_owned(),
                ..RuleSpec::default()
            },
        ),
        rule("host_cpu", of_host("host_cpu_used_ratio", "{percent} of the CPU is in use")),
        rule("host_memory", of_host("host_memory_used_ratio", "{percent} of the memory is in use")),
        rule("host_disk", of_host("host_disk_used_ratio", "{percent} of the disk at {label.mount} is in use")),
        rule("host_fds", of_host("host_fds_used_ratio", "{percent} of the file descriptors are in use")),
    ]
}

fn share(metric: &str, summary: &str, warning: f64, critical: f64) -> RuleSpec {
    RuleSpec {
        metric: metric.to_owned(),
        warning: Some(warning),
        critical: Some(critical),
        clear: Some(warning * 0.95),
        fires_after: Some(Duration::from_secs(10)),
        summary: summary.to_owned(),
        ..RuleSpec::default()
    }
}

/// What is 1 while it is as it should be.
fn lost(metric: &str, summary: &str) -> RuleSpec {
    RuleSpec {
        metric: metric.to_owned(),
        comparison: Comparison::Below,
        critical: Some(1.0),
        fires_after: Some(Duration::from_secs(10)),
        summary: summary.to_owned(),
        ..RuleSpec::default()
    }
}

/// A single second of full load is no alert.
fn of_host(metric: &str, summary: &str) -> RuleSpec {
    RuleSpec {
        metric: metric.to_owned(),
        warning: Some(0.8),
        critical: Some(0.95),
        clear: Some(0.75),
        fires_after: Some(Duration::from_secs(30)),
        summary: summary.to_owned(),
        ..RuleSpec::default()
    }
}
