//! From counters that grow to a rate over the last interval: pure.

use std::collections::HashMap;

use clone8s::v1::CpuStats;
use tokio::time::Instant;

/// What the last sample has seen of each CPU counter.
#[derive(Debug, Default)]
pub(super) struct Rates {
    node: Option<Reading<Instant>>,
    /// By container id. A container that is gone is not carried over.
    containers: HashMap<String, Reading<i64>>,
}

#[derive(Debug, Clone, Copy)]
struct Reading<T> {
    nano_seconds: u64,
    at: T,
}

impl Rates {
    /// Takes down the node's counter, and compares it with the sample before.
    pub(super) fn node(&mut self, before: &Self, nano_seconds: u64, at: Instant) -> CpuStats {
        self.node = Some(Reading { nano_seconds, at });
        let rate = before.node.map_or(0, |before| {
            let elapsed = at.saturating_duration_since(before.at).as_nanos();
            per_second(nano_seconds.saturating_sub(before.nano_seconds), elapsed)
        });
        stats(nano_seconds, rate)
    }

    /// The same for a container. `at` is the runtime's time of the reading in nanoseconds.
    pub(super) fn container(&mut self, before: &Self, id: &str, nano_seconds: u64, at: i64) -> CpuStats {
        self.containers
            .insert(id.to_owned(), Reading { nano_seconds, at });
        let rate = before.containers.get(id).map_or(0, |before| {
            let elapsed = u128::try_from(at.saturating_sub(before.at)).unwrap_or(0);
            per_second(nano_seconds.saturating_sub(before.nano_seconds), elapsed)
        });
        stats(nano_seconds, rate)
    }
}

fn stats(total: u64, rate: u64) -> CpuStats {
    CpuStats {
        usage_core_nano_seconds: total,
        usage_nano_cores: rate,
    }
}

/// 0 when no time has passed, and so nothing can be said.
fn per_second(used_nanos: u64, elapsed_nanos: u128) -> u64 {
    let rate = (u128::from(used_nanos) * 1_000_000_000)
        .checked_div(elapsed_nanos)
        .unwrap_or(0);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[rstest]
    #[case::idle(0, 10, 0)]
    #[case::one_core_all_the_time(10 * SECOND, 10, SECOND)]
    #[case::a_quarter_of_a_core(SECOND, 4, SECOND / 4)]
    #[case::no_time_passed(SECOND, 0, 0)]
    fn a_rate_is_what_was_used_over_the_time_that_passed(
        #[case] used: u64,
        #[case] seconds: u128,
        #[case] expected: u64,
    ) {
        assert_eq!(per_second(used, seconds * u128::from(SECOND)), expected);
    }

    #[test]
    fn the_first_sight_of_a_container_has_no_rate_and_a_restart_of_its_counter_gives_none_below_zero() {
        let mut first = Rates::default();
        assert_eq!(
            first
                .container(&Rates::default(), "c", 5 * SECOND, 0)
                .usage_nano_cores,
            0
        );
        let mut second = Rates::default();
        let at = i64::try_from(SECOND).unwrap();
        assert_eq!(
            second.container(&first, "c", 6 * SECOND, at).usage_nano_cores,
            SECOND
        );
        let mut third = Rates::default();
        let stats = third.container(&second, "c", 0, at * 2);
        assert_eq!((stats.usage_core_nano_seconds, stats.usage_nano_cores), (0, 0));
    }

    proptest! {
        #[test]
        fn no_pair_of_readings_stops_the_kubelet(a: u64, b: u64, at: i64, later: i64) {
            let mut first = Rates::default();
            first.container(&Rates::default(), "c", a, at);
            Rates::default().container(&first, "c", b, later);
        }
    }
}
