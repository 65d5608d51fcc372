use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

use crate::channel::Channel;

/// Which channels of one partition this node listens to in Redis, or wants to.
#[derive(Debug, Default)]
pub(super) struct Interest {
    wants: Mutex<Wants>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Wants {
    channels: HashMap<Channel, Want>,
    /// Not asked for yet.
    new: Vec<Channel>,
    is_connected: bool,
}

#[derive(Debug)]
enum Want {
    Waiting(Vec<oneshot::Sender<()>>),
    Heard,
}

impl Interest {
    /// Listens to a channel from now on; true once Redis has confirmed it, false when that takes too long or Redis is
    /// away: then it is listened to as soon as Redis is there.
    pub(super) async fn listen(&self, channel: &Channel, within: Duration) -> bool {
        let confirmed = {
            let mut wants = self.wants.lock();
            let Wants { channels, new, is_connected } = &mut *wants;
            let want = channels.entry(channel.clone()).or_insert_with(|| {
                new.push(channel.clone());
                Want::Waiting(Vec::new())
            });
            match want {
                Want::Heard => return true,
                Want::Waiting(_) if !*is_connected => return false,
                Want::Waiting(waiting) => {
                    let (confirm, confirmed) = oneshot::channel();
                    waiting.push(confirm);
                    confirmed
                }
            }
        };
        self.changed.notify_one();
        matches!(timeout(within, confirmed).await, Ok(Ok(())))
    }

    /// Waits until there is something to ask for.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Begins with a new connection: everything has to be asked for.
    pub(super) fn connected(&self) {
        let mut wants = self.wants.lock();
        wants.is_connected = true;
        wants.new = wants.channels.keys().cloned().collect();
        for want in wants.channels.values_mut() {
            if matches!(want, Want::Heard) {
                *want = Want::Waiting(Vec::new());
            }
        }
    }

    /// Lets nobody wait for a connection that is gone.
    pub(super) fn disconnected(&self) {
        let mut wants = self.wants.lock();
        wants.is_connected = false;
        for want in wants.channels.values_mut() {
            *want = Want::Waiting(Vec::new());
        }
    }

    /// Takes channels to ask for.
    pub(super) fn take_new(&self, most: usize) -> Vec<Channel> {
        let mut wants = self.wants.lock();
        let from = wants.new.len().saturating_sub(most);
        wants.new.split_off(from)
    }

    /// Notes that Redis has confirmed channels.
    pub(super) fn confirm(&self, confirmed: &[Channel]) {
        let mut wants = self.wants.lock();
        for channel in confirmed {
            let Some(want) = wants.channels.get_mut(channel) else { continue };
            if let Want::Waiting(waiting) = std::mem::replace(want, Want::Heard) {
                for waiting in waiting {
                    // Who has given up needs no answer.
                    let _ = waiting.send(());
                }
            }
        }
    }

    /// Takes channels that nobody needs. `is_needed` is asked while nobody can begin to listen, so a channel is either
    /// needed or asked for anew.
    pub(super) fn take_unneeded(&self, most: usize, is_needed: impl Fn(&Channel) -> bool) -> Vec<Channel> {
        let mut wants = self.wants.lock();
        let heard = wants.channels.iter().filter(|(_, want)| matches!(want, Want::Heard));
        let unneeded: Vec<Channel> = heard
            .map(|(channel, _)| channel)
            .filter(|channel| !is_needed(channel))
            .take(most)
            .cloned()
            .collect();
        for channel in &unneeded {
            wants.channels.remove(channel);
        }
        if wants.channels.capacity() > 64 && wants.channels.len() < wants.channels.capacity() / 8 {
            wants.channels.shrink_to_fit();
        }
        unneeded
    }

    /// Counts the channels that Redis has confirmed.
    pub(super) fn n_heard(&self) -> usize {
        self.wants.lock().channels.values().filter(|want| matches!(want, Want::Heard)).count()
    }

    pub(super) fn len(&self) -> usize {
        self.wants.lock().channels.len()
    }
}
