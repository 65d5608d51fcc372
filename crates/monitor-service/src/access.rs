//! Who may come in through the edges, and what was changed through them.

mod change;
mod key;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mainstay_runtime::Clock;
use parking_lot::Mutex;

pub(crate) use change::{ChangeFilter, ChangeKind, RecordedChange};
pub(crate) use key::{ApiKey, Digest, NewKey};

use crate::store::{Changes, Store, StoreError};

/// Keeps API keys and recorded changes; every answer about a change waits until it is durable.
#[derive(Debug)]
pub(crate) struct Access {
    ring: Mutex<Ring>,
    /// Held by whoever changes a key, so that what was looked at is still so when it is stored.
    changing: tokio::sync::Mutex<()>,
    store: Store,
    clock: Clock,
}

#[derive(Debug)]
struct Ring {
    keys: BTreeMap<String, ApiKey>,
    revision: u64,
}

/// Says why a key was not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyError {
    /// Somebody has this name.
    #[error("there is a key of that name already")]
    Exists,
    /// Nobody has this name.
    #[error("there is no key of that name")]
    NotFound,
    /// There is no room.
    #[error("there are 1000 keys already")]
    TooMany,
    /// Nothing was changed.
    #[error("the key could not be stored")]
    NotStored(#[source] StoreError),
}

/// Keys at once.
const KEYS_MAX: usize = 1_000;

impl Access {
    /// Goes on with the keys that were stored.
    pub(crate) fn new(stored: Vec<ApiKey>, store: Store, clock: Clock) -> Arc<Self> {
        let keys = stored.into_iter().map(|key| (key.name.clone(), key)).collect();
        // Begins at the time, so that no edge takes a revision of an earlier process for one of this one.
        let since = clock.now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let revision = u64::try_from(since.as_millis()).unwrap_or(u64::MAX / 2).max(1);
        Arc::new(Self {
            ring: Mutex::new(Ring { keys, revision }),
            changing: tokio::sync::Mutex::default(),
            store,
            clock,
        })
    }

    /// Returns the revision, and all keys unless the caller has them.
    pub(crate) fn keys(&self, known_revision: u64) -> (u64, Option<Vec<ApiKey>>) {
        let ring = self.ring.lock();
        if self.store.take_rekey() {
            let keys = ring.keys.values().map(|key| (key.name.clone(), Some(key.clone())));
            self.store.queue(Changes { keys: keys.collect(), ..Changes::default() });
        }
        let is_known = ring.revision == known_revision;
        (ring.revision, (!is_known).then(|| ring.keys.values().cloned().collect()))
    }

    /// Adds a key.
    pub(crate) async fn create(&self, new: NewKey, by: String) -> Result<ApiKey, KeyError> {
        let _changing = self.changing.lock().await;
        {
            let ring = self.ring.lock();
            if ring.keys.contains_key(&new.name) {
                return Err(KeyError::Exists);
            }
            if ring.keys.len() >= KEYS_MAX {
                return Err(KeyError::TooMany);
            }
        }
        let key = new.into_key(by, self.clock.now());
        self.put(&key.name, Some(key.clone())).await?;
        Ok(key)
    }

    /// Gives a key another secret.
    pub(crate) async fn rotate(
        &self,
        name: &str,
        sha256: Digest,
        grace: Duration,
    ) -> Result<ApiKey, KeyError> {
        let _changing = self.changing.lock().await;
        let key = self.ring.lock().keys.get(name).cloned().ok_or(KeyError::NotFound)?;
        let key = key.rotated(sha256, grace, self.clock.now());
        self.put(name, Some(key.clone())).await?;
        Ok(key)
    }

    /// Removes a key.
    pub(crate) async fn revoke(&self, name: &str) -> Result<(), KeyError> {
        let _changing = self.changing.lock().await;
        if !self.ring.lock().keys.contains_key(name) {
            return Err(KeyError::NotFound);
        }
        self.put(name, None).await
    }

    /// Stores a key, or that there is none, and only then lets it count.
    async fn put(&self, name: &str, key: Option<ApiKey>) -> Result<(), KeyError> {
        let row = |key| Changes { keys: vec![(name.to_owned(), key)], ..Changes::default() };
        if let Err(error) = self.store.commit(row(key.clone())).done().await {
            // The store may try again later: what was not confirmed must not come back after a restart.
            let before = self.ring.lock().keys.get(name).cloned();
            self.store.queue(row(before));
            return Err(KeyError::NotStored(error));
        }
        let mut ring = self.ring.lock();
        match key {
            Some(key) => ring.keys.insert(name.to_owned(), key),
            None => ring.keys.remove(name),
        };
        ring.revision += 1;
        Ok(())
    }

    /// Puts changes on record.
    pub(crate) async fn record(&self, changes: Vec<RecordedChange>) -> Result<(), StoreError> {
        self.store.commit(Changes { recorded: changes, ..Changes::default() }).done().await
    }

    /// Lists recorded changes, newest first, each with its number.
    pub(crate) async fn changes(
        &self,
        filter: ChangeFilter,
    ) -> Result<Vec<(u64, RecordedChange)>, StoreError> {
        self.store.recorded(filter).await
    }
}
