//! Routes reads among nodes that are made up, for programs that measure what a decision costs.

use std::{sync::Arc, time::Duration, time::SystemTime};

use mainstay_runtime::Context;
use tokio::time::Instant;

use crate::{
    Strategy,
    cluster::{Moment, Observation},
    config::{NodeConfig, ReplicaConfig},
    error::QueryError,
    fleet::Fleet,
    lsn::{Lsn, WalShape},
    metrics::Metrics,
    route::ReadNeeds,
};

/// Is a fleet as its probes would have left it: one primary, and replicas that stream. Nothing is connected to.
pub struct Decisions {
    fleet: Arc<Fleet>,
    needs: ReadNeeds,
}

/// As many positions of the log as are remembered on a busy primary.
const N_SAMPLES: u32 = 600;
const RECORD_BYTES: u64 = 8_192;

impl Decisions {
    /// Makes the fleet; each of its nodes has answered a statement before.
    pub fn among(n_nodes: u32, strategy: Strategy) -> anyhow::Result<Self> {
        let cx = Context::for_test("replica-service");
        let mut config = ReplicaConfig::default();
        config.routing.strategy = strategy;
        config.nodes = (0..n_nodes)
            .map(|number| {
                let address = "127.0.0.1:5432".to_owned();
                (format!("node{number:02}"), NodeConfig { address, ..NodeConfig::default() })
            })
            .collect();
        let metrics = cx.metrics(Metrics::register);
        let fleet = Fleet::new(&config, &metrics, &cx)?;
        let (topology, now) = (fleet.topology(), Instant::now().into_std());
        let probe_every = Duration::from_millis(1);
        for sample in 0..N_SAMPLES {
            let asked_at = now.checked_sub(probe_every * (N_SAMPLES - sample)).unwrap_or(now);
            let moment = Moment { asked_at, wall: SystemTime::UNIX_EPOCH, took: probe_every };
            let lsn = Lsn(RECORD_BYTES * u64::from(sample));
            for (node, number) in topology.nodes().zip(0_u32..) {
                // Each a little farther behind than the one before.
                let replayed = Lsn(lsn.0.saturating_sub(RECORD_BYTES * u64::from(number)));
                let seen = if number == 0 { found(false, lsn) } else { found(true, replayed) };
                fleet.observe(node.id, moment, Ok(seen));
            }
        }
        for node in topology.nodes() {
            node.begin()?.end(&Ok::<_, QueryError>(()));
        }
        Ok(Self { needs: fleet.default_needs(), fleet })
    }

    /// Decides where one read goes; tells whether there is a node for it.
    pub fn decide(&self) -> bool {
        self.fleet.choose(&self.needs, None).choice.is_ok()
    }
}

fn found(in_recovery: bool, lsn: Lsn) -> Observation {
    Observation {
        in_recovery,
        system_identifier: 1,
        timeline: Some(1),
        lsn,
        flushed: None,
        received: None,
        receiver: "streaming".to_owned(),
        replay_paused: false,
        naive: None,
        last_message: None,
        slot: None,
        application: None,
        senders: Vec::new(),
        server_version: "15.0".to_owned(),
        shape: WalShape::default(),
        fresh: false,
    }
}
