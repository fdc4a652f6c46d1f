//! Times as the API writes them.

use std::time::{Duration, SystemTime};

use pbjson_types::Timestamp;

/// A time before 1970, which no object has, becomes 1970.
pub(crate) fn timestamp(time: SystemTime) -> Timestamp {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
    }
}

/// None for a time that is not one.
pub(crate) fn system_time(timestamp: &Timestamp) -> Option<SystemTime> {
    let seconds = Duration::from_secs(u64::try_from(timestamp.seconds).ok()?);
    let nanos = Duration::from_nanos(u64::try_from(timestamp.nanos).ok()?);
    SystemTime::UNIX_EPOCH.checked_add(seconds)?.checked_add(nanos)
}
