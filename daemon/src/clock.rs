//! The one place that reads the wall clock: pure code takes `now` as an argument.

use std::time::SystemTime;

/// The time of day. Use `tokio::time::Instant` to measure durations.
#[allow(clippy::disallowed_methods)]
pub fn now() -> SystemTime {
    SystemTime::now()
}
