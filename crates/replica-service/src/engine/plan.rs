use tokio::time::timeout_at;
use tracing::Instrument as _;

use super::{Engine, MAX_ATTEMPTS, Read, mark, statement_span};
use crate::{
    error::QueryError,
    node::Node,
    session::{
        Road,
        plan::{self, Plan, Wanted},
    },
};

impl Engine {
    /// Lets a replica plan a statement, and returns its name with the plan; where none is fit the primary does it.
    ///
    /// `read` says where; its own statement is the text that spans show.
    pub(crate) async fn plan(&self, read: &Read, wanted: &Wanted) -> Result<(String, Plan), QueryError> {
        let until = read.until;
        timeout_at(until.at, self.plan_on_any(read, wanted))
            .await
            .unwrap_or(Err(QueryError::Deadline { within: until.within, committing: false }))
    }

    async fn plan_on_any(&self, read: &Read, wanted: &Wanted) -> Result<(String, Plan), QueryError> {
        let needs = self.needs(read)?;
        let mut tried = None;
        for attempts in 1.. {
            let node = self.route(read, &needs, tried).await?.node;
            match self.plan_on(&node, read, wanted).await {
                Ok(plan) => return Ok((node.name.to_string(), plan)),
                Err(error) if error.may_succeed_elsewhere() && attempts < MAX_ATTEMPTS => {
                    tried = Some(node.id)
                }
                Err(error) => return Err(error),
            }
        }
        unreachable!("the loop ends by returning")
    }

    async fn plan_on(&self, node: &Node, read: &Read, wanted: &Wanted) -> Result<Plan, QueryError> {
        let flight = node.begin()?;
        let span = statement_span(node, &read.statement);
        let run = async {
            let road = Road { node: &node.name, pgbouncer: node.pgbouncer };
            plan::plan(node.reads().lease().await?, road, wanted, read.until.left()).await
        };
        let result = run.instrument(span.clone()).await.inspect_err(|error| mark(&span, error));
        flight.end(&result);
        result
    }
}
