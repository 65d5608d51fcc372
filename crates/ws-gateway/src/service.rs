//! Puts the gateway together.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use mainstay_auth::jwt::RotatingKeys;
use mainstay_proto::realtime::v1::realtime_feed_service_server::RealtimeFeedServiceServer;
use mainstay_proto::realtime::v1::realtime_journey_service_server::RealtimeJourneyServiceServer;
use mainstay_proto::realtime::v1::realtime_service_server::RealtimeServiceServer;
use mainstay_proto::realtime::v1::realtime_watch_service_server::RealtimeWatchServiceServer;
use mainstay_redis::{Redis, RedisMode, Watch};
use mainstay_rpc::{Routes, ServeOptions, server_tls};
use mainstay_runtime::{ComponentKind, Context, Schedule};
use socket2::SockRef;
use tokio::time::Instant;

use crate::backend::Backend;
use crate::broker::{Broker, Listener};
use crate::config::{GatewayConfig, bytes};
use crate::courier::Couriers;
use crate::door::{self, Door};
use crate::drain::Drain;
use crate::emulation::Emulation;
use crate::feed::{Outlet, Roster};
use crate::grpc::{NodeIdentity, RealtimeApi, WatchApi};
use crate::hub::{Hub, Limits};
use crate::mesh::{Herald, Untold};
use crate::metrics::Metrics;
use crate::namespace::Namespaces;
use crate::open_files;
use crate::session::Rules;

/// How often what is too old is looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// Starts the gateway: everything it needs is built here, in this order.
///
/// # Errors
/// Fails when a port is taken or a key of the configuration cannot be used.
pub async fn start(cx: Context, config: GatewayConfig) -> anyhow::Result<()> {
    // 1. The clients' port, before anything else: a taken port must be known at once.
    let listener = cx.bind("websocket", "websocket.listen", config.websocket.listen).await?;

    // What a client does not acknowledge is given up by the system when a WebSocket would be for a missing pong. An answer
    // over HTTP that nobody reads is held by nothing else. Sockets take the option over from the port.
    let silent_within = config.websocket.ping_every + config.websocket.pong_within;
    SockRef::from(&listener)
        .set_tcp_user_timeout(Some(silent_within))
        .context("websocket.listen: the port has no time limit for silent peers")?;

    // 2. Who may connect, and what they may do.
    let tls = server_tls(&config.websocket.tls).context("websocket.tls")?;
    let origins = config.websocket.origins()?;
    let namespaces = Arc::new(Namespaces::new(&config.channels));
    let rotating = RotatingKeys::default();
    let rules = Arc::new(rules(&cx, &config, Arc::clone(&namespaces), &rotating)?);
    if config.auth.jwks.is_configured() {
        mainstay_jwks::keep(&cx, &config.auth.jwks, rotating).context("auth.jwks")?;
    }
    if rules.verifier.is_none() && !rules.allow_anonymous {
        tracing::warn!(
            "no client can connect: set auth.jwt_secret, auth.jwt_public_keys, auth.jwks or auth.allow_anonymous"
        );
    }

    // 3. The hub. It lives in memory and depends on nobody.
    let hub = Hub::new(limits(&config), cx.clock().clone(), cx.metrics(Metrics::register));
    let component = cx.component("hub", ComponentKind::Internal, true);
    component.attribute("max_connections", hub.limits().max_connections.to_string());
    component.healthy("in memory");
    let swept_hub = Arc::clone(&hub);
    cx.background("history.sweep", Schedule::Every(SWEEP_EVERY), move || {
        swept_hub.sweep(Instant::now());
        std::future::ready(Ok(()))
    });

    for _ in 0..Couriers::useful() {
        let (hub, stopping) = (Arc::clone(&hub), cx.stopping());
        cx.spawn("courier", async move {
            hub.couriers().serve(&hub, stopping).await;
            Ok(())
        });
    }

    if let Some(backend) = Backend::try_new(&config.backend, hub.metrics().clone(), &cx).context("backend")? {
        hub.serve_by(Arc::new(backend));
    }

    // 4. What servers may ask, and what joins this node to others.
    let node = NodeIdentity {
        id: cx.identity().instance.clone(),
        endpoint: config.websocket.public_url.clone(),
        started_at: cx.started_at(),
        version: cx.identity().version.to_owned(),
    };
    let max_channel_bytes = config.channels.max_length;
    let history_limit = config.channels.history_limit;
    let per_second = config.drain.connections_per_second;
    let drain = Arc::new(Drain::new(Arc::clone(&hub), per_second, cx.stopping()));
    let max_message_bytes = config.websocket.max_message_bytes();
    let emulation =
        (config.websocket.fallbacks).then(|| Emulation::new(&cx.identity().instance, 2 * max_message_bytes));
    let redis = (config.redis.mode != RedisMode::None).then(|| Arc::new(Redis::new(&config.redis)));
    let outlet = Outlet {
        hub: Arc::clone(&hub),
        namespaces: Arc::clone(&namespaces),
        max_channel_bytes,
        max_data_bytes: max_message_bytes,
    };
    let feeds = Roster::new(&cx, &config, Arc::new(outlet), redis.clone());
    let api = Arc::new(RealtimeApi {
        hub: Arc::clone(&hub),
        namespaces,
        max_data_bytes: config.websocket.max_message_bytes(),
        max_channel_bytes,
        history_limit,
        node,
        drain: Arc::clone(&drain),
        emulation: emulation.clone(),
        feeds,
        stopping: cx.stopping(),
    });
    if let Some(redis) = redis {
        join_others(&cx, &config, &api, redis);
    }
    // They publish by the way that is there now.
    api.feeds.start(&config.feeds)?;

    // 5. At the end clients are sent away little by little; the other half of the grace is for their farewells.
    let window = config.server.grace / 2;
    cx.spawn("drain", async move {
        drain.run(window).await;
        Ok(())
    });

    // 6. The clients' door.
    let door = Arc::new(Door {
        cx: cx.clone(),
        hub: Arc::clone(&hub),
        rules,
        origins,
        max_message_bytes,
        emulation,
        body_within: config.websocket.header_within,
    });
    let options = ServeOptions {
        tls,
        max_connections: config.websocket.max_connections,
        header_within: config.websocket.header_within,
        ..ServeOptions::new("websocket")
    };
    cx.serve_http(listener, door::app(door), options);

    // 7. The servers' door.
    let watch_api = WatchApi { hub, node: api.node.id.clone(), stopping: cx.stopping() };
    let routes = Routes::new(RealtimeServiceServer::from_arc(Arc::clone(&api)))
        .add_service(RealtimeFeedServiceServer::from_arc(Arc::clone(&api)))
        .add_service(RealtimeJourneyServiceServer::from_arc(api));
    cx.serve(routes.add_service(RealtimeWatchServiceServer::new(watch_api))).await
}

