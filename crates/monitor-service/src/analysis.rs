//! Statistics that explain themselves: pure functions from figures at even steps to bands, change points, forecasts,
//! trends, error budgets, and what holds a system up.
//!
//! Nothing here is learned once and trusted for ever: every answer is computed from the figures it is about, and carries
//! what it was compared with. Methods are the textbook ones, named where they are used.

pub mod band;
pub mod bottleneck;
pub mod change;
pub mod endpoint;
pub mod forecast;
pub mod quality;
pub mod robust;
pub mod slo;
pub mod steps;
pub mod trend;
pub mod words;
