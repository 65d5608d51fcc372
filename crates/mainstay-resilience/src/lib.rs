#![doc = include_str!("../README.md")]

pub mod backoff;
pub mod breaker;
pub mod budget;
pub mod hysteresis;
pub mod window;

#[cfg(test)]
mod test_time {
    use std::time::Instant;

    /// Gives tests a first instant; every later one is this plus a duration.
    #[expect(clippy::disallowed_methods, reason = "an Instant can only be made by reading the clock")]
    pub(crate) fn origin() -> Instant {
        Instant::now()
    }
}
