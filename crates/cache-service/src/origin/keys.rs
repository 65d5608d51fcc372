//! What origins say of which keys they have.

use std::time::Duration;

use bytes::Bytes;

use super::{Origin, OriginError, Origins};

/// Keys of one page.
const PAGE: u32 = 1_000;

/// A part of a key list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KeyPage {
    /// Keys, and the name of the next page, which is empty behind the last.
    Keys { keys: Vec<String>, next: String },
    /// All of it as lines.
    Lines(Bytes),
}

impl Origins {
    /// Asks for one page of a namespace's key list; the first page has an empty name.
    pub(crate) async fn list_keys(
        &self,
        name: &str,
        namespace: &str,
        page: &str,
        within: Duration,
    ) -> Result<KeyPage, OriginError> {
        let listed = match self.get(name)? {
            Origin::Grpc(origin) => {
                let listed = origin.list_keys(namespace, PAGE, page, within).await;
                listed.map(|listed| KeyPage::Keys { keys: listed.keys, next: listed.next_page })
            }
            Origin::Http(origin) => origin.list_keys(namespace, within).await.map(KeyPage::Lines),
        };
        self.metrics.called(name, "list_keys", listed.is_ok());
        listed
    }
}
