use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fred::types::Value;

use super::{Bounds, Change, Draft, Handle, Session, SessionError, Sessions};
use crate::config::{SessionConfig, WhenFull};
use crate::layer::redis::RedisLayer;
use crate::redis::Script;
use crate::shared::{Name, SharedError, millis};

mod scripts;

/// Keeps sessions in Redis. Each call is one script: one step, by the clock of Redis.
///
/// A session is a hash under `_session:` and its handle, with a ttl; an old id is a hash with `to` alone. The handles of a user are
/// a sorted set under `_sessions_of:` and the user, scored by when each session ends.
#[derive(Debug)]
pub(super) struct RemoteSessions {
    layer: Arc<RedisLayer>,
    create: Script,
    get: Script,
    touch: Script,
    update: Script,
    rotate: Script,
    revoke: Script,
    list: Script,
    revoke_user: Script,
}

/// A session to begin.
pub(super) struct New {
    pub(super) handle: Handle,
    pub(super) draft: Draft,
    pub(super) ttl: Duration,
    pub(super) max_age: Duration,
}

/// Whether a read extends the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Touch {
    No,
    /// In the same step.
    Now,
    /// By a later [`RemoteSessions::touch`], unless it would end too soon to wait for that.
    Soon,
}

/// Where scripts find sessions and users. In a cluster all lie together: an id does not tell whose session it is.
const SESSIONS: &str = "_session:";
const USERS: &str = "_sessions_of:";

impl RemoteSessions {
    pub(super) fn new(layer: Arc<RedisLayer>) -> Self {
        Self {
            layer,
            create: Script::new(scripts::CREATE),
            get: Script::new(scripts::GET),
            touch: Script::new(scripts::TOUCH),
            update: Script::new(scripts::UPDATE),
            rotate: Script::new(scripts::ROTATE),
            revoke: Script::new(scripts::REVOKE),
            list: Script::new(scripts::LIST),
            revoke_user: Script::new(scripts::REVOKE_USER),
        }
    }

    pub(super) async fn create(
        &self,
        new: New,
        bounds: Bounds,
        left: Duration,
    ) -> Result<(Session, u32), SessionError> {
        let New { handle, draft, ttl, max_age } = new;
        let mut arguments: Vec<Value> = vec![
            handle.as_str().into(),
            draft.user.as_str().into(),
            text(millis(ttl)),
            text(millis(max_age)),
            text(bounds.per_user as u64),
            text(u64::from(bounds.when_full == WhenFull::RevokeOldest)),
        ];
        for (name, value) in &draft.fields {
            arguments.push(name.as_str().into());
            arguments.push(value.as_str().into());
        }
        let answer = self.ask(&self.create, arguments, left).await?;
        let (now_ms, n_revoked) = (number(answer.get(1))?, number(answer.get(2))?);
        let session = Session::begin(handle, draft, ttl, max_age, now_ms);
        Ok((session, u32::try_from(n_revoked).unwrap_or(u32::MAX)))
    }

    /// Finds a session; tells whether the id was rotated, and, if a touch is due and was not written, as of when.
    pub(super) async fn get(
        &self,
        handle: &Handle,
        touch: Touch,
        left: Duration,
    ) -> Result<(Session, bool, Option<u64>), SessionError> {
        let arguments = vec![handle.as_str().into(), text(touch as u64)];
        // A touch whose outcome is unknown has done no harm: to the caller it is a read.
        let answer = self.ask_as(&self.get, arguments, left, SharedError::of_read).await?;
        let rotated = answer.get(1).is_some_and(|rotated| rotated == "1");
        let due_at_ms = number(answer.get(2))?;
        let session = decode(&mut answer.into_iter().skip(3))?;
        Ok((session, rotated, (due_at_ms > 0).then_some(due_at_ms)))
    }

    /// Extends sessions that were seen; those that are over stay so.
    pub(super) async fn touch(&self, seen: &[(Handle, u64)], left: Duration) -> Result<(), SessionError> {
        let pairs = seen.iter().flat_map(|(handle, at_ms)| [handle.as_str().into(), text(*at_ms)]);
        self.ask(&self.touch, pairs.collect(), left).await.map(drop)
    }

    pub(super) async fn update(
        &self,
        handle: &Handle,
        change: &Change,
        bounds: Bounds,
        left: Duration,
    ) -> Result<Session, SessionError> {
        let mut arguments: Vec<Value> = vec![
            handle.as_str().into(),
            change.if_version.map(|version| version.to_string()).unwrap_or_default().into(),
            text(bounds.bytes),
            text(Sessions::MOST_FIELDS as u64),
            text(change.set.len() as u64),
        ];
        for (name, value) in &change.set {
            arguments.push(name.as_str().into());
            arguments.push(value.as_str().into());
        }
        arguments.extend(change.remove.iter().map(|name| Value::from(name.as_str())));
        let answer = self.ask(&self.update, arguments, left).await.map_err(|error| match error {
            SessionError::TooLarge { .. } => SessionError::TooLarge { max_bytes: bounds.bytes },
            error => error,
        })?;
        decode(&mut answer.into_iter().skip(1))
    }

