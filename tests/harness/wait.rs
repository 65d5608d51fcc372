//! Waiting, bounded, for what should come by itself.

use std::time::Duration;

use mainstay_devstack::wait_until;

/// Longest wait for anything that should happen by itself, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);
/// How often a condition is looked at.
pub(crate) const OFTEN: Duration = Duration::from_millis(25);

/// Waits until the condition answers `Ok`.
///
/// # Panics
/// After two minutes, with the last state the condition told.
pub async fn eventually<T, F, Fut>(what: impl Into<String>, condition: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, String>>,
{
    match wait_until(what, OFTEN, PATIENCE, condition).await {
        Ok(value) => value,
        Err(timed_out) => panic!("{timed_out}"),
    }
}
