//! Loads from origins: one at a time for a key, on this node and, through a lease in Redis, among all nodes.

use std::collections::HashMap;
use std::fmt;
use std::sync::Weak;
use std::time::Duration;

use mainstay_runtime::Context;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::keep::{Times, entry_of};
use super::{Engine, Found, FoundEntry, Namespace, Policy, xfetch};
use crate::entry::{Condition, Decision, Draft, Written};
use crate::error::CacheError;
use crate::key::{ContentType, Key, Tags, Ttl};
use crate::layer::redis::{Left, RedisLayer};
use crate::metrics::LastLayer;
use crate::origin::{Loaded, OriginError, Origins, Seat};

/// While another node has the lease, Redis is asked this often for what it brings.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// So often is a value loaded anew that was invalidated while it was loaded.
const LOADS_MOST: usize = 3;
/// A caller with less time left than this would not hear the answer.
pub(super) const ANSWER_TAKES: Duration = Duration::from_millis(5);

/// Loads under way on this node. A load has an owner of its own: those who wait for it may leave.
pub(crate) struct Loads {
    cx: Context,
    pub(crate) origins: Origins,
    /// The engine that does the loads.
    engine: Weak<Engine>,
    flights: Mutex<HashMap<Key, watch::Receiver<Option<Outcome>>>>,
}

/// How a load ended, for all who wait.
#[derive(Debug, Clone)]
enum Outcome {
    Found(Found),
    Failed(String),
}

/// What Redis says of a load.
enum Turn {
    /// The value is there by now.
    Found(Found),
    /// The lease is ours.
    Ours,
    /// Another node has the lease.
    Held,
    /// Nothing: each node loads for itself.
    Unknown,
}

impl fmt::Debug for Loads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loads").field("n_flights", &self.flights.lock().len()).finish_non_exhaustive()
    }
}

impl Loads {
    pub(crate) fn new(cx: Context, origins: Origins, engine: Weak<Engine>) -> Self {
        Self { cx, origins, engine, flights: Mutex::default() }
    }

    /// Returns the number of loads under way on this node.
    pub(crate) fn n_under_way(&self) -> usize {
        self.flights.lock().len()
    }

    /// Joins the load of a key, or starts it: from `seat` together with others. `again` loads although Redis has the key.
    fn join(&self, key: &Key, again: bool, seat: Option<Seat>) -> watch::Receiver<Option<Outcome>> {
        let mut flights = self.flights.lock();
        if let Some(flight) = flights.get(key) {
            return flight.clone();
        }
        let (landed_tx, landed) = watch::channel(None);
        flights.insert(key.clone(), landed.clone());
        let flight = Flight { engine: self.engine.clone(), key: key.clone() };
        self.cx.spawn_work(async move {
            if let Some(engine) = flight.engine.upgrade() {
                let outcome = match engine.fly(&flight.key, again, seat).await {
                    Ok(found) => Outcome::Found(found),
                    Err(error) => {
                        engine.metrics.load_failures.inc();
                        tracing::debug!(error = &error as &dyn std::error::Error, "load failed");
                        Outcome::Failed(error.to_string())
                    }
                };
                // First off the list: who comes after this moment starts anew.
                drop(flight);
                landed_tx.send_replace(Some(outcome));
            }
        });
        landed
    }
}

/// Takes a load off the list when it ends, also by a panic: whoever still waits starts it anew.
struct Flight {
    engine: Weak<Engine>,
    key: Key,
}

impl Drop for Flight {
    fn drop(&mut self) {
        if let Some(engine) = self.engine.upgrade() {
            engine.loads.flights.lock().remove(&self.key);
        }
    }
}

