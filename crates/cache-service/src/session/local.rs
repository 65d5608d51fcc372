use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use super::{Bounds, Change, Handle, Session, SessionError};
use crate::config::WhenFull;
use crate::shared::{SharedError, millis};

/// Keeps sessions in the memory of this process, within so many bytes. Does what the scripts of `remote.rs` do.
#[derive(Debug)]
pub(super) struct LocalSessions {
    sessions: HashMap<Handle, Session>,
    /// Old ids, the sessions they lead to, and until when.
    rotated: HashMap<Handle, (Handle, u64)>,
    by_user: HashMap<String, BTreeSet<Handle>>,
    bytes: u64,
    capacity_bytes: u64,
}

/// What a session takes beside its texts: its places in three maps.
const OVERHEAD_BYTES: u64 = 512;
const MOST_HOPS: usize = 8;

impl LocalSessions {
    pub(super) fn new(capacity_bytes: u64) -> Self {
        Self {
            sessions: HashMap::new(),
            rotated: HashMap::new(),
            by_user: HashMap::new(),
            bytes: 0,
            capacity_bytes,
        }
    }

    pub(super) fn create(&mut self, session: Session, bounds: Bounds) -> Result<u32, SessionError> {
        let now_ms = session.created_at_ms;
        if self.bytes + bytes_of(&session) > self.capacity_bytes {
            self.sweep(now_ms);
            if self.bytes + bytes_of(&session) > self.capacity_bytes {
                return Err(SharedError::Full.into());
            }
        }
        let mut others = self.list(&session.user, now_ms);
        let excess = (others.len() + 1).saturating_sub(bounds.per_user);
        if excess > 0 && bounds.when_full == WhenFull::Refuse {
            return Err(SessionError::TooMany);
        }
        others.sort_by_key(Session::ends_at_ms);
        for other in &others[..excess] {
            self.drop_session(&other.handle);
        }
        self.put(session);
        Ok(u32::try_from(excess).unwrap_or(u32::MAX))
    }

    pub(super) fn get(
        &mut self,
        handle: &Handle,
        touch: bool,
        now_ms: u64,
    ) -> Result<(Session, bool), SessionError> {
        let (handle, rotated) = self.resolve(handle, now_ms);
        let session = self.alive(&handle, now_ms)?;
        if touch && session.is_touch_due(now_ms) {
            session.seen_at_ms = now_ms;
        }
        Ok((session.clone(), rotated))
    }

    pub(super) fn update(
        &mut self,
        handle: &Handle,
        change: &Change,
        bounds: Bounds,
        now_ms: u64,
    ) -> Result<Session, SessionError> {
        let (handle, _) = self.resolve(handle, now_ms);
        let mut session = self.alive(&handle, now_ms)?.clone();
        if change.if_version.is_some_and(|version| version != session.version) {
            return Err(SessionError::VersionMismatch { present: session.version });
        }
        session.fields.extend(change.set.clone());
        session.fields.retain(|name, _| !change.remove.contains(name));
        bounds.check(&session.fields)?;
        session.version += 1;
        let before = self.sessions.get(&handle).map_or(0, bytes_of);
        if self.bytes - before + bytes_of(&session) > self.capacity_bytes {
            return Err(SharedError::Full.into());
        }
        self.drop_session(&handle);
        self.put(session.clone());
        Ok(session)
    }

    pub(super) fn rotate(
        &mut self,
        old: &Handle,
        new: Handle,
        grace: Duration,
        now_ms: u64,
    ) -> Result<Session, SessionError> {
        if self.resolve(old, now_ms).1 {
            return Err(SessionError::Rotated);
        }
        let session = self.alive(old, now_ms)?.clone();
        self.drop_session(old);
        let session = Session { handle: new.clone(), ..session };
        self.put(session.clone());
        if !grace.is_zero() {
            self.rotated.insert(old.clone(), (new, now_ms.saturating_add(millis(grace))));
            self.bytes += OVERHEAD_BYTES;
        }
        Ok(session)
    }

    pub(super) fn revoke(&mut self, handle: &Handle, now_ms: u64) -> bool {
        let (handle, _) = self.resolve(handle, now_ms);
        let was_alive = self.alive(&handle, now_ms).is_ok();
        self.drop_session(&handle);
        was_alive
    }

    pub(super) fn list(&self, user: &str, now_ms: u64) -> Vec<Session> {
        let handles = self.by_user.get(user).into_iter().flatten();
        let sessions = handles.filter_map(|handle| self.sessions.get(handle));
        sessions.filter(|session| now_ms < session.ends_at_ms()).cloned().collect()
    }

