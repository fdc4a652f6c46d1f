//! Probes of pods on the runtime in memory.

use clone8s::v1::{Condition, ExecAction, PodReadinessGate, Probe, probe::Handler};

use super::*;
use crate::runtime::fake::CommandBehavior;

const FAILS: CommandBehavior = CommandBehavior {
    takes: Duration::ZERO,
    exit_code: 1,
};
const SUCCEEDS: CommandBehavior = CommandBehavior {
    takes: Duration::ZERO,
    exit_code: 0,
};

fn exec(command: &str) -> Probe {
    Probe {
        handler: Some(Handler::Exec(ExecAction {
            command: vec![command.to_owned()],
        })),
        timeout_seconds: 1,
        period_seconds: 10,
        success_threshold: 1,
        failure_threshold: 3,
        ..Default::default()
    }
}

fn probed(change: impl FnOnce(&mut Container)) -> DesiredPod {
    let mut web = container("web", "web:1");
    change(&mut web);
    pod("p", vec![web])
}

impl Node {
    fn condition(&self, kind: &str) -> Option<Condition> {
        let status = self.status("p")?;
        status.conditions.into_iter().find(|one| one.r#type == kind)
    }

    fn holds(&self, kind: &str) -> bool {
        self.condition(kind).is_some_and(|one| one.status == "True")
    }

    fn is_ready(&self) -> bool {
        self.holds("Ready")
    }

    fn started(&self) -> bool {
        self.status("p")
            .is_some_and(|status| status.container_statuses[0].started)
    }
}

#[tokio::test(start_paused = true)]
async fn a_container_is_ready_while_its_probe_succeeds() {
    let node = Node::start();
    node.runtime.set_command("web", "ready", FAILS);
    node.want(&[&probed(|web| web.readiness_probe = Some(exec("ready")))]);
    node.until_running(&["p/web#0"]).await;
    settle().await;
    assert!(node.started() && !node.is_ready());
    let why = node.condition("Ready").unwrap();
    assert_eq!(
        (why.reason.as_str(), why.message.as_str()),
        ("ContainersNotReady", "containers with unready status: [web]")
    );

    node.runtime.set_command("web", "ready", SUCCEEDS);
    node.until("ready", Node::is_ready).await;
    let lost = node.clock.now();
    node.runtime.set_command("web", "ready", FAILS);
    node.until("not ready", |node| !node.is_ready()).await;
    let took = node.elapsed_since(lost);
    assert!(
        took > Duration::from_secs(20),
        "three failures in a row: {took:?}"
    );
    assert_eq!(node.runtime.running(), ["p/web#0"], "nothing is restarted");
}

#[tokio::test(start_paused = true)]
async fn nobody_is_asked_before_the_start_is_over_and_a_start_that_fails_begins_anew() {
    let node = Node::start();
    node.runtime.set_command("web", "start", FAILS);
    node.want(&[&probed(|web| {
        web.startup_probe = Some(exec("start"));
        web.liveness_probe = Some(exec("live"));
        web.readiness_probe = Some(exec("ready"));
    })]);
    node.until_running(&["p/web#0"]).await;
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert!(!node.started() && !node.is_ready());
    assert_eq!(
        node.calls_of("ExecSync live") + node.calls_of("ExecSync ready"),
        0
    );
    node.until_running(&["p/web#1"]).await;

    node.runtime.set_command("web", "start", SUCCEEDS);
    node.until("ready", |node| node.started() && node.is_ready())
        .await;
    let starts = node.calls_of("ExecSync start");
    settle().await;
    assert_eq!(
        node.calls_of("ExecSync start"),
        starts,
        "it is asked until it has succeeded"
    );
    assert!(node.calls_of("ExecSync live") > 3 && node.calls_of("ExecSync ready") > 3);
}

#[tokio::test(start_paused = true)]
async fn a_container_that_no_longer_lives_starts_anew_with_its_probes_own_grace() {
    let node = Node::start();
    node.ignore_stop_signals();
    node.want(&[&probed(|web| {
        web.liveness_probe = Some(exec("live"));
        web.liveness_probe
            .as_mut()
            .unwrap()
            .termination_grace_period_seconds = Some(4);
    })]);
    node.until_running(&["p/web#0"]).await;
    let hung = CommandBehavior {
        takes: Duration::from_mins(1),
        exit_code: 0,
    };
    node.runtime.set_command("web", "live", hung);
    node.until("it is stopped", |node| node.calls_of("StopContainer") == 1)
        .await;
    let stopped = node.clock.now();
    node.runtime.set_command("web", "live", SUCCEEDS);
    node.until_running(&["p/web#1"]).await;
    let took = node.elapsed_since(stopped);
    assert!(
        (Duration::from_secs(3)..Duration::from_secs(6)).contains(&took),
        "{took:?}"
    );
    settle().await;
    assert_eq!(node.runtime.running(), ["p/web#1"]);
}

#[tokio::test(start_paused = true)]
async fn a_restarted_kubelet_goes_on_from_what_was_found() {
    let mut node = Node::start();
    node.want(&[&probed(|web| {
        web.startup_probe = Some(exec("start"));
        web.readiness_probe = Some(exec("ready"));
    })]);
    node.until("ready", Node::is_ready).await;
    let starts = node.calls_of("ExecSync start");
    node.stop_kubelet().await;
    // No answer of the runtime says anything about the container.
    for _ in 0..100 {
        node.runtime.inject("ExecSync", away("ExecSync"));
    }
    let statuses = node.board.subscribe();
    node.start_kubelet();
    let mut watched = statuses.clone();
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if watched.has_changed().unwrap() {
            watched.borrow_and_update();
            assert!(node.started() && node.is_ready(), "{:?}", node.status("p"));
        }
    }
    assert!(node.is_ready());
    assert_eq!(node.runtime.running(), ["p/web#0"]);
    assert!(node.calls_of("ExecSync ready") > 5);
    assert_eq!(node.calls_of("ExecSync start"), starts);
}

