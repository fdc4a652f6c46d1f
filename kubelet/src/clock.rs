//! The time of day, and a stand-in for it that follows tokio's paused time in tests and simulations.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

pub(crate) use crate::timestamp::timestamp as to_timestamp;

/// Where `now` comes from.
#[derive(Debug, Clone, Copy, Default)]
pub enum Clock {
    /// The machine's clock.
    #[default]
    Wall,
    /// Starts at a fixed time and moves with tokio's timers.
    Virtual { epoch: SystemTime, started: Instant },
}

impl Clock {
    /// A virtual clock that starts now, at a fixed time of day.
    pub fn virtual_from(epoch: SystemTime) -> Self {
        Self::Virtual {
            epoch,
            started: Instant::now(),
        }
    }

    pub fn now(&self) -> SystemTime {
        match self {
            Self::Wall => clone8s_daemon::clock::now(),
            Self::Virtual { epoch, started } => *epoch + started.elapsed(),
        }
    }
}

/// Nanoseconds since 1970, as CRI writes times.
pub(crate) fn to_nanos(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

/// None for 0, by which CRI means "not yet".
pub(crate) fn from_nanos(nanos: i64) -> Option<SystemTime> {
    match u64::try_from(nanos) {
        Ok(nanos) if nanos > 0 => Some(SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos)),
        _ => None,
    }
}
