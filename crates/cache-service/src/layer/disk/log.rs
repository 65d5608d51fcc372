//! Segment files: appended to, read from anywhere, dropped from the oldest on.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::end::{End, EndFile};
use super::index::{Index, Place};
use super::record::{Kind, Record};
use super::recovery::Recovered;

const SEGMENTS: u64 = 16;
const SEGMENT_BYTES_MIN: u64 = 1 << 20;
const SEGMENT_BYTES_MAX: u64 = 64 << 20;

/// Is the files of one directory, which no other process may use meanwhile.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) directory: PathBuf,
    capacity_bytes: u64,
    pub(super) segments: BTreeMap<u64, Segment>,
    /// The last segment, if it is one that this process writes.
    is_writing: bool,
    pub(super) next_number: u64,
    end: EndFile,
    _lock: File,
}

/// One file.
#[derive(Debug)]
pub(super) struct Segment {
    file: Arc<File>,
    pub(super) bytes: u64,
    /// When the last of its records is of no use any more.
    pub(super) kept_until_unix_ms: u64,
    pub(super) hashes: Vec<u64>,
}

impl Log {
    /// Opens the directory and fills an empty `index` with what can be served from it.
    pub(super) fn open(
        directory: &Path,
        capacity_bytes: u64,
        index: &mut Index,
        now_unix_ms: u64,
    ) -> io::Result<(Self, Recovered)> {
        fs::create_dir_all(directory)?;
        let lock =
            OpenOptions::new().create(true).truncate(false).write(true).open(directory.join("lock"))?;
        lock.try_lock()?;
        let (end, last_end) = EndFile::open(directory)?;
        let mut log = Self {
            directory: directory.to_owned(),
            capacity_bytes,
            segments: BTreeMap::new(),
            is_writing: false,
            next_number: 0,
            end,
            _lock: lock,
        };
        let recovered = log.recover(last_end, index, now_unix_ms)?;
        while log.bytes() > capacity_bytes {
            log.drop_oldest(|number, hashes| index.drop_segment(number, hashes))?;
        }
        log.note_end()?;
        Ok((log, recovered))
    }

    /// Writes a record behind the others, for which the oldest segments make room. Sent to the operating system, not
    /// forced onto the disk: it survives the death of the process, not that of the machine.
    ///
    /// Returns none for a record that no segment has room for.
    pub(super) fn append(
        &mut self,
        record: &Record,
        hash: u64,
        index: &Mutex<Index>,
    ) -> io::Result<Option<Place>> {
        let bytes = record.encode();
        let length = bytes.len() as u64;
        if length > self.segment_bytes() - Record::BEGIN_BYTES {
            return Ok(None);
        }
        let is_full = self.last().is_none_or(|last| last.bytes + length > self.segment_bytes());
        if !self.is_writing || is_full {
            self.start_segment()?;
        }
        while self.bytes() + length > self.capacity_bytes {
            self.drop_oldest(|number, hashes| forget(index, number, hashes))?;
        }
        let mut last = self.segments.last_entry().expect("one was started");
        let (number, last) = (*last.key(), last.get_mut());
        let offset = u32::try_from(last.bytes).expect("a segment has at most 64 MiB");
        last.write(&bytes)?;
        last.kept_until_unix_ms = last.kept_until_unix_ms.max(record.kept_until_unix_ms);
        if record.kind == Kind::Put {
            last.hashes.push(hash);
        }
        let length = u32::try_from(length).expect("shorter than a segment");
        Ok(Some(Place { segment: number, offset, length, version: record.version, namespace: 0 }))
    }

    /// Returns the file of a place; it can be read without this log.
    pub(super) fn file(&self, place: Place) -> Option<Arc<File>> {
        self.segments.get(&place.segment).map(|segment| Arc::clone(&segment.file))
    }

    /// Drops the oldest segments as long as all in them is past its time.
    ///
    /// Only from the oldest on: the news that a record is no longer true must stay as long as the record.
    pub(super) fn sweep(&mut self, index: &Mutex<Index>, now_unix_ms: u64) -> io::Result<()> {
        while self.segments.len() > 1
            && self
                .segments
                .first_key_value()
                .is_some_and(|(_, oldest)| oldest.kept_until_unix_ms <= now_unix_ms)
        {
            self.drop_oldest(|number, hashes| forget(index, number, hashes))?;
        }
        Ok(())
    }

    /// Drops everything: after a failed write, older records may no longer be true.
    pub(super) fn clear(&mut self, index: &Mutex<Index>) -> io::Result<()> {
        index.lock().clear();
        self.is_writing = false;
        let mut result = Ok(());
        for number in std::mem::take(&mut self.segments).into_keys() {
            match fs::remove_file(path(&self.directory, number)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => result = result.and(removed),
            }
        }
        let noted = self.note_end();
        result.and(noted)
    }

    /// Writes down how far the log is written: what is missing of it later was taken away.
    pub(super) fn note_end(&self) -> io::Result<()> {
        let last = self.last_with_number();
        let (number, bytes) = last.unwrap_or((self.next_number, 0));
        self.end.write(End { number, bytes })
    }

    /// Tells whether the files are still there and as long as they were written.
    pub(super) fn is_intact(&self) -> io::Result<bool> {
        for segment in self.segments.values() {
            let metadata = segment.file.metadata()?;
            if metadata.nlink() == 0 || metadata.len() != segment.bytes {
                return Ok(false);
            }
        }
        self.end.is_there()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.bytes).sum()
    }

    fn segment_bytes(&self) -> u64 {
        (self.capacity_bytes / SEGMENTS).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX)
    }

    fn last(&self) -> Option<&Segment> {
        self.segments.last_key_value().map(|(_, segment)| segment)
    }

    pub(super) fn last_with_number(&self) -> Option<(u64, u64)> {
        self.segments.last_key_value().map(|(&number, segment)| (number, segment.bytes))
    }

    fn start_segment(&mut self) -> io::Result<()> {
        let number = self.next_number;
        let file = OpenOptions::new()
            .create_new(true)
            .read(true)
            .append(true)
            .open(path(&self.directory, number))?;
        self.next_number += 1;
        self.is_writing = true;
        let bytes_before = self.last().map_or(0, |last| last.bytes);
        let mut segment = Segment::new(Arc::new(file));
        let written = segment.write(&Record::begin(number, bytes_before).encode());
        self.segments.insert(number, segment);
        written
    }

    pub(super) fn drop_oldest(&mut self, forget: impl FnOnce(u64, &[u64])) -> io::Result<()> {
        let Some((number, segment)) = self.segments.pop_first() else { return Ok(()) };
        forget(number, &segment.hashes);
        self.is_writing &= !self.segments.is_empty();
        fs::remove_file(path(&self.directory, number))
    }
}

impl Segment {
    pub(super) fn new(file: Arc<File>) -> Self {
        Self { file, bytes: 0, kept_until_unix_ms: 0, hashes: Vec::new() }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        (&*self.file).write_all(bytes)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

/// Forgets what lies in a segment, in steps: others wait for the index.
fn forget(index: &Mutex<Index>, segment: u64, hashes: &[u64]) {
    for some in hashes.chunks(1_000) {
        index.lock().drop_segment(segment, some);
    }
}

/// Reads the record at a place; none when it is not whole.
pub(super) fn read(file: &File, place: Place) -> io::Result<Option<Record>> {
    let mut bytes = vec![0; place.length as usize];
    match file.read_exact_at(&mut bytes, u64::from(place.offset)) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    Ok(Record::decode(&Bytes::from(bytes)).ok().map(|(record, _)| record))
}

pub(super) fn path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:016}.seg"))
}
