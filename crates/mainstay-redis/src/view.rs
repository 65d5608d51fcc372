use std::collections::BTreeMap;

/// What the last look at Redis found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RedisView {
    /// Fields of INFO that matter; empty while Redis does not answer. Of a cluster: sums over its primaries, and what is the
    /// same on each.
    pub info: BTreeMap<String, String>,
    /// Present in mode `sentinel`.
    pub sentinel: Option<SentinelView>,
    /// Present in mode `cluster`.
    pub cluster: Option<ClusterView>,
}

/// What the last look at a cluster found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterView {
    pub n_nodes: u32,
    /// Nodes that others could not reach for a while.
    pub n_failing: u32,
    pub n_partitions: u32,
    /// Those whose primary answered.
    pub n_partitions_served: u32,
    /// Primaries with slots.
    pub shards: Vec<ShardView>,
}

/// A primary of a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShardView {
    pub address: String,
    pub n_slots: u32,
    pub n_replicas: u32,
    pub n_partitions: u32,
    /// Whether it answered; always false where it has none of our partitions, for it is not asked.
    pub answers: bool,
    /// Fields of INFO that matter.
    pub info: BTreeMap<String, String>,
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

/// Fields that are added up over the primaries of a cluster.
const SUMMED: [&str; 17] = [
    "connected_clients",
    "blocked_clients",
    "connected_slaves",
    "min_slaves_good_slaves",
    "used_memory",
    "used_memory_rss",
    "used_memory_peak",
    "maxmemory",
    "instantaneous_ops_per_sec",
    "total_commands_processed",
    "total_connections_received",
    "rejected_connections",
    "keyspace_hits",
    "keyspace_misses",
    "expired_keys",
    "evicted_keys",
    "loading",
];

/// Puts the fields of several primaries together: sums, and what all of them say.
pub(crate) fn put_together<'i>(
    infos: &(impl Iterator<Item = &'i BTreeMap<String, String>> + Clone),
) -> BTreeMap<String, String> {
    let Some(first) = infos.clone().next() else { return BTreeMap::new() };
    let together = first.iter().filter_map(|(name, of_first)| {
        let mut of_all = infos.clone().map(|info| info.get(name));
        let text = if SUMMED.contains(&name.as_str()) {
            let numbers = of_all.map(|text| text.and_then(|text| text.parse::<u64>().ok()));
            numbers.sum::<Option<u64>>()?.to_string()
        } else if of_all.all(|text| text == Some(of_first)) {
            of_first.clone()
        } else {
            return None;
        };
        Some((name.clone(), text))
    });
    together.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn primaries_are_added_up_where_that_makes_sense() {
        let info = |used: &str, version: &str| {
            pick_fields(&format!("role:master\r\nused_memory:{used}\r\nredis_version:{version}\r\n"))
        };
        let infos = [info("10", "7.0.15"), info("5", "7.2.1")];
        let together = put_together(&infos.iter());
        let expected = [("role", "master"), ("used_memory", "15")];
        let expected = expected.map(|(name, text)| (name.to_owned(), text.to_owned()));
        assert_eq!(together, BTreeMap::from(expected));
        assert!(put_together(&[].iter()).is_empty());
    }

    #[test]
    fn fields_that_matter_are_picked() {
        let info = "# Server\r\nredis_version:7.0.15\r\nos:Linux\r\n\r\n# Replication\r\nrole:master\r\n";
        let fields = pick_fields(info);
        assert_eq!(fields.len(), 2);
        assert_eq!((fields["redis_version"].as_str(), fields["role"].as_str()), ("7.0.15", "master"));
    }
}
