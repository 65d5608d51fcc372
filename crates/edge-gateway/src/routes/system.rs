//! Figures of the machines and of the processes on them, as the monitor read them last.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use mainstay_proto::monitor::v1::monitor_service_client::MonitorServiceClient;
use mainstay_proto::monitor::v1::{Figure, Figures, LatestRequest};
use mainstay_rpc::{Call, Caller, Lane};
use serde::Serialize;
use utoipa::ToSchema;

use super::words::rfc3339;
use crate::body::Who;
use crate::error::Problem;
use crate::state::App;

const LATEST: &str = "mainstay.monitor.v1.MonitorService/Latest";
/// What is asked of the monitor; each has a place in the answer.
const METRICS: [&str; 12] = [
    "host_cpu_used_ratio",
    "host_memory_used_ratio",
    "host_load1",
    "host_fds_used_ratio",
    "host_pressure_ratio",
    "host_disk_used_ratio",
    "host_network_receive_bytes_total",
    "host_network_transmit_bytes_total",
    "mainstay_process_start_time_seconds",
    "mainstay_process_cpu_seconds_total",
    "mainstay_process_resident_bytes",
    "mainstay_process_open_fds",
];

/// CPU, memory, disk and network of the hosts, and what each process takes of them.
#[derive(Clone, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SystemMetrics {
    collected_at: Option<String>,
    hosts: Vec<HostFigures>,
    processes: Vec<ProcessFigures>,
}

/// One machine; what could not be read there is null.
#[derive(Clone, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct HostFigures {
    /// `host` is where the monitor runs.
    name: String,
    /// Shares of what there is, 0 to 1.
    cpu_used_ratio: Option<f64>,
    memory_used_ratio: Option<f64>,
    fds_used_ratio: Option<f64>,
    /// Processes that run or wait for the CPU, mean of a minute.
    load1: Option<f64>,
    /// By mount point, the share in use.
    disks: BTreeMap<String, f64>,
    network: BTreeMap<String, NetworkFigures>,
    /// By resource, the share of time in which some work waited for it.
    pressure: BTreeMap<String, f64>,
}

/// One network device; null until it was read twice.
#[derive(Clone, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct NetworkFigures {
    received_bytes_per_second: Option<f64>,
    sent_bytes_per_second: Option<f64>,
}

/// One process that the monitor watches; what it does not tell is null.
#[derive(Clone, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ProcessFigures {
    service: String,
    endpoint: String,
    /// Seconds since it began.
    uptime_seconds: Option<f64>,
    /// Cores that it kept busy over the last minute.
    cpu_cores: Option<f64>,
    resident_bytes: Option<f64>,
    open_fds: Option<f64>,
}

/// Tells CPU, memory, disk and network of the hosts, and what each process takes of them.
#[utoipa::path(get, path = "/monitoring/system/metrics", tag = "monitoring", responses((status = 200, description = "hosts and processes", body = SystemMetrics)))]
pub(crate) async fn metrics(
    State(app): State<Arc<App>>,
    Who(caller): Who,
) -> Result<Answer<SystemMetrics>, Problem> {
    Ok(Answer(fetch(&app, latest_call(caller)).await?))
}

/// Asks the monitor, by a [`latest_call`].
pub(crate) async fn fetch(app: &App, call: Call) -> Result<SystemMetrics, Problem> {
    Ok(latest(app, call, &METRICS).await?.into())
}

/// Gives the call with which [`latest`] is asked.
pub(crate) fn latest_call(caller: impl Into<Option<Caller>>) -> Call {
    Call::read(LATEST).by(caller)
}

/// Asks the monitor for the newest values of metrics.
pub(crate) async fn latest(app: &App, call: Call, metrics: &[&str]) -> Result<Figures, Problem> {
    let request = LatestRequest { metrics: metrics.iter().map(|metric| (*metric).to_owned()).collect() };
    let send = async |mut client: MonitorServiceClient<Lane>, request| client.latest(request).await;
    Ok(app.upstreams.monitor(call, request, send).await?.figures.unwrap_or_default())
}

impl From<Figures> for SystemMetrics {
    fn from(Figures { at, figures }: Figures) -> Self {
        let now_s = at.map(|at| at.seconds as f64 + f64::from(at.nanos) / 1e9);
        let mut hosts: BTreeMap<String, HostFigures> = BTreeMap::new();
        let mut processes: BTreeMap<(String, String), ProcessFigures> = BTreeMap::new();
        for figure in figures {
            let (service, endpoint) = (label(&figure, "service"), label(&figure, "endpoint"));
            if figure.metric.starts_with("host_") {
                let name = if endpoint.is_empty() { service } else { endpoint };
                let host = hosts.entry(name.clone());
                host.or_insert_with(|| HostFigures { name, ..HostFigures::default() }).take(&figure);
            } else {
                let process = processes.entry((service.clone(), endpoint.clone()));
                let process = process.or_insert_with(|| ProcessFigures {
                    service,
                    endpoint,
                    ..ProcessFigures::default()
                });
                process.take(&figure, now_s);
            }
        }
        Self {
            collected_at: rfc3339(at),
            hosts: hosts.into_values().collect(),
            processes: processes.into_values().collect(),
        }
    }
}

