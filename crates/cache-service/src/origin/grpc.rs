//! Sources that implement `mainstay.cache.v1.Origin`.

use std::time::Duration;

use mainstay_proto::cache::v1 as pb;
use mainstay_proto::cache::v1::origin_client::OriginClient;
use mainstay_proto::cache::v1::origin_keys_client::OriginKeysClient;
use mainstay_rpc::{
    Call, EndpointSnapshot, Failure, Response, Upstream, UpstreamConfig, is_answer_too_large,
    is_unimplemented,
};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Change, EndpointFigures, Loaded, OriginError};
use crate::key::{ContentType, Invalid, Key, Tags, Ttl};

const LOAD: &str = "mainstay.cache.v1.Origin/Load";
const LOAD_MANY: &str = "mainstay.cache.v1.Origin/LoadMany";
const LIST_KEYS: &str = "mainstay.cache.v1.OriginKeys/ListKeys";
const STORE: &str = "mainstay.cache.v1.Origin/Store";
/// No namespace takes larger values.
const LARGEST_MESSAGE: usize = 17 << 20;
/// An origin that does not implement a call is asked by it again after so long: it may be another one by then.
const ASK_AGAIN_AFTER: Duration = Duration::from_mins(1);

/// Asks one service, under the breakers of its upstream.
#[derive(Debug)]
pub(super) struct GrpcOrigin {
    upstream: Upstream,
    /// When it said last that it does not implement LoadMany.
    one_by_one_since: Mutex<Option<Instant>>,
}

impl GrpcOrigin {
    pub(super) fn try_new(name: &str, config: &UpstreamConfig) -> anyhow::Result<Self> {
        let upstream = Upstream::try_new(format!("origin.{name}"), config)?;
        Ok(Self { upstream, one_by_one_since: Mutex::default() })
    }

    pub(super) fn endpoints(&self) -> Vec<EndpointFigures> {
        let endpoints = self.upstream.snapshot().endpoints.into_iter();
        let figures = |endpoint: EndpointSnapshot| EndpointFigures {
            endpoint: endpoint.uri,
            breaker: endpoint.breaker,
            in_flight: endpoint.in_flight,
        };
        endpoints.map(figures).collect()
    }

    pub(super) async fn load(&self, key: &Key, within: Duration) -> Result<Option<Loaded>, OriginError> {
        let request = pb::LoadRequest { namespace: key.namespace().to_owned(), key: key.name().to_owned() };
        let answer = self.upstream.call(Call::read(LOAD).within(within), |lane| {
            let request = request.clone();
            async move {
                let mut client = OriginClient::new(lane).max_decoding_message_size(LARGEST_MESSAGE);
                client.load(request).await
            }
        });
        answer.await.map_err(OriginError::Failed)?.value.map(decode).transpose()
    }

    /// Asks for keys of one namespace; none when they have to be asked for one by one: the origin does not implement it,
    /// or its answer would be too large.
    pub(super) async fn load_many(
        &self,
        namespace: &str,
        keys: Vec<String>,
        within: Duration,
    ) -> Option<Result<Vec<Result<Option<Loaded>, OriginError>>, Failure>> {
        let since = *self.one_by_one_since.lock();
        if keys.len() < 2 || since.is_some_and(|since| since.elapsed() < ASK_AGAIN_AFTER) {
            return None;
        }
        let n_keys = keys.len();
        let request = pb::LoadManyRequest { namespace: namespace.to_owned(), keys };
        let answer = self.upstream.call(Call::read(LOAD_MANY).within(within), |lane| {
            let request = request.clone();
            async move {
                let mut client = OriginClient::new(lane).max_decoding_message_size(LARGEST_MESSAGE);
                match client.load_many(request).await {
                    Ok(answer) => Ok(Response::new(Ok(answer.into_inner()))),
                    Err(status) if is_unimplemented(&status) => Ok(Response::new(Err(true))),
                    Err(status) if is_answer_too_large(&status) => Ok(Response::new(Err(false))),
                    Err(status) => Err(status),
                }
            }
        });
        match answer.await {
            Ok(Ok(answer)) if answer.results.len() == n_keys => {
                let values = answer.results.into_iter().map(|result| result.value.map(decode).transpose());
                Some(Ok(values.collect()))
            }
            Ok(Ok(answer)) => {
                tracing::warn!(
                    n_keys,
                    n_results = answer.results.len(),
                    "origin gave a wrong number of results"
                );
                None
            }
            Ok(Err(is_unimplemented)) => {
                if is_unimplemented {
                    *self.one_by_one_since.lock() = Some(Instant::now());
                }
                None
            }
            Err(failure) => Some(Err(failure)),
        }
    }

    /// Lists keys of a namespace, one page of them.
    pub(super) async fn list_keys(
        &self,
        namespace: &str,
        limit: u32,
        page: &str,
        within: Duration,
    ) -> Result<pb::ListKeysResponse, OriginError> {
        let request = pb::ListKeysRequest { namespace: namespace.to_owned(), limit, page: page.to_owned() };
        let answer = self.upstream.call(Call::read(LIST_KEYS).within(within), |lane| {
            let request = request.clone();
            async move {
                let mut client = OriginKeysClient::new(lane).max_decoding_message_size(LARGEST_MESSAGE);
                match client.list_keys(request).await {
                    Ok(answer) => Ok(Response::new(Some(answer.into_inner()))),
                    Err(status) if is_unimplemented(&status) => Ok(Response::new(None)),
                    Err(status) => Err(status),
                }
            }
        });
        answer.await.map_err(OriginError::Failed)?.ok_or(OriginError::NoKeys)
    }

    /// Tells the service of changes, in the order they were made.
    pub(super) async fn store(
        &self,
        namespace: &str,
        changes: &[Change],
        within: Duration,
    ) -> Result<(), OriginError> {
        let changes = changes.iter().map(encode).collect();
        let request = pb::StoreRequest { namespace: namespace.to_owned(), changes };
        let stored = self.upstream.call(Call::write(STORE).within(within), |lane| {
            let request = request.clone();
            async move {
                let client = OriginClient::new(lane).max_encoding_message_size(LARGEST_MESSAGE);
                let mut client = client;
                client.store(request).await
            }
        });
        stored.await.map(drop).map_err(OriginError::Failed)
    }
}

fn encode(change: &Change) -> pb::Change {
    let value = change.value.as_ref().map(|loaded| pb::Loaded {
        value: loaded.value.clone(),
        content_type: loaded.content_type.as_str().to_owned(),
        ttl: loaded.ttl.and_then(|ttl| ttl.as_duration().try_into().ok()),
        tags: loaded.tags.iter().map(str::to_owned).collect(),
    });
    pb::Change { key: change.key.name().to_owned(), value, version: change.version }
}

fn decode(loaded: pb::Loaded) -> Result<Loaded, OriginError> {
    let illegal = |invalid: Invalid| OriginError::Illegal(invalid.to_string());
    let ttl = loaded.ttl.map(|ttl| {
        let ttl = Duration::try_from(ttl).map_err(|_| Invalid::TtlOutOfRange)?;
        Ttl::try_new(ttl)
    });
    Ok(Loaded {
        content_type: ContentType::try_new(&loaded.content_type).map_err(illegal)?,
        ttl: ttl.transpose().map_err(illegal)?,
        tags: Tags::try_new(loaded.tags.iter().map(String::as_str)).map_err(illegal)?,
        value: loaded.value,
    })
}
