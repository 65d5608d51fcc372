use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mainstay_proto::realtime::v1;
use mainstay_redis::{Partition, RedisError};
use mainstay_runtime::{Component, ComponentKind};
use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::Notify;
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::roll::Roll;
use super::will::Told;
use super::{Attendance, Untold};
use crate::broker::Broker;
use crate::channel::Channel;
use crate::grpc::RealtimeApi;

/// Comings and goings taken together.
const TOLD_AT_ONCE: usize = 128;
/// How often a node that stops looks whether somebody is left.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Attempts to end in order.
const FAREWELLS: usize = 3;

/// Says in one partition that this node lives and what is going on here, and tells what those that are gone have left.
pub(crate) struct Herald {
    partition: Partition,
    broker: Arc<Broker>,
    api: Arc<RealtimeApi>,
    untold: Arc<Untold>,
    every: Duration,
    is_known: AtomicBool,
    /// Lives to be buried.
    dead: Mutex<Vec<String>>,
    to_do: Notify,
    /// Whether this node is the only one of its name; told by the one of the first partition.
    name: Option<Component>,
    is_alone: AtomicBool,
    /// When the processor time was looked at, and what it was.
    measured: Mutex<(Instant, Duration)>,
}

impl Herald {
    pub(crate) fn new(
        broker: Arc<Broker>,
        api: Arc<RealtimeApi>,
        untold: Arc<Untold>,
        partition: Partition,
        every: Duration,
    ) -> Self {
        let name = (partition == Partition::FIRST).then(|| {
            let name = broker.context().component("name", ComponentKind::Internal, false);
            name.healthy("no other process has it");
            name
        });
        Self {
            partition,
            name,
            is_alone: AtomicBool::new(true),
            broker,
            api,
            untold,
            every,
            is_known: AtomicBool::new(false),
            dead: Mutex::default(),
            to_do: Notify::new(),
            measured: Mutex::new((Instant::now(), processor_time())),
        }
    }

    /// Speaks for this node until it stops and its last client has gone.
    pub(crate) async fn run(
        self,
        mut attendance: Receiver<Attendance>,
        stopping: CancellationToken,
    ) -> anyhow::Result<()> {
        tokio::select! {
            () = self.live() => {}
            () = self.tell(&mut attendance, &stopping) => {}
        }
        for _ in 0..FAREWELLS {
            match self.broker.mesh().depart(self.partition).await {
                Ok(()) => break,
                // Its lease ends by itself.
                Err(error) => tracing::debug!(error = error.in_full(), "could not say that this node ends"),
            }
        }
        Ok(())
    }

    async fn live(&self) {
        let mut tick = interval(self.every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if let Err(error) = self.live_once().await {
                // A Redis that is away is the component's news.
                tracing::debug!(error = error.in_full(), "could not say that this node lives");
            }
        }
    }

    /// Nodes of one name overwrite each other's load and are buried together, so whoever runs them has to know.
    fn look_for_namesakes(&self) {
        let Some(name) = &self.name else { return };
        let mesh = self.broker.mesh();
        let is_alone = !mesh.has_namesake();
        if self.is_alone.swap(is_alone, Ordering::Relaxed) == is_alone {
            return;
        }
        self.broker.hub().metrics().namesakes.set(i64::from(!is_alone));
        if is_alone {
            tracing::info!(instance = mesh.id(), "the other process of this name is gone");
            name.healthy("no other process has it");
        } else {
            tracing::error!(instance = mesh.id(), "another process has the same server.instance");
            name.unhealthy("another process has the same server.instance");
        }
    }

    async fn live_once(&self) -> Result<(), RedisError> {
        let mesh = self.broker.mesh();
        let state = self.state();
        let mut roll = mesh.live(self.partition, &state, self.is_known.load(Ordering::Relaxed)).await?;
        if matches!(roll, Roll::GivenUp) {
            tracing::warn!("this node was given up, or redis has lost it: its members are told anew");
            self.is_known.store(false, Ordering::Relaxed);
            self.untold.set_incomplete(self.partition, true);
            roll = mesh.live(self.partition, &state, false).await?;
        }
        self.look_for_namesakes();
        if let Roll::Called { dead } = roll {
            self.is_known.store(true, Ordering::Relaxed);
            if self.partition == Partition::FIRST {
                self.broker.hub().metrics().nodes.set(mesh.peers().0.len() as i64 + 1);
            }
            self.dead.lock().extend(dead);
        }
        if self.untold.is_incomplete(self.partition) || !self.dead.lock().is_empty() {
            self.to_do.notify_one();
        }
        Ok(())
    }

