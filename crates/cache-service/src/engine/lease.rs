//! Leases for callers who fill the cache themselves.

use std::time::Duration;

use tokio::time::Instant;

use super::{Engine, Found};
use crate::error::CacheError;
use crate::key::Key;

/// While another caller has the lease, Redis is asked this often for what it brings.
const LOOK_EVERY: Duration = Duration::from_millis(25);

impl Engine {
    /// Reads an entry; on a miss gives a lease to one caller, and lets the others wait for what that one stores.
    ///
    /// Whoever has waited for `hard_deadline` gets a miss without a lease. Without Redis there are no leases.
    pub(crate) async fn get_or_lease(
        &self,
        key: &Key,
        left: Duration,
    ) -> Result<(Found, Option<u64>), CacheError> {
        let namespace = self.namespace(key)?;
        let policy = &namespace.policy;
        let until = Instant::now() + left.min(policy.hard_deadline);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let found = self.get(key, left).await?;
            let is_miss = found.entry.is_none() && !found.degraded;
            let Some(redis) = self.redis_of(policy).filter(|_| is_miss && !left.is_zero()) else {
                return Ok((found, None));
            };
            let token = self.token();
            match redis.lease(key, token, policy.hard_deadline, left).await {
                Ok(true) => {
                    // Its holder before us may have stored between our look and our lease.
                    let found = self.get(key, left).await?;
                    if found.entry.is_none() {
                        return Ok((found, Some(token)));
                    }
                    // If it fails, the lease ends by itself.
                    let _ = redis.release(key, token, left).await;
                    return Ok((found, None));
                }
                Ok(false) if left > LOOK_EVERY => tokio::time::sleep(LOOK_EVERY).await,
                Ok(false) | Err(_) => return Ok((found, None)),
            }
        }
    }
}
