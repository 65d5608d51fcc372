use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use cache_service::{CacheConfig, RedisConfig, WhenFull};
use futures_util::future::{join_all, try_join_all};
use mainstay_devstack::wait_until;
use mainstay_proto::cache::v1 as pb;
use mainstay_proto::cache::v1::Source;
use mainstay_proto::cache::v1::counter_service_client::CounterServiceClient;
use mainstay_proto::cache::v1::lock_service_client::LockServiceClient;
use mainstay_proto::cache::v1::rate_limit_service_client::RateLimitServiceClient;
use mainstay_rpc::{Failure, Status};
use mainstay_runtime::Context;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

use crate::node::{LOOK_EVERY, WITHIN, redis, single};

/// The longest that a lock may be waited for.
const MINUTE: Duration = Duration::from_mins(1);

/// Is one cache-service with a channel for every client.
pub(crate) struct Node {
    pub(crate) cx: Context,
    pub(crate) channel: Channel,
}

impl Node {
    pub(crate) async fn start(redis: RedisConfig) -> Self {
        let mut config = CacheConfig { redis, ..CacheConfig::default() };
        // A busy machine must not make the limiter count alone.
        config.rate_limits.redis_within = Duration::from_secs(5);
        config.redis.command_within = Duration::from_secs(5);
        config.sessions.max_per_user = 3;
        config.sessions.when_full = WhenFull::RevokeOldest;
        let cx = Context::for_test("cache-service");
        cache_service::start(cx.clone(), config).await.unwrap();
        let address = cx.listening().first().unwrap().address;
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap().timeout(WITHIN * 2);
        let node = Self { cx, channel: endpoint.connect_lazy() };
        node.wait_ready().await;
        node
    }

    async fn wait_ready(&self) {
        let ready = || async {
            if self.cx.is_ready() { Ok(()) } else { Err(format!("{:?}", self.cx.not_ready_because())) }
        };
        wait_until("the service to be ready", LOOK_EVERY, WITHIN, ready).await.unwrap();
    }

    pub(crate) async fn check(&self, key: &str, quota: u32) -> pb::RateLimitCheckResponse {
        let limit = pb::RateLimit { quota, window: duration(Duration::from_hours(1)), burst: 0 };
        let request = pb::RateLimitCheckRequest { key: key.to_owned(), limit: Some(limit), cost: None };
        RateLimitServiceClient::new(self.channel.clone()).check(request).await.unwrap().into_inner()
    }

    async fn acquire(
        &self,
        name: &str,
        owner: &str,
        ttl: Duration,
        wait: Duration,
    ) -> Result<pb::AcquireLockResponse, Status> {
        let request = pb::AcquireLockRequest {
            name: name.to_owned(),
            owner: owner.to_owned(),
            ttl: duration(ttl),
            wait_within: duration(wait),
        };
        LockServiceClient::new(self.channel.clone()).acquire(request).await.map(tonic::Response::into_inner)
    }

    async fn release(&self, name: &str, owner: &str, token: u64) -> bool {
        let request = pb::ReleaseLockRequest { name: name.to_owned(), owner: owner.to_owned(), token };
        let reply = LockServiceClient::new(self.channel.clone()).release(request).await;
        reply.unwrap().into_inner().released
    }

    async fn is_current(&self, name: &str, token: u64) -> bool {
        let request = pb::CheckLockRequest { name: name.to_owned(), token };
        let reply = LockServiceClient::new(self.channel.clone()).check(request).await;
        reply.unwrap().into_inner().current
    }

    async fn increment(
        &self,
        request: pb::IncrementCounterRequest,
    ) -> Result<pb::IncrementCounterResponse, Status> {
        let reply = CounterServiceClient::new(self.channel.clone()).increment(request).await;
        reply.map(tonic::Response::into_inner)
    }

    async fn count(&self, name: &str) -> pb::GetCounterResponse {
        let request = pb::GetCounterRequest { name: name.to_owned() };
        CounterServiceClient::new(self.channel.clone()).get(request).await.unwrap().into_inner()
    }
}

