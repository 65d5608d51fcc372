//! A running stack, and the one that all tests of a binary share.

use std::net::SocketAddr;

use mainstay_auth::Role;
use mainstay_auth::jwt::{Claims, sign_hs256};
use mainstay_devstack::{Builder, Devstack, Service};
use tokio::sync::OnceCell;

use crate::binaries::bin_dir;
use crate::{Centrifuge, OtlpReceiver, Rest, eventually};

/// A running stack with the ways in that a user has.
pub struct House {
    stack: Devstack,
    /// Receives the spans of all services; only where the house was asked for it.
    pub traces: Option<OtlpReceiver>,
}

impl House {
    /// Starts what the builder names; the services come from the folder in which the tests were built.
    pub async fn start(builder: Builder) -> Self {
        Self { stack: start(builder).await, traces: None }
    }

    /// Starts everything, with an OTLP receiver behind it.
    pub async fn whole() -> Self {
        let traces = OtlpReceiver::start();
        let builder = Devstack::builder()
            .redis(true)
            .postgres(true)
            .pgbouncer(true)
            .demo_data(true)
            .services(Service::ALL)
            .otlp_endpoint(traces.endpoint())
            .env(Service::CacheService, "MAINSTAY__NAMESPACES__REDIS_ONLY__MEMORY", "false")
            .env(Service::WsGateway, "MAINSTAY__CHANNELS__NAMESPACES__KEPT__HISTORY_SIZE", "100")
            .env(Service::ReplicaService, "MAINSTAY__STATEMENTS__ONLY_NAMED_FOR", "e2e-only-names")
            .env(
                Service::ReplicaService,
                "MAINSTAY__STATEMENTS__NAMED__NEXT__SQL",
                "select $1::int8 + 1 as next",
            )
            .env(Service::ReplicaService, "MAINSTAY__STATEMENTS__NAMED__NEXT__TTL", "1m")
            .env(Service::ReplicaService, "MAINSTAY__STATEMENTS__NAMED__NOTE__SQL", NOTE)
            .env(Service::ReplicaService, "MAINSTAY__STATEMENTS__NAMED__NOTE__KIND", "execute");
        let house = Self { stack: start(builder).await, traces: Some(traces) };
        house.healthy().await;
        house
    }

    /// Waits until every service and all it stands on is healthy; a replica must first prove how fresh it is.
    pub async fn healthy(&self) {
        let rest = self.anonymous();
        eventually("the house to be healthy", || async {
            let status = rest.get("/health/status").await.ok();
            if status["status"] == "healthy" { Ok(()) } else { Err(status["reasons"].to_string()) }
        })
        .await;
    }

    pub fn stack(&self) -> &Devstack {
        &self.stack
    }

    /// Opens a REST client with the stack's key for `role`.
    pub fn rest(&self, role: Role) -> Rest {
        let keys = &self.stack.credentials().api_keys;
        let key = match role {
            Role::Admin => &keys.admin,
            Role::Operator => &keys.operator,
            Role::Viewer => &keys.viewer,
        };
        Rest::new(self.edge()).with_api_key(key)
    }

    /// Opens a REST client without credentials.
    pub fn anonymous(&self) -> Rest {
        Rest::new(self.edge())
    }

    pub fn edge(&self) -> SocketAddr {
        self.stack.edge().expect("the house has an edge")
    }

    /// Signs a token as a backend of a user would.
    pub fn token(&self, claims: &Claims) -> String {
        sign_hs256(claims, self.stack.credentials().jwt_secret.as_bytes()).expect("claims can be signed")
    }

    /// Connects a WebSocket client as `user`.
    pub async fn websocket(&self, user: &str) -> Centrifuge {
        let exp = Some(unix_s() + 600);
        let token = self.token(&Claims { sub: user.to_owned(), exp, ..Claims::default() });
        let address = self.stack.websocket().expect("the house has a gateway");
        Centrifuge::connect(address, Some(&token)).await.expect("a good token connects")
    }
}

async fn start(builder: Builder) -> Devstack {
    match builder.bin_dir(bin_dir()).start().await {
        Ok(stack) => stack,
        Err(error) => panic!("the stack does not start: {}", mainstay_devstack::chain(&error)),
    }
}

/// A statement that writes; the table is made by the test.
const NOTE: &str = "insert into e2e_notes values ($1)";

/// Seconds since 1970.
pub fn unix_s() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.expect("the clock is past 1970").as_secs()
}

/// Gives the whole stack that every test of this binary shares; nobody may break it.
pub async fn shared() -> &'static House {
    static HOUSE: OnceCell<House> = OnceCell::const_new();
    HOUSE.get_or_init(House::whole).await
}
