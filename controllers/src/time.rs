//! Timestamps of the API.

use std::time::{SystemTime, UNIX_EPOCH};

use pbjson_types::Timestamp;

/// The time of day.
pub(crate) fn now() -> Timestamp {
    from_system(clone8s_daemon::clock::now())
}

pub(crate) fn from_system(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
    }
}