impl Engine {
    /// Reads a key below memory and from its origin. With a stale value to give, waits no longer than the soft deadline.
    pub(super) async fn load(
        &self,
        key: &Key,
        policy: &Policy,
        stale: Option<Found>,
        left: Duration,
        mut seat: Option<Seat>,
    ) -> Result<Found, CacheError> {
        let longest = left.saturating_sub(ANSWER_TAKES).min(policy.hard_deadline);
        let wait = if stale.is_some() { longest.min(policy.soft_deadline) } else { longest };
        let until = Instant::now() + wait;
        let failure = loop {
            let mut landed = self.loads.join(key, false, seat.take());
            match timeout_at(until, landed.wait_for(Option::is_some)).await {
                Ok(Ok(outcome)) => match outcome.clone() {
                    Some(Outcome::Found(found)) => return Ok(found),
                    Some(Outcome::Failed(message)) => break message,
                    None => {}
                },
                // Its task died; the next turn starts another one.
                Ok(Err(_)) => {}
                Err(_) => break "the origin did not answer in time".to_owned(),
            }
        };
        let stale = match stale {
            Some(stale) => Some(stale),
            // Nothing better is known where neither Redis nor the origin says anything.
            None => self.found_on_disk(key, policy, self.loading(key)).await,
        };
        stale
            .map(|stale| Found { stale: true, degraded: true, ..stale })
            .ok_or(CacheError::NotLoaded { message: failure })
    }

    /// Starts a load of an entry that was just read if it ends soon.
    pub(super) fn refresh_ahead(&self, namespace: &Namespace, key: &Key, found: &Found) {
        if !namespace.refreshes_ahead() {
            return;
        }
        let Some(entry) = &found.entry else { return };
        if xfetch::is_due(entry.ttl_left, namespace.load_cost.get(), rand::random()) {
            self.metrics.refreshes.inc();
            drop(self.loads.join(key, true, None));
        }
    }

    async fn fly(&self, key: &Key, again: bool, mut seat: Option<Seat>) -> Result<Found, OriginError> {
        let namespace = self.namespace(key).map_err(|_| OriginError::Unknown(String::new()))?;
        let policy = &namespace.policy;
        let until = Instant::now() + policy.hard_deadline;
        let left = || until.saturating_duration_since(Instant::now());
        let mut again = again;
        if !again
            && self.redis_of(policy).is_none()
            && let Some(found) = self.found_on_disk(key, policy, self.loading(key)).await
            && !found.stale
        {
            return Ok(found);
        }
        for _ in 1..LOADS_MOST {
            let token = self.token();
            if let Some(found) = self.wait_for_lease(key, policy, token, until, again, &mut seat).await {
                return Ok(found);
            }
            if let Some(found) = self.found_waiting(key, policy, left()).await? {
                self.give_back(key, policy, token).await;
                return Ok(found);
            }
            match &namespace.adaptive {
                Some(adaptive) if again => adaptive.refreshed(),
                Some(adaptive) => adaptive.loaded(),
                None => {}
            }
            if let Some(found) = self.load_once(key, &namespace, Some(token), seat.take(), left()).await? {
                return Ok(found);
            }
            again = false;
        }
        // It changes faster than it loads: what is found is given, and not kept.
        let loaded = self.loads.origins.load(&policy.origin, key, left()).await?;
        Ok(self.found_at_origin(loaded, policy, 0))
    }

