use std::{sync::Arc, time::SystemTime};

use mainstay_proto::replica::v1::{
    ExplainRequest, ExplainResponse, SlowStatement, SlowStatementsRequest, SlowStatementsResponse,
    slow_log_service_server::SlowLogService,
};
use mainstay_rpc::{Caller, Deadline, ErrorCode, Failure, Reply, Request, Response};
use tokio::time::Instant;

use super::{
    decode::{invalid, statement},
    refuse, tell,
};
use crate::{
    config::{LimitsConfig, ReplicaConfig},
    engine::{Engine, Read, Until},
    route::Prefer,
    session::plan::Wanted,
    slow_log::{Entry, shown},
};

/// Tells which statements were slow, and how the database would run them.
pub(crate) struct SlowLogDoor {
    engine: Arc<Engine>,
    limits: LimitsConfig,
    explain_within: std::time::Duration,
}

const DEFAULT_LIMIT: usize = 50;
/// Who may let statements be planned: a plan tells of tables that its reader may not read.
const PLANNERS: [&str; 2] = ["operator", "admin"];

impl SlowLogDoor {
    pub(crate) fn new(engine: Arc<Engine>, config: &ReplicaConfig) -> Self {
        Self { engine, limits: config.limits.clone(), explain_within: config.slow_log.explain_within }
    }

    /// Returns the text and the values that are to be planned for.
    fn wanted(&self, request: ExplainRequest, max_rows: u32) -> Result<Wanted, Failure> {
        let ExplainRequest { id, sql, params, json } = request;
        if (id == 0) == sql.is_empty() {
            return Err(invalid("sql", "give a statement, or the id of an entry, and not both").into());
        }
        if id == 0 {
            let given = statement(sql, params, max_rows, &self.limits)?;
            return Ok(Wanted { sql: given.sql, params: given.params, json });
        }
        let unknown = || {
            Failure::new(
                ErrorCode::NotFound,
                "SLOW_ENTRY_UNKNOWN",
                "no entry of this id is in the log (any more)",
            )
        };
        let entry = self.engine.slow_log.find(id).ok_or_else(unknown)?;
        let no_text = || {
            Failure::new(
                ErrorCode::FailedPrecondition,
                "TEXT_NOT_KEPT",
                "the statement is too long or has literals, which are kept only with slow_log.keep_values: give its text",
            )
        };
        let text = entry.text().ok_or_else(no_text)?;
        let params = if params.is_empty() {
            text.params
        } else {
            statement(text.sql.clone(), params, max_rows, &self.limits)?.params
        };
        Ok(Wanted { sql: text.sql, params, json })
    }
}

#[tonic::async_trait]
impl SlowLogService for SlowLogDoor {
    async fn slow_statements(
        &self,
        request: Request<SlowStatementsRequest>,
    ) -> Reply<SlowStatementsResponse> {
        let request = request.into_inner();
        let wanted = Filter::of(&request).map_err(refuse)?;
        let limit = if request.limit == 0 { DEFAULT_LIMIT } else { request.limit as usize };
        let (entries, forgotten) = self.engine.slow_log.newest(limit, |entry| wanted.takes(entry, &request));
        let statements = entries.iter().map(|entry| wire(entry)).collect();
        let after = self.engine.slow_log.after().and_then(|after| after.try_into().ok());
        Ok(Response::new(SlowStatementsResponse { statements, forgotten, after }))
    }

    async fn explain(&self, request: Request<ExplainRequest>) -> Reply<ExplainResponse> {
        // A service that asks on its own behalf has no role; a person needs one.
        if let Some(caller) = Caller::of(&request)
            && !PLANNERS.contains(&caller.role.as_str())
        {
            let text = "plans are for the role operator, and above";
            return Err(tell(Failure::new(ErrorCode::PermissionDenied, "ROLE_TOO_LOW", text)));
        }
        let within = Deadline::of(&request).map_or(self.explain_within, |deadline| deadline.left());
        let within = within.min(self.explain_within);
        let until = Until { at: Instant::now() + within, within };
        let wanted = self.wanted(request.into_inner(), self.limits.default_rows).map_err(tell)?;
        let shown = statement(wanted.sql.clone(), Vec::new(), 1, &self.limits).map_err(refuse)?;
        let read = Read {
            statement: shown,
            max_staleness: None,
            max_lag_bytes: None,
            after: None,
            written: None,
            prefer: Prefer::Replica,
            zone: String::new(),
            until,
        };
        let planned = self.engine.plan(&read, &wanted).await;
        self.engine.metrics.slow.plan(planned.is_ok());
        let (node, plan) = planned.map_err(refuse)?;
        Ok(Response::new(ExplainResponse {
            plan: plan.text,
            node,
            generic: plan.generic,
            parameter_types: plan.parameter_types,
        }))
    }
}

/// What must be read before it can be compared.
struct Filter {
    fingerprint: Option<u64>,
    min_duration: std::time::Duration,
    since: Option<SystemTime>,
}

impl Filter {
    fn of(request: &SlowStatementsRequest) -> Result<Self, crate::error::QueryError> {
        let fingerprint = match request.fingerprint.as_str() {
            "" => None,
            digits => Some(
                u64::from_str_radix(digits, 16)
                    .map_err(|_| invalid("fingerprint", "must be up to 16 hexadecimal digits"))?,
            ),
        };
        let kinds = ["", "query", "stream", "execute", "transaction"];
        if !kinds.contains(&request.kind.as_str()) {
            return Err(invalid("kind", "must be query, stream, execute or transaction"));
        }
        let min_duration = request.min_duration.map(std::time::Duration::try_from).transpose();
        let since = request.since.map(SystemTime::try_from).transpose();
        Ok(Self {
            fingerprint,
            min_duration: min_duration
                .map_err(|_| invalid("min_duration", "must not be negative"))?
                .unwrap_or_default(),
            since: since.map_err(|_| invalid("since", "is out of range"))?,
        })
    }

    fn takes(&self, entry: &Entry, request: &SlowStatementsRequest) -> bool {
        let node = entry.node.as_deref().unwrap_or_default();
        (request.node.is_empty() || request.node == node)
            && (request.kind.is_empty() || request.kind == entry.kind.as_str())
            && self.fingerprint.is_none_or(|wanted| wanted == entry.shape.fingerprint)
            && entry.took() >= self.min_duration
            && self.since.is_none_or(|since| entry.ended_at >= since)
            && (!request.failed || entry.error.is_some())
            && (request.trace_id.is_empty() || request.trace_id == entry.trace_id)
    }
}

fn wire(entry: &Entry) -> SlowStatement {
    let kept = entry.kept.as_ref();
    SlowStatement {
        id: entry.id,
        ended_at: Some(entry.ended_at.into()),
        kind: entry.kind.as_str().to_owned(),
        fingerprint: format!("{:016x}", entry.shape.fingerprint),
        sql: entry.shape.sql.clone(),
        node: entry.node.as_deref().unwrap_or_default().to_owned(),
        waited: entry.waited.try_into().ok(),
        executed: entry.executed.try_into().ok(),
        rows: entry.rows,
        error: entry.error.clone().unwrap_or_default(),
        trace_id: entry.trace_id.clone(),
        sql_as_sent: kept.map(|kept| kept.sql.clone()).unwrap_or_default(),
        params: kept.map(|kept| kept.params.iter().map(shown).collect()).unwrap_or_default(),
    }
}
