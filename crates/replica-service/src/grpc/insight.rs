use std::cmp::Ordering;

use mainstay_proto::replica::v1::{StatementStats, StatementsOrder, StatementsRequest, StatementsResponse};

use super::decode::invalid;
use crate::{
    error::QueryError,
    insight::{Entry, Summary},
};

const DEFAULT_LIMIT: usize = 50;

/// Sorts and cuts what is known.
pub(super) fn statements(
    request: StatementsRequest,
    summary: Summary,
) -> Result<StatementsResponse, QueryError> {
    let order =
        StatementsOrder::try_from(request.order).map_err(|_| invalid("order", "is not a known order"))?;
    let Summary { mut entries, forgotten } = summary;
    let known = u32::try_from(entries.len()).unwrap_or(u32::MAX);
    entries.sort_by(|a, b| compare(order, b, a).then_with(|| a.fingerprint.cmp(&b.fingerprint)));
    entries.truncate(if request.limit == 0 { DEFAULT_LIMIT } else { request.limit as usize });
    let statements = entries.into_iter().map(wire).collect();
    Ok(StatementsResponse { statements, known, forgotten })
}

fn compare(order: StatementsOrder, a: &Entry, b: &Entry) -> Ordering {
    match order {
        StatementsOrder::Unspecified | StatementsOrder::TotalTime => a.times.total().cmp(&b.times.total()),
        StatementsOrder::Calls => a.calls.cmp(&b.calls),
        StatementsOrder::MeanTime => a.times.mean().cmp(&b.times.mean()),
        StatementsOrder::Errors => a.errors.cmp(&b.errors),
    }
}

fn wire(entry: Entry) -> StatementStats {
    let calls_by_node = entry.calls_by_node.iter().map(|(node, calls)| (node.to_string(), *calls)).collect();
    let times = &entry.times;
    StatementStats {
        fingerprint: format!("{:016x}", entry.fingerprint),
        calls: entry.calls,
        errors: entry.errors,
        rows: entry.rows,
        seconds_total: times.total().as_secs_f64(),
        seconds_mean: times.mean().as_secs_f64(),
        seconds_p50: times.quantile(0.5).as_secs_f64(),
        seconds_p95: times.quantile(0.95).as_secs_f64(),
        seconds_p99: times.quantile(0.99).as_secs_f64(),
        seconds_max: times.max().as_secs_f64(),
        calls_by_node,
        last_call_at: Some(entry.last_call_at.into()),
        sql: entry.sql,
    }
}
