//! Bounded waiting that tells what it last saw.

use std::{fmt, future::Future, time::Duration};

use tokio::time::{Instant, sleep, timeout_at};

/// Says what was waited for, how long, and the last state seen before the time ran out.
#[derive(Debug, Clone, thiserror::Error)]
pub struct TimedOut {
    pub what: String,
    pub within: Duration,
    pub last: String,
}

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "waited {:?} for {}; last seen: {}", self.within, self.what, self.last)
    }
}

/// Polls `condition` until it answers `Ok`, at most for `within`.
///
/// The `Err` text of the condition is the state seen; the last one is part of the time-out. One attempt that
/// hangs is cut off at the deadline. Cancel safe.
pub async fn wait_until<T, F, Fut>(
    what: impl Into<String>,
    every: Duration,
    within: Duration,
    mut condition: F,
) -> Result<T, TimedOut>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, String>>,
{
    let deadline = Instant::now() + within;
    let mut last = String::from("nothing, the first look did not end");
    loop {
        match timeout_at(deadline, condition()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(seen)) => last = seen,
            Err(_) => return Err(TimedOut { what: what.into(), within, last }),
        }
        if Instant::now() + every >= deadline {
            return Err(TimedOut { what: what.into(), within, last });
        }
        sleep(every).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn time_out_tells_the_last_state_seen() {
        let mut looks = 0;
        let error = wait_until("the moon", Duration::from_millis(10), Duration::from_millis(35), || {
            looks += 1;
            let seen = format!("look {looks}");
            async move { Err::<(), _>(seen) }
        })
        .await
        .unwrap_err();
        assert_eq!(error.to_string(), "waited 35ms for the moon; last seen: look 4");
    }

    #[tokio::test(start_paused = true)]
    async fn a_hanging_look_is_cut_off_at_the_deadline() {
        let before = Instant::now();
        let error = wait_until("x", Duration::from_millis(1), Duration::from_secs(2), || {
            std::future::pending::<Result<(), String>>()
        })
        .await
        .unwrap_err();
        assert_eq!(before.elapsed(), Duration::from_secs(2));
        assert!(error.last.contains("did not end"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn value_of_the_first_success_is_returned() {
        let mut looks = 0;
        let value = wait_until("x", Duration::from_millis(1), Duration::from_secs(1), || {
            looks += 1;
            let now = looks;
            async move { if now < 3 { Err(String::from("early")) } else { Ok(now) } }
        })
        .await
        .unwrap();
        assert_eq!(value, 3);
    }
}
