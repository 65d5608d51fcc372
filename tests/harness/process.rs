//! What the kernel says a process takes.

use std::time::Duration;

use anyhow::Context as _;

/// What `/proc/PID/stat` counts in.
const TICK: Duration = Duration::from_millis(10);

/// Gives the processor time that a process used so far, in user and kernel mode, to a hundredth of a second.
///
/// # Errors
/// The process has ended.
pub fn cpu_time(pid: u32) -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name of the program stands in parentheses and may contain anything.
    let (_, behind_name) = stat.rsplit_once(')').context("no fields")?;
    let fields: Vec<&str> = behind_name.split_whitespace().collect();
    Ok(TICK * (fields[11].parse::<u32>()? + fields[12].parse::<u32>()?))
}

/// Gives the memory that a process holds in RAM, in bytes.
///
/// # Errors
/// The process has ended.
pub fn resident_bytes(pid: u32) -> anyhow::Result<u64> {
    bytes_of(pid, "VmRSS:")
}

/// Gives the most memory that it ever held in RAM, or since that was reset, in bytes.
///
/// # Errors
/// The process has ended.
pub fn most_resident_bytes(pid: u32) -> anyhow::Result<u64> {
    bytes_of(pid, "VmHWM:")
}

fn bytes_of(pid: u32, field: &str) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let line = line.with_context(|| format!("no {field}"))?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? * 1024)
}
