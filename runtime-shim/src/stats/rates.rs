//! CPU use as a rate, from one sample to the next.

use std::{collections::HashMap, sync::Mutex, time::Duration};

use crate::table::lock;

/// A rate is not worth much over less.
const MIN_SPAN: Duration = Duration::from_millis(100);

/// The CPU time of earlier samples by cgroup, from which rates are made.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    earlier: Mutex<HashMap<String, CpuTime>>,
}

#[derive(Debug, Clone, Copy)]
struct CpuTime {
    at: i64,
    nanos: u64,
    rate: Option<u64>,
}

impl Rates {
    /// CPU nanoseconds a second since the sample before; none at the first.
    pub(super) fn rate(&self, cgroup: &str, at: i64, nanos: u64) -> Option<u64> {
        let mut earlier = lock(&self.earlier);
        let Some(before) = earlier.get(cgroup).copied() else {
            earlier.insert(
                cgroup.to_owned(),
                CpuTime {
                    at,
                    nanos,
                    rate: None,
                },
            );
            return None;
        };
        let span = u64::try_from(at - before.at).unwrap_or(0);
        if u128::from(span) < MIN_SPAN.as_nanos() {
            return before.rate;
        }
        let used = u128::from(nanos.saturating_sub(before.nanos)) * 1_000_000_000;
        let rate = Some(u64::try_from(used / u128::from(span)).unwrap_or(u64::MAX));
        earlier.insert(cgroup.to_owned(), CpuTime { at, nanos, rate });
        rate
    }

    /// For a cgroup that is gone.
    pub(crate) fn forget(&self, cgroup: &str) {
        lock(&self.earlier).remove(cgroup);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_cpu_time_over_the_time_between_samples() {
        let rates = Rates::default();
        assert_eq!(rates.rate("/c1", 0, 0), None);
        assert_eq!(rates.rate("/c1", 1, 0), None, "no span to speak of");
        // Half a second of CPU in one second.
        assert_eq!(rates.rate("/c1", 1_000_000_000, 500_000_000), Some(500_000_000));
        // Asked again at once: the same answer.
        assert_eq!(rates.rate("/c1", 1_000_000_001, 500_000_000), Some(500_000_000));
        rates.forget("/c1");
        assert_eq!(rates.rate("/c1", 2_000_000_000, 0), None);
    }
}
