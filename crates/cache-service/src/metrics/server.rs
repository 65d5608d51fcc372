//! What the Redis server says of itself, as figures.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Name, help, and the field of INFO.
type Figure = (&'static str, &'static str, &'static str);

const GAUGES: [Figure; 7] = [
    ("l2_server_memory_bytes", "Memory that Redis uses for what it holds", "used_memory"),
    ("l2_server_memory_max_bytes", "Bound of l2_server_memory_bytes, 0 for none", "maxmemory"),
    ("l2_server_resident_bytes", "Memory that the operating system gave to Redis", "used_memory_rss"),
    ("l2_server_clients", "Clients connected to Redis", "connected_clients"),
    ("l2_server_replicas", "Replicas connected to Redis", "connected_slaves"),
    ("l2_server_operations_per_second", "Commands that Redis does a second", "instantaneous_ops_per_sec"),
    ("l2_server_replication_offset", "How far the stream to replicas is", "master_repl_offset"),
];

/// They begin anew with the server, and go on with those of another one when the primary moves.
const COUNTERS: [Figure; 6] = [
    ("l2_server_hits", "Keys that Redis was asked for and had", "keyspace_hits"),
    ("l2_server_misses", "Keys that Redis was asked for and had not", "keyspace_misses"),
    ("l2_server_evicted", "Keys that Redis dropped for want of room", "evicted_keys"),
    ("l2_server_expired", "Keys that ended in Redis", "expired_keys"),
    ("l2_server_commands", "Commands that Redis did", "total_commands_processed"),
    ("l2_server_rejected_connections", "Connections that Redis did not take", "rejected_connections"),
];

/// Writes the fields that are there: none while Redis does not answer.
pub(super) fn encode_info(
    encoder: &mut DescriptorEncoder<'_>,
    info: &BTreeMap<String, String>,
) -> Result<(), fmt::Error> {
    let value = |field: &str| info.get(field).and_then(|text| text.parse::<u64>().ok());
    for (name, help, field) in GAUGES {
        if let Some(value) = value(field) {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
    }
    for (name, help, field) in COUNTERS {
        if let Some(value) = value(field) {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
    }
    Ok(())
}
