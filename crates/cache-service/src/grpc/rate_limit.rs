use std::sync::Arc;

use mainstay_proto::cache::v1 as pb;
use mainstay_proto::cache::v1::rate_limit_service_server::RateLimitService;
use mainstay_rpc::{Failure, Reply, Request, Response};

use super::cache::time_left;
use crate::limiter::{Check, Limit, RateLimiter, Verdict};
use crate::shared::{BadField, Name, Source, duration};

/// Decodes, asks the limiter, encodes.
#[derive(Debug, Clone)]
pub(crate) struct RateLimitGrpc {
    limiter: Arc<RateLimiter>,
}

const LONGEST_KEY: usize = 256;
const MOST_CHECKS: usize = 64;

impl RateLimitGrpc {
    pub(crate) fn new(limiter: Arc<RateLimiter>) -> Self {
        Self { limiter }
    }
}

#[tonic::async_trait]
impl RateLimitService for RateLimitGrpc {
    async fn check(&self, request: Request<pb::RateLimitCheckRequest>) -> Reply<pb::RateLimitCheckResponse> {
        let left = time_left(&request);
        let checks = [decode(&request.into_inner()).map_err(Failure::from)?];
        let (verdicts, source) = self.limiter.check(&checks, false, left).await;
        Ok(Response::new(encode(&checks[0], verdicts[0], source)))
    }

    async fn check_many(
        &self,
        request: Request<pb::RateLimitCheckManyRequest>,
    ) -> Reply<pb::RateLimitCheckManyResponse> {
        let left = time_left(&request);
        let pb::RateLimitCheckManyRequest { checks, all_or_none } = request.into_inner();
        if checks.is_empty() || checks.len() > MOST_CHECKS {
            return Err(Failure::from(BadField::new("checks", "must be 1 to 64")).into());
        }
        let checks: Result<Vec<Check>, BadField> = checks.iter().map(decode).collect();
        let checks = checks.map_err(Failure::from)?;
        let (verdicts, source) = self.limiter.check(&checks, all_or_none, left).await;
        let allowed = verdicts.iter().all(|verdict| verdict.allowed);
        let results = checks.iter().zip(verdicts).map(|(check, verdict)| encode(check, verdict, source));
        Ok(Response::new(pb::RateLimitCheckManyResponse { results: results.collect(), allowed }))
    }
}

fn decode(request: &pb::RateLimitCheckRequest) -> Result<Check, BadField> {
    let key = Name::try_new("key", &request.key, LONGEST_KEY)?;
    let limit = request.limit.as_ref().ok_or_else(|| BadField::new("limit", "must be given"))?;
    let window = duration("limit.window", limit.window, std::time::Duration::ZERO, Limit::LONGEST_WINDOW)?;
    let limit = Limit::try_new(limit.quota, window.unwrap_or_default(), limit.burst)?;
    let cost = request.cost.unwrap_or(1);
    if cost > limit.burst() {
        return Err(BadField::new("cost", format!("must be at most the burst of {}", limit.burst())));
    }
    Ok(Check { key: key.into_boxed_str(), limit, cost })
}

fn encode(check: &Check, verdict: Verdict, source: Source) -> pb::RateLimitCheckResponse {
    pb::RateLimitCheckResponse {
        allowed: verdict.allowed,
        remaining: verdict.remaining,
        retry_after: verdict.retry_after.and_then(|after| after.try_into().ok()),
        reset_after: verdict.reset_after.try_into().ok(),
        source: source.to_pb(),
        limit: check.limit.burst(),
    }
}
