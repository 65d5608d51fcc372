use std::sync::Arc;
use std::time::Duration;

use mainstay_runtime::Context;
use tokio::time::{Instant, sleep};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::redis::Redis;

/// Has the next look come soon while a primary is missing.
///
/// Failing commands ask for looks, too; but a breaker stops commands that would fail, and who waits for the next second then
/// learns so much later who has been promoted.
#[derive(Debug, Default)]
pub(crate) struct Soon {
    /// Ends the wait for the look that was to come.
    waits: Option<DropGuard>,
    missing_since: Option<Instant>,
}

impl Soon {
    const AFTER: Duration = Duration::from_millis(50);
    /// What is away for longer is looked for once a second, as ever.
    const EAGER_FOR: Duration = Duration::from_secs(15);

    /// Says how a look has ended.
    pub(crate) fn looked(&mut self, is_missing: bool, redis: &Arc<Redis>, cx: &Context) {
        self.waits = None;
        if !is_missing {
            self.missing_since = None;
            return;
        }
        let now = Instant::now();
        let since = *self.missing_since.get_or_insert(now);
        if now.duration_since(since) > Self::EAGER_FOR {
            return;
        }
        let (over, redis) = (CancellationToken::new(), Arc::clone(redis));
        self.waits = Some(over.clone().drop_guard());
        cx.spawn_work(async move {
            tokio::select! {
                () = sleep(Self::AFTER) => redis.look_again(),
                () = over.cancelled() => {}
            }
        });
    }
}
