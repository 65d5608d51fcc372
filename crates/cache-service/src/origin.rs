//! Where values come from: services that implement `mainstay.cache.v1.Origin`.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use mainstay_proto::cache::v1 as pb;
use mainstay_proto::cache::v1::origin_client::OriginClient;
use mainstay_rpc::{Call, Failure, Upstream};

use crate::config::CacheConfig;
use crate::key::{ContentType, Key, Tags, Ttl};

const LOAD: &str = "mainstay.cache.v1.Origin/Load";
const STORE: &str = "mainstay.cache.v1.Origin/Store";
/// No namespace takes larger values.
const LARGEST_MESSAGE: usize = 17 << 20;

/// The configured origins, each under its own breaker.
#[derive(Debug, Default)]
pub(crate) struct Origins(HashMap<String, Upstream>);

/// A value as an origin gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Loaded {
    pub(crate) value: Bytes,
    pub(crate) content_type: ContentType,
    pub(crate) ttl: Option<Ttl>,
    pub(crate) tags: Tags,
}

/// Says why an origin did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OriginError {
    #[error("the origin failed")]
    Failed(#[source] Failure),
    #[error("the origin gave what cannot be cached: {0}")]
    Illegal(String),
    #[error("the origin {0:?} is not configured on this node")]
    Unknown(String),
}

impl Origins {
    pub(crate) fn try_new(config: &CacheConfig) -> anyhow::Result<Self> {
        let origins = config.origins.iter().map(|(name, origin)| {
            Ok((name.clone(), Upstream::try_new(format!("origin.{name}"), &origin.grpc)?))
        });
        origins.collect::<anyhow::Result<_>>().map(Self)
    }

    /// Asks for a key; none when the origin does not have it.
    pub(crate) async fn load(
        &self,
        origin: &str,
        key: &Key,
        within: Duration,
    ) -> Result<Option<Loaded>, OriginError> {
        let upstream = self.0.get(origin).ok_or_else(|| OriginError::Unknown(origin.to_owned()))?;
        let request = pb::LoadRequest { namespace: key.namespace().to_owned(), key: key.name().to_owned() };
        let answer = upstream.call(Call::read(LOAD).within(within), |lane| {
            let request = request.clone();
            async move {
                let client = OriginClient::new(lane).max_decoding_message_size(LARGEST_MESSAGE);
                let mut client = client;
                client.load(request).await
            }
        });
        let answer = answer.await.map_err(OriginError::Failed)?;
        answer.value.map(decode).transpose()
    }

    /// Tells the origin of a change; none means deleted.
    pub(crate) async fn store(
        &self,
        origin: &str,
        key: &Key,
        value: Option<pb::Loaded>,
        version: u64,
        within: Duration,
    ) -> Result<(), OriginError> {
        let upstream = self.0.get(origin).ok_or_else(|| OriginError::Unknown(origin.to_owned()))?;
        let change = pb::Change { key: key.name().to_owned(), value, version };
        let request = pb::StoreRequest { namespace: key.namespace().to_owned(), changes: vec![change] };
        let stored = upstream.call(Call::write(STORE).within(within), |lane| {
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

fn decode(loaded: pb::Loaded) -> Result<Loaded, OriginError> {
    let illegal = |invalid: crate::key::Invalid| OriginError::Illegal(invalid.to_string());
    let ttl = loaded.ttl.map(|ttl| {
        let ttl = Duration::try_from(ttl).map_err(|_| crate::key::Invalid::TtlOutOfRange)?;
        Ttl::try_new(ttl)
    });
    Ok(Loaded {
        content_type: ContentType::try_new(&loaded.content_type).map_err(illegal)?,
        ttl: ttl.transpose().map_err(illegal)?,
        tags: Tags::try_new(loaded.tags.iter().map(String::as_str)).map_err(illegal)?,
        value: loaded.value,
    })
}
