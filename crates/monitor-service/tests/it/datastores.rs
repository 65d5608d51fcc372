//! Redis, Sentinel, PostgreSQL and PgBouncer, asked themselves: no service stands before them here.

use std::time::Duration;

use mainstay_devstack::{Devstack, MONITOR_ROLE};
use mainstay_proto::common::v1::Health;
use mainstay_proto::monitor::v1 as pb;
use monitor_service::config::DatastoreConfig;

use crate::harness::{Watcher, quick, wait_for};
use crate::secure::{Papers, SecureRedis};

/// Only for who speaks TLS.
const SECRET_DATABASE: &str = "only_over_tls";

/// Far more than anything takes; a wait ends as soon as there is what is waited for.
const PATIENCE: Duration = Duration::from_mins(3);

fn asking(addresses: Vec<String>, user: &str, password: &str) -> DatastoreConfig {
    DatastoreConfig {
        addresses: addresses.into(),
        every: Duration::from_secs(1),
        within: Duration::from_secs(1),
        user: user.to_owned(),
        password: password.into(),
        ..DatastoreConfig::default()
    }
}

/// Waits until the newest values of a metric, sorted, are these.
async fn values_are(watcher: &Watcher, metric: &str, expected: &[f64]) {
    wait_for(PATIENCE, async || {
        let series = watcher.range(metric).await.series;
        let mut values: Vec<f64> =
            series.iter().filter_map(|series| series.points.last().map(|point| point.last)).collect();
        values.sort_by(f64::total_cmp);
        if values == expected { Ok(()) } else { Err(format!("{metric} is {values:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stores_are_seen_where_no_service_tells_of_them() {
    let stack =
        Devstack::builder().redis(true).postgres(true).pgbouncer(true).start().await.expect("it starts");
    let (redis, postgres) = (stack.redis().expect("asked for"), stack.postgres().expect("asked for"));
    let monitor_password = stack.credentials().postgres_monitor_password.clone();
    let text = |address: std::net::SocketAddr| address.to_string();
    let servers: Vec<_> = redis.nodes().iter().map(|node| text(node.public_address())).collect();
    let sentinels: Vec<_> = redis.sentinel_addresses().iter().copied().map(text).collect();
    let nodes: Vec<_> = postgres.nodes().iter().map(|node| text(node.public_address())).collect();
    let bouncers: Vec<_> =
        postgres.nodes().iter().filter_map(|node| Some(text(node.bouncer()?.public_address()))).collect();
    assert_eq!((servers.len(), sentinels.len(), nodes.len(), bouncers.len()), (2, 3, 3, 3));

    let mut config = quick(&[]);
    let right = |addresses, user| asking(addresses, user, &monitor_password);
    let wrong = |address: &String, user| asking(vec![address.clone()], user, "wrong");
    config.redis.insert("redis-intruder".to_owned(), wrong(&servers[0], ""));
    config.redis.insert("redis-main".to_owned(), asking(servers, "", redis.password()));
    config.redis.insert("redis-sentinels".to_owned(), asking(sentinels, "", ""));
    config.postgres.insert("postgres-intruder".to_owned(), wrong(&nodes[0], MONITOR_ROLE));
    config.postgres.insert("postgres-main".to_owned(), right(nodes, MONITOR_ROLE));
    config.pgbouncer.insert("pgbouncer-main".to_owned(), right(bouncers, MONITOR_ROLE));

    let papers = Papers::new();
    let secure_redis = SecureRedis::start(&papers).await;
    papers.teach(postgres.first_primary(), SECRET_DATABASE).await;
    let secure_at = [text(secure_redis.address), text(postgres.first_primary().public_address())];
    for (name, ca) in [("secure", "ca.pem"), ("deceived", "other-ca.pem")] {
        let tls = papers.believing(ca);
        let of_redis = asking(vec![secure_at[0].clone()], "", "");
        config.redis.insert(format!("redis-{name}"), DatastoreConfig { tls: tls.clone(), ..of_redis });
        let database = SECRET_DATABASE.to_owned();
        let of_postgres = right(vec![secure_at[1].clone()], MONITOR_ROLE);
        config.postgres.insert(format!("postgres-{name}"), DatastoreConfig { tls, database, ..of_postgres });
    }
    config.redis.insert("redis-plain".to_owned(), asking(vec![secure_at[0].clone()], "", ""));
    let plain = right(vec![secure_at[1].clone()], MONITOR_ROLE);
    let database = SECRET_DATABASE.to_owned();
    config.postgres.insert("postgres-plain".to_owned(), DatastoreConfig { database, ..plain });
    let watcher = Watcher::start(config).await;

    // Two with a role, and the one that speaks TLS.
    values_are(&watcher, "redis_is_primary", &[0.0, 1.0, 1.0]).await;
    values_are(&watcher, "redis_replication_link_up", &[1.0]).await;
    values_are(&watcher, "redis_sentinel_primary_ok", &[1.0; 3]).await;
    values_are(&watcher, "redis_sentinel_replicas", &[1.0; 3]).await;
    values_are(&watcher, "postgres_is_primary", &[0.0, 0.0, 1.0, 1.0]).await;
    values_are(&watcher, "postgres_replication_link_up", &[1.0, 1.0]).await;
    values_are(&watcher, "postgres_max_connections", &[100.0; 4]).await;
    wait_for(PATIENCE, async || {
        let n_consoles = watcher.range("pgbouncer_clients").await.series.len();
        if n_consoles == 3 { Ok(()) } else { Err(format!("{n_consoles} consoles")) }
    })
    .await;
    let databases = watcher.range("postgres_commits_total").await.series;
    assert!(databases.iter().any(|series| series.labels["database"] == "postgres"), "{databases:?}");
    let pools = watcher.range("pgbouncer_clients_active").await.series;
    let consoles: std::collections::BTreeSet<_> =
        pools.iter().map(|series| series.labels["endpoint"].clone()).collect();
    assert_eq!(consoles.len(), 3, "{pools:?}");
    intruders_are_turned_away(&watcher).await;
    who_is_not_believed_is_told_nothing(&watcher).await;

    let victim = &postgres.first_replicas()[0];
    victim.kill().await.expect("it is ours");
    let address = format!("postgres://{}", victim.public_address());
    let alert_of_victim = async |state: pb::AlertState| {
        wait_for(PATIENCE, async || {
            let alerts = watcher.alerts().await;
            let of_victim = |alert: &&pb::Alert| {
                let endpoint = alert.labels.get("endpoint") == Some(&address);
                alert.rule == "instance_down" && endpoint && alert.state() == state
            };
            alerts.iter().find(of_victim).map(drop).ok_or_else(|| format!("{alerts:?}"))
        })
        .await;
    };
    alert_of_victim(pb::AlertState::Firing).await;
    victim.start().await.expect("it starts");
    alert_of_victim(pb::AlertState::Resolved).await;
    watcher.cx.shut_down().await;
    drop(secure_redis);
    stack.stop().await.expect("it stops");
}

/// Over TLS a store is asked only if its certificate is believed; and one that wants TLS is not asked without.
async fn who_is_not_believed_is_told_nothing(watcher: &Watcher) {
    for (name, health) in [
        ("redis-secure", Health::Healthy),
        ("postgres-secure", Health::Healthy),
        ("redis-deceived", Health::Unhealthy),
        ("postgres-deceived", Health::Unhealthy),
        ("redis-plain", Health::Unhealthy),
        ("postgres-plain", Health::Unhealthy),
    ] {
        wait_for(PATIENCE, async || {
            let instances = watcher.overview().await.instances;
            let found = instances.iter().find(|instance| instance.service == name).expect("it is watched");
            let is_told = !name.ends_with("deceived") || found.detail.contains("certificate");
            if found.health() == health && is_told { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .await;
    }
}

/// Who does not get in is told so, as the server says it.
async fn intruders_are_turned_away(watcher: &Watcher) {
    for (name, kind, reason) in
        [("redis-intruder", "redis", "refused: WRONGPASS"), ("postgres-intruder", "postgres", "28P01")]
    {
        wait_for(PATIENCE, async || {
            let instances = watcher.overview().await.instances;
            let found = instances.iter().find(|instance| instance.service == name).expect("it is watched");
            let is_told = found.health() == Health::Unhealthy && found.detail.contains(reason);
            if is_told && found.kind == kind { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .await;
    }
    let instances = watcher.overview().await.instances;
    let main = instances.iter().filter(|instance| instance.service.ends_with("-main"));
    assert!(main.clone().all(|instance| !instance.version.is_empty()), "{instances:?}");
}
