//! Ports of the stack: fixed ones, or free ones that no other stack of this user takes.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
};

use rand::RngExt;

use crate::Error;

/// Chooses how ports are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ports {
    /// Ports that are free now and claimed until the stack ends; for tests.
    #[default]
    Free,
    /// The well-known ports of the dev stack (see the crate doc); for people.
    Fixed,
}

/// Claims ports and keeps them claimed while it lives.
///
/// A stopped or killed node must find its port free again at restart. So free ports come from below the kernel's
/// range for outgoing connections, and each is guarded by a lock file against the other stacks of this user;
/// the kernel drops the lock when the owner dies in any way.
#[derive(Debug)]
pub(crate) struct PortClaims {
    mode: Ports,
    locks_dir: PathBuf,
    locks: Vec<(u16, File)>,
}

/// Linux gives outgoing connections ports from 32768, macOS and Windows from 49152.
const FIRST_FREE: u16 = 20_000;
const LAST_FREE: u16 = 32_000;
const ATTEMPTS: usize = 2_000;

impl PortClaims {
    pub(crate) fn new(mode: Ports, base: &Path) -> Result<Self, Error> {
        let locks_dir = base.join("ports");
        fs::create_dir_all(&locks_dir).map_err(Error::io("create the directory of port locks"))?;
        Ok(Self { mode, locks_dir, locks: Vec::new() })
    }

    /// Claims `fixed` in fixed mode, else any free port, for the part named `wanted_by`.
    pub(crate) fn claim(&mut self, fixed: u16, wanted_by: &str) -> Result<SocketAddr, Error> {
        if self.mode == Ports::Free {
            return self.claim_free();
        }
        if self.try_claim(fixed)? {
            Ok(local(fixed))
        } else {
            Err(Error::PortTaken { port: fixed, wanted_by: wanted_by.to_owned() })
        }
    }

    /// Claims any free port, whatever the mode.
    pub(crate) fn claim_free(&mut self) -> Result<SocketAddr, Error> {
        let mut rng = rand::rng();
        for _ in 0..ATTEMPTS {
            let port = rng.random_range(FIRST_FREE..=LAST_FREE);
            if self.try_claim(port)? {
                return Ok(local(port));
            }
        }
        Err(Error::NoFreePort { first: FIRST_FREE, last: LAST_FREE })
    }

    fn try_claim(&mut self, port: u16) -> Result<bool, Error> {
        let path = self.locks_dir.join(port.to_string());
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(Error::io(format!("open port lock {}", path.display())))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(source)) => {
                return Err(Error::Io { step: format!("lock {}", path.display()), source });
            }
        }
        if TcpListener::bind(local(port)).is_err() {
            return Ok(false);
        }
        self.locks.push((port, file));
        Ok(true)
    }

    #[cfg(test)]
    fn n_claimed(&self) -> usize {
        self.locks.len()
    }
}

pub(crate) fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_stacks_never_get_the_same_free_port() {
        let base = tempfile::tempdir().unwrap();
        let mut one = PortClaims::new(Ports::Free, base.path()).unwrap();
        let mut two = PortClaims::new(Ports::Free, base.path()).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..30 {
            assert!(seen.insert(one.claim_free().unwrap()));
            assert!(seen.insert(two.claim_free().unwrap()));
        }
        assert_eq!(one.n_claimed(), 30);
    }

    #[test]
    fn taken_fixed_port_names_the_port_and_who_wanted_it() {
        let base = tempfile::tempdir().unwrap();
        let mut free = PortClaims::new(Ports::Free, base.path()).unwrap();
        let port = free.claim_free().unwrap().port();
        let _listener = TcpListener::bind(local(port)).unwrap();
        drop(free);
        let mut claims = PortClaims::new(Ports::Fixed, base.path()).unwrap();
        let error = claims.claim(port, "redis primary").unwrap_err().to_string();
        assert!(error.contains(&format!("port {port} is taken; redis primary wants it")), "{error}");
    }

    #[test]
    fn claim_ends_with_its_owner() {
        let base = tempfile::tempdir().unwrap();
        let mut one = PortClaims::new(Ports::Free, base.path()).unwrap();
        let port = one.claim_free().unwrap().port();
        let mut two = PortClaims::new(Ports::Fixed, base.path()).unwrap();
        assert!(two.claim(port, "x").is_err());
        drop(one);
        assert!(two.claim(port, "x").is_ok());
    }
}
