//! Targets that can fall ill and vanish, a monitor that watches them, and bounded waits.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use mainstay_proto::monitor::v1 as pb;
use mainstay_proto::monitor::v1::monitor_service_client::MonitorServiceClient;
use mainstay_rpc::{Call, Caller, Failure, Routes, Upstream, UpstreamConfig};
use mainstay_runtime::{Clock, Context};
use monitor_service::Config;
use monitor_service::config::TargetConfig;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep};

/// A service in this process, reached through a door that can be shut.
pub(crate) struct TargetService {
    pub(crate) cx: Context,
    door: Door,
}

/// Forwards one port to another, or holds what comes, or is closed.
pub(crate) struct Door {
    address: SocketAddr,
    to: SocketAddr,
    forwarding: Option<JoinHandle<()>>,
}

impl TargetService {
    pub(crate) async fn start(service: &'static str) -> Self {
        Self::start_at(service, Clock::system()).await
    }

    /// Starts one that goes by this clock.
    pub(crate) async fn start_at(service: &'static str, clock: Clock) -> Self {
        Self::start_behind(service, clock, SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    /// Starts one that is reached at this address.
    pub(crate) async fn start_on(service: &'static str, address: SocketAddr) -> Self {
        Self::start_behind(service, Clock::system(), address).await
    }

    async fn start_behind(service: &'static str, clock: Clock, address: SocketAddr) -> Self {
        let cx = Context::for_test_at(service, clock);
        cx.serve(Routes::default()).await.expect("a free port of loopback is there");
        let mut door = Door { address, to: cx.listening()[0].address, forwarding: None };
        door.open().await;
        Self { cx, door }
    }

    /// Refuses connections and cuts those there are.
    pub(crate) async fn vanish(&mut self) {
        self.door.shut().await;
    }

    /// Is there again, at the same address.
    pub(crate) async fn come_back(&mut self) {
        self.door.shut().await;
        self.door.open().await;
    }

    /// Accepts connections and never says a word.
    pub(crate) async fn hang(&mut self) {
        self.door.shut().await;
        self.door.hold().await;
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.door.address
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.door.address)
    }
}

impl Door {
    async fn open(&mut self) {
        let (listener, to) = (self.bind().await, self.to);
        self.forwarding = Some(spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut inbound, _)) = listener.accept().await {
                connections.spawn(async move {
                    let Ok(mut outbound) = TcpStream::connect(to).await else { return };
                    // Either side may end it at any time: that is what the door is for.
                    let _ = copy_bidirectional(&mut inbound, &mut outbound).await;
                });
            }
        }));
    }

    async fn hold(&mut self) {
        let listener = self.bind().await;
        self.forwarding = Some(spawn(async move {
            let mut held = Vec::new();
            while let Ok((connection, _)) = listener.accept().await {
                held.push(connection);
            }
        }));
    }

    async fn shut(&mut self) {
        if let Some(forwarding) = self.forwarding.take() {
            forwarding.abort();
            let ended = forwarding.await;
            assert!(ended.is_err_and(|error| error.is_cancelled()), "the door broke by itself");
        }
    }

    async fn bind(&mut self) -> TcpListener {
        let listener = TcpListener::bind(self.address).await.expect("the port is ours");
        self.address = listener.local_addr().expect("a bound port has an address");
        listener
    }
}

#[expect(clippy::disallowed_methods, reason = "the handle is kept and joined by the door")]
fn spawn(task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    tokio::spawn(task)
}

/// A task that ends with its owner.
pub(crate) struct Spawned(JoinHandle<()>);

impl Spawned {
    pub(crate) fn new(task: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(spawn(task))
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Finds a port of loopback that nobody uses now.
pub(crate) fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port is there");
    listener.local_addr().expect("a bound port has an address")
}

/// A running monitor and a client of it.
pub(crate) struct Watcher {
    pub(crate) cx: Context,
    pub(crate) upstream: Upstream,
}

impl Watcher {
    pub(crate) async fn start(config: Config) -> Self {
        Self::start_at(config, Clock::system()).await
    }

