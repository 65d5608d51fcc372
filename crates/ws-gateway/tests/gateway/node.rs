//! A gateway in this process, and its gRPC side.

use std::net::SocketAddr;
use std::time::Duration;

use mainstay_auth::jwt::{Claims, sign_hs256};
use mainstay_proto::realtime::v1::realtime_service_client::RealtimeServiceClient;
use mainstay_proto::realtime::v1::{self, Node as NodeState, NodesRequest, PublishRequest};
use mainstay_rpc::{Call, Failure, Lane, Upstream, UpstreamConfig};
use mainstay_runtime::{Context, Secret};
use tokio::time::{Instant, sleep};
use ws_gateway::{AuthConfig, GatewayConfig, WebSocketConfig};

pub(crate) const SECRET: &str = "a secret of at least thirty-two bytes";

/// Longest wait for anything to become true.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

pub(crate) struct Node {
    pub(crate) cx: Context,
    pub(crate) websocket: SocketAddr,
    pub(crate) upstream: Upstream,
}

/// Free ports, and a secret to sign tokens with.
pub(crate) fn config() -> GatewayConfig {
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    GatewayConfig {
        websocket: WebSocketConfig { listen: any_port, ..WebSocketConfig::default() },
        auth: AuthConfig { jwt_secret: Secret::from(SECRET), ..AuthConfig::default() },
        ..GatewayConfig::default()
    }
}

pub(crate) fn token(claims: &Claims) -> String {
    sign_hs256(claims, SECRET.as_bytes()).unwrap()
}

pub(crate) fn now_unix_s() -> u64 {
    mainstay_runtime::Clock::system().unix_s()
}

pub(crate) fn user(sub: &str) -> Claims {
    Claims { sub: sub.to_owned(), exp: Some(4_000_000_000), ..Claims::default() }
}

impl Node {
    pub(crate) async fn start(config: GatewayConfig) -> Self {
        Self::start_in(Context::for_test("ws-gateway"), config).await
    }

    pub(crate) async fn start_in(cx: Context, config: GatewayConfig) -> Self {
        ws_gateway::start(cx.clone(), config).await.unwrap();
        let address = |name| cx.listening().into_iter().find(|port| port.name == name).unwrap().address;
        let (websocket, internal) = (address("websocket"), address("internal"));
        let config = UpstreamConfig {
            endpoints: vec![format!("http://{internal}")].into(),
            ..UpstreamConfig::default()
        };
        let upstream = Upstream::try_new("ws-gateway", &config).unwrap();
        Self { cx, websocket, upstream }
    }

    pub(crate) async fn publish(&self, channel: &str, data: &str) -> Result<u64, Failure> {
        let request = PublishRequest {
            channel: channel.to_owned(),
            data: data.to_owned().into(),
            ..PublishRequest::default()
        };
        Ok(self
            .grpc("Publish", request, async |mut api, request| api.publish(request).await)
            .await?
            .receivers)
    }

    pub(crate) async fn state(&self) -> NodeState {
        let answer =
            self.grpc("Nodes", NodesRequest {}, async |mut api, request| api.nodes(request).await).await;
        // The one that is asked comes first.
        answer.unwrap().nodes.swap_remove(0)
    }

    pub(crate) async fn connections(&self, user: &str, channel: &str) -> v1::ConnectionsResponse {
        let request = v1::ConnectionsRequest { user: user.to_owned(), channel: channel.to_owned(), limit: 0 };
        self.grpc("Connections", request, async |mut api, request| api.connections(request).await)
            .await
            .unwrap()
    }

    /// Sends one request to the internal port.
    pub(crate) async fn grpc<T, R, Fut>(
        &self,
        method: &str,
        request: T,
        send: impl Fn(RealtimeServiceClient<Lane>, T) -> Fut,
    ) -> Result<R, Failure>
    where
        T: Clone,
        Fut: Future<Output = Result<mainstay_rpc::Response<R>, mainstay_rpc::Status>>,
    {
        let call = match method {
            "Publish" => Call::write("mainstay.realtime.v1.RealtimeService/Publish"),
            _ => Call::read("mainstay.realtime.v1.RealtimeService/Read"),
        };
        self.upstream.call(call, |lane| send(RealtimeServiceClient::new(lane), request.clone())).await
    }

    pub(crate) fn metrics(&self) -> String {
        self.cx.openmetrics()
    }

    /// Waits until the node's own figures satisfy a condition.
    pub(crate) async fn wait_for(&self, what: &str, condition: impl Fn(&NodeState) -> bool) -> NodeState {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let state = self.state().await;
            if condition(&state) {
                return state;
            }
            assert!(Instant::now() < deadline, "{what} did not happen; last state: {state:?}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until nobody is left in the hub.
    pub(crate) async fn wait_until_empty(&self) {
        self.wait_for("an empty hub", |node| {
            (node.connections, node.users, node.channels, node.subscriptions) == (0, 0, 0, 0)
        })
        .await;
    }
}
