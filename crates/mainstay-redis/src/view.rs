use std::collections::BTreeMap;

/// What the last look at Redis found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RedisView {
    /// Fields of INFO that matter; empty while Redis does not answer.
    pub info: BTreeMap<String, String>,
    /// Present in mode `sentinel`.
    pub sentinel: Option<SentinelView>,
}

/// What the last look at the Sentinels found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SentinelView {
    /// The server most Sentinels name; empty when none answers.
    pub master: String,
    pub n_configured: u32,
    pub n_reachable: u32,
}

const FIELDS: [&str; 28] = [
    "redis_version",
    "role",
    "loading",
    "uptime_in_seconds",
    "connected_clients",
    "blocked_clients",
    "connected_slaves",
    "master_link_status",
    "master_repl_offset",
    "min_slaves_good_slaves",
    "used_memory",
    "used_memory_rss",
    "used_memory_peak",
    "maxmemory",
    "maxmemory_policy",
    "mem_fragmentation_ratio",
    "instantaneous_ops_per_sec",
    "total_commands_processed",
    "total_connections_received",
    "rejected_connections",
    "keyspace_hits",
    "keyspace_misses",
    "expired_keys",
    "evicted_keys",
    "rdb_last_bgsave_status",
    "aof_enabled",
    "aof_last_write_status",
    "latest_fork_usec",
];

/// Picks the fields that matter out of the text of INFO.
pub(crate) fn pick_fields(info: &str) -> BTreeMap<String, String> {
    let pairs = info.lines().filter_map(|line| line.trim_end().split_once(':'));
    let wanted = pairs.filter(|(name, _)| FIELDS.contains(name));
    wanted.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_matter_are_picked() {
        let info = "# Server\r\nredis_version:7.0.15\r\nos:Linux\r\n\r\n# Replication\r\nrole:master\r\n";
        let fields = pick_fields(info);
        assert_eq!(fields.len(), 2);
        assert_eq!((fields["redis_version"].as_str(), fields["role"].as_str()), ("7.0.15", "master"));
    }
}
