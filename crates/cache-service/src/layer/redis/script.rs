use std::time::Duration;

use fred::types::{FromValue, Value};

use super::{LayerError, LayerPart};
use crate::redis::Script;

impl LayerPart<'_> {
    /// Runs a script; `left` is the time the caller has. `name` names its span.
    pub(crate) async fn script<T: FromValue + Send>(
        self,
        name: &'static str,
        script: &Script,
        keys: &[&str],
        arguments: Vec<Value>,
        left: Duration,
    ) -> Result<T, LayerError> {
        let redis = self.layer.redis.part(self.partition);
        let run = |within| redis.run_script(script, keys, arguments, within);
        self.ask(name, "EVALSHA", left, run).await
    }
}
