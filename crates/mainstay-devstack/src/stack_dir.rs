//! The directory of one stack: who owns it, what is in it, when it goes.

use std::{
    fs::{self, File, OpenOptions, Permissions, TryLockError},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use crate::{Error, credentials::random_hex, guard, manifest};

/// Holds a directory that no other stack uses, with nothing of an earlier run in it.
#[derive(Debug)]
pub(crate) struct StackDir {
    pub(crate) path: PathBuf,
    /// Removed when the stack ends; a directory that somebody named is kept, with its logs.
    pub(crate) ephemeral: bool,
    /// Locked while the owner lives; also the mark by which a directory is known as ours.
    _owner: File,
}

const OWNER_FILE: &str = "owner.lock";
const SWEEP_FILE: &str = "sweep.lock";
const RUN_PREFIX: &str = "run-";
/// Others may pass through to what they own below, and see nothing.
const PASSABLE: u32 = 0o711;

impl StackDir {
    /// Makes a new directory below the base, and clears what crashed stacks left there.
    pub(crate) fn ephemeral(base: &Path) -> Result<Self, Error> {
        let sweep = File::create(base.join(SWEEP_FILE)).map_err(Error::io("open the sweep lock"))?;
        // Under this lock a directory never exists without its owner lock being held by somebody alive.
        sweep.lock().map_err(Error::io("take the sweep lock"))?;
        sweep_crashed(base);
        let path = base.join(format!("{RUN_PREFIX}{}-{}", std::process::id(), random_hex(4)));
        create(&path)?;
        let owner = lock_owner(&path)?;
        Ok(Self { path, ephemeral: true, _owner: owner })
    }

    /// Takes over a named directory: ends and removes what an earlier run left, and nothing else.
    pub(crate) fn named(path: &Path) -> Result<Self, Error> {
        let is_new = !path.exists() || is_empty(path);
        if !is_new && !path.join(OWNER_FILE).exists() {
            return Err(Error::DirNotOurs { dir: path.to_path_buf() });
        }
        create(path)?;
        let path = path.canonicalize().map_err(Error::io(format!("resolve {}", path.display())))?;
        let owner = lock_owner(&path)?;
        guard::reap(&path, false)?;
        empty(&path).map_err(Error::io(format!("empty {}", path.display())))?;
        Ok(Self { path, ephemeral: false, _owner: owner })
    }
}

/// Ends what an earlier run in `dir` left; with `owner_may_live` only if its owner is gone. Returns what it ended.
pub(crate) fn clean_up(dir: &Path) -> Result<Vec<String>, Error> {
    if !dir.join(OWNER_FILE).exists() {
        return Err(Error::DirNotOurs { dir: dir.to_path_buf() });
    }
    let _owner = lock_owner(dir)?;
    let alive: Vec<_> =
        manifest::entries(dir).into_iter().filter(|entry| entry.alive).map(|entry| entry.name).collect();
    guard::reap(dir, false)?;
    Ok(alive)
}

/// Tells whether a living stack holds `dir`.
pub(crate) fn is_owned(dir: &Path) -> bool {
    File::open(dir.join(OWNER_FILE))
        .is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
}

/// Returns the directory below which this user's stacks live, and makes it.
pub(crate) fn base() -> Result<PathBuf, Error> {
    let uid = rustix::process::geteuid().as_raw();
    let base = std::env::temp_dir().join(format!("mainstay-devstack-{uid}"));
    create(&base)?;
    // The name can be guessed, and anybody may write into the parent.
    let meta = fs::symlink_metadata(&base).map_err(Error::io("inspect the base directory"))?;
    if meta.is_dir() && meta.uid() == uid { Ok(base) } else { Err(Error::DirNotOurs { dir: base }) }
}

/// Writes a file that only its owner can read, complete or not at all.
pub(crate) fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let draft = path.with_extension("draft");
    let _ = fs::remove_file(&draft);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    file.write_all(text.as_bytes())?;
    fs::rename(&draft, path)
}

fn create(path: &Path) -> Result<(), Error> {
    let step = || format!("create {}", path.display());
    if !path.exists() {
        fs::create_dir_all(path).map_err(Error::io(step()))?;
        fs::set_permissions(path, Permissions::from_mode(PASSABLE)).map_err(Error::io(step()))?;
    }
    Ok(())
}

fn is_empty(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

fn lock_owner(dir: &Path) -> Result<File, Error> {
    let path = dir.join(OWNER_FILE);
    let step = || format!("lock {}", path.display());
    let file =
        OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(Error::io(step()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::DirInUse { dir: dir.to_path_buf() }),
        Err(TryLockError::Error(source)) => Err(Error::Io { step: step(), source }),
    }
}

fn empty(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name() == OWNER_FILE {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Ends and removes stacks whose owner and guard both died. Failing here must not stop a new stack from starting.
fn sweep_crashed(base: &Path) {
    let Ok(entries) = fs::read_dir(base) else { return };
    for entry in entries.filter_map(Result::ok) {
        let is_run = entry.file_name().to_string_lossy().starts_with(RUN_PREFIX);
        // A guard that lives is about to do the same.
        if !is_run || is_owned(&entry.path()) || manifest::live_guard(&entry.path()).is_some() {
            continue;
        }
        if guard::reap(&entry.path(), true).is_ok() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_with_foreign_files_is_refused_and_untouched() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), "x").unwrap();
        assert!(matches!(StackDir::named(dir.path()), Err(Error::DirNotOurs { .. })));
        assert!(dir.path().join("thesis.tex").exists());
    }

    #[test]
    fn directory_in_use_is_refused_and_free_again_after_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let first = StackDir::named(dir.path()).unwrap();
        assert!(matches!(StackDir::named(dir.path()), Err(Error::DirInUse { .. })));
        assert!(is_owned(dir.path()));
        drop(first);
        fs::write(dir.path().join("old.log"), "x").unwrap();
        StackDir::named(dir.path()).unwrap();
        assert!(!dir.path().join("old.log").exists());
    }

    #[test]
    fn sweep_removes_crashed_runs_and_leaves_living_ones() {
        let base = tempfile::tempdir().unwrap();
        let living = StackDir::ephemeral(base.path()).unwrap();
        let crashed = base.path().join("run-1-dead");
        create(&crashed).unwrap();
        drop(lock_owner(&crashed).unwrap());
        fs::create_dir(base.path().join("ports")).unwrap();
        let _another = StackDir::ephemeral(base.path()).unwrap();
        assert!(living.path.exists());
        assert!(!crashed.exists());
        assert!(base.path().join("ports").exists());
    }
}
