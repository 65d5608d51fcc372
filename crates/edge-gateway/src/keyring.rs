//! API keys that were made over REST: monitor-service keeps them, every edge knows them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mainstay_auth::Role;
use mainstay_auth::api_key::{StoredKey, StoredKeys};
use mainstay_proto::monitor::v1 as wire;
use mainstay_proto::monitor::v1::access_service_client::AccessServiceClient;
use mainstay_rpc::{Call, Failure, Lane};
use mainstay_runtime::{Component, ComponentKind, Context, Schedule};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::config::StoredKeysConfig;
use crate::figures::Figures;
use crate::state::App;
use crate::upstream::Upstreams;

const LIST: &str = "mainstay.monitor.v1.AccessService/ListApiKeys";
/// Time for one look.
const LOOK_WITHIN: Duration = Duration::from_secs(1);

/// Keeps what the monitor has, and forgets it when it was not confirmed for too long.
pub(crate) struct Keyring {
    keys: StoredKeys,
    known: Mutex<Known>,
    max_stale: Duration,
    figures: Figures,
}

#[derive(Default)]
struct Known {
    revision: u64,
    n_keys: usize,
    confirmed_at: Option<Instant>,
}

impl Keyring {
    pub(crate) fn new(config: &StoredKeysConfig, keys: StoredKeys, figures: Figures) -> Self {
        Self { keys, known: Mutex::default(), max_stale: config.max_stale, figures }
    }

    /// Asks the monitor and takes over what it has; returns how many keys there are.
    ///
    /// Also after a change made here: the answer to it must be true at once on this edge.
    pub(crate) async fn look(&self, upstreams: &Upstreams) -> Result<usize, Failure> {
        // One look at a time, so that an older answer never replaces a younger one.
        let mut known = self.known.lock().await;
        let request = wire::ListApiKeysRequest { known_revision: known.revision };
        let send = async |mut client: AccessServiceClient<Lane>, request| client.list_api_keys(request).await;
        let call = Call::read(LIST).within(LOOK_WITHIN);
        let answer = upstreams.access(call, request, send).await?;
        known.confirmed_at = Some(Instant::now());
        if !answer.unchanged {
            let keys: Vec<StoredKey> = answer.keys.into_iter().filter_map(stored).collect();
            (known.revision, known.n_keys) = (answer.revision, keys.len());
            self.keys.replace(keys);
        }
        self.figures.stored_keys(known.n_keys, Duration::ZERO);
        Ok(known.n_keys)
    }

    /// Says how old the keys are, and forgets them when that is too old; none when there are none to trust.
    async fn age(&self) -> Option<Duration> {
        let mut known = self.known.lock().await;
        let age = known.confirmed_at?.elapsed();
        if age > self.max_stale {
            self.keys.forget();
            *known = Known::default();
            self.figures.stored_keys(0, age);
            return None;
        }
        self.figures.stored_keys(known.n_keys, age);
        Some(age)
    }
}

/// Looks again and again, by a background job that also reports as a component.
pub(crate) fn keep(cx: &Context, app: &Arc<App>, every: Duration) {
    let component = Arc::new(cx.component("api-keys", ComponentKind::Upstream, false));
    let app = Arc::clone(app);
    cx.background("api-keys", Schedule::Every(every), move || {
        let (app, component) = (Arc::clone(&app), Arc::clone(&component));
        async move {
            round(&app, &component).await;
            Ok(())
        }
    });
}

async fn round(app: &App, component: &Component) {
    match app.keyring.look(&app.upstreams).await {
        Ok(n_keys) => component.healthy(format!("{n_keys} keys")),
        Err(failure) => match app.keyring.age().await {
            Some(age) => {
                component.degraded(format!("keys are {} s old: {}", age.as_secs(), failure.message()));
            }
            None => component.degraded(format!("only configured keys are good: {}", failure.message())),
        },
    }
}

/// Reads a key; one that this edge does not understand is none, and is logged.
fn stored(key: wire::ApiKey) -> Option<StoredKey> {
    let role: Option<Role> = key.role.parse().ok();
    let sha256 = <[u8; 32]>::try_from(&*key.sha256).ok();
    let (Some(role), Some(sha256)) = (role, sha256) else {
        tracing::warn!(name = key.name, "a stored api key is passed over: its role or its hash is unknown");
        return None;
    };
    let previous = <[u8; 32]>::try_from(&*key.previous_sha256).ok();
    let previous = previous.zip(key.previous_until.and_then(unix_s));
    // A time that cannot be read lies in the past: the key is refused.
    let expires_at = key.expires_at.map(|at| unix_s(at).unwrap_or_default());
    Some(StoredKey { name: key.name, role, scopes: key.scopes, sha256, previous, expires_at })
}

fn unix_s(at: prost_types::Timestamp) -> Option<u64> {
    let since = SystemTime::try_from(at).ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> wire::ApiKey {
        wire::ApiKey {
            name: "ci".to_owned(),
            role: "operator".to_owned(),
            sha256: vec![1; 32].into(),
            previous_sha256: vec![2; 32].into(),
            previous_until: Some(prost_types::Timestamp { seconds: 60, nanos: 0 }),
            ..wire::ApiKey::default()
        }
    }

    #[test]
    fn keys_that_are_not_understood_are_no_keys() {
        let good = stored(key()).unwrap();
        assert_eq!((good.role, good.previous, good.expires_at), (Role::Operator, Some(([2; 32], 60)), None));
        assert_eq!(stored(wire::ApiKey { role: "root".to_owned(), ..key() }), None);
        assert_eq!(stored(wire::ApiKey { sha256: vec![1; 31].into(), ..key() }), None);
        let without_end = wire::ApiKey { previous_until: None, ..key() };
        assert_eq!(stored(without_end).unwrap().previous, None);
        let odd = prost_types::Timestamp { seconds: -5, nanos: 0 };
        assert_eq!(stored(wire::ApiKey { expires_at: Some(odd), ..key() }).unwrap().expires_at, Some(0));
    }
}
