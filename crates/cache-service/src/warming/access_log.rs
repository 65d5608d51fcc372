//! The access log on disk: which keys were read most in the last run of this process, the hottest first.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, BufWriter, Read as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::insight::Recorder;
use crate::key::Key;

const NAME: &str = "access.log";
/// A key of which every byte is written in six, and what stands around it.
const LINE_BYTES: u64 = Key::MAX_TEXT_BYTES as u64 * 6 + 64;
const FORMAT: u32 = 1;

/// A file that is only ever replaced as a whole.
#[derive(Debug, Clone)]
pub(super) struct AccessLog {
    path: PathBuf,
    most_keys: usize,
}

#[derive(Serialize, Deserialize)]
struct Head {
    access_log: u32,
    written_at_unix_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    key: std::borrow::Cow<'a, str>,
    reads: u64,
}

/// What was read of a log.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) keys: Vec<(String, u64)>,
    /// Lines that are none of ours, or are damaged.
    pub(super) n_damaged: u64,
}

impl AccessLog {
    pub(super) fn new(directory: &Path, most_keys: usize) -> Self {
        Self { path: directory.join(NAME), most_keys }
    }

    /// Replaces the file by what was recorded, and tells how many keys it has now.
    pub(super) fn write(&self, recorder: &parking_lot::Mutex<Recorder>, unix_ms: u64) -> io::Result<usize> {
        let hottest = recorder.lock().hottest(|_| true);
        if let Some(directory) = self.path.parent() {
            fs::create_dir_all(directory)?;
        }
        let new = self.path.with_extension("log.new");
        let mut file = BufWriter::new(File::create(&new)?);
        write_line(&mut file, &Head { access_log: FORMAT, written_at_unix_ms: unix_ms })?;
        for (key, reads) in &hottest {
            write_line(&mut file, &Entry { key: (&**key).into(), reads: *reads })?;
        }
        file.into_inner()?.sync_all()?;
        // Whoever is killed here leaves the old file or the new one, and never a part.
        fs::rename(new, &self.path)?;
        Ok(hottest.len())
    }

    /// Reads the file; one that is not there is empty. Damage costs its lines.
    pub(super) fn read(&self) -> io::Result<Read> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Read::default()),
            Err(error) => return Err(error),
        };
        let mut file = BufReader::new(file).take(LINE_BYTES * (self.most_keys as u64 + 1));
        let mut read = Read::default();
        let mut line = Vec::new();
        file.read_until(b'\n', &mut line)?;
        let head = serde_json::from_slice::<Head>(&line).ok();
        if head.is_none_or(|head| head.access_log != FORMAT) {
            return Ok(Read { n_damaged: u64::from(!line.is_empty()), ..read });
        }
        while read.keys.len() < self.most_keys {
            line.clear();
            if file.read_until(b'\n', &mut line)? == 0 {
                break;
            }
            match serde_json::from_slice::<Entry<'_>>(&line) {
                Ok(entry) if Key::from_text(&entry.key).is_some() && entry.reads > 0 => {
                    read.keys.push((entry.key.into_owned(), entry.reads));
                }
                Ok(_) | Err(_) => read.n_damaged += 1,
            }
        }
        Ok(read)
    }
}

fn write_line(file: &mut impl io::Write, line: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *file, line)?;
    file.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use tempfile::TempDir;

    use super::*;

    fn recorded(keys: &[(&str, u64)]) -> Mutex<Recorder> {
        let mut recorder = Recorder::new(3);
        for (key, reads) in keys {
            recorder.add(key, *reads);
        }
        Mutex::new(recorder)
    }

    #[test]
    fn what_is_written_is_read_again_the_hottest_first() {
        let directory = TempDir::new().unwrap();
        let log = AccessLog::new(&directory.path().join("below"), 3);
        assert_eq!(log.read().unwrap(), Read::default());
        let keys = [("a:1", 5), ("b:\"\\\u{7f}ö", 9), ("a:2", 7), ("a:cold", 1)];
        assert_eq!(log.write(&recorded(&keys), 1).unwrap(), 3);
        let read = log.read().unwrap();
        let seen: Vec<(&str, u64)> = read.keys.iter().map(|(key, reads)| (key.as_str(), *reads)).collect();
        assert_eq!(
            (seen, read.n_damaged),
            (vec![("a:2", 7), ("a:1", 5)], 1),
            "a control character is no key"
        );
        assert_eq!(fs::read_dir(directory.path().join("below")).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_log_costs_what_is_damaged_and_never_a_start() {
        let directory = TempDir::new().unwrap();
        let log = AccessLog::new(directory.path(), 3);
        log.write(&recorded(&[("a:1", 5), ("a:2", 7), ("a:3", 6)]), 1).unwrap();
        let whole = fs::read(&log.path).unwrap();
        for length in 0..whole.len() {
            fs::write(&log.path, &whole[..length]).unwrap();
            assert!(log.read().unwrap().keys.len() <= 3);
            let mut flipped = whole.clone();
            flipped[length] ^= 0x55;
            fs::write(&log.path, &flipped).unwrap();
            let read = log.read().unwrap();
            assert!(read.keys.iter().all(|(key, _)| Key::from_text(key).is_some()), "{read:?}");
        }
        fs::write(&log.path, vec![b'x'; 1 << 20]).unwrap();
        assert_eq!(log.read().unwrap(), Read { n_damaged: 1, ..Read::default() });
    }
}