pub(crate) fn duration<T: TryFrom<Duration>>(duration: Duration) -> Option<T> {
    T::try_from(duration).ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_admit_one_burst_and_each_counts_on_alone_without_redis() {
    let stack = redis().await;
    let server = stack.redis().unwrap().first_primary();
    let nodes = [Node::start(single(&stack)).await, Node::start(single(&stack)).await];

    let started = Instant::now();
    let asks = (0..400).map(|number| nodes[number % 2].check("k", 100));
    let answers = join_all(asks).await;
    assert!(answers.iter().all(|answer| answer.source() == Source::Redis));
    let admitted = answers.iter().filter(|answer| answer.allowed).count();
    let come_back = usize::try_from(started.elapsed().as_secs() / 36).unwrap();
    assert!((100..=100 + come_back).contains(&admitted), "{admitted}");
    let refused = answers.iter().find(|answer| !answer.allowed).unwrap();
    let retry_after = Duration::try_from(refused.retry_after.unwrap()).unwrap();
    assert!(retry_after <= Duration::from_secs(36), "{retry_after:?}");

    // All or none: a refused part leaves the others uncounted.
    let check = |key: &str, quota| pb::RateLimitCheckRequest {
        key: key.to_owned(),
        limit: Some(pb::RateLimit { quota, window: duration(Duration::from_hours(1)), burst: 0 }),
        cost: None,
    };
    let request =
        pb::RateLimitCheckManyRequest { checks: vec![check("other", 5), check("k", 100)], all_or_none: true };
    let reply = RateLimitServiceClient::new(nodes[0].channel.clone()).check_many(request).await;
    let reply = reply.unwrap().into_inner();
    assert!(!reply.allowed && reply.results[0].allowed && !reply.results[1].allowed);
    assert_eq!(nodes[1].check("other", 5).await.remaining, 4);

    server.kill().await.unwrap();
    let alone = || async {
        let answer = nodes[0].check("k", 100).await;
        if answer.source() == Source::Local { Ok(answer) } else { Err(format!("{answer:?}")) }
    };
    let answer = wait_until("an answer without redis", LOOK_EVERY, WITHIN, alone).await.unwrap();
    assert!(!answer.allowed, "what redis had counted is known: {answer:?}");
    assert_eq!(nodes[0].check("new", 5).await.remaining, 4);

    server.start().await.unwrap();
    let together = || async {
        let answer = nodes[0].check("k2", 100).await;
        if answer.source() == Source::Redis { Ok(()) } else { Err(format!("{answer:?}")) }
    };
    wait_until("an answer by redis", LOOK_EVERY, WITHIN, together).await.unwrap();
    for node in nodes {
        node.cx.shut_down().await;
    }
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_and_counters_hold_over_two_nodes() {
    let stack = redis().await;
    let nodes = [Node::start(single(&stack)).await, Node::start(single(&stack)).await];
    sixty_four_callers_never_hold_a_lock_together(&nodes).await;
    a_late_holder_is_kept_out(&nodes).await;
    increments_add_up_and_are_made_once(&nodes).await;

    stack.redis().unwrap().first_primary().kill().await.unwrap();
    let failing = || async {
        match nodes[0].acquire("l", "o", Duration::from_secs(1), Duration::ZERO).await {
            Ok(answer) => Err(format!("{answer:?}")),
            Err(status) => Ok(Failure::from(status).reason().to_owned()),
        }
    };
    let reason = wait_until("a lock to fail", LOOK_EVERY, WITHIN, failing).await.unwrap();
    assert!(["REDIS_UNAVAILABLE", "OUTCOME_UNKNOWN"].contains(&reason.as_str()), "{reason}");
    for node in nodes {
        node.cx.shut_down().await;
    }
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_locks_counters_and_limits_do_the_same_in_memory() {
    let nodes = [Node::start(RedisConfig::default()).await];
    sixty_four_callers_never_hold_a_lock_together(&nodes).await;
    a_late_holder_is_kept_out(&nodes).await;
    increments_add_up_and_are_made_once(&nodes).await;
    let answers = join_all((0..300).map(|_| nodes[0].check("k", 100))).await;
    assert!(answers.iter().all(|answer| answer.source() == Source::Local));
    let admitted = answers.iter().filter(|answer| answer.allowed).count();
    assert!((100..=101).contains(&admitted), "{admitted}");
    nodes[0].cx.shut_down().await;
}

pub(crate) async fn sixty_four_callers_never_hold_a_lock_together(nodes: &[Node]) {
    let (n_holding, last_token) = (AtomicUsize::new(0), AtomicU64::new(0));
    let callers = (0..64).map(|number| {
        let (node, n_holding, last_token) = (&nodes[number % nodes.len()], &n_holding, &last_token);
        async move {
            let owner = format!("owner-{number}");
            let taken = node.acquire("contended", &owner, MINUTE, MINUTE).await?;
            assert!(taken.acquired, "waited in vain: {taken:?}");
            assert_eq!(n_holding.fetch_add(1, Ordering::SeqCst), 0, "two hold the lock");
            let before = last_token.swap(taken.token, Ordering::SeqCst);
            assert!(taken.token > before, "{} is not above {before}", taken.token);
            tokio::task::yield_now().await;
            n_holding.fetch_sub(1, Ordering::SeqCst);
            assert!(node.release("contended", &owner, taken.token).await);
            Ok::<_, Status>(())
        }
    });
    try_join_all(callers).await.unwrap();
}

pub(crate) async fn a_late_holder_is_kept_out(nodes: &[Node]) {
    let (first, last) = (&nodes[0], &nodes[nodes.len() - 1]);
    let long = Duration::from_secs(60);
    let taken = first.acquire("late", "a", Duration::from_millis(50), Duration::ZERO).await.unwrap();
    let next = last.acquire("late", "b", long, MINUTE).await.unwrap();
    assert!(taken.acquired && next.acquired && next.token > taken.token);
    assert!(!first.release("late", "a", taken.token).await);
    assert!(!first.is_current("late", taken.token).await && first.is_current("late", next.token).await);
    let renew = |owner: &str, token| pb::RenewLockRequest {
        name: "late".to_owned(),
        owner: owner.to_owned(),
        token,
        ttl: duration(long),
    };
    let mut client = LockServiceClient::new(first.channel.clone());
    assert!(!client.renew(renew("a", taken.token)).await.unwrap().into_inner().renewed);
    assert!(client.renew(renew("b", next.token)).await.unwrap().into_inner().renewed);
    let again = last.acquire("late", "b", long, Duration::ZERO).await.unwrap();
    assert_eq!(again.token, next.token, "the same owner gets the same token");
    let busy = first.acquire("late", "c", long, Duration::ZERO).await.unwrap();
    assert!(!busy.acquired && busy.retry_after.is_some());
    assert!(last.release("late", "b", next.token).await);
    assert!(!last.is_current("late", next.token).await);
}

pub(crate) async fn increments_add_up_and_are_made_once(nodes: &[Node]) {
    let of = |name: &str| pb::IncrementCounterRequest { name: name.to_owned(), ..Default::default() };
    let adds = (0..200).map(|number| nodes[number % nodes.len()].increment(of("sum")));
    let mut values: Vec<i64> = try_join_all(adds).await.unwrap().iter().map(|reply| reply.value).collect();
    values.sort_unstable();
    assert_eq!(values, (1..=200).collect::<Vec<i64>>());

    let node = &nodes[0];
    let once = pb::IncrementCounterRequest {
        by: Some(5),
        idempotency_key: "k".to_owned(),
        ttl: duration(Duration::from_secs(60)),
        ..of("once")
    };
    let first = node.increment(once.clone()).await.unwrap();
    let again = node.increment(once).await.unwrap();
    assert_eq!((first.value, first.replayed, again.value, again.replayed), (5, false, 5, true));
    assert!(first.ttl.is_some());
    assert_eq!(node.increment(of("once")).await.unwrap().value, 6);

    let most = (1_i64 << 53) - 1;
    let beyond = node.increment(pb::IncrementCounterRequest { by: Some(most), ..of("once") }).await;
    let failure = Failure::from(beyond.unwrap_err());
    assert_eq!((failure.reason(), failure.details()["value"].as_str()), ("COUNTER_OUT_OF_RANGE", "6"));

    let count = node.count("once").await;
    assert_eq!((count.value, count.exists), (6, true));
    let reset = pb::ResetCounterRequest { name: "once".to_owned() };
    let reset = CounterServiceClient::new(node.channel.clone()).reset(reset).await.unwrap().into_inner();
    assert_eq!((reset.value, reset.existed), (6, true));
    assert!(!node.count("once").await.exists);
}
