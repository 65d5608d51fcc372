use std::borrow::Cow;
use std::cell::OnceCell;

use bytes::Bytes;

use crate::channel::Channel;
use crate::engine::{Item, Position};
use crate::protocol::{self, Push};
use crate::publication::{ClientInfo, Publication};

/// One push for everybody in a channel, encoded when the first of them needs it.
pub(super) struct Frames<'a> {
    channel: &'a Channel,
    push: Push<'a>,
    json: OnceCell<Bytes>,
}

impl<'a> Frames<'a> {
    pub(super) fn new(channel: &'a Channel, push: Push<'a>) -> Self {
        Self { channel, push, json: OnceCell::new() }
    }

    pub(super) fn get(&self) -> Bytes {
        self.json.get_or_init(|| protocol::push(self.channel.as_str(), &self.push)).clone()
    }
}

impl ClientInfo {
    /// Shows it in the form of the protocol.
    pub(crate) fn shown(&self) -> protocol::ClientInfo<'_> {
        protocol::ClientInfo {
            user: &self.user,
            client: self.client.to_string(),
            conn_info: self.conn_info.as_deref(),
            chan_info: self.chan_info.as_deref(),
        }
    }
}

impl Publication {
    /// Shows it in the form of the protocol, at its place if the channel has a history.
    pub(crate) fn shown<'a>(&'a self, position: Option<&'a Position>) -> protocol::Publication<'a> {
        let offset = position.map_or(0, |position| position.offset);
        let epoch = position.filter(|position| position.offset == 1).map_or("", |position| &*position.epoch);
        self.shown_at(offset, epoch)
    }

    fn shown_at<'a>(&'a self, offset: u64, epoch: &'a str) -> protocol::Publication<'a> {
        let info = self.info.as_ref().map(ClientInfo::shown);
        protocol::Publication {
            data: Cow::Borrowed(&*self.data),
            delta: None,
            info,
            offset,
            tags: &self.tags,
            epoch,
        }
    }
}

impl Item {
    /// Shows it in the form of the protocol, as part of a list that names the epoch itself.
    pub(crate) fn shown(&self) -> protocol::Publication<'_> {
        self.publication.shown_at(self.offset, "")
    }
}
