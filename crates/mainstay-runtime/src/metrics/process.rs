use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use rustix::time::ClockId;

/// Reads what the process costs, at every scrape. What the system does not tell is left out.
#[derive(Debug)]
pub(super) struct ProcessCollector {
    started_at_s: f64,
}

impl ProcessCollector {
    pub(super) fn new(started_at: SystemTime) -> Self {
        Self { started_at_s: started_at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()) }
    }
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut put = |name: &str, help: &str, metric: &dyn Encodable| metric.put(&mut encoder, name, help);
        put(
            "process_start_time_seconds",
            "When the process started, in seconds since the Unix epoch.",
            &ConstGauge::new(self.started_at_s),
        )?;
        put("process_cpu_seconds", "CPU time used, user and system.", &ConstCounter::new(cpu_seconds()))?;
        if let Some(bytes) = resident_bytes() {
            put("process_resident_bytes", "Memory held in RAM.", &ConstGauge::new(bytes))?;
        }
        if let Some(fds) = open_fds() {
            put("process_open_fds", "File descriptors open.", &ConstGauge::new(fds))?;
        }
        Ok(())
    }
}

/// Lets the four figures above share one line each.
trait Encodable {
    fn put(&self, encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str) -> fmt::Result;
}

impl<M: EncodeMetric> Encodable for M {
    fn put(&self, encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str) -> fmt::Result {
        self.encode(encoder.encode_descriptor(name, help, None, self.metric_type())?)
    }
}

#[expect(clippy::cast_precision_loss, reason = "seconds of CPU time are far below 2^53")]
fn cpu_seconds() -> f64 {
    let used = rustix::time::clock_gettime(ClockId::ProcessCPUTime);
    used.tv_sec as f64 + used.tv_nsec as f64 / 1e9
}

fn resident_bytes() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

fn open_fds() -> Option<i64> {
    // Linux has /proc, macOS /dev/fd; the directory itself is one of the descriptors seen.
    let entries = std::fs::read_dir("/proc/self/fd").or_else(|_| std::fs::read_dir("/dev/fd")).ok()?;
    i64::try_from(entries.count()).ok().map(|n| n - 1)
}
