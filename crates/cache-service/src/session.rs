//! Sessions of users: in Redis, or in the memory of this process when Redis is not configured, and in no layer above.
//!
//! No node keeps a copy of a session, so there is none to invalidate: what is revoked is gone everywhere at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mainstay_rpc::{ErrorCode, Failure};
use parking_lot::Mutex;

use crate::config::{SessionConfig, WhenFull};
use crate::layer::redis::RedisLayer;
use crate::metrics::SharedMetrics;
use crate::shared::{Name, SharedError, Source};
use crate::time::Time;

mod id;
mod local;
mod remote;
mod touches;

pub(crate) use id::{Handle, SessionId};
use local::LocalSessions;
use remote::RemoteSessions;
use touches::Touches;

/// Begins, finds, changes and ends sessions.
#[derive(Debug)]
pub(crate) struct Sessions {
    place: Place,
    config: SessionConfig,
    metrics: Arc<SharedMetrics>,
}

/// One session as it stands. Times are Unix milliseconds, by the clock of Redis where there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Session {
    pub(crate) handle: Handle,
    pub(crate) user: String,
    pub(crate) created_at_ms: u64,
    pub(crate) seen_at_ms: u64,
    pub(crate) ttl_ms: u64,
    pub(crate) ends_at_latest_ms: u64,
    pub(crate) version: u64,
    pub(crate) fields: BTreeMap<String, String>,
}

/// What a session is begun with.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    pub(crate) user: Name,
    pub(crate) fields: BTreeMap<String, String>,
    /// None means the configured ones.
    pub(crate) ttl: Option<Duration>,
    pub(crate) max_age: Option<Duration>,
}

/// A change of fields.
#[derive(Debug, Clone, Default)]
pub(crate) struct Change {
    pub(crate) set: BTreeMap<String, String>,
    pub(crate) remove: Vec<String>,
    pub(crate) if_version: Option<u64>,
}

/// How many sessions of which size.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    per_user: usize,
    when_full: WhenFull,
    bytes: u64,
}

/// Says why a session could not be begun, read or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    #[error("there is no such session, or not any more")]
    NotFound,
    #[error("the session has version {present}")]
    VersionMismatch { present: u64 },
    #[error("the session has a newer id already")]
    Rotated,
    #[error("the user has as many sessions as allowed")]
    TooMany,
    #[error("the fields are more than 64, or more than {max_bytes} bytes")]
    TooLarge { max_bytes: u64 },
    #[error("what lies in redis is not a session")]
    Damaged,
    #[error(transparent)]
    Shared(#[from] SharedError),
}

impl From<SessionError> for Failure {
    fn from(error: SessionError) -> Self {
        let message = error.to_string();
        match error {
            SessionError::NotFound => Self::new(ErrorCode::NotFound, "SESSION_NOT_FOUND", message),
            SessionError::VersionMismatch { present } => {
                Self::new(ErrorCode::Conflict, "VERSION_MISMATCH", message)
                    .detail("version", present.to_string())
            }
            SessionError::Rotated => Self::new(ErrorCode::Conflict, "SESSION_ROTATED", message),
            SessionError::TooMany => Self::new(ErrorCode::Conflict, "TOO_MANY_SESSIONS", message),
            SessionError::TooLarge { .. } => {
                Self::new(ErrorCode::InvalidArgument, "SESSION_TOO_LARGE", message.as_str())
                    .field("fields", message)
            }
            SessionError::Damaged => Self::internal(error),
            SessionError::Shared(error) => error.into(),
        }
    }
}

#[derive(Debug)]
enum Place {
    Redis { remote: Box<RemoteSessions>, touches: Touches },
    Local { sessions: Mutex<LocalSessions>, time: Time },
}

impl Sessions {
    pub(crate) const MOST_FIELDS: usize = 64;

    pub(crate) fn new(
        redis: Option<Arc<RedisLayer>>,
        config: &SessionConfig,
        time: Time,
        metrics: Arc<SharedMetrics>,
    ) -> Self {
        let place = match redis {
            Some(layer) => {
                let remote = Box::new(RemoteSessions::new(layer));
                Place::Redis { remote, touches: Touches::default() }
            }
            None => {
                let sessions = LocalSessions::new(config.local_capacity.as_u64());
                Place::Local { sessions: Mutex::new(sessions), time }
            }
        };
        Self { place, config: config.clone(), metrics }
    }

    pub(crate) fn source(&self) -> Source {
        match self.place {
            Place::Redis { .. } => Source::Redis,
            Place::Local { .. } => Source::Local,
        }
    }

    /// Begins a session. Gives its id, the session, and how many others ended to make room; `left` is the time the caller
    /// has.
    pub(crate) async fn create(
        &self,
        draft: Draft,
        left: Duration,
    ) -> Result<(SessionId, Session, u32), SessionError> {
        let bounds = self.bounds();
        bounds.check(&draft.fields)?;
        let id = SessionId::random();
        let ttl = draft.ttl.unwrap_or(self.config.ttl);
        let max_age = draft.max_age.unwrap_or(self.config.max_age);
        let (session, n_revoked) = match &self.place {
            Place::Redis { remote, .. } => {
                let new = remote::New { handle: id.handle(), draft, ttl, max_age };
                remote.create(new, bounds, left).await?
            }
            Place::Local { sessions, time } => {
                let session = Session::begin(id.handle(), draft, ttl, max_age, time.unix_ms());
                let n_revoked = sessions.lock().create(session.clone(), bounds)?;
                (session, n_revoked)
            }
        };
        Ok((id, session, n_revoked))
    }