    /// Tells the others who comes and goes, here and on nodes that are gone.
    async fn tell(&self, attendance: &mut Receiver<Attendance>, stopping: &CancellationToken) {
        let empty = async {
            stopping.cancelled().await;
            // Clients are sent away little by little, and their going is told like any other.
            while self.broker.hub().census().connections > 0 {
                sleep(LOOK_EVERY).await;
            }
        };
        tokio::pin!(empty);
        let mut some = Vec::with_capacity(TOLD_AT_ONCE);
        loop {
            tokio::select! {
                n_some = attendance.recv_many(&mut some, TOLD_AT_ONCE) => if n_some == 0 { return },
                () = self.to_do.notified() => {}
                () = &mut empty => break,
            }
            self.tell_some(&some).await;
            some.clear();
            self.bury().await;
        }
        while let Ok(one) = attendance.try_recv() {
            some.push(one);
        }
        self.tell_some(&some).await;
    }

    async fn tell_some(&self, some: &[Attendance]) {
        if self.untold.is_incomplete(self.partition) {
            // What is here now is part of it.
            let is_right = self.put_right().await.unwrap_or_else(|error| {
                tracing::debug!(error = error.in_full(), "could not find what was not told");
                false
            });
            if !is_right {
                return self.untold.lose(self.partition, some.len() as u64);
            }
        }
        if some.is_empty() {
            return;
        }
        match self.broker.mesh().tell(self.partition, some).await {
            Ok(Told::All) => {}
            Ok(Told::GivenUp) => self.untold.lose(self.partition, some.len() as u64),
            Err(error) => {
                tracing::debug!(error = error.in_full(), "could not tell who came and left");
                self.untold.lose(self.partition, some.len() as u64);
            }
        }
    }

    /// Tells what the others do not know; false when that is not possible yet.
    async fn put_right(&self) -> Result<bool, RedisError> {
        let (mesh, partition) = (self.broker.mesh(), self.partition);
        if mesh.is_being_buried(partition).await? {
            return Ok(false);
        }
        self.untold.set_incomplete(partition, false);
        let outcome = async {
            let ours = |channel: &Channel| self.broker.partition_of(channel) == partition;
            let changes = mesh.difference(partition, self.broker.hub().all_attending(ours)).await?;
            mesh.tell(partition, &changes).await
        };
        let outcome = outcome.await;
        let is_right = matches!(outcome, Ok(Told::All));
        if !is_right {
            self.untold.set_incomplete(partition, true);
        }
        outcome.map(|_| is_right)
    }

    async fn bury(&self) {
        let dead = std::mem::take(&mut *self.dead.lock());
        for life in dead {
            match self.broker.mesh().bury(self.partition, &life).await {
                // It had a life in each of them.
                Ok(0) if self.partition != Partition::FIRST => {}
                Ok(n_members) => {
                    if self.partition == Partition::FIRST {
                        self.broker.hub().metrics().nodes_buried.inc();
                    }
                    tracing::info!(node = life, n_members, "a node is gone, told that its members have left");
                }
                // Somebody is asked again when the time that this node was given for it is over.
                Err(error) => {
                    tracing::warn!(node = life, error = error.in_full(), "could not tell of a dead node");
                }
            }
        }
    }

    /// Returns what the others are to know: in the first partition all, in the others who it is.
    fn state(&self) -> v1::Node {
        if self.partition == Partition::FIRST {
            v1::Node { cpu_cores: self.cores_in_use(), ..self.api.node_here() }
        } else {
            v1::Node { id: self.broker.mesh().id().to_owned(), ..v1::Node::default() }
        }
    }

    fn cores_in_use(&self) -> f64 {
        let (now, used) = (Instant::now(), processor_time());
        let (then, used_then) = std::mem::replace(&mut *self.measured.lock(), (now, used));
        let wall = now.duration_since(then).as_secs_f64();
        if wall > 0.0 { used.saturating_sub(used_then).as_secs_f64() / wall } else { 0.0 }
    }
}

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let part = |part: i64| u64::try_from(part).unwrap_or(0);
    Duration::from_secs(part(time.tv_sec)) + Duration::from_nanos(part(time.tv_nsec))
}
