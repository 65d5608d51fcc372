//! The clean-up: a small process that outlives its owner, and the same script for later.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use std::os::unix::process::CommandExt;

use tokio::time::Instant;

use crate::{
    Error,
    manifest::{self, Kind, Manifest, ProcessId},
};

const SCRIPT: &str = include_str!("reap.sh");
/// The reaper itself gives up after 8 s.
const REAP_WITHIN: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Holds the process that ends all others when its owner dies, in whatever way.
///
/// It blocks on a pipe whose other end only the owner has. Destructors of statics never run and `kill -9` runs none,
/// but the kernel always closes the pipe. Dropping the guard uses the same path and waits for the end of it.
#[derive(Debug)]
pub(crate) struct Guard {
    child: Child,
    dir: PathBuf,
}

impl Guard {
    pub(crate) fn start(dir: &Path, ephemeral: bool, manifest: &Manifest) -> Result<Self, Error> {
        let child = command("guard", dir, ephemeral)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C of a terminal goes to the foreground group: the guard must not be in it.
            .process_group(0)
            .spawn()
            .map_err(Error::io("start the guard"))?;
        let guard = Self { child, dir: dir.to_path_buf() };
        if let Some(id) = ProcessId::of(guard.child.id()) {
            manifest.record(&id, Kind::Guard, "guard", None).map_err(Error::io("write the manifest"))?;
        }
        Ok(guard)
    }

    /// Lets the guard end everything now and waits for it; blocks for a few seconds at most.
    fn release(&mut self) -> Result<(), Error> {
        drop(self.child.stdin.take());
        let deadline = Instant::now() + REAP_WITHIN;
        loop {
            match self.child.try_wait().map_err(Error::io("wait for the guard"))? {
                Some(status) if status.success() => return Ok(()),
                Some(_) => return Err(self.left_over()),
                None if Instant::now() >= deadline => return Err(self.left_over()),
                None => thread::sleep(LOOK_EVERY),
            }
        }
    }

    /// Ends the guard after everything else has ended; tells what is left.
    pub(crate) fn finish(mut self) -> Result<(), Error> {
        self.release()
    }

    fn left_over(&self) -> Error {
        let left: Vec<_> = manifest::entries(&self.dir)
            .into_iter()
            .filter(|entry| entry.alive)
            .map(|entry| format!("{} (pid {})", entry.name, entry.pid))
            .collect();
        Error::LeftOver { dir: self.dir.clone(), left: left.join(", ") }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // A failure leaves the manifest, so the next start on this directory tries again.
        let _ = self.release();
    }
}

/// Ends what the manifest in `dir` lists, after a guard that is still at it has finished. Blocks.
pub(crate) fn reap(dir: &Path, ephemeral: bool) -> Result<(), Error> {
    if let Some(guard) = manifest::live_guard(dir) {
        let deadline = Instant::now() + REAP_WITHIN;
        while guard.is_alive() && Instant::now() < deadline {
            thread::sleep(LOOK_EVERY);
        }
    }
    let output = command("reap", dir, ephemeral)
        .stdin(Stdio::null())
        .output()
        .map_err(Error::io("run the clean-up script"))?;
    if output.status.success() {
        return Ok(());
    }
    let left = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Err(Error::LeftOver { dir: dir.to_path_buf(), left })
}

fn command(mode: &str, dir: &Path, ephemeral: bool) -> Command {
    let mut command = Command::new("/bin/sh");
    command
        .arg("-c")
        .arg(SCRIPT)
        .arg("mainstay-devstack-guard")
        .arg(mode)
        .arg(dir)
        .arg(if ephemeral { "1" } else { "0" })
        .current_dir("/");
    command
}
