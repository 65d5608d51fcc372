//! A server of Redis or a Sentinel, by what its INFO says.

use std::time::Duration;

use mainstay_redis::{Address, Inquirer, InvalidAddress};
use mainstay_runtime::Clock;
use tokio::time::{Instant, timeout};

use super::figures::Figures;
use super::scrape::late;
use super::{Answer, Miss, Source, one_line};
use crate::config::DatastoreConfig;
use crate::roster::Report;

/// Asks one server.
pub(super) struct Redis {
    inquirer: Inquirer,
    within: Duration,
}

/// Figures of INFO that become figures of ours as they are.
const PLAIN: [(&str, &str); 21] = [
    ("uptime_in_seconds", "redis_uptime_seconds"),
    ("connected_clients", "redis_connected_clients"),
    ("blocked_clients", "redis_blocked_clients"),
    ("maxclients", "redis_max_clients"),
    ("used_memory", "redis_used_memory_bytes"),
    ("used_memory_rss", "redis_resident_bytes"),
    ("maxmemory", "redis_max_memory_bytes"),
    ("mem_fragmentation_ratio", "redis_fragmentation_ratio"),
    ("total_connections_received", "redis_connections_total"),
    ("rejected_connections", "redis_rejected_connections_total"),
    ("total_commands_processed", "redis_commands_total"),
    ("total_net_input_bytes", "redis_received_bytes_total"),
    ("total_net_output_bytes", "redis_sent_bytes_total"),
    ("keyspace_hits", "redis_keyspace_hits_total"),
    ("keyspace_misses", "redis_keyspace_misses_total"),
    ("expired_keys", "redis_expired_keys_total"),
    ("evicted_keys", "redis_evicted_keys_total"),
    ("connected_slaves", "redis_connected_replicas"),
    ("master_repl_offset", "redis_replication_offset_bytes"),
    ("rdb_changes_since_last_save", "redis_unsaved_changes"),
    ("sentinel_masters", "redis_sentinel_primaries"),
];
/// Words of INFO that become 1 when they are as they should be, else 0.
const FLAGS: [(&str, &str, &str); 5] = [
    ("role", "master", "redis_is_primary"),
    ("master_link_status", "up", "redis_replication_link_up"),
    ("rdb_last_bgsave_status", "ok", "redis_last_save_ok"),
    ("aof_last_write_status", "ok", "redis_append_ok"),
    ("loading", "0", "redis_loaded"),
];
/// Parts of INFO that are counted at most: databases, replicas, primaries.
const PARTS_MAX: usize = 100;

impl Redis {
    /// Prepares to ask; connects nowhere.
    pub(super) fn try_new(address: &str, config: DatastoreConfig) -> Result<Self, InvalidAddress> {
        let address: Address = address.parse()?;
        let DatastoreConfig { user, password, tls, within, .. } = config;
        Ok(Self { inquirer: Inquirer::new(address, user, password, tls), within })
    }
}

impl Source for Redis {
    async fn ask(&mut self, clock: &Clock) -> Result<Answer, Miss> {
        let started_at = Instant::now();
        let info = match timeout(self.within, self.inquirer.info()).await {
            Ok(info) => info.map_err(|error| one_line(&error)),
            Err(_) => Err(late(self.within)),
        };
        let info = info.map_err(|reason| Miss { reason, ..Miss::default() })?;
        let version = value(&info, "redis_version").unwrap_or_default().to_owned();
        let loading = value(&info, "loading").is_some_and(|loading| loading != "0");
        let wrong = loading.then(|| "it is still loading its data".to_owned()).into_iter().collect();
        let report = Report::of_stranger(clock.now(), started_at.elapsed(), version, wrong);
        Ok(Answer { report, metrics: Ok(figures(&info).into_exposition()) })
    }
}

fn figures(info: &str) -> Figures {
    let mut figures = Figures::default();
    let number = |name: &str| value(info, name)?.parse::<f64>().ok();
    for (name, metric) in PLAIN {
        figures.add_known(metric, number(name));
    }
    for (name, good, metric) in FLAGS {
        figures.add_known(metric, value(info, name).map(|found| f64::from(u8::from(found == good))));
    }
    for (mode, name) in [("system", "used_cpu_sys"), ("user", "used_cpu_user")] {
        if let Some(seconds) = number(name) {
            figures.add_of("redis_cpu_seconds_total", &[("mode", mode)], seconds);
        }
    }
    let ratio = |used: &str, most: &str| Some(number(used)? / number(most).filter(|most| *most > 0.0)?);
    figures.add_known("redis_memory_used_ratio", ratio("used_memory", "maxmemory"));
    figures.add_known("redis_clients_used_ratio", ratio("connected_clients", "maxclients"));
    parts(&mut figures, info, number("master_repl_offset"));
    figures
}

