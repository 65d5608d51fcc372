//! L3: local disk, for warm restarts and for when Redis is away. A log of our own: bounded to the byte, checked on every
//! read, and with nothing to compact.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use mainstay_runtime::Component;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::config::DiskConfig;
use crate::entry::Envelope;
use crate::key::Key;
use crate::time::Time;

mod end;
mod held;
mod index;
mod log;
mod record;
mod recovery;
mod writer;

#[cfg(test)]
mod tests;

pub(crate) use held::HeldOnDisk;
use index::{Index, Pending};
use log::Log;
pub(crate) use record::Raised;
use record::{Kind, Record};
pub(crate) use writer::Writer;

/// Puts that wait to be written; more are given up.
const QUEUE_LENGTH: usize = 4_096;
const QUEUE_BYTES: usize = 32 << 20;
/// News that wait for the log; with more, the directory is emptied instead.
const MOST_NEWS: usize = 100_000;
/// A disk that takes longer is of no use to a cache.
const WITHIN: Duration = Duration::from_millis(500);

/// Keeps entries in files, up to a number of bytes.
///
/// Writes go through a bounded queue: a put may be given up, and is never waited for. It then also gives up what was
/// there before, so that no read sees an older value. The last puts before a kill may be lost, and older ones of their
/// keys with them be back. Removals are written before they are confirmed.
#[derive(Debug)]
pub(crate) struct Disk {
    directory: PathBuf,
    capacity_bytes: u64,
    time: Time,
    index: Mutex<Index>,
    /// None before the directory is open.
    log: Mutex<Option<Log>>,
    queue: mpsc::Sender<Put>,
    queued_bytes: AtomicUsize,
    /// What on disk is no longer true, which the log must be told.
    news: Mutex<Vec<Record>>,
    news_are_cut: AtomicBool,
    available: AtomicBool,
    dropped: AtomicU64,
    damaged: AtomicU64,
    bytes: AtomicU64,
}

/// A write that waits.
#[derive(Debug)]
struct Put {
    key: Box<str>,
    hash: u64,
    pending: Pending,
    kept_until_unix_ms: u64,
    envelope: Envelope,
    compress_above: u64,
}

impl Put {
    fn bytes(&self) -> usize {
        self.envelope.value.as_ref().map_or(0, bytes::Bytes::len)
    }
}

/// Figures of [`Disk`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DiskFigures {
    pub(crate) available: bool,
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    pub(crate) capacity_bytes: u64,
    /// Puts given up.
    pub(crate) dropped: u64,
    /// Records and segments discarded.
    pub(crate) damaged: u64,
}

impl Disk {
    /// Returns the layer, and the writer without which it does nothing.
    pub(crate) fn new(config: &DiskConfig, time: Time, component: Component) -> (Arc<Self>, Writer) {
        let (queue, puts) = mpsc::channel(QUEUE_LENGTH);
        let disk = Arc::new(Self {
            directory: config.path.clone(),
            capacity_bytes: config.capacity.as_u64(),
            time,
            index: Mutex::default(),
            log: Mutex::default(),
            queue,
            queued_bytes: AtomicUsize::new(0),
            news: Mutex::default(),
            news_are_cut: AtomicBool::new(false),
            available: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        });
        (Arc::clone(&disk), Writer::new(disk, puts, component))
    }

    /// Writes an entry some time soon, unless this version is there. Values above `compress_above` are compressed.
    pub(crate) fn put(&self, key: &Key, envelope: Envelope, grace: Duration, compress_above: u64) {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        let kept_until_unix_ms = envelope.expires_at_unix_ms.saturating_add(grace_ms);
        let (hash, pending, was_there) = {
            let mut index = self.index.lock();
            let hash = index.hash(key.as_str());
            if index.has_version(hash, envelope.version) {
                return;
            }
            let (pending, place) = index.announce(hash, envelope.version);
            (hash, pending, place.is_some())
        };
        let key: Box<str> = key.as_str().into();
        let put = Put { key, hash, pending, kept_until_unix_ms, envelope, compress_above };
        let bytes = put.bytes();
        let is_full = self.queued_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > QUEUE_BYTES;
        let refused = if is_full {
            Some(put)
        } else {
            self.queue.try_send(put).err().map(mpsc::error::TrySendError::into_inner)
        };
        if let Some(put) = refused {
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.dropped.fetch_add(1, Ordering::Relaxed);
            self.index.lock().given_up(put.hash, put.pending);
            if was_there {
                self.tell(Record::gone(&put.key));
            }
        }
    }

    /// Tells whether this version of a key is there, or will be.
    pub(crate) fn has_version(&self, key: &Key, version: u64) -> bool {
        let index = self.index.lock();
        index.has_version(index.hash(key.as_str()), version)
    }

    /// Reads an entry; what cannot be read is not there.
    pub(crate) async fn get(self: &Arc<Self>, key: &Key) -> Option<Envelope> {
        let hash = {
            let index = self.index.lock();
            let hash = index.hash(key.as_str());
            index.place(hash)?;
            hash
        };
        let (disk, key) = (Arc::clone(self), key.clone());
        let reading = tokio::task::spawn_blocking(move || disk.read(hash, &key));
        timeout(WITHIN, reading).await.ok()?.ok()?
    }

