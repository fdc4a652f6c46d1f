//! What is done to a simulated cluster and when: users' wishes, and faults, each with its end. Pure: it follows from a seed.

use std::{fmt, time::Duration};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use crate::history::NodeName;

/// For so long things happen and fail.
pub(crate) const SPAN: Duration = Duration::from_mins(2);
pub(crate) const NODES: [NodeName; 3] = ["one", "two", "three"];
/// Names of pods are few, so that they are used again and again.
const PODS: u32 = 8;
const OWN_PODS: u32 = 3;

/// Runs until it is told to stop, in two versions.
pub(crate) const WEB: [&str; 2] = ["web:1", "web:2"];
/// Takes no notice of its stop signal.
pub(crate) const STUBBORN: &str = "stubborn:1";
/// Ends by itself, well …
pub(crate) const JOB: &str = "job:1";
/// … or badly.
pub(crate) const FAILING: &str = "failing:1";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Web,
    /// With a container that takes no notice of its stop signal.
    Stubborn,
    Job,
    /// Never started again.
    Once,
    /// Never started again, and fails.
    Failing,
    /// Started again when it fails.
    Retried,
}

/// How a node has what is its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Own {
    Queue,
    Folder,
}

/// How it stands with what goes between a node and the apiserver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Open,
    /// Connections break, and none can be made.
    Broken,
    /// Nothing comes through, and nobody is told.
    Silent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Kubelet(NodeName),
    Apiserver,
    Controllers,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    Create {
        pod: u32,
        kind: Kind,
        grace: i32,
    },
    /// Gives the pod's first container the other version.
    Update {
        pod: u32,
    },
    Delete {
        pod: u32,
    },
    Cordon {
        node: NodeName,
        on: bool,
    },
    /// By a message or a manifest: a pod of this image, or none.
    Want {
        node: NodeName,
        own: Own,
        pod: u32,
        image: Option<&'static str>,
    },
    Kill(Part),
    /// The next message that the kubelet acknowledges is the last thing it does.
    KillAtAck(NodeName),
    /// Unless it runs.
    Start(Part),
    Way {
        node: NodeName,
        way: Way,
    },
    Store {
        away: bool,
    },
    Bus {
        away: bool,
    },
    /// Of a hundred calls so many go wrong.
    Runtime {
        node: NodeName,
        wrong: u32,
    },
    /// The clock of all is set so many seconds ahead, or back.
    SetClock {
        by: i64,
    },
    /// One of the running containers ends.
    Exit {
        node: NodeName,
        choice: usize,
        code: i32,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) at: Duration,
    pub(crate) act: Act,
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// The steps of a seed, in order.
pub(crate) fn schedule(seed: u64) -> Vec<Step> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut steps = Vec::new();
    let mut at = Duration::from_secs(2);
    while at < SPAN {
        let (act, end) = choose(&mut rng);
        steps.push(Step { at, act });
        if let Some((after, act)) = end {
            let at = at + after;
            steps.push(Step { at, act });
        }
        at += Duration::from_millis(rng.random_range(50..1_500));
    }
    steps.sort_by_key(|step| step.at);
    steps
}

/// What begins, and what ends it.
fn choose(rng: &mut StdRng) -> (Act, Option<(Duration, Act)>) {
    let node = NODES[rng.random_range(0..NODES.len())];
    let pod = rng.random_range(0..PODS);
    let seconds = |rng: &mut StdRng, most: u64| Duration::from_millis(rng.random_range(200..most * 1_000));
    match rng.random_range(0..100) {
        0..24 => (create(rng, pod), None),
        24..31 => (Act::Update { pod }, None),
        31..43 => (Act::Delete { pod }, None),
        43..46 => {
            let end = (seconds(rng, 20), Act::Cordon { node, on: false });
            (Act::Cordon { node, on: true }, Some(end))
        }
        46..58 => (want(rng, node), None),
        58..65 => {
            let end = (seconds(rng, 20), Act::Start(Part::Kubelet(node)));
            (Act::Kill(Part::Kubelet(node)), Some(end))
        }
        65..69 => {
            let end = (seconds(rng, 20), Act::Start(Part::Kubelet(node)));
            (Act::KillAtAck(node), Some(end))
        }
        69..73 => {
            let end = (seconds(rng, 10), Act::Start(Part::Apiserver));
            (Act::Kill(Part::Apiserver), Some(end))
        }
        73..75 => {
            let end = (seconds(rng, 10), Act::Start(Part::Controllers));
            (Act::Kill(Part::Controllers), Some(end))
        }
        75..81 => {
            let way = if rng.random_bool(0.5) {
                Way::Broken
            } else {
                Way::Silent
            };
            // Longer, too, than the node monitor waits.
            let end = (seconds(rng, 60), Act::Way { node, way: Way::Open });
            (Act::Way { node, way }, Some(end))
        }
        81..83 => (
            Act::Store { away: true },
            Some((seconds(rng, 8), Act::Store { away: false })),
        ),
        83..86 => (
            Act::Bus { away: true },
            Some((seconds(rng, 20), Act::Bus { away: false })),
        ),
        86..91 => {
            let wrong = rng.random_range(10..60);
            let end = (seconds(rng, 20), Act::Runtime { node, wrong: 0 });
            (Act::Runtime { node, wrong }, Some(end))
        }
        91..93 => {
            let most: i64 = if rng.random_bool(0.5) { 60 } else { 7_200 };
            let by = rng.random_range(-most..most);
            (Act::SetClock { by }, None)
        }
        _ => {
            let (choice, code) = (rng.random_range(0..16), i32::from(rng.random_bool(0.6)));
            (Act::Exit { node, choice, code }, None)
        }
    }
}

fn create(rng: &mut StdRng, pod: u32) -> Act {
    let kind = match rng.random_range(0..10) {
        0..3 => Kind::Web,
        3..6 => Kind::Stubborn,
        6 => Kind::Job,
        7 => Kind::Once,
        8 => Kind::Failing,
        _ => Kind::Retried,
    };
    let grace = rng.random_range(1..30);
    Act::Create { pod, kind, grace }
}

fn want(rng: &mut StdRng, node: NodeName) -> Act {
    let own = if rng.random_bool(0.7) {
        Own::Queue
    } else {
        Own::Folder
    };
    let image = match rng.random_range(0..10) {
        0..4 => Some(WEB[0]),
        4..7 => Some(WEB[1]),
        _ => None,
    };
    let pod = rng.random_range(0..OWN_PODS);
    Act::Want {
        node,
        own,
        pod,
        image,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_steps_again_and_another_seed_gives_others() {
        assert_eq!(schedule(1), schedule(1));
        assert_ne!(schedule(1), schedule(2));
    }

    #[test]
    fn what_is_killed_or_cut_off_comes_back() {
        for seed in 0..50 {
            let steps = schedule(seed);
            for (place, Step { act, .. }) in steps.iter().enumerate() {
                let end = match *act {
                    Act::Kill(part) => Act::Start(part),
                    Act::KillAtAck(node) => Act::Start(Part::Kubelet(node)),
                    Act::Way { node, .. } => Act::Way { node, way: Way::Open },
                    Act::Store { .. } => Act::Store { away: false },
                    Act::Bus { .. } => Act::Bus { away: false },
                    Act::Runtime { node, .. } => Act::Runtime { node, wrong: 0 },
                    Act::Cordon { node, .. } => Act::Cordon { node, on: false },
                    _ => continue,
                };
                let comes = steps[place..].iter().any(|step| step.act == end);
                assert!(comes, "seed {seed}: {act} has no end");
            }
        }
    }
}
