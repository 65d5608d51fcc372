//! Warming: from the access log of the last run, a file and an origin's key list; within its bounds, behind all callers.

use std::fs;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use bytesize::ByteSize;
use cache_service::{
    CacheConfig, HttpOriginConfig, NamespaceOverrides, OriginConfig, RedisConfig, Strategy, WarmPlan,
    WarmSource,
};
use mainstay_devstack::wait_until;
use mainstay_proto::cache::v1 as pb;
use mainstay_proto::cache::v1::cache_admin_client::CacheAdminClient;
use mainstay_proto::cache::v1::operation::Action;
use mainstay_proto::cache::v1::warming_service_client::WarmingServiceClient;
use mainstay_proto::cache::v1::{Layer, WarmingRun};
use mainstay_rpc::{ErrorCode, Failure, Response, UpstreamConfig};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::node::{CacheNode, LOOK_EVERY, WITHIN, patient, redis, single};

mod shop;

use shop::Shop;

fn plan(sources: &[WarmSource]) -> WarmPlan {
    WarmPlan { sources: sources.to_vec(), keys_per_second: 100_000, ..WarmPlan::default() }
}

/// A namespace `test` that is loaded from the shop, warmed on demand unless `warm` says more.
fn shopping(redis: RedisConfig, origin: &str, warm: WarmPlan) -> CacheConfig {
    let mut config = CacheConfig { redis, ..CacheConfig::default() };
    let upstream = OriginConfig { grpc: UpstreamConfig::of([origin]), ..OriginConfig::default() };
    config.origins.insert("shop".to_owned(), upstream);
    let policy = NamespaceOverrides {
        strategy: Some(Strategy::ReadThrough),
        origin: Some("shop".to_owned()),
        hard_deadline: Some(Duration::from_secs(10)),
        warm: Some(warm),
        ..NamespaceOverrides::default()
    };
    config.namespaces.insert("test".to_owned(), policy);
    config
}

impl CacheNode {
    fn warming(&self) -> WarmingServiceClient<tonic::transport::Channel> {
        WarmingServiceClient::new(self.channel.clone())
    }

    async fn begin(&self, plan: pb::WarmPlan) -> Result<WarmingRun, Failure> {
        let request = pb::StartWarmingRequest { namespace: "test".to_owned(), plan: Some(plan) };
        let started = self.warming().start_warming(request).await;
        started.map(Response::into_inner).map_err(Failure::from)
    }

    async fn runs(&self) -> Vec<WarmingRun> {
        let request = pb::WarmingStatusRequest { namespace: "test".to_owned() };
        self.warming().warming_status(request).await.unwrap().into_inner().runs
    }

    async fn run(&self, id: u64) -> WarmingRun {
        self.runs().await.into_iter().find(|run| run.id == id).unwrap()
    }

    async fn wait_run(&self, id: u64, what: &str, is_so: impl Fn(&WarmingRun) -> bool) -> WarmingRun {
        wait_until(what, LOOK_EVERY, WITHIN, || async {
            let run = self.run(id).await;
            if is_so(&run) { Ok(run) } else { Err(format!("{run:?}")) }
        })
        .await
        .unwrap()
    }

    async fn wait_end(&self, id: u64) -> WarmingRun {
        self.wait_run(id, "the run to end", |run| run.ended_at.is_some()).await
    }

    /// Reads keys in one batch, and tells how many of them memory had.
    async fn n_in_memory(&self, keys: impl Iterator<Item = String>) -> usize {
        let get = |key| pb::Operation { key, action: Some(Action::Get(pb::GetAction {})) };
        let request = pb::BatchRequest { namespace: "test".to_owned(), operations: keys.map(get).collect() };
        let outcomes = self.client.clone().batch(request).await.unwrap().into_inner().outcomes;
        let is_hit = |outcome: &pb::Outcome| match &outcome.result {
            Some(pb::outcome::Result::Get(get)) => get.layer() == Layer::L1,
            other => panic!("{other:?}"),
        };
        outcomes.iter().filter(|outcome| is_hit(outcome)).count()
    }
}

