//! What is believed of a directory when it is opened.
//!
//! A record that ends too early behind what is known to have been written is where the process was killed: it is cut off.
//! Any other damage (bits, a file that was cut, removed or replaced) may have hit the news that an older record is no
//! longer true: nothing from before it is served.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::end::End;
use super::index::{Index, Place};
use super::log::{Log, Segment, path};
use super::record::{Kind, Raised, Record, Unreadable};

/// What was found at the start.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    pub(super) raised: Vec<Raised>,
    /// Times something was found damaged, cut or missing.
    pub(super) damaged_segments: u64,
}

/// What a scan says of a file.
struct Scanned {
    segment: Segment,
    /// Bytes of the segment before, as it was written into this one; none in an empty file.
    bytes_before: Option<u64>,
    /// Bytes that are whole records, and what follows them.
    whole_bytes: u64,
    then: Result<(), Unreadable>,
}

impl Log {
    /// Fills an empty index with what can be served.
    pub(super) fn recover(
        &mut self,
        end: Option<End>,
        index: &mut Index,
        now_unix_ms: u64,
    ) -> io::Result<Recovered> {
        let numbers = self.numbers_on_disk()?;
        let last = numbers.last().copied();
        let mut recovered = Recovered::default();
        let Some(end) = end else {
            self.next_number = last.map_or(0, |last| last + 1);
            recovered.damaged_segments = u64::from(last.is_some());
            numbers.into_iter().try_for_each(|number| fs::remove_file(path(&self.directory, number)))?;
            return Ok(recovered);
        };
        self.next_number = last.map_or(end.number, |last| (last + 1).max(end.number));
        let is_missing = end.bytes > 0 && !numbers.contains(&end.number);
        if is_missing {
            self.next_number = self.next_number.max(end.number + 1);
        }
        for number in numbers {
            if is_missing && number < end.number {
                fs::remove_file(path(&self.directory, number))?;
            } else {
                self.take(number, Some(number) == last, end, index, &mut recovered, now_unix_ms)?;
            }
        }
        recovered.damaged_segments += u64::from(is_missing);
        Ok(recovered)
    }

    /// Takes one segment, if it is whole and follows those before it.
    fn take(
        &mut self,
        number: u64,
        is_last: bool,
        end: End,
        index: &mut Index,
        recovered: &mut Recovered,
        now_unix_ms: u64,
    ) -> io::Result<()> {
        let path = path(&self.directory, number);
        let bytes = Bytes::from(fs::read(&path)?);
        let known_bytes = if number == end.number { end.bytes } else { 0 };
        if bytes.is_empty() && is_last && known_bytes == 0 {
            // Killed before the first record.
            self.next_number = number;
            return fs::remove_file(path);
        }
        let mut scanned = scan(number, File::open(&path)?, &bytes, index, recovered, now_unix_ms);
        let follows = self
            .last_with_number()
            .is_none_or(|(last, bytes)| last + 1 == number && scanned.bytes_before == Some(bytes));
        if !follows {
            recovered.damaged_segments += 1;
            self.drop_all(index)?;
        }
        let is_torn = scanned.then == Err(Unreadable::Torn) && is_last && scanned.whole_bytes >= known_bytes;
        if is_torn {
            OpenOptions::new().write(true).open(&path)?.set_len(scanned.whole_bytes)?;
            scanned.segment.bytes = scanned.whole_bytes;
        }
        let is_whole = scanned.then.is_ok() && scanned.whole_bytes >= known_bytes;
        self.segments.insert(number, scanned.segment);
        if !(is_torn || is_whole) || scanned.bytes_before.is_none() {
            recovered.damaged_segments += 1;
            self.drop_all(index)?;
        }
        Ok(())
    }

    fn numbers_on_disk(&self) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let name = entry?.file_name();
            numbers.extend(name.to_str().and_then(|name| name.strip_suffix(".seg")?.parse::<u64>().ok()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn drop_all(&mut self, index: &mut Index) -> io::Result<()> {
        while !self.segments.is_empty() {
            self.drop_oldest(|number, hashes| index.drop_segment(number, hashes))?;
        }
        Ok(())
    }
}

fn scan(
    number: u64,
    file: File,
    bytes: &Bytes,
    index: &mut Index,
    recovered: &mut Recovered,
    now_unix_ms: u64,
) -> Scanned {
    let mut segment = Segment::new(Arc::new(file));
    segment.bytes = bytes.len() as u64;
    let mut scanned = Scanned { segment, bytes_before: None, whole_bytes: 0, then: Ok(()) };
    let mut offset = 0;
    while offset < bytes.len() {
        let (record, length) = match Record::decode(&bytes.slice(offset..)) {
            Ok((record, _)) if (offset == 0) != record.begins(number) => {
                scanned.then = Err(Unreadable::Damaged);
                break;
            }
            Ok(found) => found,
            Err(unreadable) => {
                scanned.then = Err(unreadable);
                break;
            }
        };
        let place = Place {
            segment: number,
            offset: u32::try_from(offset).unwrap_or(u32::MAX),
            length: u32::try_from(length).unwrap_or(u32::MAX),
            version: record.version,
            namespace: 0,
        };
        offset += length;
        scanned.whole_bytes = offset as u64;
        if record.kind == Kind::Begin {
            scanned.bytes_before = Some(record.version);
        } else if let Some(raised) = record.raised() {
            recovered.raised.push(raised);
        } else {
            scanned.segment.found(&record, place, index, now_unix_ms);
        }
    }
    scanned
}

impl Record {
    fn begins(&self, number: u64) -> bool {
        self.kind == Kind::Begin && self.kept_until_unix_ms == number
    }
}

impl Segment {
    /// Takes note of a record about a key.
    fn found(&mut self, record: &Record, place: Place, index: &mut Index, now_unix_ms: u64) {
        let hash = index.hash(&record.key);
        index.remove(hash);
        self.kept_until_unix_ms = self.kept_until_unix_ms.max(record.kept_until_unix_ms);
        if record.kind == Kind::Put && record.kept_until_unix_ms > now_unix_ms {
            index.found(hash, &record.key, place);
            self.hashes.push(hash);
        }
    }
}
