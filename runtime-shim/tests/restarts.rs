//! What survives the shim, and containerd.

#![allow(clippy::large_futures, reason = "a test holds whole CRI messages")]

#[path = "rig/mod.rs"]
mod rig;

use std::path::PathBuf;

use anyhow::ensure;
use clone8s::cri::{self, ContainerState, PodSandboxState};
use clone8s_integration::wait;
use tonic::Code;

use self::rig::{Rig, script};

/// Writes a number every fifth of a second.
const COUNT: &str = "i=0; while true; do i=$((i+1)); echo $i; sleep 0.2; done";

/// The numbers of a log, which must have neither a gap nor a double.
fn counted(rig: &Rig) -> usize {
    let log = rig.log("count.log");
    let expected: Vec<_> = (1..=log.len())
        .map(|number| format!("stdout F {number}"))
        .collect();
    assert_eq!(log, expected);
    log.len()
}

async fn counts_beyond(rig: &Rig, seen: usize) {
    wait::until("the log goes on", || async {
        ensure!(counted(rig) > seen + 2, "{seen}");
        Ok(())
    })
    .await;
}

/// A container that ends by itself at the moment that the test chooses: when nobody is there to hear of it.
struct Meanwhile {
    container: String,
    pid: u32,
    sign: PathBuf,
}

impl Meanwhile {
    /// It will exit with 5.
    async fn start(rig: &Rig, pod: &str) -> Self {
        let folder = rig.dir.make_dir("meanwhile");
        let mut config = script(
            "meanwhile",
            "while [ ! -e /signs/end ]; do sleep 0.1; done; exit 5",
        );
        config.mounts = vec![cri::Mount {
            container_path: "/signs".into(),
            host_path: folder.display().to_string(),
            ..Default::default()
        }];
        let container = rig.run(pod, config).await;
        let (pid, _) = rig.process(&container).await;
        Self {
            container,
            pid: u32::try_from(pid).expect("a pid"),
            sign: folder.join("end"),
        }
    }

