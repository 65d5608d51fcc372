//! One child process: started so that no crash can lose track of it.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use rustix::process::{Pid, Signal};

use crate::{
    Error,
    manifest::{Kind, Manifest, ProcessId, children_of},
    run_as::RunAs,
};

/// Says how to start one child; kept for restarts.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
    pub(crate) envs: Vec<(String, String)>,
    pub(crate) run_as: Option<RunAs>,
    pub(crate) dir: PathBuf,
    pub(crate) log: PathBuf,
    /// PostgreSQL's data directory, for the reaper.
    pub(crate) data: Option<PathBuf>,
}

/// Owns a started child.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    id: ProcessId,
}

/// Variables that children inherit; everything else is set by the stack, so that a `MAINSTAY__` or `PG` variable of
/// the person who runs it cannot change what is tested.
const INHERITED: [&str; 8] =
    ["PATH", "HOME", "TMPDIR", "RUST_LOG", "RUST_BACKTRACE", "LLVM_PROFILE_FILE", "LD_LIBRARY_PATH", "TZ"];

impl Launch {
    pub(crate) fn spawn(&self, manifest: &Manifest) -> Result<Process, Error> {
        let step = || format!("start {}", self.name);
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .map_err(Error::io(format!("open log {}", self.log.display())))?;
        let log_too = log.try_clone().map_err(Error::io(step()))?;
        // The shell waits for one line and only then becomes the program (same pid, same start time). By that time
        // the manifest has it. If we die before, the shell reads end of file and ends by itself.
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg("read -r go && exec \"$@\" </dev/null").arg(&self.name);
        command.arg(&self.program).args(&self.args);
        plain_env(&mut command);
        command
            .envs(self.envs.iter().map(|(key, value)| (key, value)))
            .current_dir(&self.dir)
            .stdin(Stdio::piped())
            .stdout(log)
            .stderr(log_too)
            .process_group(0);
        drop_to(&mut command, self.run_as);
        let mut child = command.spawn().map_err(Error::io(step()))?;
        let recorded = ProcessId::of(child.id())
            .ok_or_else(|| io::Error::other("ended before its start time could be read"))
            .and_then(|id| manifest.record(&id, self.kind, &self.name, self.data.as_deref()).map(|()| id));
        match recorded {
            Ok(id) => {
                let mut stdin = child.stdin.take().expect("stdin was piped two lines above");
                stdin.write_all(b"go\n").map_err(Error::io(step()))?;
                Ok(Process { child, id })
            }
            Err(source) => {
                drop(child.stdin.take());
                let _ = child.wait();
                Err(Error::Io { step: step(), source })
            }
        }
    }

    pub(crate) fn log_tail(&self, n_lines: usize) -> String {
        tail(&self.log, n_lines)
    }
}

impl Process {
    pub(crate) fn pid(&self) -> u32 {
        self.id.pid
    }

    /// Returns the exit status once the child has ended, and clears the zombie.
    pub(crate) fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Lists the child and the processes it forked (PostgreSQL's backends are in process groups of their own).
    pub(crate) fn family(&self) -> Vec<ProcessId> {
        let children = children_of(self.id.pid).into_iter().filter_map(ProcessId::of);
        std::iter::once(self.id.clone()).chain(children).collect()
    }

    pub(crate) fn signal(&mut self, signal: Signal) {
        // While we have not waited for it, the pid cannot be anybody else's.
        if self.exited().is_none() {
            send(self.id.pid, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The guard ends it; we only clear the zombie.
        let _ = self.child.try_wait();
    }
}

/// Signals those of `family` that are still the same processes.
pub(crate) fn signal_family(family: &[ProcessId], signal: Signal) {
    for member in family.iter().filter(|member| member.is_alive()) {
        send(member.pid, signal);
    }
}

fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // The only failure left is that it ended in between, which is what every caller goes on to check.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Runs a short program to its end, off the async threads, and fails with its output.
pub(crate) async fn run(step: &str, mut command: Command, run_as: Option<RunAs>) -> Result<String, Error> {
    plain_env(&mut command);
    drop_to(&mut command, run_as);
    command.stdin(Stdio::null()).current_dir("/");
    let program = Path::new(command.get_program()).display().to_string();
    let output = tokio::task::spawn_blocking(move || command.output())
        .await
        .map_err(|source| Error::Io { step: step.to_owned(), source: io::Error::other(source) })?
        .map_err(Error::io(step))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::Command { step: step.to_owned(), program, status: output.status.to_string(), output: text })
}

fn plain_env(command: &mut Command) {
    let kept: Vec<_> =
        command.get_envs().filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned()))).collect();
    command.env_clear().env("LC_ALL", "C");
    for name in INHERITED {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.envs(kept);
}

fn drop_to(command: &mut Command, run_as: Option<RunAs>) {
    if let Some(run_as) = run_as {
        command.uid(run_as.uid).gid(run_as.gid);
    }
}

/// Reads the last lines of a log; says so when it cannot.
pub(crate) fn tail(path: &Path, n_lines: usize) -> String {
    match fs::read(path) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let lines: Vec<_> = text.lines().collect();
            lines[lines.len().saturating_sub(n_lines)..].join("\n")
        }
        Err(error) => format!("(no log at {}: {error})", path.display()),
    }
}
