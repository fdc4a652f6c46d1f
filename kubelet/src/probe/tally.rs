//! From single answers to a verdict. Pure.

use clone8s::v1::Probe;

use super::ProbeKind;

/// Counts answers in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tally {
    success_threshold: i32,
    failure_threshold: i32,
    /// None while a startup probe has neither succeeded nor failed.
    verdict: Option<bool>,
    last: Option<bool>,
    in_a_row: i32,
}

impl Tally {
    /// `ready` is what is known of the run's readiness.
    pub(super) fn new(kind: ProbeKind, probe: &Probe, ready: bool) -> Self {
        Self {
            success_threshold: probe.success_threshold.max(1),
            failure_threshold: probe.failure_threshold.max(1),
            verdict: match kind {
                ProbeKind::Startup => None,
                ProbeKind::Liveness => Some(true),
                ProbeKind::Readiness => Some(ready),
            },
            last: None,
            in_a_row: 0,
        }
    }

    /// The new verdict, when this answer changes it.
    pub(super) fn note(&mut self, good: bool) -> Option<bool> {
        self.in_a_row = if self.last == Some(good) {
            self.in_a_row.saturating_add(1)
        } else {
            1
        };
        self.last = Some(good);
        let threshold = if good {
            self.success_threshold
        } else {
            self.failure_threshold
        };
        if self.in_a_row < threshold || self.verdict == Some(good) {
            return None;
        }
        self.verdict = Some(good);
        self.verdict
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    /// Answers as "+" and "-", verdicts in their places where they change.
    fn verdicts(kind: ProbeKind, ready: bool, success: i32, failure: i32, answers: &str) -> String {
        let probe = Probe {
            success_threshold: success,
            failure_threshold: failure,
            ..Default::default()
        };
        let mut tally = Tally::new(kind, &probe, ready);
        answers
            .chars()
            .map(|answer| match tally.note(answer == '+') {
                Some(true) => 'S',
                Some(false) => 'F',
                None => '.',
            })
            .collect()
    }

    #[rstest]
    #[case::ready_at_once(ProbeKind::Readiness, false, 1, 3, "+++", "S..")]
    #[case::ready_after_two(ProbeKind::Readiness, false, 2, 3, "+-++", "...S")]
    #[case::unready_after_three(ProbeKind::Readiness, true, 1, 3, "--+---+", ".....FS")]
    #[case::never_ready_is_no_news(ProbeKind::Readiness, false, 1, 3, "----", "....")]
    #[case::alive_is_no_news(ProbeKind::Liveness, false, 1, 2, "++-+--", ".....F")]
    #[case::started(ProbeKind::Startup, false, 1, 3, "--+", "..S")]
    #[case::not_started(ProbeKind::Startup, false, 1, 3, "---", "..F")]
    fn a_verdict_changes_when_enough_answers_agree(
        #[case] kind: ProbeKind,
        #[case] ready: bool,
        #[case] success: i32,
        #[case] failure: i32,
        #[case] answers: &str,
        #[case] expected: &str,
    ) {
        assert_eq!(verdicts(kind, ready, success, failure, answers), expected);
    }
}