    /// Finds a session, extends it if asked to, and tells whether its id has been replaced.
    pub(crate) async fn get(
        &self,
        id: &SessionId,
        touch: bool,
        left: Duration,
    ) -> Result<(Session, bool), SessionError> {
        match &self.place {
            Place::Redis { remote, touches } => self.get_remote(remote, touches, id, touch, left).await,
            Place::Local { sessions, time } => sessions.lock().get(&id.handle(), touch, time.unix_ms()),
        }
    }

    async fn get_remote(
        &self,
        remote: &RemoteSessions,
        touches: &Touches,
        id: &SessionId,
        touch: bool,
        left: Duration,
    ) -> Result<(Session, bool), SessionError> {
        let how = if touch { remote::Touch::Soon } else { remote::Touch::No };
        let (mut session, rotated, due_at_ms) = remote.get(&id.handle(), how, left).await?;
        let Some(seen_at_ms) = due_at_ms else { return Ok((session, rotated)) };
        if !touches.add(&session.handle, seen_at_ms) {
            let (session, rotated, _) = remote.get(&id.handle(), remote::Touch::Now, left).await?;
            self.metrics.touched_alone();
            return Ok((session, rotated));
        }
        session.seen_at_ms = seen_at_ms;
        Ok((session, rotated))
    }

    fn touched(&self) -> Option<(&RemoteSessions, &Touches)> {
        match &self.place {
            Place::Redis { remote, touches } => Some((remote, touches)),
            Place::Local { .. } => None,
        }
    }

    fn metrics(&self) -> &SharedMetrics {
        &self.metrics
    }

    pub(crate) async fn update(
        &self,
        id: &SessionId,
        change: &Change,
        left: Duration,
    ) -> Result<Session, SessionError> {
        let bounds = self.bounds();
        match &self.place {
            Place::Redis { remote, .. } => remote.update(&id.handle(), change, bounds, left).await,
            Place::Local { sessions, time } => {
                sessions.lock().update(&id.handle(), change, bounds, time.unix_ms())
            }
        }
    }

    /// Gives a session a new id; the old one leads to it for `grace`.
    pub(crate) async fn rotate(
        &self,
        id: &SessionId,
        grace: Option<Duration>,
        left: Duration,
    ) -> Result<(SessionId, Session), SessionError> {
        let grace = grace.unwrap_or(self.config.rotation_grace);
        let new = SessionId::random();
        let session = match &self.place {
            Place::Redis { remote, .. } => remote.rotate(&id.handle(), &new.handle(), grace, left).await?,
            Place::Local { sessions, time } => {
                sessions.lock().rotate(&id.handle(), new.handle(), grace, time.unix_ms())?
            }
        };
        Ok((new, session))
    }

    /// Ends a session; false when there was none.
    pub(crate) async fn revoke(&self, handle: &Handle, left: Duration) -> Result<bool, SessionError> {
        match &self.place {
            Place::Redis { remote, .. } => remote.revoke(handle, left).await,
            Place::Local { sessions, time } => Ok(sessions.lock().revoke(handle, time.unix_ms())),
        }
    }

    /// Lists the sessions of a user, the one that ends first first.
    pub(crate) async fn list(&self, user: &Name, left: Duration) -> Result<Vec<Session>, SessionError> {
        let mut sessions = match &self.place {
            Place::Redis { remote, .. } => remote.list(user, left).await?,
            Place::Local { sessions, time } => sessions.lock().list(user.as_str(), time.unix_ms()),
        };
        sessions.sort_by_key(|session| (session.ends_at_ms(), session.created_at_ms));
        Ok(sessions)
    }

    /// Ends the sessions of a user, all but one if asked to, and counts them.
    pub(crate) async fn revoke_user(
        &self,
        user: &Name,
        except: Option<&Handle>,
        left: Duration,
    ) -> Result<u32, SessionError> {
        match &self.place {
            Place::Redis { remote, .. } => remote.revoke_user(user, except, left).await,
            Place::Local { sessions, time } => {
                Ok(sessions.lock().revoke_user(user.as_str(), except, time.unix_ms()))
            }
        }
    }

    /// Drops sessions in memory that are over.
    pub(crate) fn sweep(&self) {
        if let Place::Local { sessions, time } = &self.place {
            sessions.lock().sweep(time.unix_ms());
        }
    }

    fn bounds(&self) -> Bounds {
        Bounds {
            per_user: self.config.max_per_user as usize,
            when_full: self.config.when_full,
            bytes: self.config.max_size.as_u64(),
        }
    }
}

impl Session {
    fn begin(handle: Handle, draft: Draft, ttl: Duration, max_age: Duration, now_ms: u64) -> Self {
        use crate::shared::millis;
        Self {
            handle,
            user: draft.user.as_str().to_owned(),
            created_at_ms: now_ms,
            seen_at_ms: now_ms,
            ttl_ms: millis(ttl),
            ends_at_latest_ms: now_ms.saturating_add(millis(max_age)),
            version: 1,
            fields: draft.fields,
        }
    }

    /// When it ends unless it is extended.
    pub(crate) fn ends_at_ms(&self) -> u64 {
        self.seen_at_ms.saturating_add(self.ttl_ms).min(self.ends_at_latest_ms)
    }

    /// Tells whether a touch is worth a write: a tenth of the ttl after the last.
    fn is_touch_due(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.seen_at_ms) >= self.ttl_ms / 10
    }
}

impl Bounds {
    fn check(&self, fields: &BTreeMap<String, String>) -> Result<(), SessionError> {
        let bytes: usize = fields.iter().map(|(name, value)| name.len() + value.len()).sum();
        if fields.len() > Sessions::MOST_FIELDS || bytes as u64 > self.bytes {
            return Err(SessionError::TooLarge { max_bytes: self.bytes });
        }
        Ok(())
    }
}
