//! Who comes to channels and leaves them, as far as other nodes are concerned.

use super::frames::Frames;
use super::{Hub, Room};
use crate::channel::Channel;
use crate::mesh::{Attendance, Coming};
use crate::protocol::{About, Push};
use crate::publication::ClientInfo;

impl Hub {
    /// Passes on that somebody came or left; none where that is not told.
    pub(super) fn pass_on(&self, channel: &Channel, info: Option<ClientInfo>, coming: Coming) {
        if let (Some(untold), Some(info)) = (self.untold.get(), info) {
            untold.add(Attendance { channel: channel.clone(), info, coming });
        }
    }

    /// Returns everybody in channels that tell who comes and goes, of those that are meant.
    pub(crate) fn all_attending(&self, is_meant: impl Fn(&Channel) -> bool) -> Vec<Attendance> {
        let mut all = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            let telling = shard.rooms.iter().filter(|(_, room)| room.tells_of_members());
            for (channel, room) in telling.filter(|(channel, _)| is_meant(channel)) {
                all.extend(room.presence().into_iter().map(|info| Attendance {
                    channel: channel.clone(),
                    info,
                    coming: Coming::Came,
                }));
            }
        }
        all
    }

    /// Tells those who want to know that somebody came or left on another node.
    pub(crate) fn hear_of(&self, channel: &Channel, info: &ClientInfo, coming: Coming) {
        let shard = self.shard(channel).lock();
        let Some(room) = shard.rooms.get(channel).filter(|room| room.tells_of_members()) else { return };
        let about = About { info: info.shown() };
        let push = if coming == Coming::Came { Push::Join(about) } else { Push::Leave(about) };
        room.tell(&Frames::new(channel, push), |to, push| self.send(to, push));
    }
}

impl Room {
    /// Returns who a member is, where others are told.
    pub(super) fn told_of(&self, id: u64) -> Option<ClientInfo> {
        if self.tells_of_members() { self.info_of(id) } else { None }
    }
}
