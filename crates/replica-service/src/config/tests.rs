use super::*;

/// Of the shipped file: it names a server, for which there is no default.
fn shown() -> ReplicaConfig {
    let mut config = ReplicaConfig::default();
    let node = NodeConfig { address: "127.0.0.1:5432".to_owned(), ..NodeConfig::default() };
    config.nodes.insert("primary".to_owned(), node);
    config
}

fn problems_of(config: &ReplicaConfig) -> Vec<String> {
    let mut problems = Problems::default();
    config.check(&mut problems);
    problems.lines()
}

#[test]
fn the_shipped_file_is_legal_and_shows_the_defaults() {
    let shipped = include_str!("../../../../deploy/config/replica-service.toml");
    let config: ReplicaConfig = toml::from_str(shipped).unwrap();
    assert_eq!(problems_of(&config), [] as [String; 0]);
    assert_eq!(toml::to_string(&config).unwrap(), toml::to_string(&shown()).unwrap());
}

#[test]
fn the_shipped_file_names_every_key() {
    let shipped: toml::Table =
        include_str!("../../../../deploy/config/replica-service.toml").parse().unwrap();
    let expected = toml::Table::try_from(shown()).unwrap();
    // These have keys that the file shows in comments only: what stands on its own, and what has names of its user.
    let shared = ["server", "telemetry", "nodes", "switchover"];
    for section in expected.keys().filter(|section| !shared.contains(&section.as_str())) {
        let keys = |table: &toml::Table| {
            let keys = table[section].as_table().unwrap().keys();
            keys.filter(|key| *key != "named").cloned().collect::<Vec<_>>()
        };
        assert_eq!(keys(&shipped), keys(&expected), "{section}");
    }
}

#[test]
fn all_mistakes_are_told_at_once_with_their_keys() {
    let mut config = ReplicaConfig::default();
    config
        .nodes
        .insert("Upper".to_owned(), NodeConfig { address: "nowhere".to_owned(), ..NodeConfig::default() });
    config.nodes.insert(
        "b".to_owned(),
        NodeConfig { pgbouncer: "x:0".to_owned(), weight: 1_001, ..NodeConfig::default() },
    );
    for name in ["c", "d"] {
        let node = NodeConfig { address: "db:5432".to_owned(), ..NodeConfig::default() };
        config.nodes.insert(name.to_owned(), node);
    }
    config.health.down_after = 0;
    let pair =
        PairConfig { legacy: "a'b".to_owned(), partitioned: "s.t".to_owned(), ..PairConfig::default() };
    config.switchover.insert("p".to_owned(), pair);
    config.parity.duty_cycle = 2.0;
    config.limits.default_rows = 20_000;
    let lines = problems_of(&config).join("\n");
    for key in [
        "nodes.Upper",
        "nodes.Upper.address",
        "nodes.b.address",
        "nodes.b.pgbouncer",
        "nodes.d.address",
        "nodes.b.weight",
        "health.down_after",
        "limits.default_rows",
        "switchover.p.legacy",
        "switchover.p.key",
        "switchover.p.time_column",
        "parity.duty_cycle",
    ] {
        assert!(lines.contains(key), "{key} is missing in\n{lines}");
    }
}

#[test]
fn a_service_without_nodes_is_refused_with_an_example() {
    assert!(problems_of(&ReplicaConfig::default())[0].contains("MAINSTAY__NODES__PRIMARY__ADDRESS"));
}

#[test]
fn addresses_split_into_host_and_port() {
    for (address, wanted) in [
        ("db:5432", Some(("db", 5432))),
        ("[::1]:5432", Some(("::1", 5432))),
        ("db", None),
        (":5432", None),
        ("db:0", None),
        ("db:99999", None),
        ("/var/run:5432", None),
        ("a,b:1", None),
    ] {
        assert_eq!(split_address(address), wanted, "{address}");
    }
}
