//! Where requests of clients that come over HTTP find the stream they belong to.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;
use uuid::Uuid;

use crate::hub::Connection;

/// Frames that wait for one session at once.
const MAX_FRAMES: usize = 64;

/// The sessions of this node that are carried by HTTP.
pub(crate) struct Emulation {
    /// Told to clients, who send it back.
    node: Arc<str>,
    /// What may wait for one session.
    max_bytes: usize,
    inboxes: Mutex<HashMap<Uuid, Weak<Inbox>>>,
}

/// What a client is told of where its requests go. Whoever knows the session may speak for the client.
#[derive(Clone, Debug)]
pub(crate) struct Emulated {
    pub(crate) session: Uuid,
    pub(crate) node: Arc<str>,
}

/// What a client has said and its session has not heard yet.
pub(crate) struct Inbox {
    emulation: Weak<Emulation>,
    session: Uuid,
    connection: Arc<Connection>,
    /// None once the session is over.
    frames: Mutex<Option<VecDeque<Bytes>>>,
}

/// What a client says at another node than the one that holds its stream.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Overheard {
    #[prost(string, tag = "1")]
    pub(crate) session: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) frame: Bytes,
}

/// Why a request does not reach its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotHeard {
    /// The session is none of this node.
    Elsewhere,
    /// So much waits already that the client must have lost its patience.
    TooMuch,
}

impl Emulation {
    pub(crate) fn new(node: &str, max_bytes: usize) -> Arc<Self> {
        Arc::new(Self { node: node.into(), max_bytes, inboxes: Mutex::default() })
    }

    /// Begins a session with what came first.
    pub(crate) fn begin(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        first: Bytes,
    ) -> (Emulated, Arc<Inbox>) {
        let session = Uuid::new_v4();
        let inbox = Arc::new(Inbox {
            emulation: Arc::downgrade(self),
            session,
            connection: Arc::clone(connection),
            frames: Mutex::new(Some([first].into())),
        });
        self.inboxes.lock().insert(session, Arc::downgrade(&inbox));
        (Emulated { session, node: Arc::clone(&self.node) }, inbox)
    }

    /// Gives a frame that came to another node to its session; false when too much waits for it already.
    pub(crate) fn overhear(&self, overheard: &Overheard) -> bool {
        let Overheard { session, frame } = overheard;
        self.hand_over(&self.node, session, frame.clone()) != Err(NotHeard::TooMuch)
    }

    /// Gives a frame to the session it is for. A session that is over needs none: its client learns that from the stream.
    pub(crate) fn hand_over(&self, node: &str, session: &str, frame: Bytes) -> Result<(), NotHeard> {
        if *node != *self.node {
            return Err(NotHeard::Elsewhere);
        }
        let inbox =
            Uuid::parse_str(session).ok().and_then(|session| self.inboxes.lock().get(&session)?.upgrade());
        inbox.map_or(Ok(()), |inbox| inbox.put(frame, self.max_bytes))
    }
}

impl Inbox {
    fn put(&self, frame: Bytes, max_bytes: usize) -> Result<(), NotHeard> {
        let mut frames = self.frames.lock();
        let Some(waiting) = frames.as_mut() else { return Ok(()) };
        let bytes: usize = waiting.iter().map(Bytes::len).sum();
        if waiting.len() >= MAX_FRAMES || bytes + frame.len() > max_bytes {
            return Err(NotHeard::TooMuch);
        }
        waiting.push_back(frame);
        drop(frames);
        self.connection.outbox.wake();
        Ok(())
    }

    pub(crate) fn take(&self) -> Option<Bytes> {
        self.frames.lock().as_mut()?.pop_front()
    }

    /// Ends the session.
    pub(crate) fn close(&self) {
        self.frames.lock().take();
        if let Some(emulation) = self.emulation.upgrade() {
            emulation.inboxes.lock().remove(&self.session);
        }
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.close();
    }
}
