use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use futures_util::stream::{BoxStream, StreamExt as _, unfold};
use mainstay_proto::cache::v1 as pb;
use mainstay_proto::cache::v1::pub_sub_service_server::PubSubService;
use mainstay_proto::cache::v1::subscribe_response::Event;
use mainstay_rpc::{Failure, Reply, Request, Response, Status};
use tokio_util::sync::CancellationToken;

use super::cache::time_left;
use super::codec::refused;
use crate::config::SlowReaders;
use crate::key::ContentType;
use crate::pubsub::{Delivery, Gap, GapReason, Interest, Message, Pattern, PubSub, Subscription, Topic};
use crate::shared::BadField;

/// Decodes, publishes and listens, encodes.
#[derive(Debug, Clone)]
pub(crate) struct PubSubGrpc {
    pubsub: Arc<PubSub>,
    stopping: CancellationToken,
}

impl PubSubGrpc {
    /// Streams end when `stopping` fires.
    pub(crate) fn new(pubsub: Arc<PubSub>, stopping: CancellationToken) -> Self {
        Self { pubsub, stopping }
    }
}

#[tonic::async_trait]
impl PubSubService for PubSubGrpc {
    async fn publish(&self, request: Request<pb::PublishRequest>) -> Reply<pb::PublishResponse> {
        let left = time_left(&request);
        let pb::PublishRequest { topic, payload, content_type } = request.into_inner();
        let topic = Topic::try_new("topic", &topic).map_err(Failure::from)?;
        let content_type = ContentType::try_new(&content_type).map_err(refused)?;
        let published = self.pubsub.publish(topic, payload, content_type, left).await;
        let receivers = published.map_err(Failure::from)?;
        Ok(Response::new(pb::PublishResponse { receivers, source: self.pubsub.source().to_pb() }))
    }

    type SubscribeStream = BoxStream<'static, Result<pb::SubscribeResponse, Status>>;

    async fn subscribe(&self, request: Request<pb::SubscribeRequest>) -> Reply<Self::SubscribeStream> {
        let request = request.into_inner();
        let slow_readers = decode_policy(request.slow_readers).map_err(Failure::from)?;
        let interests = decode_interests(&request).map_err(Failure::from)?;
        let subscription = self.pubsub.subscribe(interests, slow_readers).map_err(Failure::from)?;
        let stopping = self.stopping.clone();
        Ok(Response::new(unfold(Some((subscription, stopping)), next).boxed()))
    }
}

type Place = Option<(Subscription, CancellationToken)>;

/// Waits for what is told next; an error is the end.
async fn next(place: Place) -> Option<(Result<pb::SubscribeResponse, Status>, Place)> {
    let (subscription, stopping) = place?;
    let delivery = tokio::select! {
        delivery = subscription.next() => delivery,
        () = stopping.cancelled() => return None,
    };
    Some(match delivery {
        Ok(delivery) => (Ok(encode(delivery)), Some((subscription, stopping))),
        Err(too_slow) => (Err(Failure::from(too_slow).into()), None),
    })
}

fn decode_policy(given: i32) -> Result<Option<SlowReaders>, BadField> {
    match pb::SlowReaders::try_from(given) {
        Ok(pb::SlowReaders::Unspecified) => Ok(None),
        Ok(pb::SlowReaders::Disconnect) => Ok(Some(SlowReaders::Disconnect)),
        Ok(pb::SlowReaders::DropOldest) => Ok(Some(SlowReaders::DropOldest)),
        Ok(pb::SlowReaders::KeepLatest) => Ok(Some(SlowReaders::KeepLatest)),
        Err(_) => Err(BadField::new("slow_readers", "must be one of the named values")),
    }
}

/// What is named twice counts once.
fn decode_interests(request: &pb::SubscribeRequest) -> Result<Vec<Interest>, BadField> {
    let topics = request.topics.iter().map(|text| Topic::try_new("topics", text).map(Interest::Topic));
    let patterns =
        request.patterns.iter().map(|text| Pattern::try_new("patterns", text).map(Interest::Pattern));
    let mut seen = std::collections::HashSet::new();
    let interests: Result<Vec<Interest>, BadField> = topics.chain(patterns).collect();
    let mut interests = interests?;
    interests.retain(|interest| seen.insert(interest.clone()));
    Ok(interests)
}

fn encode(delivery: Delivery) -> pb::SubscribeResponse {
    let event = match delivery {
        Delivery::Listening => Event::Listening(pb::Listening {}),
        Delivery::Message(message) => Event::Message(encode_message(&message)),
        Delivery::Gap(Gap { reason, lost }) => {
            let reason = match reason {
                GapReason::Link => pb::gap::Reason::Link,
                GapReason::SlowReader => pb::gap::Reason::SlowReader,
                GapReason::Overrun => pb::gap::Reason::Overrun,
            };
            Event::Gap(pb::Gap { reason: reason.into(), lost })
        }
    };
    pb::SubscribeResponse { event: Some(event) }
}

fn encode_message(message: &Message) -> pb::PubSubMessage {
    pb::PubSubMessage {
        topic: message.topic.as_str().to_owned(),
        payload: message.payload.clone(),
        content_type: message.content_type.as_str().to_owned(),
        published_at: Some((UNIX_EPOCH + Duration::from_millis(message.published_at_unix_ms)).into()),
    }
}
