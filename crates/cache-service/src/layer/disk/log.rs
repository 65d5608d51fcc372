//! Segment files: appended to, read from anywhere, dropped from the oldest on.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::index::{Index, Place};
use super::record::{Kind, Raised, Record, Unreadable};

const SEGMENTS: u64 = 16;
const SEGMENT_BYTES_MIN: u64 = 1 << 20;
const SEGMENT_BYTES_MAX: u64 = 64 << 20;

/// Is the files of one directory, which no other process may use meanwhile.
#[derive(Debug)]
pub(super) struct Log {
    directory: PathBuf,
    capacity_bytes: u64,
    segments: BTreeMap<u64, Segment>,
    /// The last segment, if it is one that this process writes.
    is_writing: bool,
    next_number: u64,
    _lock: File,
}

/// One file.
#[derive(Debug)]
struct Segment {
    file: Arc<File>,
    bytes: u64,
    /// When the last of its records is of no use any more.
    kept_until_unix_ms: u64,
    hashes: Vec<u64>,
}

/// What was found at the start.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    pub(super) raised: Vec<Raised>,
    pub(super) damaged_segments: u64,
}

impl Log {
    /// Opens the directory and fills an empty `index` with what can be served from it.
    ///
    /// A record that ends too early at the end of the last segment is where the process was killed. Any other damage
    /// may have hit the news that an older record is no longer true: nothing from before it is served.
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
        let mut log = Self {
            directory: directory.to_owned(),
            capacity_bytes,
            segments: BTreeMap::new(),
            is_writing: false,
            next_number: 0,
            _lock: lock,
        };
        let recovered = log.recover(index, now_unix_ms)?;
        while log.bytes() > capacity_bytes {
            log.drop_oldest(|number, hashes| index.drop_segment(number, hashes))?;
        }
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
        if length > self.segment_bytes() {
            return Ok(None);
        }
        let is_full = self.last().is_none_or(|last| last.bytes + length > self.segment_bytes());
        if !self.is_writing || is_full {
            self.start_segment()?;
        }
        while self.bytes() + length > self.capacity_bytes {
            self.drop_oldest(|number, hashes| forget(index, number, hashes))?;
        }
        let (&number, last) = self.segments.last_key_value().expect("one was started");
        let offset = u32::try_from(last.bytes).expect("a segment has at most 64 MiB");
        (&*last.file).write_all(&bytes)?;
        let last = self.segments.get_mut(&number).expect("it was there a moment ago");
        last.bytes += length;
        last.kept_until_unix_ms = last.kept_until_unix_ms.max(record.kept_until_unix_ms);
        if record.kind == Kind::Put {
            last.hashes.push(hash);
        }
        let length = u32::try_from(length).expect("shorter than a segment");
        Ok(Some(Place { segment: number, offset, length, version: record.version }))
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
            let removed = fs::remove_file(path(&self.directory, number));
            result = result.and(removed);
        }
        result
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

    fn start_segment(&mut self) -> io::Result<()> {
        let number = self.next_number;
        let file = OpenOptions::new()
            .create_new(true)
            .read(true)
            .append(true)
            .open(path(&self.directory, number))?;
        self.next_number += 1;
        self.is_writing = true;
        let segment = Segment { file: Arc::new(file), bytes: 0, kept_until_unix_ms: 0, hashes: Vec::new() };
        self.segments.insert(number, segment);
        Ok(())
    }

    fn drop_oldest(&mut self, forget: impl FnOnce(u64, &[u64])) -> io::Result<()> {
        let Some((number, segment)) = self.segments.pop_first() else { return Ok(()) };
        forget(number, &segment.hashes);
        self.is_writing &= !self.segments.is_empty();
        fs::remove_file(path(&self.directory, number))
    }

    fn recover(&mut self, index: &mut Index, now_unix_ms: u64) -> io::Result<Recovered> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let name = entry?.file_name();
            numbers.extend(name.to_str().and_then(|name| name.strip_suffix(".seg")?.parse::<u64>().ok()));
        }
        numbers.sort_unstable();
        self.next_number = numbers.last().map_or(0, |last| last + 1);
        let mut recovered = Recovered::default();
        for (at, &number) in numbers.iter().enumerate() {
            let is_last = at + 1 == numbers.len();
            let bytes = Bytes::from(fs::read(path(&self.directory, number))?);
            let (segment, whole) = self.scan(number, &bytes, index, &mut recovered.raised, now_unix_ms)?;
            self.segments.insert(number, segment);
            if whole == Ok(()) || (whole == Err(Unreadable::Torn) && is_last) {
                continue;
            }
            recovered.damaged_segments += 1;
            while !self.segments.is_empty() {
                self.drop_oldest(|number, hashes| index.drop_segment(number, hashes))?;
            }
        }
        Ok(recovered)
    }

    fn scan(
        &self,
        number: u64,
        bytes: &Bytes,
        index: &mut Index,
        raised: &mut Vec<Raised>,
        now_unix_ms: u64,
    ) -> io::Result<(Segment, Result<(), Unreadable>)> {
        let file = File::open(path(&self.directory, number))?;
        let mut segment = Segment {
            file: Arc::new(file),
            bytes: bytes.len() as u64,
            kept_until_unix_ms: 0,
            hashes: Vec::new(),
        };
        let mut offset = 0;
        while offset < bytes.len() {
            let (record, length) = match Record::decode(&bytes.slice(offset..)) {
                Ok(found) => found,
                Err(unreadable) => return Ok((segment, Err(unreadable))),
            };
            offset += length;
            if let Some(found) = record.raised() {
                raised.push(found);
                continue;
            }
            let hash = index.hash(&record.key);
            index.remove(hash);
            segment.kept_until_unix_ms = segment.kept_until_unix_ms.max(record.kept_until_unix_ms);
            if record.kind == Kind::Put && record.kept_until_unix_ms > now_unix_ms {
                let place = Place {
                    segment: number,
                    offset: u32::try_from(offset - length).unwrap_or(u32::MAX),
                    length: u32::try_from(length).unwrap_or(u32::MAX),
                    version: record.version,
                };
                index.found(hash, place);
                segment.hashes.push(hash);
            }
        }
        Ok((segment, Ok(())))
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

fn path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:016}.seg"))
}
