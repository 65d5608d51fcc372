use std::time::Duration;

use super::{Text, Wire, WireError, parse};
use crate::session::{MARGIN, timeout_ms};

/// What every read begins and ends with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Commands {
    /// How long a statement may take where nothing else is said; `None` where the session says nothing.
    within: Option<Duration>,
    /// Whether the session has them prepared.
    named: bool,
}

const BEGIN: Command = Command { name: "mainstay_begin", sql: "BEGIN READ ONLY" };
const ROLLBACK: Command = Command { name: "mainstay_rollback", sql: "ROLLBACK" };
const UNLOCK: Command =
    Command { name: "mainstay_unlock", sql: "SELECT pg_catalog.pg_advisory_unlock_all()" };

struct Command {
    name: &'static str,
    sql: &'static str,
}

impl Commands {
    /// Behind a `PgBouncer` each transaction may meet another server connection, where nothing is prepared or set.
    pub(super) const SHARED_SESSION: Self = Self { within: None, named: false };

    pub(super) fn is_named(self) -> bool {
        self.named
    }

    pub(super) fn forget(&mut self) {
        self.named = false;
    }

    /// Returns how many statements begin a read.
    pub(super) fn n_begin(self, left: Duration) -> usize {
        1 + usize::from(!self.is_usual(left))
    }

    /// Tells whether the time that is left is the one that the session says, give or take half the margin.
    fn is_usual(self, left: Duration) -> bool {
        self.within.is_some_and(|within| left <= within && within - left <= MARGIN / 2)
    }

    fn text(self, command: &Command) -> Text<'static> {
        if self.named { Text::Named(command.name) } else { Text::Once(command.sql) }
    }
}

/// Prepares them in a session of our own, in which a statement may take `within`.
pub(super) async fn prepare(wire: &mut Wire, within: Duration) -> Result<(), WireError> {
    for Command { name, sql } in [BEGIN, ROLLBACK, UNLOCK] {
        parse(name, sql, &[], &mut wire.outgoing)?;
    }
    wire.put_sync();
    if let (_, Some(refused)) = wire.finish().await? {
        return Err(WireError::Server(refused));
    }
    wire.commands = Commands { within: Some(within), named: true };
    Ok(())
}

pub(super) fn put_begin(wire: &mut Wire, left: Duration) -> Result<(), WireError> {
    wire.put(wire.commands.text(&BEGIN), &[], false)?;
    if !wire.commands.is_usual(left) {
        let set = format!("SET LOCAL statement_timeout = {}", timeout_ms(left));
        wire.put(Text::Once(&set), &[], false)?;
    }
    Ok(())
}

pub(super) fn put_end(wire: &mut Wire) -> Result<(), WireError> {
    wire.put(wire.commands.text(&ROLLBACK), &[], false)?;
    wire.put(wire.commands.text(&UNLOCK), &[], false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_said_unless_the_session_says_it() {
        let ours = Commands { within: Some(Duration::from_secs(5)), named: true };
        for (left, n_begin) in [(5_000, 1), (4_990, 1), (4_989, 2), (5_001, 2), (60_000, 2)] {
            assert_eq!(ours.n_begin(Duration::from_millis(left)), n_begin, "{left} ms");
        }
        assert_eq!(Commands::SHARED_SESSION.n_begin(Duration::from_secs(5)), 2);
    }
}
