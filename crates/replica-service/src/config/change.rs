use mainstay_runtime::Secret;
use serde_json::Value as Json;

use super::{PostgresConfig, ReplicaConfig};

/// What comes of a configuration that was read while another one is followed.
pub(crate) struct Change {
    /// What can be followed without a restart.
    pub followed: ReplicaConfig,
    /// Keys that change with it, as `nodes.replica2` or `pool.max_size`.
    pub applied: Vec<String>,
    /// Keys that wait for a restart.
    pub needs_restart: Vec<String>,
}

impl ReplicaConfig {
    /// Compares with what was read now.
    pub(crate) fn change_to(&self, read: &Self) -> Change {
        let (old, new) = (&self.postgres, &read.postgres);
        let followed = Self {
            postgres: PostgresConfig {
                user: new.user.clone(),
                password: new.password.clone(),
                connect_within: new.connect_within,
                ..old.clone()
            },
            nodes: read.nodes.clone(),
            pool: read.pool.clone(),
            health: read.health.clone(),
            breaker: read.breaker.clone(),
            routing: read.routing.clone(),
            ..self.clone()
        };
        Change {
            applied: differences(self, &followed),
            needs_restart: differences(&followed, read),
            followed,
        }
    }

    /// Tells whether connections for statements are opened in another way than before.
    pub(crate) fn opens_connections_unlike(&self, before: &Self) -> bool {
        let (pool, was) = (&self.pool, &before.pool);
        self.logs_in_unlike(before) || pool != was
    }

    /// Tells whether nodes are probed in another way than before.
    pub(crate) fn probes_unlike(&self, before: &Self) -> bool {
        let (health, was) = (&self.health, &before.health);
        self.logs_in_unlike(before)
            || (health.probe_every, health.probe_down_every, health.probe_within)
                != (was.probe_every, was.probe_down_every, was.probe_within)
            || health.pgbouncer_stats_every != was.pgbouncer_stats_every
            || health.user != was.user
            || health.password.expose() != was.password.expose()
    }

    fn logs_in_unlike(&self, before: &Self) -> bool {
        let (login, was) = (&self.postgres, &before.postgres);
        (&login.user, login.password.expose(), login.connect_within)
            != (&was.user, was.password.expose(), was.connect_within)
    }

    /// Every secret with its key: none of them can be told from another one where it is shown.
    fn secrets(&self) -> [(&'static str, &Secret); 4] {
        [
            ("server.token", &self.server.token),
            ("postgres.password", &self.postgres.password),
            ("health.password", &self.health.password),
            ("cache.upstream.token", &self.cache.upstream.token),
        ]
    }
}

/// Returns the keys in which two configurations differ, in order.
fn differences(a: &ReplicaConfig, b: &ReplicaConfig) -> Vec<String> {
    let tree =
        |config| serde_json::to_value(config).expect("a config struct is made of tables, lists and scalars");
    let mut keys = Vec::new();
    compare(&tree(a), &tree(b), "", &mut keys);
    let secrets = a.secrets().into_iter().zip(b.secrets());
    let changed = secrets.filter(|((_, a), (_, b))| a.expose() != b.expose());
    keys.extend(changed.map(|((key, _), _)| key.to_owned()));
    keys.sort_unstable();
    keys.dedup();
    keys
}

fn compare(a: &Json, b: &Json, key: &str, keys: &mut Vec<String>) {
    match (a, b) {
        (Json::Object(a), Json::Object(b)) => {
            let only_in_b = b.keys().filter(|name| !a.contains_key(*name));
            for name in a.keys().chain(only_in_b) {
                let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                let of = |table: &serde_json::Map<String, Json>| table.get(name).cloned().unwrap_or_default();
                compare(&of(a), &of(b), &key, keys);
            }
        }
        (a, b) if a != b => keys.push(key.to_owned()),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::NodeConfig;

    fn node(address: &str) -> NodeConfig {
        NodeConfig { address: address.to_owned(), ..NodeConfig::default() }
    }

    fn running() -> ReplicaConfig {
        let nodes = [("a", "one:5432"), ("b", "two:5432")];
        ReplicaConfig {
            nodes: nodes.map(|(name, address)| (name.to_owned(), node(address))).into(),
            ..ReplicaConfig::default()
        }
    }

    #[test]
    fn the_same_configuration_changes_nothing() {
        let change = running().change_to(&running());
        assert!(change.applied.is_empty() && change.needs_restart.is_empty());
    }

    #[test]
    fn what_needs_a_restart_is_named_and_the_rest_is_followed() {
        let mut read = running();
        read.nodes.remove("a");
        read.nodes.get_mut("b").unwrap().weight = 7;
        read.nodes.insert("c".to_owned(), node("three:5432"));
        read.pool.max_size = 3;
        read.routing.max_staleness = Duration::from_secs(9);
        read.postgres.password = "new".into();
        read.postgres.database = "other".to_owned();
        read.server.token = "other".into();
        read.limits.max_rows = 9;
        let Change { followed, applied, needs_restart } = running().change_to(&read);
        let expected = [
            "nodes.a",
            "nodes.b.weight",
            "nodes.c",
            "pool.max_size",
            "postgres.password",
            "routing.max_staleness",
        ];
        assert_eq!(applied, expected);
        assert_eq!(needs_restart, ["limits.max_rows", "postgres.database", "server.token"]);
        assert_eq!((followed.limits.max_rows, followed.pool.max_size), (running().limits.max_rows, 3));
        assert!(followed.opens_connections_unlike(&running()) && followed.probes_unlike(&running()));
        // What waits for a restart goes on waiting.
        assert_eq!(followed.change_to(&read).needs_restart, needs_restart);
    }

    #[test]
    fn only_what_concerns_connections_renews_them() {
        let mut read = running();
        read.routing.max_staleness = Duration::from_secs(9);
        read.health.down_after = 9;
        read.nodes.insert("c".to_owned(), node("three:5432"));
        assert!(!read.opens_connections_unlike(&running()) && !read.probes_unlike(&running()));
        read.health.probe_every = Duration::from_secs(9);
        assert!(!read.opens_connections_unlike(&running()) && read.probes_unlike(&running()));
    }
}
