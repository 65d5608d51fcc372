use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::channel::Channel;
use crate::metrics::Metrics;
use crate::publication::ClientInfo;

/// Comings and goings that may wait to be told to other nodes.
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
    queue: Sender<Attendance>,
    /// Something was not told, or may not have been.
    is_incomplete: AtomicBool,
    metrics: Metrics,
}

impl Untold {
    pub(crate) fn new(metrics: Metrics) -> (Self, Receiver<Attendance>) {
        let (queue, waiting) = channel(MOST_UNTOLD);
        // A process before this one, of the same name, may have told of members that are gone.
        (Self { queue, is_incomplete: AtomicBool::new(true), metrics }, waiting)
    }

    pub(crate) fn add(&self, attendance: Attendance) {
        if self.queue.try_send(attendance).is_err() {
            self.lose(1);
        }
    }

    /// Notes that so many could not be told now.
    pub(super) fn lose(&self, n_lost: u64) {
        self.metrics.attendance_late.inc_by(n_lost);
        self.is_incomplete.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_incomplete(&self) -> bool {
        self.is_incomplete.load(Ordering::Relaxed)
    }

    pub(super) fn set_incomplete(&self, is_incomplete: bool) {
        self.is_incomplete.store(is_incomplete, Ordering::Relaxed);
    }
}
