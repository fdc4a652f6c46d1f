//! The one place that reads the wall clock: pure code takes `now` as an argument.

use std::{cell::Cell, marker::PhantomData, time::SystemTime};

use tokio::time::Instant;

thread_local! {
    static SIMULATED: Cell<Option<(SystemTime, Instant)>> = const { Cell::new(None) };
}

/// The time of day. Use `tokio::time::Instant` to measure durations.
#[allow(clippy::disallowed_methods)]
pub fn now() -> SystemTime {
    match SIMULATED.get() {
        Some((epoch, begun)) => epoch + begun.elapsed(),
        None => SystemTime::now(),
    }
}

/// While it lives, the time of day on this thread moves with tokio's time: where a simulation pauses that, what is written
/// by the clock and what waits for a timer agree.
#[derive(Debug)]
#[must_use = "dropping it brings the wall clock back"]
pub struct SimulatedTime(PhantomData<*const ()>);

impl SimulatedTime {
    /// Inside of a tokio runtime: the time of day is `epoch` now.
    pub fn begin(epoch: SystemTime) -> Self {
        let simulated = Self(PhantomData);
        simulated.set(epoch);
        simulated
    }

    /// Somebody sets the clock: it goes on from `time`.
    pub fn set(&self, time: SystemTime) {
        SIMULATED.set(Some((time, Instant::now())));
    }
}

impl Drop for SimulatedTime {
    fn drop(&mut self) {
        SIMULATED.set(None);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_simulated_day_moves_with_the_timers_until_it_is_dropped() {
        let epoch = SystemTime::UNIX_EPOCH + Duration::from_hours(1);
        let simulated = SimulatedTime::begin(epoch);
        tokio::time::sleep(Duration::from_hours(24)).await;
        assert_eq!(now(), epoch + Duration::from_hours(24));
        simulated.set(epoch);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(now(), epoch + Duration::from_secs(1));
        drop(simulated);
        assert!(now() > epoch + Duration::from_hours(48));
    }
}
