use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mainstay_redis::{Partition, Redis};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::channel::Channel;
use crate::metrics::Metrics;
use crate::publication::ClientInfo;

/// Comings and goings of one partition that may wait to be told to other nodes.
const MOST_UNTOLD: usize = 16_384;

/// Somebody who came to a channel or left it.
#[derive(Clone, Debug)]
pub(crate) struct Attendance {
    pub(crate) channel: Channel,
    pub(crate) info: ClientInfo,
    pub(crate) coming: Coming,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coming {
    Came,
    Left,
}

/// What waits to be told to other nodes. Redis being slow must not hold up anybody: what does not fit is found again by
/// comparing the will with who is there.
pub(crate) struct Untold {
    redis: Arc<Redis>,
    /// One for each partition.
    parts: Box<[Part]>,
    metrics: Metrics,
}

struct Part {
    queue: Sender<Attendance>,
    /// Something was not told, or may not have been.
    is_incomplete: AtomicBool,
}

impl Untold {
    /// Returns it with what waits in each partition.
    pub(crate) fn new(redis: Arc<Redis>, metrics: Metrics) -> (Self, Vec<(Partition, Receiver<Attendance>)>) {
        let waiting = redis.partitions().map(|partition| (partition, channel(MOST_UNTOLD)));
        let (parts, waiting): (Vec<Part>, Vec<_>) = waiting
            .map(|(partition, (queue, waiting))| {
                // A process before this one, of the same name, may have told of members that are gone.
                (Part { queue, is_incomplete: AtomicBool::new(true) }, (partition, waiting))
            })
            .unzip();
        (Self { redis, parts: parts.into(), metrics }, waiting)
    }

    fn part(&self, partition: Partition) -> &Part {
        &self.parts[partition.index()]
    }

    pub(crate) fn add(&self, attendance: Attendance) {
        let partition = self.redis.partition_of(attendance.channel.as_str());
        if self.part(partition).queue.try_send(attendance).is_err() {
            self.lose(partition, 1);
        }
    }

    /// Notes that so many could not be told now.
    pub(super) fn lose(&self, partition: Partition, n_lost: u64) {
        self.metrics.attendance_late.inc_by(n_lost);
        self.set_incomplete(partition, true);
    }

    pub(super) fn is_incomplete(&self, partition: Partition) -> bool {
        self.part(partition).is_incomplete.load(Ordering::Relaxed)
    }

    pub(super) fn set_incomplete(&self, partition: Partition, is_incomplete: bool) {
        self.part(partition).is_incomplete.store(is_incomplete, Ordering::Relaxed);
    }
}
