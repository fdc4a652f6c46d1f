//! Times as CRI (nanoseconds since 1970) and containerd (seconds and nanoseconds) write them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Nanoseconds since 1970, as in CRI; 0 for a time before.
pub(crate) fn nanos(at: SystemTime) -> i64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

pub(crate) fn now_nanos() -> i64 {
    nanos(clone8s_daemon::clock::now())
}

/// None for no time and for the zero time of Go, which lies before 1970.
pub(crate) fn from_proto(at: Option<prost_types::Timestamp>) -> Option<SystemTime> {
    let at = at?;
    let seconds = u64::try_from(at.seconds).ok().filter(|&seconds| seconds > 0)?;
    Some(UNIX_EPOCH + Duration::new(seconds, at.nanos.unsigned_abs()))
}
