//! What is commonly called lag, beside the bound that is proven: for comparison, nothing is decided by it.

use std::time::Duration;

use crate::{cluster::Observation, lsn::Lsn};

/// One common formula, and where it misleads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Formula {
    pub name: &'static str,
    /// What is computed.
    pub sql: &'static str,
    pub asked_of_primary: bool,
    pub misleads: &'static str,
    /// `None` where it has no value: NULL, no row, or a role that may not see it.
    pub value: Option<Figure>,
}

/// What a formula came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Figure {
    Seconds(Duration),
    Bytes(u64),
}

/// What the primary says of one connection that takes its log: a row of `pg_stat_replication`.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Sender {
    pub slot: Option<String>,
    pub application: Option<String>,
    pub write_lag: Option<Duration>,
    pub flush_lag: Option<Duration>,
    pub replay_lag: Option<Duration>,
    pub replay_bytes: Option<u64>,
}

/// Finds the connection of a replica: by its slot, else by its name where only one has it.
pub(crate) fn sender_of<'a>(replica: &Observation, senders: &'a [Sender]) -> Option<&'a Sender> {
    if replica.slot.is_some() {
        return senders.iter().find(|sender| sender.slot == replica.slot);
    }
    let mut named = senders.iter().filter(|sender| {
        sender.application.is_some() && sender.slot.is_none() && sender.application == replica.application
    });
    named.next().filter(|_| named.next().is_none())
}

/// Computes every formula for one replica, from what it said and what the primary says of it.
pub(crate) fn formulas(replica: &Observation, sender: Option<&Sender>) -> [Formula; 8] {
    let since_commit = replica.naive.map(Figure::Seconds);
    let all_replayed = replica.received == Some(replica.lsn);
    let not_replayed = |received: Lsn| Figure::Bytes(received.bytes_since(replica.lsn));
    let sent = |lag: fn(&Sender) -> Option<Duration>| sender.and_then(lag).map(Figure::Seconds);
    let of_replica =
        |name, sql, misleads, value| Formula { name, sql, asked_of_primary: false, misleads, value };
    let of_primary =
        |name, sql, misleads, value| Formula { name, sql, asked_of_primary: true, misleads, value };
    [
        of_replica(
            "replay_timestamp",
            "now() - pg_last_xact_replay_timestamp()",
            "grows while the primary is idle; counts from the commit before a gap, not from the first that is missing; \
             compares the clocks of two machines",
            since_commit,
        ),
        of_replica(
            "replay_timestamp_unless_received",
            "CASE WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0 \
             ELSE now() - pg_last_xact_replay_timestamp() END",
            "0 on a replica that is cut off and has replayed all that it had received",
            if all_replayed { Some(Figure::Seconds(Duration::ZERO)) } else { since_commit },
        ),
        of_replica(
            "receive_replay_bytes",
            "pg_wal_lsn_diff(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())",
            "knows nothing of what was not received: 0 on a replica that is cut off",
            replica.received.map(not_replayed),
        ),
        of_replica(
            "last_message",
            "now() - last_msg_receipt_time, of pg_stat_wal_receiver",
            "says that the primary was heard, not that anything was replayed; up to half of wal_sender_timeout when idle",
            replica.last_message.map(Figure::Seconds),
        ),
        of_primary(
            "write_lag",
            "write_lag, of pg_stat_replication",
            "ends when the replica has written the log, long before it shows it when replay is held; its row goes with the \
             connection",
            sent(|sender| sender.write_lag),
        ),
        of_primary(
            "flush_lag",
            "flush_lag, of pg_stat_replication",
            "as write_lag: small while replay is held, gone with the connection",
            sent(|sender| sender.flush_lag),
        ),
        of_primary(
            "replay_lag",
            "replay_lag, of pg_stat_replication",
            "of log that was replayed: stands still while replay is held and nothing is written; NULL when idle; its row \
             goes with the connection",
            sent(|sender| sender.replay_lag),
        ),
        of_primary(
            "sender_replay_bytes",
            "pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn), of pg_stat_replication",
            "its row goes with the connection; lacks commits that are not written yet (synchronous_commit = off); bytes \
             are no age",
            sender.and_then(|sender| sender.replay_bytes).map(Figure::Bytes),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lsn::WalShape;

    fn replica() -> Observation {
        Observation {
            in_recovery: true,
            system_identifier: 7,
            timeline: Some(1),
            lsn: Lsn(1_000),
            flushed: None,
            received: Some(Lsn(1_000)),
            receiver: String::new(),
            replay_paused: false,
            naive: Some(Duration::from_secs(9)),
            last_message: None,
            slot: None,
            application: None,
            senders: Vec::new(),
            server_version: String::new(),
            shape: WalShape { page_bytes: 8_192, segment_bytes: 16 << 20 },
            fresh: false,
        }
    }

    fn value(formulas: &[Formula], name: &str) -> Option<Figure> {
        formulas.iter().find(|formula| formula.name == name).unwrap().value
    }

    #[test]
    fn each_formula_says_what_its_sql_would() {
        let seconds = |n| Some(Figure::Seconds(Duration::from_secs(n)));
        let cut_off = formulas(&replica(), None);
        assert_eq!(value(&cut_off, "replay_timestamp"), seconds(9));
        assert_eq!(value(&cut_off, "replay_timestamp_unless_received"), seconds(0));
        assert_eq!(value(&cut_off, "receive_replay_bytes"), Some(Figure::Bytes(0)));
        assert!(
            cut_off.iter().filter(|formula| formula.asked_of_primary).all(|formula| formula.value.is_none())
        );

        let behind = Observation { received: Some(Lsn(1_500)), ..replica() };
        let sender =
            Sender { replay_lag: Some(Duration::from_secs(2)), replay_bytes: Some(700), ..Sender::default() };
        let behind = formulas(&behind, Some(&sender));
        assert_eq!(value(&behind, "replay_timestamp_unless_received"), seconds(9));
        assert_eq!(value(&behind, "receive_replay_bytes"), Some(Figure::Bytes(500)));
        assert_eq!(value(&behind, "replay_lag"), seconds(2));
        assert_eq!(value(&behind, "write_lag"), None);
        assert_eq!(value(&behind, "sender_replay_bytes"), Some(Figure::Bytes(700)));
    }

    #[test]
    fn a_replica_is_found_by_its_slot_else_by_a_name_that_only_it_has() {
        let text = |text: &str| Some(text.to_owned());
        let sender = |slot, application, bytes| Sender {
            slot,
            application,
            replay_bytes: Some(bytes),
            ..Sender::default()
        };
        let senders = [
            sender(text("s1"), text("walreceiver"), 1),
            sender(text("s2"), text("walreceiver"), 2),
            sender(None, text("alone"), 3),
            sender(None, text("twice"), 4),
            sender(None, text("twice"), 5),
        ];
        for (slot, application, found) in [
            (text("s2"), text("alone"), Some(2)),
            (text("s9"), text("alone"), None),
            (None, text("alone"), Some(3)),
            (None, text("twice"), None),
            (None, text("walreceiver"), None),
            (None, None, None),
        ] {
            let replica = Observation { slot, application, ..replica() };
            let sender = sender_of(&replica, &senders);
            assert_eq!(sender.and_then(|sender| sender.replay_bytes), found, "{replica:?}");
        }
    }
}
