//! When a container that has ended runs again.

use std::time::{Duration, SystemTime};

use super::{
    memory::doubled,
    observed::{Exit, Run},
};
use crate::config::Intervals;

/// What becomes of a run that has ended, under its pod's restart policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It stays as it is.
    Done,
    /// It is started again at this time.
    RestartAt { at: SystemTime, backoff_step: u32 },
}

/// Decides whether and when the run after `run` starts. Only for a run of the present spec.
pub fn next_run(policy: &str, run: &Run, exit: &Exit, intervals: &Intervals) -> Next {
    let restart = match policy {
        "Never" => false,
        "OnFailure" => exit.code != 0,
        _ => true,
    };
    if !restart {
        return Next::Done;
    }
    let ran = exit
        .started_at
        .and_then(|started| exit.finished_at.duration_since(started).ok())
        .unwrap_or_default();
    let early_before = if ran >= intervals.backoff_reset {
        0
    } else {
        run.backoff_step
    };
    // The first early end is made good at once.
    let wait = match early_before.checked_sub(1) {
        None => Duration::ZERO,
        Some(times) => doubled(intervals.backoff_base, intervals.backoff_max, times),
    };
    Next::RestartAt {
        at: exit.finished_at + wait,
        backoff_step: early_before.saturating_add(1),
    }
}
