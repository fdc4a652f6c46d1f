//! One probe of one run: asks on its timer, counts, and reports verdicts that change.

use std::time::{Duration, SystemTime};

use clone8s::v1::Probe;
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval_at},
};

use super::{
    ProbeContext, ProbeKind, Report,
    handler::{Answer, Place, ask},
    tally::Tally,
};
use crate::{desired::DesiredPod, events::EventType::Warning};

pub(super) struct Prober {
    pub(super) pod: DesiredPod,
    pub(super) kind: ProbeKind,
    pub(super) probe: Probe,
    pub(super) place: Place,
    pub(super) started_at: SystemTime,
    /// An earlier kubelet has asked this run before.
    pub(super) adopted: bool,
    /// What is known of the run's readiness.
    pub(super) ready: bool,
    pub(super) context: ProbeContext,
    pub(super) reports: mpsc::Sender<Report>,
}

impl Prober {
    /// Asks until it is given up, or its verdict is final.
    pub(super) async fn run(self) {
        let period = seconds(self.probe.period_seconds).max(Duration::from_secs(1));
        let now = self.context.clock.now();
        let wait = first_wait(
            self.started_at,
            seconds(self.probe.initial_delay_seconds),
            period,
            self.adopted,
            now,
        );
        let mut timer = interval_at(Instant::now() + wait, period);
        // An answer that comes late puts off the next question: a slow server is not asked more often.
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut tally = Tally::new(self.kind, &self.probe, self.ready);
        loop {
            timer.tick().await;
            let answer = ask(self.context.runtime.as_ref(), &self.place, &self.probe).await;
            self.tell(&answer);
            let good = match answer {
                Answer::Good => true,
                Answer::Bad(_) => false,
                Answer::Nothing(_) => continue,
            };
            let Some(verdict) = tally.note(good) else { continue };
            let report = Report {
                run: self.place.run.clone(),
                kind: self.kind,
                good: verdict,
            };
            let is_final = self.kind != ProbeKind::Readiness;
            if self.reports.send(report).await.is_err() || is_final {
                return;
            }
        }
    }

    fn tell(&self, answer: &Answer) {
        let kind = self.kind;
        let (reason, message) = match answer {
            Answer::Good => return,
            Answer::Bad(why) => ("Unhealthy", format!("{} probe failed: {why}", capitalized(kind))),
            Answer::Nothing(why) => (
                "ProbeError",
                format!("{} probe errored: {why}", capitalized(kind)),
            ),
        };
        self.context.events.record(&self.pod, Warning, reason, message);
    }
}

fn capitalized(kind: ProbeKind) -> &'static str {
    match kind {
        ProbeKind::Startup => "Startup",
        ProbeKind::Liveness => "Liveness",
        ProbeKind::Readiness => "Readiness",
    }
}

fn seconds(seconds: i32) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// How long to wait with the first question. The probes of runs that were there before the kubelet go on in their
/// own rhythm, which also spreads them over the period.
fn first_wait(
    started_at: SystemTime,
    initial_delay: Duration,
    period: Duration,
    adopted: bool,
    now: SystemTime,
) -> Duration {
    let first = started_at + initial_delay;
    match now.duration_since(first) {
        // A clock that was set back must not silence a probe.
        Err(early) => early.duration().min(initial_delay),
        Ok(_) if !adopted => Duration::ZERO,
        Ok(since) => {
            let into_period = since.as_nanos() % period.as_nanos().max(1);
            period.saturating_sub(Duration::from_nanos(u64::try_from(into_period).unwrap_or(0)))
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::at_once(0, false, 0, 0)]
    #[case::after_the_delay(5, false, 1, 4)]
    #[case::a_late_look_asks_at_once(5, false, 60, 0)]
    #[case::adopted_in_its_delay(30, true, 12, 18)]
    #[case::adopted_in_its_rhythm(5, true, 42, 3)]
    #[case::a_clock_that_was_set_back(5, false, -500, 5)]
    fn the_first_question_waits_for_the_delay_and_the_rhythm(
        #[case] delay: u64,
        #[case] adopted: bool,
        #[case] now: i64,
        #[case] expected: u64,
    ) {
        let started = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_u64.saturating_add_signed(now));
        let wait = first_wait(
            started,
            Duration::from_secs(delay),
            Duration::from_secs(10),
            adopted,
            now,
        );
        assert_eq!(wait, Duration::from_secs(expected));
    }
}
