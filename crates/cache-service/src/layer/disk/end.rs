//! How far the log was written: by it a file that was cut or removed is told from one that simply ends there.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

const NAME: &str = "end";
const MAGIC: [u8; 4] = *b"MSL3";
const BYTES: usize = 24;

/// Is the file that says so, of one fixed length: what overwrites it needs no room on a full disk.
#[derive(Debug)]
pub(super) struct EndFile(File);

/// The last segment, and how many bytes it had at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End {
    pub(super) number: u64,
    pub(super) bytes: u64,
}

impl EndFile {
    /// Opens the file, and tells what it said; none where it is new or damaged.
    pub(super) fn open(directory: &Path) -> io::Result<(Self, Option<End>)> {
        let path = directory.join(NAME);
        let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)?;
        let mut bytes = [0; BYTES];
        let end = match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => decode(&bytes),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
            Err(error) => return Err(error),
        };
        Ok((Self(file), end))
    }

    pub(super) fn write(&self, end: End) -> io::Result<()> {
        self.0.write_all_at(&encode(end), 0)
    }

    /// Tells whether it is still the file that the next process will find.
    pub(super) fn is_there(&self) -> io::Result<bool> {
        let metadata = self.0.metadata()?;
        Ok(metadata.nlink() > 0 && metadata.len() >= BYTES as u64)
    }
}

/// Magic, number (u64), bytes (u64), and the CRC-32 of all before; little-endian.
fn encode(end: End) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4..12].copy_from_slice(&end.number.to_le_bytes());
    bytes[12..20].copy_from_slice(&end.bytes.to_le_bytes());
    let sum = crc32fast::hash(&bytes[..20]);
    bytes[20..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8; BYTES]) -> Option<End> {
    let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let sum = u32::from_le_bytes(bytes[20..].try_into().expect("four bytes"));
    let is_ours = bytes[..4] == MAGIC && sum == crc32fast::hash(&bytes[..20]);
    is_ours.then(|| End { number: u64_at(4), bytes: u64_at(12) })
}