    /// Starts one that goes by this clock.
    pub(crate) async fn start_at(config: Config, clock: Clock) -> Self {
        let cx = Context::for_test_at("monitor-service", clock);
        monitor_service::start(cx.clone(), config).await.expect("the monitor starts");
        let endpoint = format!("http://{}", cx.listening()[0].address);
        let upstream =
            Upstream::try_new("monitor", &UpstreamConfig::of([endpoint])).expect("the endpoint is legal");
        Self { cx, upstream }
    }

    pub(crate) async fn alerts(&self) -> Vec<pb::Alert> {
        let call = Call::read("mainstay.monitor.v1.MonitorService/ListAlerts");
        let list = |lane| async move {
            MonitorServiceClient::new(lane).list_alerts(pb::ListAlertsRequest::default()).await
        };
        self.upstream.call(call, list).await.expect("alerts are listed").alerts
    }

    pub(crate) async fn overview(&self) -> pb::OverviewResponse {
        let call = Call::read("mainstay.monitor.v1.MonitorService/Overview");
        let get =
            |lane| async move { MonitorServiceClient::new(lane).overview(pb::OverviewRequest {}).await };
        self.upstream.call(call, get).await.expect("the overview is there")
    }

    pub(crate) async fn acknowledge(
        &self,
        id: &str,
        comment: &str,
        by: Option<&str>,
    ) -> Result<pb::Alert, Failure> {
        let by = by.map(|subject| Caller {
            subject: subject.to_owned(),
            role: "operator".to_owned(),
            scopes: Vec::new(),
        });
        let call = Call::write("mainstay.monitor.v1.MonitorService/AcknowledgeAlert").by(by);
        let request = pb::AcknowledgeAlertRequest {
            alert_id: id.to_owned(),
            comment: comment.to_owned(),
            ..Default::default()
        };
        let send = |lane| {
            let request = request.clone();
            async move { MonitorServiceClient::new(lane).acknowledge_alert(request).await }
        };
        let answer = self.upstream.call(call, send).await?;
        Ok(answer.alert.expect("the answer has the alert"))
    }

    /// Waits until an alert of this rule is in this state.
    pub(crate) async fn alert(&self, rule: &str, state: pb::AlertState, within: Duration) -> pb::Alert {
        wait_for(within, async || {
            let alerts = self.alerts().await;
            let found = alerts.iter().find(|alert| alert.rule == rule && alert.state() == state).cloned();
            found.ok_or_else(|| format!("no {rule} in state {state:?} among {alerts:?}"))
        })
        .await
    }

    pub(crate) async fn range(&self, metric: &str) -> pb::QueryRangeResponse {
        let request = pb::QueryRangeRequest { metric: metric.to_owned(), ..pb::QueryRangeRequest::default() };
        let mut client = self.client();
        client.query_range(request).await.expect("the range is legal").into_inner()
    }

    pub(crate) async fn alert_events(&self, alert: &str) -> Vec<pb::AlertEvent> {
        let request = pb::ListAlertEventsRequest { alert_id: alert.to_owned(), ..Default::default() };
        self.client().list_alert_events(request).await.expect("events are listed").into_inner().events
    }

    pub(crate) async fn rules(&self) -> Vec<pb::RuleStatus> {
        self.client().list_rules(pb::ListRulesRequest {}).await.expect("rules are listed").into_inner().rules
    }

    pub(crate) async fn put_rule(
        &self,
        rule: pb::Rule,
        dry_run: bool,
    ) -> Result<pb::PutRuleResponse, Failure> {
        let request = pb::PutRuleRequest { rule: Some(rule), dry_run };
        Ok(self.client().put_rule(request).await?.into_inner())
    }

    pub(crate) async fn import_rules(
        &self,
        text: &str,
        dry_run: bool,
    ) -> Result<pb::ImportRulesResponse, Failure> {
        let request = pb::ImportRulesRequest { text: text.to_owned(), dry_run };
        Ok(self.client().import_rules(request).await?.into_inner())
    }