    /// Returns what memory or Redis has by now, or nothing when the load is ours to do: under the lease, or because Redis
    /// does not say who has it.
    async fn wait_for_lease(
        &self,
        key: &Key,
        policy: &Policy,
        token: u64,
        until: Instant,
        again: bool,
        seat: &mut Option<Seat>,
    ) -> Option<Found> {
        let redis = self.redis_of(policy)?;
        let (mut again, mut held_at) = (again, None::<Instant>);
        loop {
            // Who came late to this, as on a busy machine, finds what the load before has brought.
            if !again && let Some(found) = self.brought_meanwhile(key, policy) {
                return Some(found);
            }
            // The other half is the origin's.
            let answered_by = until.min(Instant::now() + policy.hard_deadline / 2);
            match self.take_turn(redis, key, policy, token, again, answered_by).await {
                Turn::Found(found) => return Some(found),
                Turn::Ours => return None,
                // Another node loads it; that Redis did not answer once since is no reason to load it twice.
                Turn::Unknown if held_at.is_some_and(|at| at.elapsed() < policy.hard_deadline / 4) => {}
                Turn::Unknown => return None,
                Turn::Held => {
                    held_at = Some(Instant::now());
                    // Nobody else of its batch is to wait for that.
                    drop(seat.take());
                }
            }
            again = false;
            if until.saturating_duration_since(Instant::now()) <= LOOK_EVERY {
                return None;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Returns what memory may answer with by now.
    fn brought_meanwhile(&self, key: &Key, policy: &Policy) -> Option<Found> {
        let held = if policy.memory { self.held(key)? } else { return None };
        let now = self.time.now();
        self.suffices(key, policy, &held, now).then(|| self.found_in_memory(held, now))
    }

    /// Looks whether Redis has it, and asks for the lease.
    async fn take_turn(
        &self,
        redis: &RedisLayer,
        key: &Key,
        policy: &Policy,
        token: u64,
        again: bool,
        answered_by: Instant,
    ) -> Turn {
        let left = || Left::patient(answered_by.saturating_duration_since(Instant::now()));
        let look = async || match self.read_below(redis, key, policy, None, left()).await {
            Ok(found) if found.layer == LastLayer::L2 => Some(Turn::Found(found)),
            Ok(found) if !found.degraded => None,
            Ok(_) | Err(_) => Some(Turn::Unknown),
        };
        if !again && let Some(turn) = look().await {
            return turn;
        }
        match redis.lease(key, token, policy.hard_deadline, left()).await {
            Ok(true) if again => return Turn::Ours,
            Ok(true) => {}
            Ok(false) => return Turn::Held,
            Err(_) => return Turn::Unknown,
        }
        // Once more, under the lease: its holder before us may have stored between our look and our lease.
        match look().await {
            Some(Turn::Found(found)) => {
                self.give_back(key, policy, token).await;
                Turn::Found(found)
            }
            _ => Turn::Ours,
        }
    }

    async fn give_back(&self, key: &Key, policy: &Policy, token: u64) {
        if let Some(redis) = self.redis_of(policy) {
            // If it fails, the lease ends by itself.
            let _ = redis.release(key, token, policy.hard_deadline).await;
        }
    }

    /// Loads and stores; none when it was invalidated meanwhile.
    async fn load_once(
        &self,
        key: &Key,
        namespace: &Namespace,
        lease: Option<u64>,
        seat: Option<Seat>,
        left: Duration,
    ) -> Result<Option<Found>, OriginError> {
        let policy = &namespace.policy;
        // Before the load: an invalidation from now on has a higher number.
        let (version, epoch) = (self.versions.next(self.time.unix_us()), self.invalidation.epoch());
        let mark = self.memory.mark(key);
        let started = Instant::now();
        let (origins, origin) = (&self.loads.origins, &policy.origin);
        let loaded = match seat {
            Some(seat) => seat.load(origins, origin, key, left).await,
            None => origins.load(origin, key, left).await,
        };
        self.metrics.load_seconds.observe(started.elapsed().as_secs_f64());
        let loaded = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                if let Some(token) = lease {
                    self.give_back(key, policy, token).await;
                }
                return Err(error);
            }
        };
        namespace.load_cost.measured(started.elapsed());
        let size = loaded.as_ref().map_or(0, |loaded| loaded.value.len() as u64);
        if size > policy.max_value_bytes {
            return Ok(Some(self.found_at_origin(loaded, policy, version)));
        }
        let Some(draft) = self.draft_of(loaded.clone(), policy, lease) else {
            return Ok(Some(self.found_at_origin(loaded, policy, version)));
        };
        let ttl = draft.ttl.as_duration();
        let times = |confirmed| Times {
            fresh_for: self.fresh_for(policy, ttl, confirmed),
            kept_for: ttl.saturating_add(policy.grace),
            confirmed,
            epoch,
        };
        let here = Written { version, set_at_unix_ms: self.time.unix_ms() };
        let version = match self.redis_of(policy) {
            None => {
                let times = Times { fresh_for: ttl, ..times(true) };
                let entry = entry_of(&draft, here, times, self.time.now());
                if self.memory.mark(key) != mark
                    || !self.invalidation.admits(key, entry.version, entry.tags.iter())
                {
                    return Ok(None);
                }
                self.memory.fill(key, &entry, mark);
                self.written_to_disk(key, policy, &draft, here);
                version
            }
            Some(redis) => match redis.write(key, &draft, version, Left::patient(policy.hard_deadline)).await
            {
                Ok(Decision::Stored { written, .. }) => {
                    self.versions.see(written.version);
                    if policy.memory {
                        self.keep(key, &draft, written, times(true));
                    }
                    self.written_to_disk(key, policy, &draft, written);
                    written.version
                }
                // Of these only a lost lease can be: a load asks for nothing else.
                Ok(_) => return Ok(None),
                Err(_) => {
                    if policy.memory {
                        let entry = entry_of(&draft, here, times(false), self.time.now());
                        self.memory.fill(key, &entry, mark);
                    }
                    version
                }
            },
        };
        Ok(Some(self.found_at_origin(loaded, policy, version)))
    }

    /// Returns nothing for an absence that is not to be remembered.
    fn draft_of(&self, loaded: Option<Loaded>, policy: &Policy, lease: Option<u64>) -> Option<Draft> {
        let (condition, compress_above) = (Condition::Always, policy.compress_above);
        match loaded {
            Some(Loaded { value, content_type, ttl, tags }) => {
                let ttl = ttl.unwrap_or_else(|| jittered(policy.ttl, policy.ttl_jitter_percent));
                let most = if tags.is_empty() { Ttl::MAX } else { Tags::TTL_MAX };
                let ttl = Ttl::try_new(ttl.as_duration().min(most)).ok()?;
                Some(Draft {
                    value: Some(value),
                    content_type,
                    tags,
                    lease,
                    fence: None,
                    ttl,
                    condition,
                    compress_above,
                    max_queued: None,
                    once: None,
                    replica_ack: false,
                })
            }
            None => {
                let ttl = Ttl::try_new(policy.negative_ttl).ok()?;
                let (content_type, tags) = (ContentType::default(), Tags::default());
                Some(Draft {
                    value: None,
                    content_type,
                    tags,
                    lease,
                    fence: None,
                    ttl,
                    condition,
                    compress_above,
                    max_queued: None,
                    once: None,
                    replica_ack: false,
                })
            }
        }
    }

    pub(super) fn found_at_origin(&self, loaded: Option<Loaded>, policy: &Policy, version: u64) -> Found {
        let entry = loaded.map(|loaded| FoundEntry {
            value: loaded.value,
            content_type: loaded.content_type,
            version,
            ttl_left: loaded.ttl.unwrap_or(policy.ttl).as_duration(),
            age: Duration::ZERO,
        });
        Found { entry, layer: LastLayer::Origin, stale: false, degraded: false }
    }

    /// Returns a number that no other lease has: it fits into a double, and is not zero.
    pub(super) fn token(&self) -> u64 {
        (rand::random::<u64>() >> 11) | 1
    }
}

/// Shortens a lifetime by up to so many percent, so that entries loaded together do not end together.
fn jittered(ttl: Ttl, percent: u8) -> Ttl {
    let share = f64::from(percent) / 100.0 * rand::random::<f64>();
    Ttl::try_new(ttl.as_duration().mul_f64(1.0 - share)).unwrap_or(ttl)
}
