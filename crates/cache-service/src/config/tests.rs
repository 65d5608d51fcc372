use std::time::Duration;

use super::*;

fn problems(change: impl FnOnce(&mut CacheConfig)) -> Vec<String> {
    let mut config = CacheConfig::default();
    change(&mut config);
    let mut problems = Problems::default();
    config.check(&mut problems);
    problems.lines()
}

#[test]
fn the_defaults_are_legal() {
    assert_eq!(problems(|_| {}), Vec::<String>::new());
}

#[test]
fn the_shipped_file_names_every_key_and_says_what_the_defaults_are() {
    let file = include_str!("../../../../deploy/config/cache-service.toml");
    let mut defaults = toml::Table::try_from(CacheConfig::default()).unwrap();
    let parsed: CacheConfig = toml::from_str(file).unwrap();
    assert_eq!(toml::Table::try_from(&parsed).unwrap(), defaults);
    // Sizes are rounded when written.
    assert_eq!(parsed.memory, MemoryConfig::default());
    assert_eq!(parsed.namespace_defaults, NamespaceConfig::default());

    // A map without entries has no line of its own.
    defaults.remove("namespaces");
    defaults.remove("origins");
    let shipped: toml::Table = file.parse().unwrap();
    assert_eq!(keys(&shipped), keys(&defaults));
}

fn keys(table: &toml::Table) -> Vec<String> {
    let mut keys = Vec::new();
    for (key, value) in table {
        match value.as_table() {
            Some(table) => keys.extend(self::keys(table).into_iter().map(|below| format!("{key}.{below}"))),
            None => keys.push(key.clone()),
        }
    }
    keys
}

#[test]
fn each_impossible_value_is_told_with_its_key() {
    type Case = (fn(&mut CacheConfig), &'static str);
    let cases: [Case; 16] = [
        (|c| c.memory.capacity = ByteSize::kib(1), "memory.capacity: must be between 1"),
        (|c| c.namespace_defaults.max_value_size = ByteSize::mib(17), "namespace_defaults.max_value_size: "),
        (
            |c| c.namespace_defaults.max_value_size = ByteSize::mib(16) + 1_u64,
            "namespace_defaults.max_value_size: ",
        ),
        (|c| c.namespace_defaults.ttl = Duration::ZERO, "namespace_defaults.ttl: "),
        (|c| c.namespace_defaults.memory_ttl = Duration::ZERO, "namespace_defaults.memory_ttl: "),
        (
            |c| c.namespace_defaults.memory = false,
            "namespace_defaults.memory: must be true where Redis is not used",
        ),
        (
            |c| {
                c.redis.mode = RedisMode::Single;
                c.redis.tls.cert = Some("/nowhere.pem".into());
            },
            "redis.tls: cert and key are of no use without ca",
        ),
        (
            |c| {
                c.redis.mode = RedisMode::Single;
                c.redis.sentinel_tls.ca = Some("/nowhere.pem".into());
            },
            "redis.sentinel_tls: cannot read certificates from /nowhere.pem",
        ),
        (
            |c| c.namespace_defaults.durability = Durability::ReplicaAck,
            "namespace_defaults.durability: replica_ack needs Redis",
        ),
        (
            |c| c.namespace_defaults.strategy = Strategy::WriteBehind,
            "namespace_defaults.strategy: write_behind needs Redis",
        ),
        (|c| c.redis.prefix = "a b".to_owned(), "redis.prefix: "),
        (|c| c.redis.command_within = Duration::from_mins(1), "redis.command_within: "),
        (|c| c.redis.max_in_flight = 0, "redis.max_in_flight: "),
        (|c| c.redis.mode = RedisMode::Sentinel, "redis.sentinels: must name at least one host:port"),
        (
            |c| {
                c.redis.mode = RedisMode::Single;
                c.redis.address = "localhost".to_owned();
            },
            "redis.address: must be host:port, is \"localhost\"",
        ),
        (
            |c| {
                c.namespaces.insert("Users".to_owned(), NamespaceOverrides::default());
            },
            "namespaces.Users: the name must be 1 to 64 characters",
        ),
    ];
    for (change, expected) in cases {
        let found = problems(change);
        assert!(found.iter().any(|line| line.starts_with(expected)), "{expected:?} is not in {found:?}");
    }
}

#[test]
fn a_replica_may_be_waited_for_wherever_there_is_redis() {
    for mode in [RedisMode::Single, RedisMode::Sentinel, RedisMode::Cluster] {
        let found = problems(|config| {
            config.redis.mode = mode;
            config.namespace_defaults.durability = Durability::ReplicaAck;
        });
        // Addresses are missing, and that is told.
        assert!(!found.iter().any(|line| line.contains("durability")), "{mode:?}: {found:?}");
    }
}

#[test]
fn a_listed_namespace_inherits_what_it_leaves_out() {
    let file = "[namespace_defaults]\nttl = \"1m\"\n[namespaces.users]\ngrace = \"2h\"\n";
    let config: CacheConfig = toml::from_str(file).unwrap();
    let users = config.namespaces["users"].over(&config.namespace_defaults);
    assert_eq!((users.ttl, users.grace), (Duration::from_mins(1), Duration::from_hours(2)));
    assert_eq!(users.max_value_size, ByteSize::mib(1));
}

#[test]
fn an_origin_is_reached_in_one_way() {
    let of = |grpc: &str, url: &str| {
        let grpc = mainstay_rpc::UpstreamConfig::of(Some(grpc.to_owned()).filter(|grpc| !grpc.is_empty()));
        let http = HttpOriginConfig { url: url.to_owned(), ..HttpOriginConfig::default() };
        let origin = OriginConfig { grpc, http };
        problems(|config| drop(config.origins.insert("o".to_owned(), origin)))
    };
    let url = "http://localhost:1/{key}";
    assert_eq!(of("http://localhost:1", ""), [""; 0]);
    assert_eq!(of("", url), [""; 0]);
    for (grpc, url, key) in [
        ("", "", "origins.o.grpc.endpoints"),
        ("http://localhost:1", url, "origins.o.grpc.endpoints"),
        ("", "http://localhost:1/", "origins.o.http.url"),
        ("", "localhost/{key}", "origins.o.http.url"),
    ] {
        let found = of(grpc, url);
        assert!(found.iter().any(|line| line.starts_with(key)), "{grpc} {url}: {found:?}");
    }
}
