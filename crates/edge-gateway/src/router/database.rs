//! SQL, and the PostgreSQL nodes.

use utoipa_axum::routes;

use crate::map::Map;
use crate::routes::{database, partitions, switchover};

pub(super) fn paths(map: Map) -> Map {
    map.viewer("/database/info", routes!(database::info))
        .viewer("/database/replica/health", routes!(database::health))
        .viewer("/database/replica/stats", routes!(database::stats))
        .viewer("/database/replica/lag", routes!(database::lag))
        .viewer("/database/replica/pool-stats", routes!(database::pool_stats))
        .viewer("/database/query", routes!(database::query))
        .admin("/database/execute", routes!(database::execute))
        .admin("/database/transaction", routes!(database::transaction))
        .viewer("/database/slow-statements", routes!(database::slow_statements))
        .viewer("/database/statement-stats", routes!(database::statement_stats))
        .operator("/database/explain", routes!(database::explain))
        .viewer("/database/statistics", routes!(database::server_stats))
        .viewer("/database/statements", routes!(database::statements))
        .viewer("/database/statements/{name}", routes!(database::run_statement))
        .viewer("/database/cache", routes!(database::query_cache))
        .operator("/database/cache/purge", routes!(database::purge_query_cache))
        .viewer("/database/configuration", routes!(database::configuration))
        .admin("/database/configuration/reload", routes!(database::reload))
        .operator("/database/nodes/{node}/drain", routes!(database::drain))
        .operator("/database/nodes/{node}/resume", routes!(database::resume))
        .viewer("/monitoring/partitions/metrics", routes!(partitions::metrics))
        .viewer("/monitoring/partitions/table-stats", routes!(partitions::table_stats))
        .viewer("/monitoring/partitions/{table}/switchover", routes!(switchover::state))
        .admin("/monitoring/partitions/{table}/{step}", routes!(switchover::run_step))
}
