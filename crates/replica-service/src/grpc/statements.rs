use std::sync::Arc;

use mainstay_proto::replica::v1::{
    CacheWish, ExecuteRequest, ListStatementsRequest, ListStatementsResponse, NamedStatement, QueryRequest,
    RunStatementRequest, RunStatementResponse, run_statement_response::Answer,
    statement_service_server::StatementService,
};
use mainstay_rpc::{Caller, Failure, Reply, Request, Response, Status};

use super::{Door, tell};
use crate::{
    config::{NamedConfig, NamedKind},
    engine::Until,
};

/// Runs statements by their names, through the door for texts.
pub(crate) struct StatementDoor {
    door: Arc<Door>,
}

impl StatementDoor {
    pub(crate) fn new(door: Arc<Door>) -> Self {
        Self { door }
    }

    async fn run(
        &self,
        asked: RunStatementRequest,
        caller: Option<&Caller>,
        until: Until,
    ) -> Result<Answer, Status> {
        let named = self.door.statements.find(&asked.name, caller).map_err(tell)?;
        match named.kind {
            NamedKind::Query => {
                let request = request(named, asked);
                Ok(Answer::Query(self.door.answer(request, until).await?))
            }
            NamedKind::Execute => {
                if let Some(field) = meant_for_reads(&asked) {
                    return Err(tell(Failure::invalid(field, "is for a statement that reads")));
                }
                let (sql, invalidates) = (named.sql.clone(), named.tags.clone());
                let request = ExecuteRequest { sql, params: asked.params, invalidates };
                Ok(Answer::Execute(self.door.change(request, until).await?))
            }
        }
    }
}

#[tonic::async_trait]
impl StatementService for StatementDoor {
    async fn run_statement(&self, request: Request<RunStatementRequest>) -> Reply<RunStatementResponse> {
        let (until, caller) = (self.door.until(&request), Caller::of(&request));
        let asked = request.into_inner();
        // What is no name in the configuration must not become a label.
        let label = self.door.statements.know(&asked.name).then(|| asked.name.clone());
        let result = self.run(asked, caller.as_ref(), until).await;
        if let Some(name) = label {
            let error = result.as_ref().err().map(|status| Failure::from(status.clone()).code());
            self.door.engine.metrics.named.ran(name, error);
        }
        Ok(Response::new(RunStatementResponse { answer: Some(result?) }))
    }

    async fn list_statements(
        &self,
        request: Request<ListStatementsRequest>,
    ) -> Reply<ListStatementsResponse> {
        let caller = Caller::of(&request);
        let statements = &self.door.statements;
        let listed = statements.of(caller.as_ref()).map(|(name, named)| NamedStatement {
            name: name.clone(),
            sql: named.sql.clone(),
            kind: named.kind.as_str().to_owned(),
            role: named.role().to_string(),
        });
        let only_named = statements.is_bound(caller.as_ref());
        Ok(Response::new(ListStatementsResponse { statements: listed.collect(), only_named }))
    }
}

/// Makes the read that a name stands for.
pub(super) fn request(named: &NamedConfig, asked: RunStatementRequest) -> QueryRequest {
    let wish = CacheWish { ttl: named.ttl.try_into().ok(), tags: named.tags.clone() };
    QueryRequest {
        sql: named.sql.clone(),
        params: asked.params,
        max_rows: asked.max_rows,
        max_staleness: asked.max_staleness,
        max_lag_bytes: asked.max_lag_bytes,
        after: asked.after,
        prefer: asked.prefer,
        zone: asked.zone,
        cache: (!named.ttl.is_zero()).then_some(wish),
        table: named.table.clone(),
    }
}

fn meant_for_reads(asked: &RunStatementRequest) -> Option<&'static str> {
    [
        ("max_rows", asked.max_rows != 0),
        ("max_staleness", asked.max_staleness.is_some()),
        ("max_lag_bytes", asked.max_lag_bytes.is_some()),
        ("after", !asked.after.is_empty()),
        ("prefer", asked.prefer != 0),
        ("zone", !asked.zone.is_empty()),
    ]
    .into_iter()
    .find_map(|(field, given)| given.then_some(field))
}
