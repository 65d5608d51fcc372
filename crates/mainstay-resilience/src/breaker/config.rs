use std::time::Duration;

/// Says when a breaker opens and how it closes again.
#[derive(Debug, Clone, PartialEq)]
pub struct BreakerConfig {
    /// Time over which calls are counted; also the time after which an unreported probe loses its slot.
    pub window: Duration,
    /// Calls within the window below which no rate is looked at; at least 1.
    pub min_calls: u32,
    /// Share of failed calls, in (0, 1], at which it opens.
    pub failure_rate: f64,
    /// A call that took this long is slow.
    pub slow_after: Duration,
    /// Share of slow calls, in (0, 1], at which it opens.
    pub slow_rate: f64,
    /// How long the first opening lasts; doubles with each failed probing.
    pub open_for: Duration,
    /// How long an opening lasts at most.
    pub open_for_max: Duration,
    /// Probes in flight at most while half-open, and successes needed to close; at least 1.
    pub probes: u32,
    /// Failures in a row that open at once, whatever the traffic; 0 turns this rule off.
    pub consecutive_failures: u32,
}

impl BreakerConfig {
    /// Accepts only figures that make a working breaker.
    pub fn try_new(config: Self) -> Result<Self, InvalidBreakerConfig> {
        let rate = |rate: f64| rate > 0.0 && rate <= 1.0;
        if config.window.is_zero() {
            Err(InvalidBreakerConfig::ZeroWindow)
        } else if config.min_calls == 0 {
            Err(InvalidBreakerConfig::ZeroMinCalls)
        } else if config.probes == 0 {
            Err(InvalidBreakerConfig::ZeroProbes)
        } else if !rate(config.failure_rate) {
            Err(InvalidBreakerConfig::FailureRate(config.failure_rate))
        } else if !rate(config.slow_rate) {
            Err(InvalidBreakerConfig::SlowRate(config.slow_rate))
        } else if config.slow_after.is_zero() {
            Err(InvalidBreakerConfig::ZeroSlowAfter)
        } else if config.open_for.is_zero() || config.open_for > config.open_for_max {
            Err(InvalidBreakerConfig::OpenFor { first: config.open_for, max: config.open_for_max })
        } else if config.open_for_max > LONGEST {
            Err(InvalidBreakerConfig::OpenForMax(config.open_for_max))
        } else {
            Ok(config)
        }
    }

    /// Brings every figure to the nearest legal one.
    pub(super) fn clamped(self) -> Self {
        let instant = Duration::from_nanos(1);
        let rate = |rate: f64| if rate.is_nan() { 1.0 } else { rate.clamp(f64::MIN_POSITIVE, 1.0) };
        let open_for = self.open_for.clamp(instant, LONGEST);
        Self {
            window: self.window.max(instant),
            min_calls: self.min_calls.max(1),
            failure_rate: rate(self.failure_rate),
            slow_after: self.slow_after.max(instant),
            slow_rate: rate(self.slow_rate),
            open_for,
            open_for_max: self.open_for_max.clamp(open_for, LONGEST),
            probes: self.probes.max(1),
            consecutive_failures: self.consecutive_failures,
        }
    }
}

/// Adding more than this to an instant could leave the range of the platform's clock.
const LONGEST: Duration = Duration::from_hours(24);

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(10),
            min_calls: 20,
            failure_rate: 0.5,
            slow_after: Duration::from_secs(1),
            slow_rate: 0.9,
            open_for: Duration::from_secs(1),
            open_for_max: Duration::from_secs(30),
            probes: 3,
            consecutive_failures: 5,
        }
    }
}

/// Says which figure makes no working breaker.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum InvalidBreakerConfig {
    /// Nothing could ever be counted.
    #[error("window must be above zero")]
    ZeroWindow,
    /// A rate of no calls means nothing.
    #[error("min_calls must be at least 1")]
    ZeroMinCalls,
    /// Without probes it could never close.
    #[error("probes must be at least 1")]
    ZeroProbes,
    /// Not a share.
    #[error("failure_rate {0} must be above 0 and at most 1")]
    FailureRate(f64),
    /// Not a share.
    #[error("slow_rate {0} must be above 0 and at most 1")]
    SlowRate(f64),
    /// Every call would be slow.
    #[error("slow_after must be above zero")]
    ZeroSlowAfter,
    /// The first opening must be shorter than the longest one.
    #[error("open_for {first:?} must be above zero and at most open_for_max {max:?}")]
    OpenFor {
        /// The first opening asked for.
        first: Duration,
        /// The longest opening asked for.
        max: Duration,
    },
    /// Nobody waits that long.
    #[error("open_for_max {0:?} must be at most 24 h")]
    OpenForMax(Duration),
}
