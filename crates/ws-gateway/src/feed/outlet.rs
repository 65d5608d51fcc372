//! Where messages of feeds go.

use std::collections::HashMap;
use std::sync::Arc;

use crate::broker::NotPublished;
use crate::channel::Channel;
use crate::config::NamespaceConfig;
use crate::error::Refusal;
use crate::hub::{Hub, Message};
use crate::namespace::Namespaces;
use crate::publication::Publication;

/// Publishes for all nodes, or not at all.
pub(crate) struct Outlet {
    pub(crate) hub: Arc<Hub>,
    pub(crate) namespaces: Arc<Namespaces>,
    pub(crate) max_channel_bytes: usize,
    pub(crate) max_data_bytes: usize,
}

impl Outlet {
    pub(super) fn place(&self, channel: &str) -> Result<(Channel, Arc<NamespaceConfig>), Refusal> {
        let channel = Channel::parse(channel, self.max_channel_bytes)?;
        let options = Arc::clone(self.namespaces.of(&channel)?);
        Ok((channel, options))
    }

    /// Publishes one message; [`Refusal::RedisUnavailable`] when it surely was not, [`Refusal::PublishUnknown`] when nobody
    /// knows. With a key it may be tried again in both cases.
    pub(super) async fn publish(&self, channel: &str, data: &str, key: &str) -> Result<(), Refusal> {
        let (channel, options) = self.place(channel)?;
        let publication = Publication::from_server(data.as_bytes(), &HashMap::new(), self.max_data_bytes)?;
        let message =
            Message { publication: Arc::new(publication), exclusion: None, idempotency_key: key.into() };
        match self.hub.broker() {
            None => drop(self.hub.publish(&channel, &options, &message)),
            Some(broker) => {
                broker.publish_for_all(&channel, &options, &message).await.map_err(|not| match not {
                    NotPublished::Surely => Refusal::RedisUnavailable,
                    NotPublished::Unknown => Refusal::PublishUnknown,
                })?;
            }
        }
        Ok(())
    }
}
