//! How long to wait before trying again.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

pub use backon::ExponentialBackoff;

/// Delays for reconnecting to a server: 100 ms doubling to 5 s, with jitter, without end.
pub fn reconnect() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(5))
        .with_jitter()
        .without_max_times()
        .build()
}

/// Delays for repeating a request that failed for a passing reason: 250 ms doubling to 10 s, with jitter, so many times.
pub fn retries(times: usize) -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(250))
        .with_max_delay(Duration::from_secs(10))
        .with_jitter()
        .with_max_times(times)
        .build()
}
