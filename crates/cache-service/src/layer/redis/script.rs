use std::time::Duration;

use fred::types::{FromValue, Value};
use tracing::Instrument as _;

use super::{LayerError, RedisLayer};
use crate::redis::Script;

impl RedisLayer {
    /// Runs a script; `left` is the time the caller has. `name` names its span.
    pub(crate) async fn script<T: FromValue + Send>(
        &self,
        name: &'static str,
        script: &Script,
        keys: &[&str],
        arguments: Vec<Value>,
        left: Duration,
    ) -> Result<T, LayerError> {
        let span = self.span(name, "EVALSHA");
        let run = |within| self.redis.run_script(script, keys, arguments, within);
        self.guarded(left, run).instrument(span).await
    }
}