impl HostFigures {
    fn take(&mut self, figure: &Figure) {
        let value = Some(figure.value);
        match figure.metric.as_str() {
            "host_cpu_used_ratio" => self.cpu_used_ratio = value,
            "host_memory_used_ratio" => self.memory_used_ratio = value,
            "host_fds_used_ratio" => self.fds_used_ratio = value,
            "host_load1" => self.load1 = value,
            "host_disk_used_ratio" => {
                self.disks.insert(label(figure, "mount"), figure.value);
            }
            "host_pressure_ratio" => {
                self.pressure.insert(label(figure, "resource"), figure.value);
            }
            "host_network_receive_bytes_total" => {
                self.device(figure).received_bytes_per_second = figure.per_second;
            }
            "host_network_transmit_bytes_total" => {
                self.device(figure).sent_bytes_per_second = figure.per_second;
            }
            _ => {}
        }
    }

    fn device(&mut self, figure: &Figure) -> &mut NetworkFigures {
        self.network.entry(label(figure, "device")).or_default()
    }
}

impl ProcessFigures {
    fn take(&mut self, figure: &Figure, now_s: Option<f64>) {
        match figure.metric.as_str() {
            "mainstay_process_start_time_seconds" => {
                self.uptime_seconds = now_s.map(|now_s| (now_s - figure.value).max(0.0).floor());
            }
            "mainstay_process_cpu_seconds_total" => self.cpu_cores = figure.per_second,
            "mainstay_process_resident_bytes" => self.resident_bytes = Some(figure.value),
            "mainstay_process_open_fds" => self.open_fds = Some(figure.value),
            _ => {}
        }
    }
}

fn label(figure: &Figure, name: &str) -> String {
    figure.labels.get(name).cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(metric: &str, labels: &[(&str, &str)], value: f64, per_second: Option<f64>) -> Figure {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Figure { metric: metric.to_owned(), labels, value, per_second }
    }

    #[test]
    fn every_metric_that_is_asked_for_has_its_place() {
        let labels =
            [("service", "s"), ("endpoint", "e"), ("mount", "/"), ("device", "lo"), ("resource", "io")];
        let figures = METRICS.iter().map(|metric| figure(metric, &labels, 7.0, Some(3.0))).collect();
        let at = Some(prost_types::Timestamp { seconds: 10, nanos: 0 });
        let told = serde_json::to_value(SystemMetrics::from(Figures { at, figures })).unwrap();
        assert_eq!(
            told,
            serde_json::json!({
                "collectedAt": "1970-01-01T00:00:10.000Z",
                "hosts": [{
                    "name": "e", "cpuUsedRatio": 7.0, "memoryUsedRatio": 7.0, "fdsUsedRatio": 7.0, "load1": 7.0,
                    "disks": { "/": 7.0 }, "pressure": { "io": 7.0 },
                    "network": { "lo": { "receivedBytesPerSecond": 3.0, "sentBytesPerSecond": 3.0 } },
                }],
                "processes": [{
                    "service": "s", "endpoint": "e", "uptimeSeconds": 3.0, "cpuCores": 3.0,
                    "residentBytes": 7.0, "openFds": 7.0,
                }],
            })
        );
    }

    #[test]
    fn hosts_and_processes_are_told_apart() {
        let of = |service, endpoint| [("service", service), ("endpoint", endpoint)];
        let figures = vec![
            figure("host_load1", &of("host", "a"), 1.0, None),
            figure("host_load1", &of("host", "b"), 2.0, None),
            figure("mainstay_process_open_fds", &of("cache-service", "x"), 3.0, None),
            figure("mainstay_process_open_fds", &of("cache-service", "y"), 4.0, None),
        ];
        let told = SystemMetrics::from(Figures { at: None, figures });
        assert_eq!(told.hosts.iter().map(|host| host.load1).collect::<Vec<_>>(), [Some(1.0), Some(2.0)]);
        let fds: Vec<_> =
            told.processes.iter().map(|process| (process.endpoint.as_str(), process.open_fds)).collect();
        assert_eq!(fds, [("x", Some(3.0)), ("y", Some(4.0))]);
        assert!(told.collected_at.is_none() && told.processes[0].uptime_seconds.is_none());
    }
}
