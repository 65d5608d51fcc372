use std::sync::Arc;
use std::time::Duration;

use mainstay_runtime::{Activate, Context};

use crate::cluster::ClusterWatch;
use crate::config::{RedisConfig, RedisMode};
use crate::primary::PrimaryWatch;
use crate::redis::Redis;

/// Keeps the connections: looks where the primary is, or the primaries are, connects, asks how they are, and tells the components.
///
/// Runs every second, and at once when a command fails.
pub struct Watch(Inner);

enum Inner {
    Primary(Box<PrimaryWatch>),
    Cluster(Box<ClusterWatch>),
}

impl Watch {
    /// How often it looks while nothing fails.
    pub const EVERY: Duration = Duration::from_secs(1);
    pub(crate) const RETRY_FIRST: Duration = Duration::from_millis(50);

    /// Adds the components; none when the mode is `none`.
    ///
    /// `is_critical` says whether the service is of no use without Redis.
    pub fn new(redis: Arc<Redis>, config: &RedisConfig, cx: &Context, is_critical: bool) -> Option<Self> {
        Some(Self(match config.mode {
            RedisMode::None => return None,
            RedisMode::Single | RedisMode::Sentinel => {
                Inner::Primary(Box::new(PrimaryWatch::new(redis, config, cx, is_critical)))
            }
            RedisMode::Cluster => Inner::Cluster(Box::new(ClusterWatch::new(redis, config, cx, is_critical))),
        }))
    }
}

impl Activate for Watch {
    async fn activate(&mut self) -> anyhow::Result<()> {
        match &mut self.0 {
            Inner::Primary(watch) => watch.activate().await,
            Inner::Cluster(watch) => watch.activate().await,
        }
    }
}