    pub(crate) async fn delete_rule(&self, name: &str) -> Result<(), Failure> {
        self.client().delete_rule(pb::DeleteRuleRequest { name: name.to_owned() }).await?;
        Ok(())
    }

    pub(crate) async fn silence(
        &self,
        matchers: &[(&str, &str)],
        comment: &str,
    ) -> Result<pb::Silence, Failure> {
        let matchers =
            matchers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let duration = Some(prost_types::Duration { seconds: 600, nanos: 0 });
        let request = pb::CreateSilenceRequest {
            matchers,
            duration,
            comment: comment.to_owned(),
            ..Default::default()
        };
        Ok(self.client().create_silence(request).await?.into_inner().silence.expect("the answer has it"))
    }

    pub(crate) async fn end_silence(&self, id: &str) -> Result<(), Failure> {
        self.client().delete_silence(pb::DeleteSilenceRequest { id: id.to_owned() }).await?;
        Ok(())
    }

    pub(crate) async fn silences(&self) -> Vec<pb::Silence> {
        let answer = self.client().list_silences(pb::ListSilencesRequest {}).await;
        answer.expect("silences are listed").into_inner().silences
    }

    pub(crate) async fn channels(&self) -> Vec<pb::Channel> {
        let answer = self.client().list_channels(pb::ListChannelsRequest {}).await;
        answer.expect("channels are listed").into_inner().channels
    }

    pub(crate) async fn test_channel(&self, name: &str) -> Result<(), Failure> {
        self.client().test_channel(pb::TestChannelRequest { name: name.to_owned() }).await?;
        Ok(())
    }

    fn client(&self) -> MonitorServiceClient<tonic::transport::Channel> {
        let address = self.cx.listening()[0].address;
        let endpoint =
            tonic::transport::Endpoint::new(format!("http://{address}")).expect("the endpoint is legal");
        MonitorServiceClient::new(endpoint.connect_lazy())
    }

    /// Waits until every target has answered.
    pub(crate) async fn all_answer(&self) {
        wait_for(PATIENCE, async || {
            let instances = self.overview().await.instances;
            let silent: Vec<_> = instances.iter().filter(|instance| !instance.ready).collect();
            if silent.is_empty() { Ok(()) } else { Err(format!("{silent:?}")) }
        })
        .await;
    }
}

/// Far more than anything takes when the machine is busy; a test that needs it all is about to fail.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// Watches these targets, some times as fast as by default; a busy machine must not look like a dead target.
pub(crate) fn quick(targets: &[(&str, &TargetService)]) -> Config {
    let mut config = watching(targets);
    config.collect.every = Duration::from_millis(200);
    config.collect.within = Duration::from_millis(200);
    config.alerts.unhealthy_for = Duration::from_millis(200);
    config.alerts.missing_for = Duration::from_secs(1);
    config.alerts.clear_for = Duration::from_millis(200);
    config.alerts.evaluate_every = Duration::from_millis(50);
    // How busy this machine is says nothing about the monitor.
    config.host.enabled = false;
    config
}

/// Watches these targets with the default times.
pub(crate) fn watching(targets: &[(&str, &TargetService)]) -> Config {
    let mut config = Config::default();
    config.targets.clear();
    for (service, target) in targets {
        let section: &mut TargetConfig = config.targets.entry((*service).to_owned()).or_default();
        section.endpoints = section.endpoints.iter().cloned().chain([target.endpoint()]).collect();
    }
    config
}

/// Asks again and again until the answer is yes; after `within` it fails with the last no.
pub(crate) async fn wait_for<T>(within: Duration, mut ask: impl AsyncFnMut() -> Result<T, String>) -> T {
    let until = Instant::now() + within;
    loop {
        match ask().await {
            Ok(found) => return found,
            Err(last) => assert!(Instant::now() < until, "waited {within:?}; last seen: {last}"),
        }
        sleep(Duration::from_millis(20)).await;
    }
}
