//! The list of processes that a stack owns, kept on disk so that somebody else can end them.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
};

use parking_lot::Mutex;

/// Appends one line per started process, in the form that `reap.sh` reads.
#[derive(Debug)]
pub(crate) struct Manifest {
    file: Mutex<File>,
}

/// Says how a process is ended by the reaper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// SIGKILL.
    Kill,
    /// SIGQUIT first, so that the postmaster removes its shared memory; then SIGKILL with its children.
    Postgres,
    /// Left alone: it is the reaper.
    Guard,
}

/// Identifies one process for ever: a reused pid has another start time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProcessId {
    pub(crate) pid: u32,
    pub(crate) start: String,
}

/// Is one process line of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub pid: u32,
    pub name: String,
    pub alive: bool,
}

impl Manifest {
    pub(crate) fn path(dir: &Path) -> PathBuf {
        dir.join("manifest")
    }

    /// Starts an empty manifest in `dir`.
    pub(crate) fn create(dir: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().create(true).append(true).open(Self::path(dir))?;
        file.set_len(0)?;
        writeln!(file, "boot {}", boot_id())?;
        Ok(Self { file: Mutex::new(file) })
    }

    /// Records a process; on return the line is in the file.
    pub(crate) fn record(
        &self,
        id: &ProcessId,
        kind: Kind,
        name: &str,
        data: Option<&Path>,
    ) -> io::Result<()> {
        let kind = match kind {
            Kind::Kill => "kill",
            Kind::Postgres => "postgres",
            Kind::Guard => "guard",
        };
        let data = data.map_or_else(|| "-".to_owned(), |data| data.display().to_string());
        let line = format!("{} {} {kind} {name} {data}\n", id.pid, id.start);
        // One write call of one line: a crash leaves either the line or nothing that parses as one.
        self.file.lock().write_all(line.as_bytes())
    }
}

impl ProcessId {
    /// Reads the start time of a live process; `None` when it is gone or a zombie.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let start = if Path::new("/proc/self/stat").exists() { linux_start(pid) } else { ps_start(pid) }?;
        Some(Self { pid, start })
    }

    pub(crate) fn is_alive(&self) -> bool {
        Self::of(self.pid).as_ref() == Some(self)
    }
}

/// Reads the manifest in `dir`: every process ever started there, the guard left out.
pub(crate) fn entries(dir: &Path) -> Vec<Entry> {
    let Ok(text) = fs::read_to_string(Manifest::path(dir)) else { return Vec::new() };
    let same_boot = text.lines().next() == Some(format!("boot {}", boot_id()).as_str());
    parse(&text)
        .filter(|(_, kind, _)| *kind != "guard")
        .map(|(id, _, name)| Entry { pid: id.pid, name: name.to_owned(), alive: same_boot && id.is_alive() })
        .collect()
}

/// Finds the guard that still cleans up `dir`, if there is one.
pub(crate) fn live_guard(dir: &Path) -> Option<ProcessId> {
    let text = fs::read_to_string(Manifest::path(dir)).ok()?;
    parse(&text).find(|(id, kind, _)| *kind == "guard" && id.is_alive()).map(|(id, ..)| id)
}

fn parse(text: &str) -> impl Iterator<Item = (ProcessId, &str, &str)> {
    text.lines().filter_map(|line| {
        let mut fields = line.splitn(5, ' ');
        let pid = fields.next()?.parse().ok()?;
        let start = fields.next()?.to_owned();
        let (kind, name) = (fields.next()?, fields.next()?);
        fields.next()?;
        Some((ProcessId { pid, start }, kind, name))
    })
}

/// Start times count from boot, so they mean something only within one.
fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_or_else(|_| "none".to_owned(), |id| id.trim().to_owned())
}

/// Field 22 of `/proc/<pid>/stat`, in clock ticks since boot.
fn linux_start(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    start_of_stat(&stat)
}

fn start_of_stat(stat: &str) -> Option<String> {
    // The command name may hold blanks and parentheses: fields are counted from the last one.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18).map(str::to_owned)
}

fn ps_start(pid: u32) -> Option<String> {
    let output =
        Command::new("ps").args(["-o", "state=", "-o", "lstart=", "-p", &pid.to_string()]).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut words = text.split_whitespace();
    let state = words.next()?;
    (!state.starts_with('Z')).then(|| words.collect::<Vec<_>>().join("_"))
}

/// Lists the direct children of a process.
pub(crate) fn children_of(pid: u32) -> Vec<u32> {
    let numbers = |text: &str| text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    if let Ok(text) = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")) {
        return numbers(&text);
    }
    let Ok(output) = Command::new("ps").args(["-A", "-o", "pid=", "-o", "ppid="]).output() else {
        return Vec::new();
    };
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let child = words.next()?.parse().ok()?;
            (words.next()?.parse::<u32>().ok()? == pid).then_some(child)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_time_is_read_behind_a_hostile_command_name() {
        let fields: Vec<String> = (3..=52).map(|n| n.to_string()).collect();
        let stat = format!("17 (a) Z (b 1) R {}", fields[1..].join(" "));
        assert_eq!(start_of_stat(&stat).as_deref(), Some("22"));
        let zombie = format!("17 (x) Z {}", fields[1..].join(" "));
        assert_eq!(start_of_stat(&zombie), None);
        assert_eq!(start_of_stat("17 (x"), None);
    }

    #[test]
    fn own_process_is_alive_and_another_start_time_is_not() {
        let id = ProcessId::of(std::process::id()).unwrap();
        assert!(id.is_alive());
        assert!(!ProcessId { start: "1".to_owned(), ..id }.is_alive());
    }

    #[test]
    fn line_cut_short_by_a_crash_is_ignored() {
        let text = "boot x\n12 34 kill redis-primary -\n13 35 postgres postgres-0 /a dir/b\n14 36 kill re";
        let parsed: Vec<_> = parse(text).map(|(id, kind, name)| (id.pid, kind, name)).collect();
        assert_eq!(parsed, [(12, "kill", "redis-primary"), (13, "postgres", "postgres-0")]);
    }
}
