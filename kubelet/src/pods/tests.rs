//! The whole of it on a runtime in memory, with paused time.

mod configuration;
mod ephemeral;
mod evictions;
mod hooks;
mod lifecycle;
mod over;
mod probes;
mod resize;

use std::{
    cell::RefCell,
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use clone8s::{
    cri::NamespaceMode,
    v1::{
        Container, EmptyDirVolumeSource, Pod, PodSpec, PodStatus, Volume, VolumeMount,
        container_state::State, volume::Source as VolumeSource,
    },
};
use clone8s_daemon::{Shutdown, supervisor::SupervisorError};
use tokio::{task::JoinSet, time::Instant};

use super::*;
use crate::{
    desired::{DesiredPod, PodKey, Source},
    pod::testing::{container, pod},
    runtime::{
        RuntimeError, RuntimeErrorReason,
        fake::{FakeRuntime, Fault, ImageBehavior},
    },
};

/// A node without sources: the test says what is desired.
struct Node {
    runtime: FakeRuntime,
    desired: watch::Sender<Desired>,
    board: StatusBoard,
    health: watch::Receiver<RuntimeHealth>,
    clock: Clock,
    dir: tempfile::TempDir,
    shutdown: Shutdown,
    kubelet: JoinSet<Result<(), SupervisorError>>,
    api: watch::Sender<Option<clone8s_daemon::channel::Channel>>,
    objects: watch::Sender<Objects>,
    evictions: watch::Sender<Evictions>,
}

impl Node {
    fn start() -> Self {
        let clock = Clock::virtual_from(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        let runtime = FakeRuntime::new(clock);
        for image in ["web:1", "web:2", "side:1"] {
            runtime.add_image(image, ImageBehavior::default());
        }
        let desired = watch::Sender::new(Desired::default());
        let board = StatusBoard::new();
        let mut node = Self {
            health: watch::Sender::new(RuntimeHealth::starting()).subscribe(),
            runtime,
            desired,
            board,
            clock,
            dir: tempfile::tempdir().unwrap(),
            shutdown: Shutdown::new(),
            kubelet: JoinSet::new(),
            api: watch::Sender::new(None),
            objects: watch::Sender::new(Objects::default()),
            evictions: watch::Sender::new(Evictions::default()),
        };
        node.start_kubelet();
        node
    }

    fn start_kubelet(&mut self) {
        self.shutdown = Shutdown::new();
        let mut supervisor = Supervisor::new(self.shutdown.clone());
        let mut config = Config::new("n1");
        config.data_dir = self.dir.path().join("data");
        config.cgroup_root = None;
        config.log_root = self.dir.path().join("logs");
        let setup = Setup {
            config: Arc::new(config),
            runtime: Arc::new(self.runtime.clone()),
            clock: self.clock,
            desired: self.desired.subscribe(),
            api: self.api.subscribe(),
            mirrors: watch::channel(None).1,
            board: self.board.clone(),
            objects: self.objects.subscribe(),
            evictions: self.evictions.subscribe(),
            archives: crate::image_archives::none(),
            host_ip: "192.0.2.1".to_owned(),
            node_memory: 4 << 30,
            node_milli_cpu: 2_000,
            page_sizes: Vec::new(),
        };
        self.health = spawn(&mut supervisor, setup);
        self.kubelet.spawn(supervisor.run(Duration::from_secs(10)));
    }

    async fn stop_kubelet(&mut self) {
        self.shutdown.cancel();
        self.kubelet.join_next().await.unwrap().unwrap().unwrap();
    }

    fn want(&self, pods: &[&DesiredPod]) {
        let pods = pods.iter().map(|pod| (pod.key(), (*pod).clone())).collect();
        self.desired.send_replace(Desired {
            pods: Arc::new(pods),
            complete: true,
        });
    }

    fn status(&self, name: &str) -> Option<PodStatus> {
        let statuses = self.board.subscribe();
        let entries = statuses.borrow();
        entries
            .get(&PodKey::new("default", name))
            .map(|entry| (*entry.status).clone())
    }

    fn waiting(&self, name: &str) -> Option<(String, String)> {
        let status = self.status(name)?;
        match status
            .container_statuses
            .first()?
            .state
            .as_ref()?
            .state
            .as_ref()?
        {
            State::Waiting(waiting) => Some((waiting.reason.clone(), waiting.message.clone())),
            _ => None,
        }
    }

    /// Waits, on paused time, until the condition holds.
    async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        for _ in 0..60_000 {
            if condition(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let statuses = self.board.subscribe();
        panic!(
            "not within 20 minutes: {what}\nrunning: {:?}\ncalls: {:#?}\nstatuses: {:#?}",
            self.runtime.running(),
            self.runtime.calls(),
            statuses.borrow()
        );
    }

    async fn until_running(&self, expected: &[&str]) {
        self.until(&format!("{expected:?} run"), |node| {
            node.runtime.running() == expected
        })
        .await;
    }

    /// Containers of "web:1" have to be killed.
    fn ignore_stop_signals(&self) {
        let stubborn = ImageBehavior {
            ignores_stop_signal: true,
            ..Default::default()
        };
        self.runtime.add_image("web:1", stubborn);
    }

    fn calls_of(&self, call: &str) -> usize {
        self.runtime
            .calls()
            .iter()
            .filter(|one| one.starts_with(call))
            .count()
    }

    fn elapsed_since(&self, start: SystemTime) -> Duration {
        self.clock.now().duration_since(start).unwrap()
    }
}

async fn settle() {
    tokio::time::sleep(Duration::from_mins(1)).await;
}

fn edited(of: &DesiredPod, change: impl FnOnce(&mut Pod)) -> DesiredPod {
    let mut pod = of.clone();
    change(Arc::make_mut(&mut pod.pod));
    pod
}

fn with_spec(of: &DesiredPod, change: impl FnOnce(&mut PodSpec)) -> DesiredPod {
    edited(of, |pod| change(pod.spec.as_mut().unwrap()))
}

fn first(spec: &mut PodSpec) -> &mut Container {
    &mut spec.containers[0]
}

fn failure(call: &'static str, message: &str) -> Fault {
    Fault::Fail(RuntimeError {
        call,
        reason: RuntimeErrorReason::Failed,
        message: message.to_owned(),
    })
}

fn away(call: &'static str) -> Fault {
    Fault::Fail(RuntimeError {
        call,
        reason: RuntimeErrorReason::Unavailable,
        message: "connection refused".to_owned(),
    })
}

fn web() -> DesiredPod {
    pod("p", vec![container("web", "web:1")])
}

#[tokio::test(start_paused = true)]
async fn a_desired_pod_runs_and_says_so() {
    let node = Node::start();
    node.want(&[&pod(
        "p",
        vec![container("web", "web:1"), container("side", "side:1")],
    )]);
    node.until_running(&["p/side#0", "p/web#0"]).await;
    node.until("the status is Running", |node| {
        node.status("p").is_some_and(|status| status.phase == "Running")
    })
    .await;
    let status = node.status("p").unwrap();
    assert_eq!(status.host_ip, "192.0.2.1");
    assert!(status.pod_ip.starts_with("10.88.0."), "{}", status.pod_ip);
    assert_eq!(status.observed_generation, 1);
    let ready: BTreeMap<_, _> = status
        .conditions
        .iter()
        .map(|one| (one.r#type.as_str(), one.status.as_str()))
        .collect();
    let expected = [
        "PodScheduled",
        "PodReadyToStartContainers",
        "Initialized",
        "ContainersReady",
        "Ready",
    ];
    assert_eq!(ready, expected.map(|kind| (kind, "True")).into());
    assert!(
        status
            .container_statuses
            .iter()
            .all(|one| one.ready && one.container_id.starts_with("fake://"))
    );
    let calls = node.runtime.calls();
    settle().await;
    assert_eq!(node.runtime.calls(), calls, "nothing is left to do");
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_no_longer_desired_is_stopped_and_leaves_its_logs_alone() {
    let node = Node::start();
    node.want(&[&web()]);
    node.until_running(&["p/web#0"]).await;
    let logs = node.dir.path().join("logs/default_p_p-uid");
    assert!(logs.exists());
    node.want(&[]);
    node.until("nothing is left", |node| {
        node.runtime.counts() == (0, 0) && node.status("p").is_none()
    })
    .await;
    assert!(logs.join(".gone").exists(), "for a while");
    assert!(!node.dir.path().join("data/pods/p-uid").exists());
    let calls = node.runtime.calls();
    let order: Vec<_> = calls.iter().map(|call| call.split(' ').next().unwrap()).collect();
    assert_eq!(
        order[order.len() - 3..],
        ["StopContainer", "StopPodSandbox", "RemovePodSandbox"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_terminating_pod_is_told_gone_once_all_has_stopped_and_starts_nothing() {
    let node = Node::start();
    node.ignore_stop_signals();
    node.want(&[&web()]);
    node.until_running(&["p/web#0"]).await;
    let asked = node.clock.now();
    let terminating = edited(&web(), |pod| {
        let metadata = pod.metadata.as_mut().unwrap();
        metadata.deletion_timestamp = Some(crate::clock::to_timestamp(asked));
        metadata.deletion_grace_period_seconds = Some(7);
    });
    let starts = node.calls_of("StartContainer");
    node.want(&[&terminating]);
    let is_gone = |node: &Node| {
        let statuses = node.board.subscribe();
        let entries = statuses.borrow();
        entries
            .get(&PodKey::new("default", "p"))
            .is_some_and(|entry| entry.gone)
    };
    node.until("the pod is gone", is_gone).await;
    let took = node.elapsed_since(asked);
    assert!(
        (Duration::from_secs(7)..Duration::from_secs(9)).contains(&took),
        "{took:?}"
    );
    let status = node.status("p").unwrap();
    assert_eq!(status.phase, "Failed");
    assert!(matches!(
        status.container_statuses[0].state.as_ref().unwrap().state,
        Some(State::Terminated(ref end)) if end.exit_code == 137
    ));
    settle().await;
    assert_eq!(node.calls_of("StartContainer"), starts);
    assert_eq!(node.runtime.counts(), (0, 0));
    node.want(&[]);
    node.until("its status is forgotten", |node| node.status("p").is_none())
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_shorter_grace_hurries_a_stop_that_is_under_way() {
    let node = Node::start();
    node.ignore_stop_signals();
    node.want(&[&web()]);
    node.until_running(&["p/web#0"]).await;
    let asked = node.clock.now();
    let terminating = |grace| {
        edited(&web(), |pod| {
            let metadata = pod.metadata.as_mut().unwrap();
            metadata.deletion_timestamp = Some(crate::clock::to_timestamp(asked));
            metadata.deletion_grace_period_seconds = Some(grace);
        })
    };
    node.want(&[&terminating(600)]);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(node.runtime.running(), ["p/web#0"]);
    node.want(&[&terminating(0)]);
    node.until_running(&[]).await;
    assert!(node.elapsed_since(asked) < Duration::from_secs(7));
}

#[tokio::test(start_paused = true)]
async fn an_update_restarts_only_the_container_that_changed() {
    let node = Node::start();
    let before = pod("p", vec![container("web", "web:1"), container("side", "side:1")]);
    node.want(&[&before]);
    node.until_running(&["p/side#0", "p/web#0"]).await;
    let untouched = node.runtime.running_ids("side");
    node.want(&[&with_spec(&before, |spec| first(spec).image = "web:2".into())]);
    node.until_running(&["p/side#0", "p/web#1"]).await;
    assert_eq!(node.runtime.running_ids("side"), untouched);
    assert_eq!(node.calls_of("RunPodSandbox"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_container_that_leaves_the_spec_is_stopped_and_a_new_one_started() {
    let node = Node::start();
    let before = web();
    node.want(&[&before]);
    node.until_running(&["p/web#0"]).await;
    node.want(&[&with_spec(&before, |spec| {
        spec.containers = vec![container("side", "side:1")];
    })]);
    node.until_running(&["p/side#0"]).await;
    node.until("the old one is removed", |node| node.runtime.counts() == (1, 1))
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_change_of_the_network_needs_another_sandbox() {
    let node = Node::start();
    node.want(&[&web()]);
    node.until_running(&["p/web#0"]).await;
    node.want(&[&with_spec(&web(), |spec| spec.host_network = true)]);
    node.until_running(&["p/web#1"]).await;
    node.until("the address is the node's", |node| {
        node.status("p")
            .is_some_and(|status| status.pod_ip == "192.0.2.1")
    })
    .await;
    assert_eq!(node.calls_of("RunPodSandbox"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_pods_namespaces_are_told_to_the_runtime_for_its_sandbox_and_its_containers() {
    let mut node = Node::start();
    let with_users = |name: &str| {
        let pod = pod(name, vec![container("web", "web:1")]);
        with_spec(&pod, |spec| {
            spec.host_users = Some(false);
            spec.share_process_namespace = Some(true);
            spec.volumes = vec![Volume {
                name: "data".to_owned(),
                source: Some(VolumeSource::EmptyDir(EmptyDirVolumeSource::default())),
            }];
            first(spec).volume_mounts = vec![VolumeMount {
                name: "data".to_owned(),
                mount_path: "/data".to_owned(),
                ..Default::default()
            }];
        })
    };
    let of_host = with_spec(&pod("host", vec![container("web", "web:1")]), |spec| {
        spec.host_pid = true;
        spec.host_ipc = true;
    });
    node.want(&[&with_users("a"), &with_users("b"), &of_host]);
    node.until_running(&["a/web#0", "b/web#0", "host/web#0"]).await;
    let options = |node: &Node, name: &str| {
        let sandbox = node.runtime.sandbox_config_of(name).unwrap();
        sandbox
            .linux
            .unwrap()
            .security_context
            .unwrap()
            .namespace_options
            .unwrap()
    };
    let host = options(&node, "host");
    assert_eq!(
        (host.pid(), host.ipc()),
        (NamespaceMode::Node, NamespaceMode::Node)
    );
    assert_eq!(host.userns_options, None);
    let (a, b) = (options(&node, "a"), options(&node, "b"));
    assert_eq!((a.pid(), a.ipc()), (NamespaceMode::Pod, NamespaceMode::Pod));
    assert_ne!(a.userns_options, b.userns_options, "each has users of its own");
    for id in node.runtime.running_ids("web") {
        let config = node.runtime.config_of(&id).unwrap();
        let of_container = config
            .linux
            .unwrap()
            .security_context
            .unwrap()
            .namespace_options
            .unwrap();
        assert!([&a, &b, &host].contains(&&of_container), "{of_container:?}");
        let users = of_container
            .userns_options
            .map(|users| users.uids)
            .unwrap_or_default();
        for mount in &config.mounts {
            assert_eq!(
                (&mount.uid_mappings, &mount.gid_mappings),
                (&users, &users),
                "{mount:?}"
            );
        }
        assert_eq!(config.mounts.len(), if users.is_empty() { 1 } else { 2 });
    }

    // Another kubelet gives nobody what somebody has.
    node.stop_kubelet().await;
    node.start_kubelet();
    node.want(&[&with_users("a"), &with_users("b"), &with_users("c")]);
    node.until("the third runs", |node| {
        node.runtime.running().contains(&"c/web#0".to_owned())
    })
    .await;
    let users = |name: &str| options(&node, name).userns_options;
    assert_eq!((users("a"), users("b")), (a.userns_options, b.userns_options));
    assert!(users("c") != users("a") && users("c") != users("b"));
}

#[tokio::test(start_paused = true)]
async fn a_pod_of_the_same_name_waits_until_the_old_one_is_gone() {
    let node = Node::start();
    node.want(&[&web()]);
    node.until_running(&["p/web#0"]).await;
    node.want(&[&edited(&web(), |pod| {
        pod.metadata.as_mut().unwrap().uid = "another".into();
    })]);
    node.until("the old sandbox is removed", |node| {
        node.calls_of("RemovePodSandbox") == 1
    })
    .await;
    node.until_running(&["p/web#0"]).await;
    let calls = node.runtime.calls();
    let removed = calls
        .iter()
        .position(|call| call.starts_with("RemovePodSandbox"))
        .unwrap();
    let second = calls
        .iter()
        .rposition(|call| call.starts_with("RunPodSandbox"))
        .unwrap();
    assert!(removed < second, "{calls:#?}");
    assert!(!node.dir.path().join("data/pods/p-uid").exists());
    assert!(node.dir.path().join("data/pods/another").exists());
}

#[tokio::test(start_paused = true)]
async fn crashes_wait_longer_each_time_and_a_long_run_starts_over() {
    let node = Node::start();
    node.want(&[&web()]);
    node.until_running(&["p/web#0"]).await;
    let mut waits = Vec::new();
    for restart in 1..=7 {
        let id = node.runtime.running_ids("web").remove(0);
        node.runtime.exit(&id, 1);
        let crashed = node.clock.now();
        node.until_running(&[&format!("p/web#{restart}")]).await;
        waits.push(node.elapsed_since(crashed).as_secs());
    }
    let expected = [0, 10, 20, 40, 80, 160, 300];
    let close = waits
        .iter()
        .zip(expected)
        .all(|(wait, expected)| (expected..=expected + 2).contains(wait));
    assert!(close, "{waits:?}");
    tokio::time::sleep(Duration::from_secs(601)).await;
    let id = node.runtime.running_ids("web").remove(0);
    node.runtime.exit(&id, 1);
    let crashed = node.clock.now();
    node.until_running(&["p/web#8"]).await;
    assert!(node.elapsed_since(crashed) < Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn a_crash_loop_is_told_with_how_the_last_run_ended() {
    let node = Node::start();
    node.runtime.add_image(
        "web:1",
        ImageBehavior {
            exits: Some((Duration::from_secs(1), 3)),
            ..Default::default()
        },
    );
    node.want(&[&web()]);
    node.until("back-off", |node| {
        node.waiting("p")
            .is_some_and(|(reason, _)| reason == "CrashLoopBackOff")
    })
    .await;
    let status = node.status("p").unwrap();
    assert_eq!(status.phase, "Running");
    let web = &status.container_statuses[0];
    assert!(web.restart_count >= 1 && !web.ready);
    assert!(matches!(
        web.last_state.as_ref().unwrap().state,
        Some(State::Terminated(ref end)) if end.exit_code == 3 && end.reason == "Error"
    ));
    node.until("several restarts", |node| {
        node.status("p")
            .is_some_and(|status| status.container_statuses[0].restart_count >= 4)
    })
    .await;
    assert!(
        node.runtime.counts().1 <= 2,
        "the last ended run is kept, older ones are not"
    );
}

#[tokio::test(start_paused = true)]
async fn the_restart_policy_decides_what_an_exit_means() {
    let cases = [
        ("Never", 0, "Succeeded", 0),
        ("Never", 1, "Failed", 0),
        ("OnFailure", 0, "Succeeded", 0),
        ("OnFailure", 1, "Running", 1),
        ("Always", 0, "Running", 1),
    ];
    for (policy, code, phase, restarts) in cases {
        let node = Node::start();
        node.want(&[&with_spec(&web(), |spec| spec.restart_policy = policy.into())]);
        node.until_running(&["p/web#0"]).await;
        let id = node.runtime.running_ids("web").remove(0);
        node.runtime.exit(&id, code);
        settle().await;
        let status = node.status("p").unwrap();
        let found = (status.phase.as_str(), status.container_statuses[0].restart_count);
        assert_eq!(found, (phase, restarts), "{policy} after exit {code}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_finished_pod_gives_its_network_back_and_keeps_its_containers() {
    let node = Node::start();
    node.want(&[&with_spec(&web(), |spec| spec.restart_policy = "Never".into())]);
    node.until_running(&["p/web#0"]).await;
    let id = node.runtime.running_ids("web").remove(0);
    node.runtime.exit(&id, 0);
    node.until("the sandbox is stopped", |node| {
        node.calls_of("StopPodSandbox") == 1
    })
    .await;
    settle().await;
    assert_eq!(node.runtime.counts(), (1, 1));
    assert_eq!(node.calls_of("RunPodSandbox"), 1);
    assert_eq!(node.status("p").unwrap().phase, "Succeeded");
}

#[tokio::test(start_paused = true)]
async fn an_image_that_is_not_there_is_told_in_the_runtimes_words_and_tried_again() {
    let node = Node::start();
    node.want(&[&pod("p", vec![container("web", "nowhere:1")])]);
    node.until("the pull has failed", |node| {
        node.waiting("p").is_some_and(|(reason, message)| {
            reason == "ErrImagePull" && message.contains("nowhere:1: not found")
        })
    })
    .await;
    node.until("back-off", |node| {
        node.waiting("p")
            .is_some_and(|(reason, _)| reason == "ImagePullBackOff")
    })
    .await;
    assert_eq!(node.status("p").unwrap().phase, "Pending");
    node.runtime.add_image("nowhere:1", ImageBehavior::default());
    node.until_running(&["p/web#0"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_corrected_image_is_pulled_at_once() {
    let node = Node::start();
    node.want(&[&pod("p", vec![container("web", "nowhere:1")])]);
    node.until("back-off", |node| {
        node.waiting("p")
            .is_some_and(|(reason, _)| reason == "ImagePullBackOff")
    })
    .await;
    let corrected = node.clock.now();
    node.want(&[&web()]);
    node.until_running(&["p/web#0"]).await;
    assert!(node.elapsed_since(corrected) < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn the_pull_policy_never_waits_for_an_import() {
    let node = Node::start();
    let spec = with_spec(&web(), |spec| first(spec).image_pull_policy = "Never".into());
    node.want(&[&spec]);
    node.until("refused", |node| {
        node.waiting("p")
            .is_some_and(|(reason, _)| reason == "ErrImageNeverPull")
    })
    .await;
    settle().await;
    assert_eq!(node.calls_of("PullImage"), 0);
    node.runtime
        .pull_image("web:1", clone8s::cri::PodSandboxConfig::default(), None)
        .await
        .unwrap();
    node.until_running(&["p/web#0"]).await;
}

#[tokio::test(start_paused = true)]
async fn the_pull_policy_always_pulls_for_each_run() {
    let node = Node::start();
    node.want(&[&with_spec(&web(), |spec| {
        first(spec).image_pull_policy = "Always".into();
    })]);
    node.until_running(&["p/web#0"]).await;
    let id = node.runtime.running_ids("web").remove(0);
    node.runtime.exit(&id, 1);
    node.until_running(&["p/web#1"]).await;
    assert_eq!(node.calls_of("PullImage"), 2);
}

#[tokio::test(start_paused = true)]
async fn deleting_a_pod_gives_up_its_pull() {
    let node = Node::start();
    node.runtime.add_image(
        "web:1",
        ImageBehavior {
            pull_time: Duration::from_mins(50),
            ..Default::default()
        },
    );
    node.want(&[&web()]);
    node.until("the pull is under way", |node| node.calls_of("PullImage") == 1)
        .await;
    let asked = node.clock.now();
    node.want(&[]);
    node.until("nothing is left", |node| {
        node.runtime.counts() == (0, 0) && node.status("p").is_none()
    })
    .await;
    assert!(node.elapsed_since(asked) < Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_that_cannot_be_made_is_told_and_tried_again() {
    let node = Node::start();
    node.runtime
        .inject("RunPodSandbox", failure("RunPodSandbox", "no addresses left"));
    node.want(&[&web()]);
    node.until("told", |node| {
        node.status("p").is_some_and(|status| {
            status.reason == "FailedCreatePodSandBox" && status.message.contains("no addresses left")
        })
    })
    .await;
    node.until_running(&["p/web#0"]).await;
    assert_eq!(node.status("p").unwrap().reason, "");
}

#[tokio::test(start_paused = true)]
async fn a_container_that_cannot_be_made_or_started_is_told_by_step() {
    for (call, reason) in [
        ("CreateContainer", "CreateContainerError"),
        ("StartContainer", "RunContainerError"),
    ] {
        let node = Node::start();
        node.runtime
            .inject(call, failure(call, "exec: \"nope\": not found"));
        node.want(&[&web()]);
        node.until("told", |node| {
            node.waiting("p")
                .is_some_and(|(found, message)| found == reason && message.contains("nope"))
        })
        .await;
        node.until_running(&["p/web#0"]).await;
    }
}

/// As long as the reason is there, also while it is tried again.
#[tokio::test(start_paused = true)]
async fn a_container_that_cannot_be_made_again_and_again_keeps_its_reason() {
    let node = Node::start();
    for _ in 0..4 {
        let fault = failure("CreateContainer", "exec: \"nope\": not found");
        node.runtime.inject("CreateContainer", fault);
    }
    node.want(&[&web()]);
    let reasons = RefCell::new(Vec::new());
    let begun = node.clock.now();
    node.until("it runs", |node| {
        let reason = node.waiting("p").map(|(reason, _)| reason);
        let mut reasons = reasons.borrow_mut();
        if reasons.last() != Some(&reason) {
            reasons.push(reason);
        }
        node.runtime.running() == ["p/web#0"]
    })
    .await;
    let reasons = reasons.into_inner();
    let told = reasons
        .iter()
        .flatten()
        .skip_while(|reason| *reason != "CreateContainerError");
    assert_eq!(told.count(), 1, "{reasons:?}");
    // After 10, 20, 30 and 30 seconds.
    let took = node.elapsed_since(begun).as_secs();
    assert!((90..100).contains(&took), "{took} s");
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_cannot_be_given_is_a_config_error() {
    let node = Node::start();
    let broken = with_spec(&web(), |spec| {
        spec.volumes.push(clone8s::v1::Volume {
            name: "v".into(),
            source: Some(clone8s::v1::volume::Source::HostPath(
                clone8s::v1::HostPathVolumeSource {
                    path: "/nonexistent/clone8s".into(),
                    r#type: "Directory".into(),
                },
            )),
        });
        first(spec).volume_mounts.push(clone8s::v1::VolumeMount {
            name: "v".into(),
            mount_path: "/v".into(),
            ..Default::default()
        });
    });
    node.want(&[&broken]);
    node.until("told", |node| {
        node.waiting("p").is_some_and(|(reason, message)| {
            reason == "CreateContainerConfigError" && message.contains("/nonexistent/clone8s")
        })
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_holds_up_its_own_pod_alone() {
    let node = Node::start();
    node.runtime.inject("RunPodSandbox", Fault::Hang);
    node.want(&[&pod("a", vec![container("web", "web:1")])]);
    node.until("the call hangs", |node| node.calls_of("RunPodSandbox") == 1)
        .await;
    node.want(&[
        &pod("a", vec![container("web", "web:1")]),
        &pod("b", vec![container("web", "web:1")]),
    ]);
    node.until_running(&["b/web#0"]).await;
}

#[tokio::test(start_paused = true)]
async fn looks_that_hang_hold_up_their_own_pods_alone() {
    let node = Node::start();
    for _ in 0..LOOKS {
        node.runtime.inject("PodSandboxStatus", Fault::Hang);
    }
    let web = |name: &str| pod(name, vec![container("web", "web:1")]);
    let mut pods: Vec<_> = (0..LOOKS).map(|number| web(&format!("a{number}"))).collect();
    node.want(&pods.iter().collect::<Vec<_>>());
    node.until("each has a sandbox to look at", |node| {
        node.calls_of("RunPodSandbox") == LOOKS
    })
    .await;
    settle().await;
    assert_eq!(node.runtime.running(), [""; 0]);
    pods.push(web("b"));
    node.want(&pods.iter().collect::<Vec<_>>());
    node.until_running(&["b/web#0"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_container_that_failed_is_told_with_its_last_words() {
    let node = Node::start();
    let once = with_spec(&web(), |spec| spec.restart_policy = "Never".to_owned());
    node.want(&[&once]);
    node.until_running(&["p/web#0"]).await;
    let log = node.dir.path().join("logs/default_p_p-uid/web/0.log");
    std::fs::write(
        log,
        "2026-01-31T12:00:00.000000000Z stderr F panic: no such file\n",
    )
    .unwrap();
    node.runtime.exit(&node.runtime.running_ids("web")[0], 3);
    node.until("it has failed", |node| {
        node.status("p").is_some_and(|status| status.phase == "Failed")
    })
    .await;
    let status = node.status("p").unwrap();
    assert!(matches!(
        status.container_statuses[0].state.as_ref().unwrap().state,
        Some(State::Terminated(ref end)) if end.exit_code == 3 && end.message == "panic: no such file"
    ));
}

#[tokio::test(start_paused = true)]
async fn a_restarted_kubelet_adopts_what_runs() {
    let mut node = Node::start();
    node.want(&[&web()]);
    node.until_running(&["p/web#0"]).await;
    let ids = node.runtime.running_ids("web");
    let ready_since = |node: &Node| {
        let status = node.status("p").unwrap();
        status
            .conditions
            .iter()
            .find(|one| one.r#type == "Ready")
            .unwrap()
            .clone()
    };
    node.until("ready", |node| {
        node.status("p").is_some_and(|status| status.phase == "Running")
    })
    .await;
    let before = ready_since(&node);
    let told = node.status("p");
    node.stop_kubelet().await;
    assert_eq!(
        node.runtime.running(),
        ["p/web#0"],
        "a kubelet that stops stops nothing"
    );
    let calls = node.runtime.calls();
    settle().await;
    // The sources have not spoken yet.
    node.desired.send_replace(Desired::default());
    node.start_kubelet();
    settle().await;
    assert_eq!(node.runtime.calls(), calls);
    node.want(&[&edited(&web(), |pod| pod.status = told.clone())]);
    settle().await;
    assert_eq!(node.runtime.calls(), calls);
    assert_eq!(node.runtime.running_ids("web"), ids);
    assert_eq!(ready_since(&node), before);
}

#[tokio::test(start_paused = true)]
async fn containers_keep_their_ids_while_a_runtime_does_not_say_how_it_is() {
    let mut node = Node::start();
    node.want(&[&web()]);
    let id = |node: &Node| Some(node.status("p")?.container_statuses.first()?.container_id.clone());
    node.until("the container is told", |node| {
        id(node).is_some_and(|id| id.starts_with("fake://"))
    })
    .await;
    let before = id(&node);
    node.stop_kubelet().await;
    node.board = StatusBoard::new();
    node.runtime.inject("Status", Fault::Hang);
    node.start_kubelet();
    node.until("the container is told again", |node| id(node).is_some())
        .await;
    assert_eq!(id(&node), before);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_wants_after_a_restart_is_stopped_and_strangers_are_not() {
    let mut node = Node::start();
    node.runtime.add_foreign("stranger");
    node.want(&[&web()]);
    node.until_running(&["p/web#0"]).await;
    node.stop_kubelet().await;
    node.desired.send_replace(Desired::default());
    node.start_kubelet();
    node.want(&[]);
    node.until("only the stranger is left", |node| {
        node.runtime.counts() == (1, 1)
    })
    .await;
    settle().await;
    assert_eq!(node.runtime.counts(), (1, 1));
    assert!(!node.dir.path().join("data/pods/p-uid").exists());
}

#[tokio::test(start_paused = true)]
async fn folders_of_pods_that_went_while_no_kubelet_ran_are_removed() {
    let mut node = Node::start();
    node.stop_kubelet().await;
    let leftover = node.dir.path().join("data/pods/old-uid");
    std::fs::create_dir_all(leftover.join("volumes/v")).unwrap();
    std::fs::write(leftover.join("owner"), "default/old").unwrap();
    let logs = node.dir.path().join("logs/default_old_old-uid");
    std::fs::create_dir_all(&logs).unwrap();
    node.start_kubelet();
    node.want(&[]);
    node.until("the folders are gone", |_| {
        !leftover.exists() && logs.join(".gone").exists()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_folder_that_no_worker_knows_of_is_removed_while_the_kubelet_runs() {
    let node = Node::start();
    node.want(&[&web()]);
    node.until_running(&["p/web#0"]).await;
    settle().await;
    let folder = |uid: &str| node.dir.path().join("data/pods").join(uid);
    std::fs::create_dir_all(folder("lost-uid").join("volumes/v")).unwrap();
    let written = Instant::now();
    node.until("the folder is gone", |_| !folder("lost-uid").exists())
        .await;
    // Not at the first look that finds it: a pod that has just come may not be known yet.
    assert!(
        written.elapsed() >= Duration::from_secs(20),
        "{:?}",
        written.elapsed()
    );
    assert!(folder("p-uid").exists());
    // Of a pod that is wanted nothing is taken away, though nothing of it runs.
    let mut waiting = web();
    Arc::make_mut(&mut waiting.pod).spec.as_mut().unwrap().containers[0].image = "absent:1".into();
    node.want(&[&waiting]);
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert!(folder("p-uid").exists());
}

#[tokio::test(start_paused = true)]
async fn after_a_reboot_the_pod_runs_again_in_a_new_sandbox() {
    let node = Node::start();
    node.want(&[&web()]);
    node.until_running(&["p/web#0"]).await;
    node.runtime.reboot();
    node.until_running(&["p/web#1"]).await;
    assert_eq!(node.calls_of("RunPodSandbox"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_is_away_changes_nothing_and_is_a_condition_after_a_while() {
    let node = Node::start();
    node.want(&[&web()]);
    node.until_running(&["p/web#0"]).await;
    node.until("healthy", |node| node.health.borrow().ready).await;
    assert_eq!(node.health.borrow().version, "fake://1");
    let told = node.status("p");
    for _ in 0..20 {
        node.runtime.inject("ListPodSandbox", away("ListPodSandbox"));
    }
    node.until("unhealthy", |node| !node.health.borrow().ready).await;
    assert_eq!(node.health.borrow().reason, "ContainerRuntimeNotReady");
    assert_eq!(node.status("p"), told);
    node.until("healthy again", |node| node.health.borrow().ready)
        .await;
    settle().await;
    assert_eq!(node.runtime.running(), ["p/web#0"]);
}

#[tokio::test(start_paused = true)]
async fn a_short_absence_of_the_runtime_is_no_condition() {
    let node = Node::start();
    node.until("healthy", |node| node.health.borrow().ready).await;
    let mut changes = node.health.clone();
    changes.mark_unchanged();
    for _ in 0..4 {
        node.runtime.inject("ListPodSandbox", away("ListPodSandbox"));
    }
    settle().await;
    assert!(!changes.has_changed().unwrap());
}

#[tokio::test(start_paused = true)]
async fn without_events_a_crash_is_seen_by_the_next_list() {
    let node = Node::start();
    node.runtime.send_no_events();
    node.want(&[&web()]);
    node.until_running(&["p/web#0"]).await;
    let id = node.runtime.running_ids("web").remove(0);
    node.runtime.exit(&id, 1);
    let crashed = node.clock.now();
    node.until_running(&["p/web#1"]).await;
    assert!(node.elapsed_since(crashed) < Duration::from_secs(11));
}

#[tokio::test(start_paused = true)]
async fn a_host_port_that_is_taken_is_told_and_free_again_when_its_holder_goes() {
    let node = Node::start();
    let with_port = |name: &str| {
        with_spec(&pod(name, vec![container("web", "web:1")]), |spec| {
            first(spec).ports.push(clone8s::v1::ContainerPort {
                container_port: 80,
                host_port: 8080,
                ..Default::default()
            });
        })
    };
    let (a, b) = (with_port("a"), with_port("b"));
    node.want(&[&a]);
    node.until_running(&["a/web#0"]).await;
    node.want(&[&a, &b]);
    node.until("told", |node| {
        node.status("b")
            .is_some_and(|status| status.reason == "HostPortConflict")
    })
    .await;
    assert_eq!(node.status("b").unwrap().phase, "Pending");
    node.want(&[&b]);
    node.until_running(&["b/web#0"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_breaks_the_rules_gets_a_reason_and_disturbs_nobody() {
    let node = Node::start();
    let broken = edited(&pod("bad", Vec::new()), |pod| pod.spec = None);
    node.want(&[&web(), &broken]);
    node.until_running(&["p/web#0"]).await;
    node.until("told", |node| {
        node.status("bad")
            .is_some_and(|status| status.reason == "InvalidPod")
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_lies_about_success_is_not_asked_without_end() {
    let node = Node::start();
    node.want(&[&web()]);
    node.until_running(&["p/web#0"]).await;
    let before = node.runtime.calls().len();
    node.runtime.pretend_to_stop();
    node.want(&[]);
    tokio::time::sleep(Duration::from_mins(2)).await;
    let calls = node.runtime.calls().len() - before;
    assert!((2..40).contains(&calls), "{calls} calls in two minutes");
}

#[tokio::test(start_paused = true)]
async fn pods_of_every_source_have_a_status() {
    let node = Node::start();
    let mut from_folder = web();
    from_folder.source = Source::Folder;
    node.want(&[&from_folder]);
    node.until("running", |node| {
        node.status("p").is_some_and(|status| status.phase == "Running")
    })
    .await;
}
