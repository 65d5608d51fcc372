use std::collections::HashSet;
use std::sync::Arc;

use mainstay_proto::cache::v1 as pb;
use mainstay_proto::cache::v1::insight_service_server::InsightService;
use mainstay_rpc::{Failure, Reply, Request, Response};

use crate::engine::Engine;
use crate::insight::{Heavy, Insight, PatternFigures};
use crate::key::Key;

/// Tells what the engine's watch has seen.
#[derive(Debug, Clone)]
pub(crate) struct InsightGrpc {
    engine: Arc<Engine>,
}

const HOT_KEYS_DEFAULT: usize = 20;

impl InsightGrpc {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }
}

#[tonic::async_trait]
impl InsightService for InsightGrpc {
    async fn hot_keys(&self, request: Request<pb::HotKeysRequest>) -> Reply<pb::HotKeysResponse> {
        let most = match request.into_inner().limit {
            0 => HOT_KEYS_DEFAULT,
            limit => usize::try_from(limit).unwrap_or(usize::MAX),
        };
        let (heaviest, n_samples) = self.engine.insight.hottest(most);
        let keys = heaviest.into_iter().map(|heavy| encode_hot(&heavy, n_samples));
        let mut keys: Vec<pb::HotKey> = keys.collect();
        let read_here: HashSet<String> = keys.iter().map(full_name).collect();
        let kept = self.engine.hot.all().into_iter();
        let learned = kept.filter(|key| !read_here.contains(key.as_str())).map(|key| pb::HotKey {
            namespace: key.namespace().to_owned(),
            key: key.name().to_owned(),
            ..pb::HotKey::default()
        });
        keys.extend(learned);
        keys.truncate(most);
        for told in &mut keys {
            let Some(key) = Key::from_text(&full_name(told)) else { continue };
            told.hot = self.engine.hot.contains(&key);
            told.pinned = self.engine.memory.is_pinned(&key);
        }
        let sample_every = Insight::SAMPLE_EVERY;
        let reads = n_samples * u64::from(sample_every);
        let figures = self.engine.memory.figures();
        let (pinned_entries, pinned_bytes) = (figures.pinned_entries, figures.pinned_bytes);
        Ok(Response::new(pb::HotKeysResponse { keys, reads, sample_every, pinned_entries, pinned_bytes }))
    }

    async fn key_patterns(&self, request: Request<pb::KeyPatternsRequest>) -> Reply<pb::KeyPatternsResponse> {
        let namespace = request.into_inner().namespace;
        let engine = Arc::clone(&self.engine);
        // It visits every entry.
        let count = move || engine.insight.patterns(&engine.memory, &engine.time);
        let (figures, age) = tokio::task::spawn_blocking(count).await.map_err(Failure::internal)?;
        let wanted = |figures: &PatternFigures| namespace.is_empty() || figures.namespace == namespace;
        let patterns = figures.iter().filter(|figures| wanted(figures)).map(encode_pattern).collect();
        Ok(Response::new(pb::KeyPatternsResponse { patterns, age: age.try_into().ok() }))
    }
}

fn encode_hot(heavy: &Heavy, n_samples: u64) -> pb::HotKey {
    let (namespace, key) = heavy.name.split_once(':').unwrap_or(("", &heavy.name));
    pb::HotKey {
        namespace: namespace.to_owned(),
        key: key.to_owned(),
        reads: heavy.count * u64::from(Insight::SAMPLE_EVERY),
        error: heavy.error * u64::from(Insight::SAMPLE_EVERY),
        share: heavy.count as f64 / n_samples.max(1) as f64,
        ..pb::HotKey::default()
    }
}

fn full_name(key: &pb::HotKey) -> String {
    format!("{}:{}", key.namespace, key.key)
}

fn encode_pattern(figures: &PatternFigures) -> pb::KeyPattern {
    pb::KeyPattern {
        namespace: figures.namespace.clone(),
        pattern: figures.pattern.clone(),
        keys: figures.keys,
        bytes: figures.bytes,
        hits: figures.hits,
        mean_ttl: figures.mean_ttl.try_into().ok(),
    }
}