    pub(super) fn revoke_user(&mut self, user: &str, except: Option<&Handle>, now_ms: u64) -> u32 {
        let except = except.map(|handle| self.resolve(handle, now_ms).0);
        let mut n_revoked = 0;
        for session in self.list(user, now_ms) {
            if Some(&session.handle) != except.as_ref() {
                self.drop_session(&session.handle);
                n_revoked += 1;
            }
        }
        n_revoked
    }

    pub(super) fn sweep(&mut self, now_ms: u64) {
        let over = self.sessions.values().filter(|session| now_ms >= session.ends_at_ms());
        let over: Vec<Handle> = over.map(|session| session.handle.clone()).collect();
        for handle in over {
            self.drop_session(&handle);
        }
        let before = self.rotated.len();
        self.rotated.retain(|_, (_, until_ms)| now_ms < *until_ms);
        self.bytes -= (before - self.rotated.len()) as u64 * OVERHEAD_BYTES;
    }

    fn put(&mut self, session: Session) {
        self.bytes += bytes_of(&session);
        self.by_user.entry(session.user.clone()).or_default().insert(session.handle.clone());
        self.sessions.insert(session.handle.clone(), session);
    }

    fn drop_session(&mut self, handle: &Handle) {
        let Some(session) = self.sessions.remove(handle) else { return };
        self.bytes -= bytes_of(&session);
        if let Some(handles) = self.by_user.get_mut(&session.user) {
            handles.remove(handle);
            if handles.is_empty() {
                self.by_user.remove(&session.user);
            }
        }
    }

    fn alive(&mut self, handle: &Handle, now_ms: u64) -> Result<&mut Session, SessionError> {
        let session = self.sessions.get_mut(handle).filter(|session| now_ms < session.ends_at_ms());
        session.ok_or(SessionError::NotFound)
    }

    fn resolve(&self, handle: &Handle, now_ms: u64) -> (Handle, bool) {
        let mut at = handle;
        for _ in 0..MOST_HOPS {
            match self.rotated.get(at) {
                Some((to, until_ms)) if now_ms < *until_ms => at = to,
                _ => break,
            }
        }
        (at.clone(), at != handle)
    }
}

fn bytes_of(session: &Session) -> u64 {
    let fields: usize = session.fields.iter().map(|(name, value)| name.len() + value.len() + 48).sum();
    OVERHEAD_BYTES + (session.user.len() + fields) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{Draft, SessionId};
    use crate::shared::Name;

    const BOUNDS: Bounds = Bounds { per_user: 2, when_full: WhenFull::RevokeOldest, bytes: 1_000 };

    fn session(user: &str, now_ms: u64) -> Session {
        let user = Name::try_new("user", user, 256).unwrap();
        let draft = Draft { user, fields: Default::default(), ttl: None, max_age: None };
        let (ttl, max_age) = (Duration::from_secs(10), Duration::from_secs(15));
        Session::begin(SessionId::random().handle(), draft, ttl, max_age, now_ms)
    }

    #[test]
    fn bytes_return_to_zero_when_all_is_over() {
        let mut local = LocalSessions::new(1 << 20);
        for number in 0..50 {
            let session = session(&format!("u{}", number % 7), 0);
            let handle = session.handle.clone();
            local.create(session, BOUNDS).unwrap();
            let set = [("a".to_owned(), "b".repeat(number))].into();
            local.update(&handle, &Change { set, ..Change::default() }, BOUNDS, 1).unwrap();
            local.rotate(&handle, SessionId::random().handle(), Duration::from_secs(1), 1).unwrap();
        }
        assert!(local.bytes > 0);
        local.sweep(20_000);
        assert_eq!(
            (local.bytes, local.sessions.len(), local.by_user.len(), local.rotated.len()),
            (0, 0, 0, 0)
        );
    }

    #[test]
    fn a_full_store_refuses_and_takes_again_when_sessions_end() {
        let mut local = LocalSessions::new(2 * OVERHEAD_BYTES + 10);
        local.create(session("a", 0), BOUNDS).unwrap();
        local.create(session("b", 0), BOUNDS).unwrap();
        let full = local.create(session("c", 0), BOUNDS).unwrap_err();
        assert!(matches!(full, SessionError::Shared(SharedError::Full)), "{full}");
        local.create(session("c", 10_000), BOUNDS).unwrap();
    }
}