    async fn end(&self) {
        std::fs::write(&self.sign, "").expect("a file");
        wait::until("the container's process has ended", || async {
            ensure!(!clone8s_integration::process::alive(self.pid));
            Ok(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_shim_comes_back_and_knows_everything() {
    let mut rig = Rig::start().await;
    let pod = rig.run_sandbox(rig.pod("web")).await.unwrap();
    let running = rig.run(&pod, script("count", COUNT)).await;
    let created = rig.create(&pod, script("created", "echo late")).await.unwrap();
    let ended = rig.run(&pod, script("ended", "exit 4")).await;
    let before_ended = rig.exited(&ended).await;
    let meanwhile = Meanwhile::start(&rig, &pod).await;
    let process = rig.process(&running).await;
    let before = (
        rig.sandbox_status(&pod).await.unwrap(),
        rig.status(&running).await.unwrap(),
    );
    counts_beyond(&rig, 0).await;

    rig.shim.kill();
    meanwhile.end().await;
    let seen = counted(&rig);
    rig.shim.start().unwrap();
    rig.ready().await;

    assert_eq!(
        rig.process(&running).await,
        process,
        "the container was restarted"
    );
    let after = (
        rig.sandbox_status(&pod).await.unwrap(),
        rig.status(&running).await.unwrap(),
    );
    assert_eq!(after, before);
    assert_eq!(rig.status(&ended).await.unwrap(), before_ended);
    let status = rig.exited(&meanwhile.container).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (5, "Error"));
    counts_beyond(&rig, seen).await;
    rig.start_container(&created).await.unwrap();
    assert_eq!(rig.exited(&created).await.exit_code, 0);
    assert_eq!(rig.log("created.log"), ["stdout F late"]);
    rig.stop(&running, 0).await.unwrap();
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_live_through_a_restart_of_containerd() {
    let mut rig = Rig::start().await;
    let pod = rig.run_sandbox(rig.host_pod("web")).await.unwrap();
    let running = rig.run(&pod, script("count", COUNT)).await;
    let meanwhile = Meanwhile::start(&rig, &pod).await;
    let process = rig.process(&running).await;
    let mut events = rig
        .runtime()
        .get_container_events(cri::GetEventsRequest {})
        .await
        .unwrap()
        .into_inner();

    rig.containerd.process.kill();
    meanwhile.end().await;
    let down = rig.create(&pod, script("late", "true")).await.unwrap_err();
    assert_eq!(down.code(), Code::Unavailable, "{down:?}");
    rig.containerd.start_again().await;
    rig.ready().await;

    assert_eq!(
        rig.process(&running).await,
        process,
        "the container was restarted"
    );
    assert_eq!(rig.exited(&meanwhile.container).await.exit_code, 5);
    let event = events.message().await.unwrap().unwrap();
    assert_eq!(event.container_id, meanwhile.container);
    assert_eq!(
        event.container_event_type(),
        cri::ContainerEventType::ContainerStoppedEvent
    );
    counts_beyond(&rig, counted(&rig)).await;
    let late = rig.run(&pod, script("late", "exit 6")).await;
    assert_eq!(rig.exited(&late).await.exit_code, 6);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_namespaces_are_gone_is_not_ready_and_can_be_removed() {
    let mut rig = Rig::start().await;
    let pod = rig.run_sandbox(rig.pod("web")).await.unwrap();
    let id = rig.create(&pod, script("main", "true")).await.unwrap();
    rig.shim.kill();
    // As after a reboot: the folder's mounts are gone, and so are the namespaces.
    for name in ["net", "uts", "ipc"] {
        let pin = rig.dir.dir().join(format!("state/sandboxes/{pod}/ns/{name}"));
        rustix::mount::unmount(pin, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
    rig.shim.start().unwrap();
    rig.ready().await;
    assert_eq!(
        rig.sandbox_status(&pod).await.unwrap().state(),
        PodSandboxState::SandboxNotready
    );
    assert_eq!(
        rig.status(&id).await.unwrap().state(),
        ContainerState::ContainerCreated
    );
    assert_eq!(
        rig.start_container(&id).await.unwrap_err().code(),
        Code::FailedPrecondition
    );
    rig.remove_sandbox(&pod).await.unwrap();
    let again = rig.run_sandbox(rig.pod("web")).await.unwrap();
    assert_ne!(again, pod);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_killed_at_any_moment_of_a_pods_start_leaves_nothing_half_made() {
    let mut rig = Rig::start().await;
    for (round, millis) in [2, 8, 15, 25, 40, 60, 90].into_iter().enumerate() {
        let name = format!("pod-{round}");
        let call = rig.run_sandbox(rig.pod(&name));
        let _ = tokio::time::timeout(std::time::Duration::from_millis(millis), call).await;
        rig.kill_and_restart().await;
        for sandbox in rig.list_sandboxes().await {
            assert_eq!(sandbox.state(), PodSandboxState::SandboxReady, "{name}");
            rig.remove_sandbox(&sandbox.id).await.unwrap();
        }
        let left: Vec<_> = std::fs::read_dir(rig.dir.dir().join("state/sandboxes"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect();
        assert!(left.is_empty(), "{name}: {left:?}");
    }
    rig.finish().await;
}

/// The numbers from one on, as a log has them.
fn numbers(last: usize) -> Vec<String> {
    (1..=last).map(|number| format!("stdout F {number}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_line_is_lost_or_doubled_when_the_shim_is_killed_again_and_again() {
    const LINES: usize = 60_000;
    let mut rig = Rig::start().await;
    let pod = rig.run_sandbox(rig.host_pod("web")).await.unwrap();
    let count = format!("i=0; while [ $i -lt {LINES} ]; do i=$((i+1)); echo $i; done");
    let busy = rig.run(&pod, script("busy", &count)).await;
    let late = rig
        .run(&pod, script("late", "sleep 1; seq 1 5000; echo -n end"))
        .await;
    for millis in [20, 70, 150, 40] {
        tokio::time::sleep(std::time::Duration::from_millis(millis)).await;
        rig.kill_and_restart().await;
    }
    // One of them ends meanwhile, with all of its output in its FIFO.
    rig.shim.kill();
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    rig.shim.start().unwrap();
    rig.ready().await;
    assert_eq!(rig.exited(&busy).await.exit_code, 0);
    assert_eq!(rig.exited(&late).await.exit_code, 0);
    let log = rig.log("busy.log");
    assert!(
        log == numbers(LINES),
        "{} lines, from {:?} to {:?}",
        log.len(),
        log.first(),
        log.last()
    );
    let mut expected = numbers(5000);
    expected.push("stdout P end".to_owned());
    assert_eq!(rig.log("late.log"), expected);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_a_pod_share_one_process_of_ours_and_it_ends_with_the_last() {
    let rig = Rig::start().await;
    let pod = rig.run_sandbox(rig.host_pod("web")).await.unwrap();
    let other = rig.run_sandbox(rig.host_pod("other")).await.unwrap();
    let first = rig.run(&pod, script("first", "sleep 1000")).await;
    let second = rig.run(&pod, script("second", "sleep 1000")).await;
    let elsewhere = rig.run(&other, script("first", "sleep 1000")).await;
    let shim = rig.parent(&first).await;
    assert_eq!(rig.parent(&second).await, shim);
    assert_ne!(rig.parent(&elsewhere).await, shim);
    let name = std::fs::read(format!("/proc/{shim}/cmdline")).unwrap();
    assert!(
        name.starts_with(b"containerd-shim-clone8s-v1\0"),
        "{}",
        String::from_utf8_lossy(&name)
    );
    rig.stop(&first, 0).await.unwrap();
    rig.remove(&first).await.unwrap();
    assert_eq!(
        rig.parent(&second).await,
        shim,
        "it has ended with the first of two"
    );
    rig.stop(&second, 0).await.unwrap();
    rig.remove(&second).await.unwrap();
    let pid = u32::try_from(shim).unwrap();
    wait::until("the process has ended", || async {
        ensure!(!clone8s_integration::process::alive(pid), "{pid} lives");
        Ok(())
    })
    .await;
    rig.finish().await;
}

/// What of containerd's and of our shim's state is named after a container.
fn traces(rig: &Rig, containers: &[&str]) -> Vec<std::path::PathBuf> {
    const TASKS: &str = "containerd/root/io.containerd.runtime.v2.task";
    let mut found = Vec::new();
    let mut folders = ["state", "containerd/state", TASKS]
        .map(|folder| rig.dir.dir().join(folder))
        .to_vec();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if containers.iter().any(|id| name.contains(id)) {
                found.push(entry.path());
            } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_whose_own_shim_was_killed_have_ended_and_their_pod_goes_on() {
    let mut rig = Rig::start().await;
    let pod = rig.run_sandbox(rig.pod("web")).await.unwrap();
    let other = rig.run_sandbox(rig.pod("other")).await.unwrap();
    let first = rig.run(&pod, script("first", "trap '' TERM; sleep 1000")).await;
    let second = rig.run(&pod, script("second", "sleep 1000")).await;
    let elsewhere = rig.run(&other, script("first", "sleep 1000")).await;
    let untouched = rig.process(&elsewhere).await;
    let shim = rig.parent(&first).await;
    let mut processes = Vec::new();
    for id in [&first, &second] {
        processes.push(u32::try_from(rig.process(id).await.0).unwrap());
    }
    // A command that its caller waits for.
    let mut client = rig.runtime();
    let request = cri::ExecSyncRequest {
        container_id: first.clone(),
        cmd: ["/bin/sleep", "1000"].map(str::to_owned).to_vec(),
        timeout: 120,
    };
    let mut command = tokio::task::JoinSet::new();
    command.spawn(async move { client.exec_sync(request).await });
    wait::until("the command runs", || async {
        let seen = rig.exec(&first, "ps -o args").await;
        ensure!(seen.matches("/bin/sleep 1000").count() == 1, "{seen}");
        Ok(())
    })
    .await;

    let shim = rustix::process::Pid::from_raw(i32::try_from(shim).unwrap()).unwrap();
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
    for id in [&first, &second] {
        let status = rig.exited(id).await;
        assert_eq!(
            (status.exit_code, status.reason.as_str()),
            (137, "Error"),
            "{status:?}"
        );
    }
    let refused = command.join_next().await.unwrap().unwrap().unwrap_err();
    assert_ne!(refused.code(), Code::DeadlineExceeded, "{refused:?}");
    wait::until("their processes have ended", || async {
        let alive: Vec<_> = processes
            .iter()
            .filter(|&&pid| clone8s_integration::process::alive(pid))
            .collect();
        ensure!(alive.is_empty(), "{alive:?}");
        Ok(())
    })
    .await;
    assert_eq!(rig.process(&elsewhere).await, untouched, "another pod's");

    // The pod has its network still, takes new containers, and forgets the old ones.
    let address = |status: cri::PodSandboxStatus| status.network.unwrap().ip;
    let status = rig.sandbox_status(&pod).await.unwrap();
    assert_eq!(status.state(), PodSandboxState::SandboxReady);
    assert!(!address(status).is_empty());
    rig.kill_and_restart().await;
    assert_eq!(rig.status(&second).await.unwrap().exit_code, 137);
    let mut again = script("first", "sleep 1000");
    again.metadata.as_mut().unwrap().attempt = 1;
    let again = rig.run(&pod, again).await;
    assert_eq!(rig.exec(&again, "echo works").await, "works");
    for id in [&first, &second] {
        rig.stop(id, 10).await.unwrap();
        rig.remove(id).await.unwrap();
    }
    wait::until("nothing of them is left", || async {
        let left = traces(&rig, &[&first, &second]);
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await;
    rig.finish().await;
}
