//! Says once that something fails, and once that it works again, however often it is tried in between.

use std::fmt;

/// The state of one thing that is retried for ever.
#[derive(Debug)]
pub(crate) struct Outage {
    what: &'static str,
    reason: Option<String>,
}

impl Outage {
    pub(crate) fn new(what: &'static str) -> Self {
        Self { what, reason: None }
    }

    /// Logs a reason that is not the last one's.
    pub(crate) fn failed(&mut self, reason: impl fmt::Display) {
        let reason = reason.to_string();
        if self.reason.as_ref() == Some(&reason) {
            tracing::debug!(what = self.what, reason, "still failing");
        } else {
            tracing::warn!(what = self.what, reason, "failed; trying again");
            self.reason = Some(reason);
        }
    }

    pub(crate) fn over(&mut self) {
        if self.reason.take().is_some() {
            tracing::info!(what = self.what, "works again");
        }
    }
}
