//! Instances that DNS names, with a server that the test answers for, and services on several addresses of loopback.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mainstay_proto::common::v1::Health;
use mainstay_proto::introspect::v1 as introspect;
use mainstay_proto::introspect::v1::introspection_client::IntrospectionClient;
use mainstay_proto::monitor::v1 as pb;
use mainstay_rpc::Call;
use monitor_service::Config;
use monitor_service::config::TargetConfig;
use parking_lot::Mutex;
use tokio::net::UdpSocket;

use crate::harness::{Spawned, TargetService, Watcher, quick, wait_for};

/// Far more than anything takes; a wait ends as soon as there is what is waited for.
const PATIENCE: Duration = Duration::from_mins(3);
const NAME: &str = "cache.mainstay.test";

/// The name of a service, by RFC 2782, and what the names of its places end with.
const SERVICE: &str = "_grpc._tcp.mainstay.test";
const PLACE: &str = "place.mainstay.test";

/// Answers for one name, over UDP, and for a service whose places are called `N.place.mainstay.test` and have 127.0.0.N; all
/// others do not exist.
struct Dns {
    address: SocketAddr,
    addresses: Arc<Mutex<BTreeSet<Ipv4Addr>>>,
    places: Arc<Mutex<BTreeSet<(u8, u16)>>>,
    /// Places whose names do not exist.
    nameless: Arc<Mutex<BTreeSet<u8>>>,
    server: Option<Spawned>,
}

impl Dns {
    async fn start() -> Self {
        let socket = UdpSocket::bind(("127.0.0.1", 0)).await.expect("a port is free");
        let address = socket.local_addr().expect("bound");
        let addresses: Arc<Mutex<BTreeSet<Ipv4Addr>>> = Arc::default();
        let places: Arc<Mutex<BTreeSet<(u8, u16)>>> = Arc::default();
        let nameless: Arc<Mutex<BTreeSet<u8>>> = Arc::default();
        let (of_server, its_places) = (Arc::clone(&addresses), Arc::clone(&places));
        let its_nameless = Arc::clone(&nameless);
        let server = Spawned::new(async move {
            let mut question = [0; 512];
            while let Ok((n, from)) = socket.recv_from(&mut question).await {
                let question = &question[..n];
                let service = of_service(question, &its_places.lock(), &its_nameless.lock());
                let answer = service.unwrap_or_else(|| answer(question, &of_server.lock()));
                // Who asked may be gone.
                let _ = socket.send_to(&answer, from).await;
            }
        });
        Self { address, addresses, places, nameless, server: Some(server) }
    }

    fn names(&self, last: &[u8]) {
        *self.addresses.lock() = last.iter().map(|last| Ipv4Addr::new(127, 0, 0, *last)).collect();
    }
}

fn labels(name: &str) -> Vec<u8> {
    name.split('.').flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat()).collect()
}

/// Writes what is known of the service, or of one of its places; none of other names.
fn of_service(question: &[u8], places: &BTreeSet<(u8, u16)>, nameless: &BTreeSet<u8>) -> Option<Vec<u8>> {
    let kind = question[question.len() - 4..question.len() - 2].to_vec();
    let mut text = question.to_vec();
    (text[2], text[3]) = (0x81, 0x80);
    let mut add = |kind: u8, data: &[u8]| {
        text[7] += 1;
        text.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 1, 0, data.len() as u8]);
        text.extend(data);
    };
    if question[12..].starts_with(&labels(SERVICE)) {
        for (place, port) in places.iter().filter(|_| kind == [0, 33]) {
            let name = [labels(&format!("{place}.{PLACE}")), vec![0]].concat();
            add(33, &[&[0, 1, 0, 1][..], &port.to_be_bytes(), &name].concat());
        }
        return Some(text);
    }
    let asked =
        places.iter().find(|(place, _)| question[12..].starts_with(&labels(&format!("{place}.{PLACE}"))))?;
    if nameless.contains(&asked.0) {
        text[3] = 0x83;
    } else if kind == [0, 1] {
        add(1, &[127, 0, 0, asked.0]);
    }
    Some(text)
}

/// Writes an answer as RFC 1035 has it: the question again, and a record for each address, with a pointer to its name.
fn answer(question: &[u8], addresses: &BTreeSet<Ipv4Addr>) -> Vec<u8> {
    let is_known = question[12..].starts_with(&labels(NAME));
    let is_v4 = question[question.len() - 4..question.len() - 2] == [0, 1];
    let mut text = question.to_vec();
    (text[2], text[3]) = (0x81, if is_known { 0x80 } else { 0x83 });
    if is_known && is_v4 {
        text[7] = addresses.len() as u8;
        for address in addresses {
            text.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
            text.extend(address.octets());
        }
    }
    text
}