    pub(super) async fn rotate(
        &self,
        old: &Handle,
        new: &Handle,
        grace: Duration,
        left: Duration,
    ) -> Result<Session, SessionError> {
        let arguments = vec![old.as_str().into(), new.as_str().into(), text(millis(grace))];
        let answer = self.ask(&self.rotate, arguments, left).await?;
        decode(&mut answer.into_iter().skip(1))
    }

    pub(super) async fn revoke(&self, handle: &Handle, left: Duration) -> Result<bool, SessionError> {
        let answer = self.ask(&self.revoke, vec![handle.as_str().into()], left).await?;
        Ok(number(answer.get(1))? == 1)
    }

    pub(super) async fn list(&self, user: &Name, left: Duration) -> Result<Vec<Session>, SessionError> {
        let arguments = vec![user.as_str().into(), text(SessionConfig::MOST_PER_USER.into())];
        let answer = self.ask_as(&self.list, arguments, left, SharedError::of_read).await?;
        let mut rest = answer.into_iter().skip(1).peekable();
        let mut sessions = Vec::new();
        while rest.peek().is_some() {
            sessions.push(decode(&mut rest)?);
        }
        Ok(sessions)
    }

    pub(super) async fn revoke_user(
        &self,
        user: &Name,
        except: Option<&Handle>,
        left: Duration,
    ) -> Result<u32, SessionError> {
        let arguments = vec![user.as_str().into(), except.map_or("", Handle::as_str).into()];
        let answer = self.ask(&self.revoke_user, arguments, left).await?;
        Ok(u32::try_from(number(answer.get(1))?).unwrap_or(u32::MAX))
    }

    async fn ask(
        &self,
        script: &Script,
        arguments: Vec<Value>,
        left: Duration,
    ) -> Result<Vec<String>, SessionError> {
        self.ask_as(script, arguments, left, SharedError::of_write).await
    }

    async fn ask_as(
        &self,
        script: &Script,
        arguments: Vec<Value>,
        left: Duration,
        failed: fn(crate::layer::redis::LayerError) -> SharedError,
    ) -> Result<Vec<String>, SessionError> {
        let answer: Result<Vec<String>, _> = self
            .layer
            .of(SESSIONS)
            .script("redis.session", script, &[SESSIONS, USERS], arguments, left)
            .await;
        let answer = answer.map_err(failed)?;
        match answer.first().map(String::as_str) {
            Some("ok") => Ok(answer),
            Some("gone") => Err(SessionError::NotFound),
            Some("mismatch") => Err(SessionError::VersionMismatch { present: number(answer.get(1))? }),
            Some("rotated") => Err(SessionError::Rotated),
            Some("full") => Err(SessionError::TooMany),
            Some("large") => Err(SessionError::TooLarge { max_bytes: 0 }),
            _ => Err(SessionError::Damaged),
        }
    }
}

/// Reads a session: handle, number of pairs, pairs of names and values. The service's own names have one letter, those of
/// fields begin with `f:`.
fn decode(texts: &mut impl Iterator<Item = String>) -> Result<Session, SessionError> {
    let mut next = || texts.next().ok_or(SessionError::Damaged);
    let handle = Handle::try_new(&next()?).ok_or(SessionError::Damaged)?;
    let n_pairs = number(Some(&next()?))?;
    let (mut own, mut fields) = (BTreeMap::new(), BTreeMap::new());
    for _ in 0..n_pairs {
        let (name, value) = (next()?, next()?);
        match name.strip_prefix("f:") {
            Some(field) => fields.insert(field.to_owned(), value),
            None => own.insert(name, value),
        };
    }
    let of = |name: &str| number(own.get(name));
    Ok(Session {
        handle,
        created_at_ms: of("c")?,
        seen_at_ms: of("s")?,
        ttl_ms: of("t")?,
        ends_at_latest_ms: of("x")?,
        version: of("v")?,
        user: own.get("u").cloned().ok_or(SessionError::Damaged)?,
        fields,
    })
}

fn number(text: Option<&String>) -> Result<u64, SessionError> {
    text.and_then(|text| text.parse().ok()).ok_or(SessionError::Damaged)
}

/// Arguments of scripts are texts.
fn text(number: u64) -> Value {
    Value::from(number.to_string())
}