fn keys(numbers: std::ops::Range<u64>) -> impl Iterator<Item = String> {
    numbers.map(|number| format!("k{number}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_begins_with_what_was_read_most_in_the_run_before() {
    let stack = redis().await;
    let directory = TempDir::new().unwrap();
    let mut config = CacheConfig { redis: single(&stack), ..CacheConfig::default() };
    config.warming.path = directory.path().to_owned();
    config.warming.log_keys = 101;
    config.namespace_defaults.warm = plan(&[WarmSource::AccessLog]);
    let node = CacheNode::start_with(config.clone()).await;
    node.wait_ready(true).await;
    for key in keys(0..400) {
        node.set(&key, "value").await;
    }
    // One read in sixteen is looked at; these are the hot ones.
    for _ in 0..160 {
        node.n_in_memory(keys(0..101)).await;
    }
    node.n_in_memory(keys(101..400)).await;
    node.cx.shut_down().await;

    // Cold, the hot keys are in Redis alone.
    let mut cold = config.clone();
    cold.warming.path = directory.path().join("other");
    let node = CacheNode::start_with(cold).await;
    node.wait_ready(true).await;
    assert_eq!(node.n_in_memory(keys(0..101)).await, 0);
    node.cx.shut_down().await;

    config.warming.ready_hit_ratio = 0.95;
    let node = CacheNode::start_with(config).await;
    node.wait_ready(true).await;
    let status = pb::WarmingStatusRequest { namespace: "test".to_owned() };
    let status = node.warming().warming_status(status).await.unwrap().into_inner();
    assert!(status.expected_hit_ratio.unwrap() >= 0.95, "{status:?}");
    assert_eq!(status.runs[0].trigger, "start");
    let run = node.wait_end(status.runs[0].id).await;
    assert_eq!((run.state.as_str(), run.failed, run.refused), ("done", 0, 0));
    let n_hits = node.n_in_memory(keys(0..101)).await;
    assert!(n_hits >= 95, "{n_hits} of 101: {run:?}");
    // The others were read too seldom to be in a log of 101 keys.
    assert!(node.n_in_memory(keys(101..400)).await <= 6);
    // Warming is no traffic: only the reads above are counted.
    assert_eq!(node.stats().await.operations.unwrap().gets, 400);
    node.cx.shut_down().await;
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_stays_within_its_bounds() {
    let stack = redis().await;
    for redis in [RedisConfig::default(), patient(&stack)] {
        stays_within_its_bounds(redis).await;
    }
    stack.stop().await.unwrap();
}

async fn stays_within_its_bounds(redis: RedisConfig) {
    let shop = Shop::new(2_000);
    let (origin_cx, origin) = shop.serve().await;
    let mut config = shopping(redis, &origin, plan(&[WarmSource::Origin]));
    config.namespaces.get_mut("test").unwrap().warm.as_mut().unwrap().on_start = false;
    config.memory.capacity = ByteSize::mib(2);
    config.namespace_defaults.max_value_size = ByteSize::kib(64);
    config.warming.memory_percent = 50;
    let node = CacheNode::start_with(config).await;
    node.wait_ready(true).await;
    assert!(node.runs().await.is_empty(), "a plan without on_start began at the start");

    let bytes = node.begin(pb::WarmPlan { max_bytes: Some(50_000), ..Default::default() }).await.unwrap();
    let bytes = node.wait_end(bytes.id).await;
    assert_eq!(bytes.state, "bytes");
    assert!((50_000..50_000 + 17 * 1_100).contains(&bytes.bytes), "{bytes:?}");

    // 100 keys a second for half a second, and those of the first moment.
    let n_before = shop.n_loads();
    let time = pb::WarmPlan {
        keys_per_second: Some(100),
        concurrency: Some(10),
        max_time: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        ..Default::default()
    };
    let time = node.begin(time).await.unwrap();
    let time = node.wait_end(time.id).await;
    assert_eq!(time.state, "time");
    assert!(time.loaded + time.present <= 120, "{time:?}");
    assert!(shop.n_loads() - n_before <= 70, "what was there was loaded again");

    let memory = node.begin(pb::WarmPlan::default()).await.unwrap();
    let memory = node.wait_end(memory.id).await;
    assert_eq!(memory.state, "memory");
    let stats = node.stats().await.memory.unwrap();
    assert_eq!(stats.evictions, 0);
    assert!(stats.bytes < stats.capacity_bytes * 6 / 10, "{stats:?}");
    for cx in [node.cx, origin_cx] {
        cx.shut_down().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_checked_line_by_line_and_replaces_nothing_that_is_there() {
    let stack = redis().await;
    let directory = TempDir::new().unwrap();
    let text = "\"there\"\n{\"key\":\"new\",\"value\":\"given\",\"ttl\":\"1h\",\"tags\":[\"t\"],\"content_type\":\"text/plain\"}\n\
        {\"key\":\"there\",\"value\":\"late\"}\n{\"key\":\"new\n{\"key\":\"k\",\"ttl\":\"-1s\",\"value\":\"v\"}\nnobody\n\
        {\"key\":\"binary\",\"value_base64\":\"AP8=\"}\n";
    fs::write(directory.path().join("keys.ndjson"), text).unwrap();
    let mut config = CacheConfig { redis: single(&stack), ..CacheConfig::default() };
    config.warming.files = directory.path().to_owned();
    let warm = WarmPlan {
        file: "keys.ndjson".to_owned(),
        on_start: false,
        concurrency: 1,
        ..plan(&[WarmSource::File])
    };
    let policy = NamespaceOverrides { warm: Some(warm), ..NamespaceOverrides::default() };
    config.namespaces.insert("test".to_owned(), policy);
    let node = CacheNode::start_with(config).await;
    node.wait_ready(true).await;
    node.set("there", "before").await;
    node.warm("there", "before").await;
    let run = node.begin(pb::WarmPlan::default()).await.unwrap();
    let run = node.wait_end(run.id).await;
    assert_eq!(run.state, "done");
    assert_eq!((run.loaded, run.present, run.absent, run.failed, run.refused), (2, 2, 1, 0, 2), "{run:?}");
    assert!(run.problems[0].starts_with("file line 4: "), "{run:?}");
    assert!(run.problems[1].starts_with("file line 5: "), "{run:?}");
    assert_eq!(node.value("there").await, Some(Bytes::from_static(b"before")));
    let new = node.get("new").await;
    assert_eq!(new.layer(), Layer::L1);
    let new = new.entry.unwrap();
    assert_eq!((&*new.value, new.content_type.as_str()), (&b"given"[..], "text/plain"));
    assert!(new.ttl.unwrap().seconds > 3_500);
    assert_eq!(node.value("binary").await, Some(Bytes::from_static(b"\0\xff")));

    let missing = pb::WarmPlan { file: "missing.ndjson".to_owned(), ..Default::default() };
    let missing = node.begin(missing).await.unwrap();
    let missing = node.wait_end(missing.id).await;
    assert_eq!(missing.state, "failed");
    assert!(missing.problems[0].starts_with("file: the file cannot be read"), "{missing:?}");
    let outside = pb::WarmPlan { file: "../keys.ndjson".to_owned(), ..Default::default() };
    let refused = node.begin(outside).await.unwrap_err();
    assert_eq!((refused.code(), refused.reason()), (ErrorCode::InvalidArgument, "WARM_PLAN_INVALID"));
    node.cx.shut_down().await;
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_origin_that_goes_away_is_waited_for_and_every_key_is_loaded_once() {
    let shop = Shop::new(600);
    let (origin_cx, origin) = shop.serve().await;
    let stack = redis().await;
    let slow = WarmPlan { keys_per_second: 600, on_start: false, ..plan(&[WarmSource::Origin]) };
    // A node loads for itself when Redis does not answer, and a machine with 600 callers on it may take long.
    let patient = RedisConfig { command_within: Duration::from_secs(5), ..single(&stack) };
    let node = CacheNode::start_with(shopping(patient, &origin, slow)).await;
    node.wait_ready(true).await;
    let run = node.begin(pb::WarmPlan::default()).await.unwrap();
    node.wait_run(run.id, "some keys", |run| run.loaded >= 100).await;
    shop.fails.store(true, Ordering::Relaxed);
    let until = Instant::now() + Duration::from_millis(400);
    wait_until("a while without the origin", LOOK_EVERY, WITHIN, || async {
        if Instant::now() > until { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await
    .unwrap();
    let without = node.run(run.id).await;
    assert_eq!(without.state, "running");
    shop.fails.store(false, Ordering::Relaxed);
    // Callers ask for what is being warmed at the same time.
    let mut callers = JoinSet::new();
    for number in 0..600 {
        let client = node.client.clone();
        callers.spawn(async move {
            let key = format!("k{number}");
            let get = pb::GetRequest { namespace: "test".to_owned(), key, lease: false };
            // The breaker of the origin may be open yet.
            wait_until("a value", LOOK_EVERY, WITHIN, || async {
                let got = client.clone().get(get.clone()).await;
                got.map(drop).map_err(|status| status.to_string())
            })
            .await
            .unwrap();
        });
    }
    while let Some(done) = callers.join_next().await {
        done.unwrap();
    }
    let ended = node.wait_end(run.id).await;
    assert_eq!((ended.state.as_str(), ended.absent, ended.failed), ("done", 0, 0), "{ended:?}");
    assert_eq!(ended.loaded + ended.present, 600);
    assert_eq!(shop.n_loads(), 600, "a key was loaded twice");
    for cx in [node.cx, origin_cx] {
        cx.shut_down().await;
    }
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_stands_aside_for_callers_and_ends_when_told_to() {
    let shop = Shop::new(5_000);
    let (origin_cx, origin) = shop.serve().await;
    let warm = WarmPlan { on_start: false, keys_per_second: 500, ..plan(&[WarmSource::Origin]) };
    let mut config = shopping(RedisConfig::default(), &origin, warm);
    config.warming.yield_above = 4;
    let node = CacheNode::start_with(config).await;
    node.wait_ready(true).await;
    let run = node.begin(pb::WarmPlan::default()).await.unwrap();
    node.wait_run(run.id, "some keys", |run| run.loaded > 0).await;
    let twice = node.begin(pb::WarmPlan::default()).await.unwrap_err();
    assert_eq!(
        (twice.reason(), twice.details()["run"].as_str()),
        ("WARMING_UNDER_WAY", &*run.id.to_string())
    );

    // Twenty callers wait for the origin.
    let open = shop.gate.available_permits();
    shop.gate.forget_permits(open);
    let mut callers = JoinSet::new();
    for number in 4_900..4_920 {
        let mut client = node.client.clone();
        callers.spawn(async move {
            let key = format!("k{number}");
            let get = pb::GetRequest { namespace: "test".to_owned(), key, lease: false };
            assert!(client.get(get).await.unwrap().into_inner().entry.is_some());
        });
    }
    let aside = |run: &WarmingRun| run.stood_aside.is_some_and(|time| time.nanos + time.seconds as i32 > 0);
    let before = node.wait_run(run.id, "the run to stand aside", aside).await;
    shop.gate.add_permits(100_000);
    while let Some(done) = callers.join_next().await {
        done.unwrap();
    }
    node.wait_run(run.id, "the run to go on", |run| run.loaded > before.loaded).await;

    let cancel = pb::CancelWarmingRequest { namespace: "test".to_owned() };
    node.warming().cancel_warming(cancel.clone()).await.unwrap();
    let ended = node.wait_end(run.id).await;
    assert_eq!(ended.state, "cancelled");
    let none = Failure::from(node.warming().cancel_warming(cancel).await.unwrap_err());
    assert_eq!((none.code(), none.reason()), (ErrorCode::NotFound, "WARMING_RUN_NOT_FOUND"));
    for cx in [node.cx, origin_cx] {
        cx.shut_down().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_put_at_run_time_is_followed_by_its_schedule_and_kept_in_the_history() {
    let stack = redis().await;
    for redis in [RedisConfig::default(), patient(&stack)] {
        is_followed_by_its_schedule(redis).await;
    }
    stack.stop().await.unwrap();
}

async fn is_followed_by_its_schedule(redis: RedisConfig) {
    let shop = Shop::new(50);
    let (origin_cx, origin) = shop.serve().await;
    let node = CacheNode::start_with(shopping(redis, &origin, plan(&[]))).await;
    node.wait_ready(true).await;
    let none = node.begin(pb::WarmPlan::default()).await.unwrap_err();
    assert_eq!((none.code(), none.reason()), (ErrorCode::FailedPrecondition, "WARMING_NO_SOURCE"));
    let warm = pb::WarmPlan {
        sources: vec!["origin".to_owned()],
        every: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        ..Default::default()
    };
    let mut admin = CacheAdminClient::new(node.channel.clone());
    let put = |warm, if_version| pb::PutNamespaceRequest {
        namespace: "test".to_owned(),
        policy: Some(pb::NamespacePolicy { warm: Some(warm), ..Default::default() }),
        if_version,
    };
    let view = admin.put_namespace(put(warm.clone(), 0)).await.unwrap().into_inner();
    // The strategy is that of the configuration; the plan is now another one.
    assert_eq!(view.effective.unwrap().warm.unwrap().sources, ["origin"]);
    wait_until("two runs by schedule", LOOK_EVERY, WITHIN, || async {
        let runs = node.runs().await;
        let n_ended = runs.iter().filter(|run| run.trigger == "schedule" && run.state == "done").count();
        if n_ended >= 2 { Ok(()) } else { Err(format!("{runs:?}")) }
    })
    .await
    .unwrap();
    let runs = node.runs().await;
    let first = runs.last().unwrap();
    assert_eq!((first.loaded, first.present, shop.n_loads()), (50, 0, 50));
    let illegal = pb::WarmPlan { sources: vec!["file".to_owned()], ..warm };
    let refused = Failure::from(admin.put_namespace(put(illegal, view.version)).await.unwrap_err());
    assert_eq!(refused.reason(), "POLICY_INVALID");
    for cx in [node.cx, origin_cx] {
        cx.shut_down().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_http_origin_lists_its_keys_as_lines() {
    let app = axum::Router::new()
        .route(
            "/v1/test",
            axum::routing::get(async || "a\n\"b\"\n{\"key\":\"c\"}\n{\"key\":\"d\",\"value\":\"v\"}\n"),
        )
        .route("/v1/test/{key}", axum::routing::get(async || "value"));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut server = JoinSet::new();
    server.spawn(async move { axum::serve(listener, app).await.unwrap() });
    let mut config = shopping(RedisConfig::default(), "http://127.0.0.1:1", plan(&[WarmSource::Origin]));
    let http = HttpOriginConfig {
        url: format!("http://{address}/v1/{{namespace}}/{{key}}"),
        keys_url: format!("http://{address}/v1/{{namespace}}"),
        ..HttpOriginConfig::default()
    };
    config.origins.insert("shop".to_owned(), OriginConfig { http, ..OriginConfig::default() });
    let node = CacheNode::start_with(config).await;
    node.wait_ready(true).await;
    let run = wait_until("a run on start", LOOK_EVERY, WITHIN, || async {
        node.runs().await.into_iter().find(|run| run.ended_at.is_some()).ok_or_else(|| "none".to_owned())
    })
    .await
    .unwrap();
    assert_eq!((run.state.as_str(), run.trigger.as_str(), run.loaded, run.refused), ("done", "start", 3, 1));
    assert!(run.problems[0].starts_with("origin line 4: must have no value"), "{run:?}");
    assert_eq!(node.get("c").await.layer(), Layer::L1);
    node.cx.shut_down().await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_are_served_as_fast_while_a_run_is_under_way() {
    let shop = Shop::new(1_000_000);
    let (origin_cx, origin) = shop.serve().await;
    let warm = WarmPlan { on_start: false, keys_per_second: 500, ..plan(&[WarmSource::Origin]) };
    let node = CacheNode::start_with(shopping(RedisConfig::default(), &origin, warm)).await;
    node.wait_ready(true).await;
    node.set("hot", "value").await;
    let times = async || {
        let mut times = Vec::new();
        for _ in 0..1_000 {
            let asked_at = Instant::now();
            assert_eq!(node.get("hot").await.layer(), Layer::L1);
            times.push(asked_at.elapsed());
        }
        times.sort_unstable();
        (times[times.len() / 2], times[times.len() * 99 / 100])
    };
    times().await;
    // The machine has other work too, so the two are measured in turns, and the best of each is compared.
    let mut quiet = (Duration::MAX, Duration::MAX);
    let mut warming = quiet;
    let best =
        |one: (Duration, Duration), other: (Duration, Duration)| (one.0.min(other.0), one.1.min(other.1));
    for _ in 0..3 {
        quiet = best(quiet, times().await);
        let run = node.begin(pb::WarmPlan::default()).await.unwrap();
        node.wait_run(run.id, "some keys", |run| run.loaded > 0).await;
        let before = node.run(run.id).await.loaded;
        warming = best(warming, times().await);
        assert!(node.run(run.id).await.loaded > before, "it was not under way");
        node.warming()
            .cancel_warming(pb::CancelWarmingRequest { namespace: "test".to_owned() })
            .await
            .unwrap();
        node.wait_end(run.id).await;
    }
    println!("p50, p99 without a run {quiet:?}, with one {warming:?}");
    assert!(warming.0 < quiet.0 * 3 && warming.1 < quiet.1 * 10, "without {quiet:?}, with {warming:?}");
    for cx in [node.cx, origin_cx] {
        cx.shut_down().await;
    }
}