/// Lists the last number of the address of each instance, and whether it answers.
async fn instances(watcher: &Watcher) -> Vec<(u8, bool)> {
    let instances = watcher.overview().await.instances;
    let of = |instance: &pb::Instance| {
        let address = instance.address.trim_start_matches("http://");
        let address: SocketAddr = address.parse().expect("no name any more");
        let SocketAddr::V4(address) = address else { panic!("of the fourth version") };
        (address.ip().octets()[3], instance.ready)
    };
    let mut all: Vec<(u8, bool)> = instances.iter().map(of).collect();
    all.sort_unstable();
    all
}

async fn instances_are(watcher: &Watcher, expected: &[(u8, bool)]) {
    wait_for(PATIENCE, async || {
        let found = instances(watcher).await;
        if found == expected { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

/// Waits until the alert that an instance is down is in this state.
async fn down_alert(watcher: &Watcher, at: SocketAddr, state: pb::AlertState) {
    wait_for(PATIENCE, async || {
        let alerts = watcher.alerts().await;
        let of_it = |alert: &pb::Alert| {
            alert.rule == "instance_down" && alert.labels.get("endpoint") == Some(&format!("http://{at}"))
        };
        let found = alerts.iter().any(|alert| of_it(alert) && alert.state() == state);
        if found { Ok(()) } else { Err(format!("{alerts:?}")) }
    })
    .await;
}

/// Waits until so many are in DNS, by the monitor's own figure.
async fn in_dns(watcher: &Watcher, n: usize) {
    let address = watcher.cx.listening()[0].address;
    wait_for(PATIENCE, async || {
        let answer = mainstay_devstack::http_get(address, "/metrics", Duration::from_secs(5)).await;
        let (_, text) = answer.map_err(|error| format!("{error:?}"))?;
        let line = text.lines().find(|line| line.starts_with("mainstay_monitor_dns_instances{"));
        if line.is_some_and(|line| line.ends_with(&format!(" {n}"))) {
            Ok(())
        } else {
            Err(format!("{line:?}"))
        }
    })
    .await;
}

/// Waits until the component that stands for the names tells of trouble with these words.
async fn names_trouble(watcher: &Watcher, words: &[&str]) {
    wait_for(PATIENCE, async || {
        let call = Call::read("mainstay.introspect.v1.Introspection/Components");
        let list = |lane| async move {
            IntrospectionClient::new(lane).components(introspect::ComponentsRequest {}).await
        };
        let all = watcher.upstream.call(call, list).await.expect("it tells").components;
        let names =
            all.into_iter().find(|component| component.name == "dns.cache-service").expect("it is there");
        let is_told = words.iter().all(|words| names.detail.contains(words));
        if names.health() == Health::Degraded && is_told { Ok(()) } else { Err(format!("{names:?}")) }
    })
    .await;
}

fn watching(dns: &Dns, port: u16) -> Config {
    let mut config = quick(&[]);
    let endpoints = vec![format!("http://{NAME}:{port}")].into();
    config
        .targets
        .insert("cache-service".to_owned(), TargetConfig { endpoints, dns: true, ..Default::default() });
    config.collect.dns_server = dns.address.to_string();
    config.collect.dns_every = Duration::from_millis(200);
    config.collect.dns_forget_after = Duration::from_secs(2);
    // A busy machine must not look like a dead target.
    (config.collect.every, config.collect.within) = (Duration::from_millis(500), Duration::from_millis(500));
    config.alerts.missing_for = Duration::from_secs(3);
    config
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_address_of_a_name_is_an_instance_that_comes_and_goes_with_dns() {
    let mut dns = Dns::start().await;
    let on = |last: u8, port: u16| SocketAddr::from(([127, 0, 0, last], port));
    let first = TargetService::start_on("cache-service", on(1, 0)).await;
    let port = first.address().port();
    let mut second = TargetService::start_on("cache-service", on(2, port)).await;
    let mut third = TargetService::start_on("cache-service", on(3, port)).await;
    dns.names(&[1, 2]);
    let watcher = Watcher::start(watching(&dns, port)).await;
    instances_are(&watcher, &[(1, true), (2, true)]).await;

    dns.names(&[1, 2, 3]);
    instances_are(&watcher, &[(1, true), (2, true), (3, true)]).await;
    // History grows by one too.
    wait_for(PATIENCE, async || {
        let n_series = watcher.range("up").await.series.len();
        if n_series == 3 { Ok(()) } else { Err(format!("{n_series}")) }
    })
    .await;

    // The second leaves DNS, and ends: nobody misses it, and it is forgotten.
    dns.names(&[1, 3]);
    in_dns(&watcher, 2).await;
    second.vanish().await;
    instances_are(&watcher, &[(1, true), (3, true)]).await;

    // The third ends, and is in DNS still.
    third.vanish().await;
    down_alert(&watcher, on(3, port), pb::AlertState::Firing).await;
    let of_second = format!("http://{}", on(2, port));
    let alerts = watcher.alerts().await;
    assert!(alerts.iter().all(|alert| alert.labels.get("endpoint") != Some(&of_second)), "{alerts:?}");

    // Without a server the known ones stay, and what is wrong with them is told.
    drop(dns.server.take());
    names_trouble(&watcher, &[]).await;
    assert_eq!(instances(&watcher).await, [(1, true), (3, false)]);
    third.come_back().await;
    down_alert(&watcher, on(3, port), pb::AlertState::Resolved).await;
    watcher.cx.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_place_of_a_service_is_an_instance_with_a_port_of_its_own() {
    let dns = Dns::start().await;
    let on = |last: u8| SocketAddr::from(([127, 0, 0, last], 0));
    let first = TargetService::start_on("cache-service", on(1)).await;
    let mut second = TargetService::start_on("cache-service", on(2)).await;
    let (at_first, at_second) = (first.address().port(), second.address().port());
    *dns.places.lock() = [(1, at_first), (2, at_second)].into();
    let mut config = watching(&dns, 0);
    let endpoints = vec![format!("http://{SERVICE}:0")].into();
    config.targets.entry("cache-service".to_owned()).or_default().endpoints = endpoints;
    let watcher = Watcher::start(config).await;
    instances_are(&watcher, &[(1, true), (2, true)]).await;
    let mut addresses: Vec<String> =
        watcher.overview().await.instances.into_iter().map(|instance| instance.address).collect();
    addresses.sort();
    assert_eq!(addresses, [first.endpoint(), second.endpoint()]);

    // One leaves, and nobody misses it; then there is none, which is no reason to forget the other.
    *dns.places.lock() = [(1, at_first)].into();
    in_dns(&watcher, 1).await;
    second.vanish().await;
    instances_are(&watcher, &[(1, true)]).await;
    dns.places.lock().clear();
    names_trouble(&watcher, &["it has no addresses"]).await;
    instances_are(&watcher, &[(1, true)]).await;
    watcher.cx.shut_down().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn place_without_a_name_is_told_of_and_keeps_no_other_from_being_watched() {
    let dns = Dns::start().await;
    let on = |last: u8| SocketAddr::from(([127, 0, 0, last], 0));
    let first = TargetService::start_on("cache-service", on(1)).await;
    let second = TargetService::start_on("cache-service", on(2)).await;
    let third = TargetService::start_on("cache-service", on(3)).await;
    let [at_first, at_second, at_third] = [&first, &second, &third].map(|target| target.address().port());
    *dns.places.lock() = [(1, at_first), (2, at_second)].into();
    dns.nameless.lock().insert(1);
    let mut config = watching(&dns, 0);
    let endpoints = vec![format!("http://{SERVICE}:0")].into();
    config.targets.entry("cache-service".to_owned()).or_default().endpoints = endpoints;
    let watcher = Watcher::start(config).await;
    instances_are(&watcher, &[(2, true)]).await;
    names_trouble(&watcher, &["addresses of 1.place.mainstay.test", "code 3"]).await;
    let address = watcher.cx.listening()[0].address;
    let answer = mainstay_devstack::http_get(address, "/metrics", Duration::from_secs(5)).await;
    let (_, text) = answer.expect("it tells");
    let partial = "mainstay_monitor_dns_lookups_total{service=\"cache-service\",result=\"partial\"}";
    assert!(text.contains(partial), "{text}");

    // The name of another one is lost: what it gave stays, and who is new comes nevertheless.
    *dns.nameless.lock() = [2].into();
    *dns.places.lock() = [(1, at_first), (2, at_second), (3, at_third)].into();
    instances_are(&watcher, &[(1, true), (2, true), (3, true)]).await;
    names_trouble(&watcher, &["addresses of 2.place.mainstay.test", "3 instances"]).await;
    in_dns(&watcher, 3).await;

    // The place is none any more, with a name or without.
    *dns.places.lock() = [(1, at_first), (3, at_third)].into();
    in_dns(&watcher, 2).await;
    watcher.cx.shut_down().await;
}
