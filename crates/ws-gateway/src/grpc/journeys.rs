//! The door for the ways of users: `RealtimeJourneyService`.

use std::collections::VecDeque;
use std::time::SystemTime;

use futures_util::stream::{BoxStream, unfold};
use mainstay_proto::realtime::v1::realtime_journey_service_server::RealtimeJourneyService;
use mainstay_proto::realtime::v1::{
    FollowRequest, FollowResponse, JourneyEvent, JourneyPosition, JourneyStep, JourneysRequest,
    JourneysResponse,
};
use mainstay_rpc::{Reply, Request, Response, Status};

use super::{RealtimeApi, refused};
use crate::error::Refusal;
use crate::journey::{Event, Follow, Interest, News, NotFollowed, Step};
use crate::mesh::{Answers, Method};

const DEFAULT_EVENTS: usize = 1_000;
/// What a node tells another fits into one message.
const MOST_EVENTS: usize = 5_000;

#[tonic::async_trait]
impl RealtimeJourneyService for RealtimeApi {
    async fn journeys(&self, request: Request<JourneysRequest>) -> Reply<JourneysResponse> {
        Ok(Response::new(self.journeys_everywhere(request.get_ref()).await.map_err(refused)?))
    }

    type FollowStream = BoxStream<'static, Result<FollowResponse, Status>>;

    async fn follow(&self, request: Request<FollowRequest>) -> Reply<Self::FollowStream> {
        let request = request.into_inner();
        let journal = self.hub.journal();
        if !journal.is_on() {
            return Err(refused(Refusal::JourneysOff));
        }
        let interest = Interest { user: request.user.into(), channel: request.channel.into(), since: None };
        let after = request.after.as_ref().map(|after| (after.process.as_str(), after.number));
        let follow = journal.follow(after, interest).map_err(|why| match why {
            NotFollowed::TooMany => refused(Refusal::TooManyWatchers),
            NotFollowed::NotYet => refused(Refusal::PositionInvalid),
        })?;
        let (process, node) = (journal.process().to_owned(), self.node.id.clone());
        let begun = (follow, process, node, self.stopping.clone());
        let stream = unfold(begun, |(mut follow, process, node, stopping)| async move {
            let news = tokio::select! {
                () = stopping.cancelled() => None,
                news = Follow::next(&mut follow) => Some(news),
            };
            Some((Ok(told(&news?, &process, &node)), (follow, process, node, stopping)))
        });
        Ok(Response::new(Box::pin(stream)))
    }
}

impl RealtimeApi {
    /// Returns what this node remembers.
    pub(super) fn journeys_here(&self, asked: &JourneysRequest) -> Result<JourneysResponse, Refusal> {
        let journal = self.hub.journal();
        if !journal.is_on() {
            return Err(Refusal::JourneysOff);
        }
        let since = asked.since.map(SystemTime::try_from).transpose();
        let interest = Interest {
            user: asked.user.as_str().into(),
            channel: asked.channel.as_str().into(),
            since: since.map_err(|_| Refusal::SinceInvalid)?,
        };
        let latest = journal.latest(&interest, most(asked));
        Ok(JourneysResponse {
            events: latest.events.iter().map(|event| shown(event, &self.node.id)).collect(),
            truncated: latest.truncated,
            complete_since: Some(latest.complete_since.into()),
            missing_nodes: Vec::new(),
        })
    }

    async fn journeys_everywhere(&self, asked: &JourneysRequest) -> Result<JourneysResponse, Refusal> {
        let here = self.journeys_here(asked)?;
        let others: Answers<JourneysResponse> = self.others(Method::Journeys, asked).await;
        let mut all = joined(std::iter::once(here).chain(others.given), most(asked));
        all.missing_nodes = others.missing;
        Ok(all)
    }
}

fn most(asked: &JourneysRequest) -> usize {
    match asked.limit {
        0 => DEFAULT_EVENTS,
        limit => (limit as usize).min(MOST_EVENTS),
    }
}

