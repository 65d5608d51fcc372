use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use super::{Connection, Limits};

/// Counts and lists connections.
pub(super) struct Registry {
    limits: Limits,
    next_id: u64,
    /// Places taken: connections on the list, and those whose socket is still being closed.
    taken: usize,
    listed: HashMap<u64, Arc<Connection>>,
    /// Connections by user; anonymous ones are not counted.
    users: HashMap<Arc<str>, usize>,
    /// Connections by address, where their number is limited.
    addresses: HashMap<IpAddr, usize>,
    draining: bool,
}

/// Says why no connection can be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoRoom {
    Full,
    /// Too many come from one address.
    Crowded,
    Draining,
}

/// What a node holds at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Census {
    pub(crate) connections: usize,
    pub(crate) users: usize,
    pub(crate) channels: usize,
    pub(crate) subscriptions: usize,
    pub(crate) draining: bool,
}

impl Registry {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            next_id: 1,
            taken: 0,
            listed: HashMap::new(),
            users: HashMap::new(),
            addresses: HashMap::new(),
            draining: false,
        }
    }

    pub(super) fn open(
        &mut self,
        address: IpAddr,
        make: impl FnOnce(u64) -> Connection,
    ) -> Result<Arc<Connection>, NoRoom> {
        if self.draining {
            return Err(NoRoom::Draining);
        }
        if self.taken >= self.limits.max_connections {
            return Err(NoRoom::Full);
        }
        if self.limits.max_connections_per_address > 0 {
            let count = self.addresses.entry(network(address)).or_default();
            if *count >= self.limits.max_connections_per_address {
                return Err(NoRoom::Crowded);
            }
            *count += 1;
        }
        let connection = Arc::new(make(self.next_id));
        self.listed.insert(self.next_id, Arc::clone(&connection));
        self.next_id += 1;
        self.taken += 1;
        Ok(connection)
    }

    /// Counts a connection as one of the user's, unless there are too many.
    pub(super) fn admit(&mut self, user: &Arc<str>) -> bool {
        if user.is_empty() {
            return true;
        }
        let limit = self.limits.max_connections_per_user;
        let count = self.users.entry(Arc::clone(user)).or_default();
        if limit != 0 && *count >= limit {
            return false;
        }
        *count += 1;
        true
    }

    pub(super) fn retire(&mut self, connection: &Connection) {
        if self.listed.remove(&connection.id).is_none() {
            return;
        }
        let address = network(connection.remote.ip());
        if let Some(count) = self.addresses.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.addresses.remove(&address);
            }
        }
        let Some(user) = connection.user() else { return };
        let Some(count) = self.users.get_mut(user) else { return };
        *count -= 1;
        if *count == 0 {
            self.users.remove(user);
        }
    }

    pub(super) fn vacate(&mut self) {
        self.taken -= 1;
    }

    pub(super) fn start_draining(&mut self) -> Vec<Arc<Connection>> {
        self.draining = true;
        self.connections()
    }

    /// Lets others in again; returns how many are there.
    pub(super) fn stop_draining(&mut self) -> usize {
        self.draining = false;
        self.listed.len()
    }

    pub(super) fn connections(&self) -> Vec<Arc<Connection>> {
        self.listed.values().cloned().collect()
    }

    pub(super) fn census(&self) -> Census {
        Census {
            connections: self.taken,
            users: self.users.len(),
            draining: self.draining,
            ..Census::default()
        }
    }
}

/// Returns what stands for one customer of a network: an address, or with IPv6 the network of one site.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address @ IpAddr::V4(_) => address,
    }
}