/// Connects to Redis, and listens to it. The connections are made, and kept, in the background.
fn join_others(cx: &Context, config: &GatewayConfig, api: &Arc<RealtimeApi>, redis: Arc<Redis>) {
    let hub = &api.hub;
    // Clients stay connected without it, so it is not critical.
    if let Some(watch) = Watch::new(Arc::clone(&redis), &config.redis, cx, false) {
        redis.watched_by(cx.background("redis.watch", Schedule::EveryOrTrigger(Watch::EVERY), watch));
    }
    let within = config.redis.command_within;
    let broker = Broker::new(Arc::clone(hub), Arc::clone(&redis), within, &config.broker, cx.clone());
    hub.relay_by(&broker);
    let checking = Arc::clone(&broker);
    cx.background("broker.positions", Schedule::Every(config.broker.check_positions_every), move || {
        let broker = Arc::clone(&checking);
        async move {
            // A Redis that is away is the component's news.
            if let Err(error) = broker.check_positions().await {
                tracing::debug!(error = error.in_full(), "positions cannot be checked");
            }
            Ok(())
        }
    });
    for listener in Listener::all(&broker, api, &config.redis, cx) {
        cx.spawn("broker.listener", listener.run(cx.stopping()));
    }
    let (untold, attendance) = Untold::new(redis, hub.metrics().clone());
    let untold = Arc::new(untold);
    hub.tell_attendance(Arc::clone(&untold));
    for (partition, attendance) in attendance {
        let (broker, api, untold) = (Arc::clone(&broker), Arc::clone(api), Arc::clone(&untold));
        let herald = Herald::new(broker, api, untold, partition, config.broker.lease / 3);
        cx.spawn("mesh.herald", herald.run(attendance, cx.stopping()));
    }
}

fn rules(
    cx: &Context,
    config: &GatewayConfig,
    namespaces: Arc<Namespaces>,
    rotating: &RotatingKeys,
) -> anyhow::Result<Rules> {
    let websocket = &config.websocket;
    Ok(Rules {
        verifier: config.auth.verifier(rotating)?,
        allow_anonymous: config.auth.allow_anonymous,
        namespaces,
        personal_channels: config.channels.personal,
        max_channel_bytes: config.channels.max_length,
        max_channels: websocket.max_channels_per_client as usize,
        history_limit: config.channels.history_limit,
        rpc: config.backend.rpc,
        hooks: config.backend.hooks.clone(),
        asks_at_once: config.backend.max_in_flight_per_client,
        max_data_bytes: websocket.max_message_bytes(),
        rates: websocket.rates.clone(),
        ping_every: websocket.ping_every,
        pong_within: websocket.pong_within,
        connect_within: websocket.connect_within,
        refresh_within: websocket.refresh_within,
        version: format!("mainstay {}", cx.identity().version).into(),
    })
}

fn limits(config: &GatewayConfig) -> Limits {
    Limits {
        max_connections: open_files::make_room_for(config.websocket.max_connections) as usize,
        max_connections_per_user: config.websocket.max_connections_per_user as usize,
        max_connections_per_address: config.websocket.max_connections_per_address as usize,
        max_channels: config.websocket.max_channels_per_client as usize,
        outbox_bytes: config.websocket.outbox_bytes(),
        history_items: config.channels.history_limit,
        history_bytes: bytes(config.channels.history_memory),
        position_ttl: config.channels.position_ttl,
        idempotency_ttl: config.channels.idempotency_ttl,
        journey_bytes: bytes(config.journeys.memory),
    }
}
