//! A handle on one running part: kill, stop, pause, resume, restart, and wait until ready.

use std::{
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use rustix::process::Signal;

use crate::{
    Error,
    manifest::{Manifest, ProcessId},
    probe::Probe,
    process::{Launch, Process, signal_family},
    wait::wait_until,
};

/// Controls one process of the stack. Clones control the same process.
///
/// Every method waits, within a bound, until what it asks for is true, and tells the last state seen when it is not.
/// Handles keep working on any runtime: nothing runs in the background.
#[derive(Debug, Clone)]
pub struct Node {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    launch: Launch,
    probe: Probe,
    address: SocketAddr,
    stop_signal: Signal,
    ready_within: Duration,
    manifest: Arc<Manifest>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    process: Option<Process>,
    /// The last exit status, kept after the process is gone.
    status: Option<ExitStatus>,
    /// An end that nobody asked for is reported once.
    expected_up: bool,
}

/// Describes a part that ended without being asked to.
#[derive(Debug, Clone)]
pub struct UnexpectedExit {
    pub name: String,
    pub status: String,
    pub log_tail: String,
}

pub(crate) struct NodeParams {
    pub(crate) launch: Launch,
    pub(crate) probe: Probe,
    pub(crate) address: SocketAddr,
    pub(crate) stop_signal: Signal,
    pub(crate) ready_within: Duration,
    pub(crate) manifest: Arc<Manifest>,
}

const LOOK_EVERY: Duration = Duration::from_millis(10);
const GONE_WITHIN: Duration = Duration::from_mins(1);
const STOPPED_WITHIN: Duration = Duration::from_mins(1);
const LOG_LINES: usize = 20;

impl Node {
    pub(crate) fn new(params: NodeParams) -> Self {
        let NodeParams { launch, probe, address, stop_signal, ready_within, manifest } = params;
        let state = Mutex::default();
        Self {
            shared: Arc::new(Shared { launch, probe, address, stop_signal, ready_within, manifest, state }),
        }
    }

    pub fn name(&self) -> &str {
        &self.shared.launch.name
    }

    /// Returns the address that the process itself listens on, behind any proxy.
    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    pub fn log_path(&self) -> &Path {
        &self.shared.launch.log
    }

    /// Returns the last lines of the log.
    pub fn log_tail(&self, n_lines: usize) -> String {
        self.shared.launch.log_tail(n_lines)
    }

    /// Returns the pid while the process runs.
    pub fn pid(&self) -> Option<u32> {
        let mut state = self.shared.state.lock();
        state.settle();
        state.process.as_ref().map(Process::pid)
    }

    pub fn is_running(&self) -> bool {
        self.pid().is_some()
    }

    /// Starts the process and does not wait until it is ready.
    pub fn launch(&self) -> Result<(), Error> {
        let mut state = self.shared.state.lock();
        state.settle();
        if state.process.is_none() {
            state.process = Some(self.shared.launch.spawn(&self.shared.manifest)?);
            state.status = None;
        }
        state.expected_up = true;
        Ok(())
    }

    /// Starts the process and waits until it is ready.
    pub async fn start(&self) -> Result<(), Error> {
        self.launch()?;
        self.wait_ready().await
    }

    /// Waits until the process answers as a healthy part of the stack; fails at once when it has ended.
    pub async fn wait_ready(&self) -> Result<(), Error> {
        let shared = &self.shared;
        let what = format!("{} to be ready", self.name());
        let ended = || {
            let mut state = shared.state.lock();
            state.settle();
            state
                .process
                .is_none()
                .then(|| state.status.map_or_else(|| "no status".to_owned(), |s| s.to_string()))
        };
        let outcome = wait_until(what, LOOK_EVERY, shared.ready_within, || async {
            if let Some(status) = ended() {
                return Ok(Err(status));
            }
            shared.probe.check().await.map(Ok)
        })
        .await?;
        outcome.map_err(|status| Error::Exited {
            name: self.name().to_owned(),
            status,
            log: self.log_tail(LOG_LINES),
        })
    }

    /// Ends the process with SIGKILL, its forked children too, and waits until they are gone and the port is closed.
    pub async fn kill(&self) -> Result<(), Error> {
        let family = self.family_for_end();
        // The parent first: a postmaster that sees a backend die would start a recovery.
        signal_family(&family, Signal::KILL);
        self.wait_gone(&family, GONE_WITHIN).await
    }

    /// Ends the process the way an operator does and waits until it is gone; SIGKILL if it does not end in 20 s.
    pub async fn stop(&self) -> Result<(), Error> {
        let family = self.family_for_end();
        signal_family(&family, Signal::CONT);
        if let Some(process) = self.shared.state.lock().process.as_mut() {
            process.signal(self.shared.stop_signal);
        }
        let stopped = self.wait_gone(&family, STOPPED_WITHIN).await;
        if stopped.is_err() {
            signal_family(&family, Signal::KILL);
            self.wait_gone(&family, GONE_WITHIN).await?;
        }
        stopped
    }

    /// Stops the process in the middle of whatever it does (SIGSTOP): the port stays open, nothing answers.
    pub async fn pause(&self) -> Result<(), Error> {
        let family = self.running_family()?;
        signal_family(&family, Signal::STOP);
        self.wait_states("stopped", |state| state == 'T').await
    }

    /// Lets a paused process go on.
    pub async fn resume(&self) -> Result<(), Error> {
        let family = self.running_family()?;
        signal_family(&family, Signal::CONT);
        self.wait_states("running again", |state| state != 'T').await
    }

    /// Stops the process if it runs (with SIGKILL if it is paused for good), starts it again, waits until it is ready.
    pub async fn restart(&self) -> Result<(), Error> {
        if self.is_running() {
            self.stop().await?;
        }
        self.start().await
    }

    /// Reports an end that nobody asked for, once.
    pub fn unexpected_exit(&self) -> Option<UnexpectedExit> {
        let mut state = self.shared.state.lock();
        state.settle();
        if !state.expected_up || state.process.is_some() {
            return None;
        }
        state.expected_up = false;
        let status = state.status.map_or_else(|| "no status".to_owned(), |status| status.to_string());
        Some(UnexpectedExit { name: self.name().to_owned(), status, log_tail: self.log_tail(LOG_LINES) })
    }

    fn family_for_end(&self) -> Vec<ProcessId> {
        let mut state = self.shared.state.lock();
        state.expected_up = false;
        state.settle();
        state.process.as_ref().map(Process::family).unwrap_or_default()
    }

    fn running_family(&self) -> Result<Vec<ProcessId>, Error> {
        let mut state = self.shared.state.lock();
        state.settle();
        state
            .process
            .as_ref()
            .map(Process::family)
            .ok_or_else(|| Error::NotRunning { name: self.name().to_owned() })
    }

    async fn wait_gone(&self, family: &[ProcessId], within: Duration) -> Result<(), Error> {
        wait_until(format!("{} to end", self.name()), LOOK_EVERY, within, || async {
            if let Some(pid) = self.pid() {
                return Err(format!("pid {pid} is alive"));
            }
            if let Some(child) = family.iter().find(|member| member.is_alive()) {
                return Err(format!("its child {} is alive", child.pid));
            }
            match TcpStream::connect_timeout(&self.shared.address, Duration::from_millis(200)) {
                Ok(_) => Err(format!("{} still accepts", self.shared.address)),
                Err(_) => Ok(()),
            }
        })
        .await?;
        Ok(())
    }

    async fn wait_states(&self, what: &str, wanted: impl Fn(char) -> bool) -> Result<(), Error> {
        wait_until(format!("{} to be {what}", self.name()), LOOK_EVERY, GONE_WITHIN, || async {
            let family = self.running_family().map_err(|error| error.to_string())?;
            let states: Vec<_> = family.iter().filter_map(|member| run_state(member.pid)).collect();
            if states.iter().all(|state| wanted(*state)) {
                Ok(())
            } else {
                Err(format!("process states {states:?}"))
            }
        })
        .await?;
        Ok(())
    }
}

impl State {
    fn settle(&mut self) {
        if let Some(status) = self.process.as_mut().and_then(Process::exited) {
            self.status = Some(status);
            self.process = None;
        }
    }
}

/// Reads the state letter of a process; `None` where there is no `/proc`, or when it has ended.
fn run_state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(PathBuf::from(format!("/proc/{pid}/stat"))).ok()?;
    stat.rsplit_once(')')?.1.trim_start().chars().next().filter(|state| *state != 'Z')
}
