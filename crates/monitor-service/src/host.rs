//! Figures of the host, read from `/proc`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::config::HostConfig;

/// Reads the host, over and over; what cannot be read is left out.
#[derive(Debug)]
pub(crate) struct Host {
    proc: PathBuf,
    mounts: Vec<String>,
    cpu: Option<CpuTicks>,
}

/// Holds one figure.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct HostFigure {
    /// Name of the metric.
    pub metric: &'static str,
    /// Its labels.
    pub labels: Vec<(String, String)>,
    /// What was read.
    pub value: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct CpuTicks {
    busy: u64,
    total: u64,
}

impl Host {
    /// Prepares to read.
    pub(crate) fn new(config: &HostConfig) -> Self {
        Self { proc: PathBuf::from("/proc"), mounts: config.mounts.clone(), cpu: None }
    }

    /// Reads all figures; the first time there is no CPU yet, since that is a difference.
    pub(crate) fn read(&mut self) -> Vec<HostFigure> {
        let mut figures = Vec::new();
        let mut add = |metric, label: Option<(&str, &str)>, value: f64| {
            let labels = label.map(|(name, value)| (name.to_owned(), value.to_owned()));
            figures.push(HostFigure { metric, labels: labels.into_iter().collect(), value });
        };
        let cpu = self.text("stat").and_then(|text| cpu_ticks(&text));
        if let (Some(before), Some(now)) = (self.cpu, cpu)
            && let Some(share) = used_between(before, now)
        {
            add("host_cpu_used_ratio", None, share);
        }
        self.cpu = cpu;
        if let Some(share) = self.text("meminfo").and_then(|text| memory_used(&text)) {
            add("host_memory_used_ratio", None, share);
        }
        if let Some(load) = self.text("loadavg").and_then(|text| text.split(' ').next()?.parse().ok()) {
            add("host_load1", None, load);
        }
        if let Some(share) = self.text("sys/fs/file-nr").and_then(|text| fds_used(&text)) {
            add("host_fds_used_ratio", None, share);
        }
        for (device, [received, sent]) in self.text("net/dev").map(|text| network(&text)).unwrap_or_default()
        {
            add("host_network_receive_bytes_total", Some(("device", &device)), received);
            add("host_network_transmit_bytes_total", Some(("device", &device)), sent);
        }
        for resource in ["cpu", "memory", "io"] {
            if let Some(waiting) = self.text(&format!("pressure/{resource}")).and_then(|text| pressure(&text))
            {
                add("host_pressure_ratio", Some(("resource", resource)), waiting);
            }
        }
        for mount in &self.mounts {
            if let Some(share) = disk_used(Path::new(mount)) {
                add("host_disk_used_ratio", Some(("mount", mount)), share);
            }
        }
        figures
    }

    fn text(&self, file: &str) -> Option<String> {
        std::fs::read_to_string(self.proc.join(file)).ok()
    }
}

fn cpu_ticks(stat: &str) -> Option<CpuTicks> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line.split_whitespace().map_while(|field| field.parse().ok()).take(8).collect();
    // user nice system idle iowait irq softirq steal; guest time is part of user.
    let idle = ticks.get(3)? + ticks.get(4)?;
    let total = ticks.iter().sum();
    Some(CpuTicks { busy: total - idle, total })
}

fn used_between(before: CpuTicks, now: CpuTicks) -> Option<f64> {
    let total = now.total.checked_sub(before.total).filter(|total| *total > 0)?;
    Some(now.busy.saturating_sub(before.busy) as f64 / total as f64)
}

fn memory_used(meminfo: &str) -> Option<f64> {
    let field = |name: &str| -> Option<f64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':').split_whitespace().next()?.parse().ok()
    };
    let (total, available) = (field("MemTotal")?, field("MemAvailable")?);
    (total > 0.0).then(|| 1.0 - available / total)
}

fn fds_used(file_nr: &str) -> Option<f64> {
    let fields: Vec<f64> = file_nr.split_whitespace().map_while(|field| field.parse().ok()).collect();
    let (used, cap) = (*fields.first()?, *fields.get(2)?);
    (cap > 0.0).then(|| used / cap)
}

fn network(dev: &str) -> BTreeMap<String, [f64; 2]> {
    let device = |line: &str| {
        let (name, fields) = line.split_once(':')?;
        let fields: Vec<f64> = fields.split_whitespace().map_while(|field| field.parse().ok()).collect();
        Some((name.trim().to_owned(), [*fields.first()?, *fields.get(8)?]))
    };
    dev.lines().filter_map(device).collect()
}

/// Share of the last ten seconds in which something waited for the resource.
fn pressure(text: &str) -> Option<f64> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let percent: f64 = some.split(' ').find_map(|field| field.strip_prefix("avg10="))?.parse().ok()?;
    Some(percent / 100.0)
}

fn disk_used(mount: &Path) -> Option<f64> {
    let stat = rustix::fs::statvfs(mount).ok()?;
    // What only root may still use counts as used, as `df` has it.
    let used = stat.f_blocks.checked_sub(stat.f_bfree)?;
    let usable = used + stat.f_bavail;
    (usable > 0).then(|| used as f64 / usable as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_kernel_are_read_as_they_are() {
        let before = cpu_ticks("cpu  10 0 10 70 10 0 0 0 5 0\ncpu0 1 1 1 1").unwrap();
        let now = cpu_ticks("cpu  50 0 20 110 20 0 0 0 9 0\n").unwrap();
        assert_eq!(used_between(before, now), Some(0.5));
        assert_eq!(used_between(now, now), None);
        assert_eq!(memory_used("MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:  250 kB\n"), Some(0.75));
        assert_eq!(fds_used("100\t0\t1000\n"), Some(0.1));
        let dev = "Inter-|\n face |bytes\n    lo: 7 1 0 0 0 0 0 0 9 1 0 0 0 0 0 0\n";
        assert_eq!(network(dev), [("lo".to_owned(), [7.0, 9.0])].into());
        assert_eq!(pressure("some avg10=25.00 avg60=0.00 avg300=0.00 total=1\n"), Some(0.25));
        for nonsense in ["", "cpu", "cpu  x", "MemTotal: 0 kB"] {
            assert_eq!((cpu_ticks(nonsense), memory_used(nonsense), fds_used(nonsense)), (None, None, None));
        }
    }

    #[test]
    fn this_host_has_figures() {
        let mut host = Host::new(&HostConfig::default());
        let figures = host.read();
        let share = |metric: &str| figures.iter().find(|figure| figure.metric == metric).unwrap().value;
        for metric in ["host_memory_used_ratio", "host_disk_used_ratio", "host_fds_used_ratio"] {
            assert!((0.0..=1.0).contains(&share(metric)), "{metric}");
        }
    }
}