/// Adds what is said part by part: `db0:keys=1,expires=0`, `slave0:ip=..,offset=..`, `master0:name=..,status=ok`.
fn parts(figures: &mut Figures, info: &str, offset: Option<f64>) {
    for (name, fields) in numbered(info, "db") {
        for (field, metric) in [("keys", "redis_keys"), ("expires", "redis_expiring_keys")] {
            if let Some(keys) = of(fields, field).and_then(|keys| keys.parse().ok()) {
                figures.add_of(metric, &[("db", name)], keys);
            }
        }
    }
    for (_, fields) in numbered(info, "slave") {
        let replica =
            format!("{}:{}", of(fields, "ip").unwrap_or_default(), of(fields, "port").unwrap_or_default());
        let at: Option<f64> = of(fields, "offset").and_then(|at| at.parse().ok());
        if let (Some(offset), Some(at)) = (offset, at) {
            figures.add_of("redis_replica_lag_bytes", &[("replica", &replica)], (offset - at).max(0.0));
        }
    }
    for (_, fields) in numbered(info, "master") {
        let Some(name) = of(fields, "name") else { continue };
        let is_ok = of(fields, "status") == Some("ok");
        figures.add_of("redis_sentinel_primary_ok", &[("name", name)], f64::from(u8::from(is_ok)));
        for (field, metric) in
            [("slaves", "redis_sentinel_replicas"), ("sentinels", "redis_sentinel_sentinels")]
        {
            if let Some(count) = of(fields, field).and_then(|count| count.parse().ok()) {
                figures.add_of(metric, &[("name", name)], count);
            }
        }
    }
}

fn value<'i>(info: &'i str, name: &str) -> Option<&'i str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// Lists lines named by a word and a number, with their fields.
fn numbered<'i>(info: &'i str, word: &str) -> impl Iterator<Item = (&'i str, &'i str)> {
    let parts = info.lines().filter_map(move |line| {
        let (name, fields) = line.split_once(':')?;
        let number = name.strip_prefix(word)?;
        let is_number = !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit());
        (is_number && fields.contains('=')).then(|| (name, fields.trim()))
    });
    parts.take(PARTS_MAX)
}

fn of<'i>(fields: &'i str, name: &str) -> Option<&'i str> {
    fields.split(',').find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(info: &str) -> Vec<(String, Option<String>, f64)> {
        let families = figures(info).into_exposition().families;
        let samples = families.into_iter().flat_map(|family| family.samples);
        samples
            .map(|sample| (sample.name, sample.labels.first().map(|(_, value)| value.clone()), sample.value))
            .collect()
    }

    #[test]
    fn info_of_a_server_and_of_a_sentinel_become_figures() {
        let server = "# Server\r\nredis_version:7.0.15\r\nused_memory:50\r\nmaxmemory:200\r\nrole:slave\r\n\
            master_link_status:down\r\nmaster_repl_offset:1000\r\nused_cpu_sys:1.5\r\n\
            slave0:ip=10.0.0.7,port=6379,state=online,offset=900,lag=0\r\nslave_read_only:1\r\n\
            db0:keys=7,expires=2,avg_ttl=0\r\nkeyspace_hits:not a number\r\n";
        let expected = [
            ("redis_used_memory_bytes", None, 50.0),
            ("redis_max_memory_bytes", None, 200.0),
            ("redis_replication_offset_bytes", None, 1000.0),
            ("redis_is_primary", None, 0.0),
            ("redis_replication_link_up", None, 0.0),
            ("redis_cpu_seconds_total", Some("system"), 1.5),
            ("redis_memory_used_ratio", None, 0.25),
            ("redis_keys", Some("db0"), 7.0),
            ("redis_expiring_keys", Some("db0"), 2.0),
            ("redis_replica_lag_bytes", Some("10.0.0.7:6379"), 100.0),
        ];
        let owned = expected.map(|(name, label, value)| (name.to_owned(), label.map(str::to_owned), value));
        assert_eq!(found(server), owned);

        let sentinel = "sentinel_masters:1\r\nmaster0:name=mainstay,status=odown,address=10.0.0.7:6379,slaves=1,sentinels=3\r\n";
        let expected = [
            ("redis_sentinel_primaries", None, 1.0),
            ("redis_sentinel_primary_ok", Some("mainstay"), 0.0),
            ("redis_sentinel_replicas", Some("mainstay"), 1.0),
            ("redis_sentinel_sentinels", Some("mainstay"), 3.0),
        ];
        let owned = expected.map(|(name, label, value)| (name.to_owned(), label.map(str::to_owned), value));
        assert_eq!(found(sentinel), owned);
        assert!(found("").is_empty() && found("role\n:\nslave0:\nmaster0:x").is_empty());
    }
}
