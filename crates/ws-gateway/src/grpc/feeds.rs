//! The door to feeds.

use mainstay_proto::realtime::v1::realtime_feed_service_server::RealtimeFeedService;
use mainstay_proto::realtime::v1::{
    self as v1, FeedState, FeedsRequest, FeedsResponse, PutFeedRequest, PutFeedResponse, RemoveFeedRequest,
    RemoveFeedResponse,
};
use mainstay_rpc::{Caller, ErrorCode, Failure, Reply, Request, Response, Status};

use super::{RealtimeApi, refused};
use crate::error::Refusal;
use crate::feed::{Listed, NotPut, shown_spec};
use crate::mesh::{Answers, Method};

#[tonic::async_trait]
impl RealtimeFeedService for RealtimeApi {
    async fn feeds(&self, request: Request<FeedsRequest>) -> Reply<FeedsResponse> {
        Ok(Response::new(self.feeds_everywhere(request.get_ref()).await.map_err(refused)?))
    }

    async fn put_feed(&self, request: Request<PutFeedRequest>) -> Reply<PutFeedResponse> {
        let put_by = Caller::of(&request).map(|caller| caller.subject).unwrap_or_default();
        let PutFeedRequest { name, spec, if_version } = request.into_inner();
        let put = self.feeds.put(&name, spec.unwrap_or_default(), if_version, put_by).await;
        put.map_err(not_put)?;
        let feed = self.feeds.list(&name).first().map(shown);
        Ok(Response::new(PutFeedResponse { feed }))
    }

    async fn remove_feed(&self, request: Request<RemoveFeedRequest>) -> Reply<RemoveFeedResponse> {
        let asked = request.get_ref();
        self.feeds.remove(&asked.name, asked.if_version).await.map_err(not_put)?;
        Ok(Response::new(RemoveFeedResponse {}))
    }
}

impl RealtimeApi {
    /// Tells how feeds fare as far as this node knows.
    pub(super) fn feeds_here(&self, asked: &FeedsRequest) -> FeedsResponse {
        let feeds = self.feeds.list(&asked.name).iter().map(shown).collect();
        FeedsResponse { feeds, ..FeedsResponse::default() }
    }

    async fn feeds_everywhere(&self, asked: &FeedsRequest) -> Result<FeedsResponse, Refusal> {
        // What was put on another node a moment ago is told too.
        let stale = self.feeds.look().await.is_err();
        let mut all = self.feeds_here(asked);
        if !asked.name.is_empty() && all.feeds.is_empty() {
            return Err(if stale { Refusal::FeedsUnavailable } else { Refusal::FeedUnknown });
        }
        let others: Answers<FeedsResponse> = self.others(Method::Feeds, asked).await;
        for feed in others.given.into_iter().flat_map(|answer| answer.feeds) {
            let here = all.feeds.iter_mut().find(|here| here.name == feed.name);
            // Who runs it knows more.
            if let Some(here) = here
                && !matches!(feed.state(), FeedState::Standby | FeedState::Unusable)
                && feed.version == here.version
            {
                *here = feed;
            }
        }
        all.missing_nodes = others.missing;
        all.stale = stale;
        Ok(all)
    }
}

fn not_put(not: NotPut) -> Status {
    match not {
        NotPut::Refused(refusal) => refused(refusal),
        NotPut::Wrong(wrong) => {
            let told: Vec<_> = wrong.iter().map(|(field, text)| format!("{field}: {text}")).collect();
            let failure = Failure::new(ErrorCode::InvalidArgument, "FEED_INVALID", told.join("; "));
            wrong.into_iter().fold(failure, |failure, (field, text)| failure.field(field, text)).into()
        }
    }
}

fn shown(listed: &Listed) -> v1::Feed {
    let Listed { feed, origin } = listed;
    let figures = feed.figures();
    let endpoint =
        |(endpoint, breaker): (String, &str)| v1::FeedEndpoint { endpoint, breaker: breaker.to_owned() };
    v1::Feed {
        name: feed.name.clone(),
        channel: feed.config.channel.clone(),
        state: figures.state.into(),
        node: figures.holder,
        endpoint: figures.endpoint,
        endpoints: feed.endpoints().into_iter().map(endpoint).collect(),
        since: Some(figures.since.into()),
        last_message_at: figures.last_message_at.map(Into::into),
        received: figures.received,
        published: figures.published,
        duplicates: figures.duplicates,
        rejected: figures.rejected,
        gaps: figures.gaps,
        missed: figures.missed,
        renumbered: figures.renumbered,
        failures: figures.failures,
        last_failure: figures.last_failure,
        version: origin.as_ref().map_or(0, |origin| origin.version),
        put_by: origin.as_ref().map(|origin| origin.put_by.clone()).unwrap_or_default(),
        put_at: origin.as_ref().and_then(|origin| origin.put_at),
        spec: Some(shown_spec(feed)),
    }
}
