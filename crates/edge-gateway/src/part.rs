//! Parts of merged answers: fresh, stale or missing, and how old.

use std::time::Duration;

use mainstay_rpc::Failure;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

/// How much a part of a merged answer can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Freshness {
    /// Asked for this answer.
    Fresh,
    /// The service did not answer; this is what it said last.
    Stale,
    /// The service did not answer and never has.
    Missing,
    /// This installation has no such service.
    Absent,
}

/// One part of a merged answer.
#[derive(Clone, Debug)]
pub(crate) struct Part<T> {
    pub(crate) value: Option<T>,
    pub(crate) freshness: Freshness,
    /// Age of `value`.
    pub(crate) age: Option<Duration>,
    /// Why it is not fresh.
    pub(crate) reason: Option<String>,
}

/// What a merged answer tells about one of its parts.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PartInfo {
    pub(crate) freshness: Freshness,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) age_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
}

/// The last good answer of one source.
#[derive(Debug)]
pub(crate) struct LastKnown<T>(Mutex<Option<(Instant, T)>>);

impl<T> Default for LastKnown<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T: Clone> LastKnown<T> {
    /// Takes the outcome of asking the source just now, and answers with the best there is.
    pub(crate) fn settle(&self, outcome: Result<T, Failure>) -> Part<T> {
        match outcome {
            Ok(value) => {
                *self.0.lock() = Some((Instant::now(), value.clone()));
                Part {
                    value: Some(value),
                    freshness: Freshness::Fresh,
                    age: Some(Duration::ZERO),
                    reason: None,
                }
            }
            Err(failure) => {
                let reason = Some(failure.message().to_owned());
                match &*self.0.lock() {
                    Some((at, value)) => Part {
                        value: Some(value.clone()),
                        freshness: Freshness::Stale,
                        age: Some(at.elapsed()),
                        reason,
                    },
                    None => Part { value: None, freshness: Freshness::Missing, age: None, reason },
                }
            }
        }
    }
}

impl<T> Part<T> {
    pub(crate) fn info(&self) -> PartInfo {
        PartInfo {
            freshness: self.freshness,
            age_seconds: self.age.map(|age| (age.as_secs_f64() * 1000.0).round() / 1000.0),
            reason: self.reason.clone(),
        }
    }

    pub(crate) fn is_fresh(&self) -> bool {
        self.freshness == Freshness::Fresh
    }
}

#[cfg(test)]
mod tests {
    use mainstay_rpc::ErrorCode;

    use super::*;

    fn down() -> Failure {
        Failure::new(ErrorCode::Unavailable, "UPSTREAM_UNAVAILABLE", "cache-service does not answer")
    }

    #[tokio::test(start_paused = true)]
    async fn failing_source_gives_its_last_answer_with_its_age() {
        let last = LastKnown::default();
        assert_eq!(last.settle(Ok(7)).freshness, Freshness::Fresh);
        tokio::time::advance(Duration::from_secs(3)).await;

        let part = last.settle(Err(down()));
        assert_eq!(
            (part.value, part.freshness, part.age),
            (Some(7), Freshness::Stale, Some(Duration::from_secs(3)))
        );
        assert_eq!(part.reason.as_deref(), Some("cache-service does not answer"));
    }

    #[test]
    fn source_that_never_answered_is_missing() {
        let part = LastKnown::<u32>::default().settle(Err(down()));
        assert_eq!((part.value, part.freshness, part.age), (None, Freshness::Missing, None));
    }
}