#[tokio::test(start_paused = true)]
async fn probes_change_without_a_restart_and_what_is_known_stays() {
    let node = Node::start();
    node.runtime.set_command("web", "later", FAILS);
    node.want(&[&probed(|_| {})]);
    node.until("ready", Node::is_ready).await;
    node.want(&[&probed(|web| web.readiness_probe = Some(exec("later")))]);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(node.is_ready(), "one failure is not enough");
    node.until("not ready", |node| !node.is_ready()).await;
    node.want(&[&probed(|_| {})]);
    node.until("ready again", Node::is_ready).await;
    assert_eq!(node.runtime.running(), ["p/web#0"]);
}

#[tokio::test(start_paused = true)]
async fn a_closed_readiness_gate_keeps_the_pod_from_being_ready() {
    let node = Node::start();
    let gated = with_spec(&web(), |spec| {
        spec.readiness_gates = vec![PodReadinessGate {
            condition_type: "example.com/in-rotation".to_owned(),
        }];
    });
    node.want(&[&gated]);
    node.until("its containers are ready", |node| node.holds("ContainersReady"))
        .await;
    let why = node.condition("Ready").unwrap();
    assert_eq!(
        (why.status.as_str(), why.reason.as_str()),
        ("False", "ReadinessGatesNotReady")
    );
    assert!(why.message.contains("example.com/in-rotation"), "{}", why.message);

    let opened = edited(&gated, |pod| {
        pod.status = Some(PodStatus {
            conditions: vec![Condition {
                r#type: "example.com/in-rotation".to_owned(),
                status: "True".to_owned(),
                ..Default::default()
            }],
            ..Default::default()
        });
    });
    node.want(&[&opened]);
    node.until("ready", Node::is_ready).await;
    assert_eq!(node.runtime.running(), ["p/web#0"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_being_stopped_is_asked_nothing() {
    let node = Node::start();
    node.ignore_stop_signals();
    node.want(&[&probed(|web| web.liveness_probe = Some(exec("live")))]);
    node.until("it is asked", |node| node.calls_of("ExecSync live") > 1)
        .await;
    node.want(&[]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let asked = node.calls_of("ExecSync live");
    node.until_running(&[]).await;
    assert_eq!(node.calls_of("ExecSync live"), asked);
}