    /// Removes a key. Once it returns, the key does not come back with a restart.
    pub(crate) async fn remove(self: &Arc<Self>, key: &Key) -> bool {
        let was_there = self.forget(key);
        if was_there {
            self.tell_log().await;
        }
        was_there
    }

    /// Makes what a tag or a namespace holds on disk unusable, also after a restart. Until then the caller knows.
    pub(crate) async fn raise(self: &Arc<Self>, raised: &Raised) {
        self.tell(Record::raise(raised));
        self.tell_log().await;
    }

    async fn tell_log(self: &Arc<Self>) {
        let disk = Arc::clone(self);
        let writing = tokio::task::spawn_blocking(move || {
            if disk.write_news().is_err() {
                disk.fail();
            }
        });
        // What is not written now is written by the writer; nothing serves it meanwhile.
        let _ = timeout(WITHIN, writing).await;
    }

    /// Removes a key for as long as the process lives, and from the disk soon. Tells whether it was there.
    pub(crate) fn forget(&self, key: &Key) -> bool {
        self.forget_older(key, u64::MAX)
    }

    /// Does so if what is there is older than a version.
    pub(crate) fn forget_older(&self, key: &Key, version: u64) -> bool {
        let was_there = self.index.lock().remove_older(key.as_str(), version);
        let is_open = self.available.load(Ordering::Relaxed);
        if was_there || !is_open {
            self.tell(Record::gone(key.as_str()));
        }
        was_there
    }

    /// Returns what is on disk of each namespace.
    pub(crate) fn figures_by_namespace(&self) -> Vec<(String, HeldOnDisk)> {
        self.index.lock().held()
    }

    pub(crate) fn figures(&self) -> DiskFigures {
        DiskFigures {
            available: self.available.load(Ordering::Relaxed),
            entries: self.index.lock().len() as u64,
            bytes: self.bytes.load(Ordering::Relaxed),
            capacity_bytes: self.capacity_bytes,
            dropped: self.dropped.load(Ordering::Relaxed),
            damaged: self.damaged.load(Ordering::Relaxed),
        }
    }

    fn tell(&self, record: Record) {
        let mut news = self.news.lock();
        if news.len() < MOST_NEWS {
            news.push(record);
        } else {
            self.news_are_cut.store(true, Ordering::Relaxed);
        }
    }

    fn read(&self, hash: u64, key: &Key) -> Option<Envelope> {
        let place = self.index.lock().place(hash)?;
        let file = self.log.lock().as_ref()?.file(place)?;
        let record = log::read(&file, place).inspect_err(|error| {
            tracing::warn!(error = %error, "a record on disk cannot be read");
        });
        let envelope = match record {
            Ok(Some(record)) => {
                if *record.key != *key.as_str() {
                    return None;
                }
                if record.kept_until_unix_ms <= self.time.unix_ms() {
                    self.index.lock().remove_place(hash, place);
                    return None;
                }
                Envelope::decode(&record.envelope).ok()
            }
            Ok(None) | Err(_) => None,
        };
        if envelope.is_none() {
            self.damaged.fetch_add(1, Ordering::Relaxed);
            self.index.lock().remove_place(hash, place);
        }
        // What was removed or replaced while it was read is not given.
        envelope.filter(|_| self.index.lock().place(hash) == Some(place))
    }

    fn write(&self, put: &Put) -> io::Result<()> {
        let record = Record {
            kind: Kind::Put,
            kept_until_unix_ms: put.kept_until_unix_ms,
            version: put.envelope.version,
            key: put.key.clone(),
            envelope: put.envelope.encode(put.compress_above),
        };
        let mut log = self.log.lock();
        let Some(log) = log.as_mut() else {
            self.index.lock().given_up(put.hash, put.pending);
            return Ok(());
        };
        if !self.index.lock().is_wanted(put.hash, put.pending) {
            return Ok(());
        }
        let place = log.append(&record, put.hash, &self.index);
        self.bytes.store(log.bytes(), Ordering::Relaxed);
        match place {
            Ok(Some(place)) => {
                self.index.lock().written(put.hash, &put.key, put.pending, place);
                Ok(())
            }
            Ok(None) => {
                self.index.lock().given_up(put.hash, put.pending);
                self.dropped.fetch_add(1, Ordering::Relaxed);
                log.append(&Record::gone(&put.key), put.hash, &self.index).map(drop)
            }
            Err(error) => {
                self.index.lock().given_up(put.hash, put.pending);
                Err(error)
            }
        }
    }

    fn write_news(&self) -> io::Result<()> {
        let mut log = self.log.lock();
        let Some(log) = log.as_mut() else { return Ok(()) };
        let news = std::mem::take(&mut *self.news.lock());
        if self.news_are_cut.swap(false, Ordering::Relaxed) {
            return log.clear(&self.index);
        }
        if news.is_empty() {
            return Ok(());
        }
        for record in news {
            log.append(&record, 0, &self.index)?;
        }
        log.note_end()
    }
}