/// Puts what nodes tell into one order and keeps the latest. Events of one node stay in its order, whatever its clock did.
fn joined(answers: impl Iterator<Item = JourneysResponse>, most: usize) -> JourneysResponse {
    let mut all = JourneysResponse::default();
    let mut told: Vec<VecDeque<JourneyEvent>> = Vec::new();
    let moment = |at: Option<prost_types::Timestamp>| at.map_or((0, 0), |at| (at.seconds, at.nanos));
    for answer in answers {
        all.truncated |= answer.truncated;
        if moment(answer.complete_since) > moment(all.complete_since) {
            all.complete_since = answer.complete_since;
        }
        told.push(answer.events.into());
    }
    let mut latest = VecDeque::new();
    // From the end, so that no more is looked at than is kept.
    while let Some(node) = (0..told.len())
        .filter(|&node| !told[node].is_empty())
        .max_by_key(|&node| told[node].back().map(|event| moment(event.at)))
    {
        if latest.len() == most {
            all.truncated = true;
            break;
        }
        latest.extend(told[node].pop_back());
    }
    all.events = latest.into_iter().rev().collect();
    all
}

fn told(news: &News, process: &str, node: &str) -> FollowResponse {
    FollowResponse {
        events: news.events.iter().map(|event| shown(event, node)).collect(),
        position: Some(JourneyPosition { process: process.to_owned(), number: news.at }),
        missed: news.missed,
        began_anew: news.began_anew,
    }
}

fn shown(event: &Event, node: &str) -> JourneyEvent {
    let (step, code) = match event.step {
        Step::Connected => (JourneyStep::Connected, 0),
        Step::Subscribed => (JourneyStep::Subscribed, 0),
        Step::Published => (JourneyStep::Published, 0),
        Step::Unsubscribed => (JourneyStep::Unsubscribed, 0),
        Step::Disconnected { code } => (JourneyStep::Disconnected, code.into()),
    };
    JourneyEvent {
        step: step.into(),
        at: Some(event.at.into()),
        user: event.user.to_string(),
        client: event.client.to_string(),
        channel: event.channel.as_ref().map(|channel| channel.as_str().to_owned()).unwrap_or_default(),
        code,
        node: node.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(node: &str, seconds: &[i64]) -> JourneysResponse {
        let event = |&seconds: &i64| JourneyEvent {
            at: Some(prost_types::Timestamp { seconds, nanos: 0 }),
            node: node.to_owned(),
            ..JourneyEvent::default()
        };
        JourneysResponse {
            events: seconds.iter().map(event).collect(),
            complete_since: Some(prost_types::Timestamp { seconds: seconds[0], nanos: 0 }),
            ..JourneysResponse::default()
        }
    }

    fn order(all: &JourneysResponse) -> Vec<(&str, i64)> {
        all.events.iter().map(|event| (event.node.as_str(), event.at.unwrap().seconds)).collect()
    }

    #[test]
    fn what_nodes_tell_is_put_in_order_and_the_latest_is_kept() {
        let answers = || [answer("a", &[1, 4, 6]), answer("b", &[2, 3, 7])].into_iter();
        let all = joined(answers(), 6);
        assert_eq!(order(&all), [("a", 1), ("b", 2), ("b", 3), ("a", 4), ("a", 6), ("b", 7)]);
        assert_eq!((all.truncated, all.complete_since.unwrap().seconds), (false, 2));
        let some = joined(answers(), 2);
        assert_eq!((order(&some), some.truncated), (vec![("a", 6), ("b", 7)], true));
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_turn_the_order_of_a_node() {
        let all = joined([answer("a", &[5, 2, 9]), answer("b", &[3, 8])].into_iter(), 9);
        let of_a: Vec<_> = order(&all).into_iter().filter(|(node, _)| *node == "a").collect();
        assert_eq!(of_a, [("a", 5), ("a", 2), ("a", 9)]);
        assert_eq!(all.events.len(), 5);
    }
}
