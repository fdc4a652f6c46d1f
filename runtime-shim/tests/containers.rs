//! Containers on a real containerd.

#![allow(clippy::large_futures, reason = "a test holds whole CRI messages")]

#[path = "rig/mod.rs"]
mod rig;

use anyhow::{Context as _, ensure};
use clone8s::cri::{self, ContainerState};
use clone8s_integration::wait;
use tonic::Code;

use self::rig::{Rig, script};

#[tokio::test(flavor = "multi_thread")]
async fn a_container_runs_logs_and_tells_how_it_ended() {
    let rig = Rig::start().await;
    let pod = rig.run_sandbox(rig.host_pod("web")).await.unwrap();
    let id = rig
        .run(
            &pod,
            script("main", "echo out; echo err >&2; printf half; exit 3"),
        )
        .await;
    let status = rig.exited(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (3, "Error"));
    assert!(status.created_at <= status.started_at && status.started_at <= status.finished_at);
    let mut log = rig.log("main.log");
    log.sort();
    assert_eq!(log, ["stderr F err", "stdout F out", "stdout P half"]);

    let other = rig.run(&pod, script("other", "exit 0")).await;
    let status = rig.exited(&other).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (0, "Completed"));
    assert_eq!(
        rig.status(&id).await.unwrap().state(),
        ContainerState::ContainerExited
    );
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_asks_first_and_kills_at_the_time_limit() {
    let rig = Rig::start().await;
    let pod = rig.run_sandbox(rig.host_pod("web")).await.unwrap();
    let polite = script(
        "polite",
        "trap 'echo bye; exit 0' TERM; echo up; while true; do sleep 0.1; done",
    );
    let polite = rig.run(&pod, polite).await;
    rig.log_becomes("polite.log", &["stdout F up"]).await;
    rig.stop(&polite, 30).await.unwrap();
    let status = rig.status(&polite).await.unwrap();
    assert_eq!((status.exit_code, status.reason.as_str()), (0, "Completed"));
    rig.log_becomes("polite.log", &["stdout F up", "stdout F bye"])
        .await;

    let deaf = rig
        .run(
            &pod,
            script("deaf", "trap '' TERM; echo up; while true; do sleep 0.1; done"),
        )
        .await;
    rig.log_becomes("deaf.log", &["stdout F up"]).await;
    rig.stop(&deaf, 1).await.unwrap();
    let status = rig.status(&deaf).await.unwrap();
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));

    rig.stop(&deaf, 1).await.unwrap();
    for id in [&polite, &deaf] {
        rig.remove(id).await.unwrap();
        rig.remove(id).await.unwrap();
        assert_eq!(rig.status(id).await.unwrap_err().code(), Code::NotFound);
    }
    rig.stop("unknown", 0).await.unwrap();
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_killed_for_memory_is_told_as_such() {
    let rig = Rig::start().await;
    let pod = rig.run_sandbox(rig.host_pod("web")).await.unwrap();
    let mut hungry = script("hungry", "exec tail -c 200000000 /dev/zero");
    hungry.linux = Some(cri::LinuxContainerConfig {
        resources: Some(cri::LinuxContainerResources {
            memory_limit_in_bytes: 32 << 20,
            ..Default::default()
        }),
        ..Default::default()
    });
    let id = rig.run(&pod, hungry).await;
    let status = rig.exited(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_runs_in_a_container_within_its_time_limit() {
    let rig = Rig::start().await;
    let pod = rig.run_sandbox(rig.host_pod("web")).await.unwrap();
    let id = rig.run(&pod, script("main", "exec sleep 1000")).await;
    let exec = |command: &'static str, timeout: i64| {
        let request = cri::ExecSyncRequest {
            container_id: id.clone(),
            cmd: ["/bin/sh", "-c", command].map(str::to_owned).to_vec(),
            timeout,
        };
        let mut client = rig.runtime();
        async move { client.exec_sync(request).await.map(tonic::Response::into_inner) }
    };
    let outcome = exec("echo out; echo err >&2; exit 7", 10).await.unwrap();
    assert_eq!(
        (&*outcome.stdout, &*outcome.stderr, outcome.exit_code),
        (&b"out\n"[..], &b"err\n"[..], 7)
    );
    let outcome = exec("head -c 20000000 /dev/zero", 0).await.unwrap();
    // What the messages of CRI's clients hold, less what else is in them.
    let most = (16 << 20) - (64 << 10);
    assert_eq!((outcome.stdout.len(), outcome.exit_code), (most, 0));
    let note = String::from_utf8_lossy(&outcome.stderr).into_owned();
    assert!(
        note.contains(&format!("{} bytes of stdout", 20_000_000 - most)),
        "{note}"
    );
    let late = exec("sleep 100", 1).await.unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded, "{late:?}");
    let missing = rig
        .runtime()
        .exec_sync(cri::ExecSyncRequest {
            container_id: id.clone(),
            cmd: vec!["/nope".into()],
            timeout: 60,
        })
        .await
        .unwrap_err();
    assert!(missing.message().contains("/nope"), "{missing:?}");
    rig.stop(&id, 0).await.unwrap();
    assert_eq!(
        exec("true", 1).await.unwrap_err().code(),
        Code::FailedPrecondition
    );
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_is_refused_with_the_reason() {
    let rig = Rig::start().await;
    let pod = rig.run_sandbox(rig.host_pod("web")).await.unwrap();
    let again = rig.run_sandbox(rig.host_pod("web")).await.unwrap_err();
    assert_eq!(again.code(), Code::AlreadyExists);
    assert!(again.message().contains(&pod), "{again:?}");

    let mut config = script("main", "true");
    config.image = Some(cri::ImageSpec {
        image: "localhost/absent:1".into(),
        ..Default::default()
    });
    let absent = rig.create(&pod, config).await.unwrap_err();
    assert_eq!(absent.code(), Code::NotFound);
    assert!(absent.message().contains("localhost/absent:1"), "{absent:?}");

    let mut config = script("main", "true");
    config.command = vec!["/no/such/program".into()];
    let id = rig.create(&pod, config).await.unwrap();
    let failed = rig.start_container(&id).await.unwrap_err();
    let status = rig.status(&id).await.unwrap();
    assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
    // Of every try the same, so that a kubelet counts them as one event.
    for words in [failed.message(), &status.message] {
        assert!(words.starts_with("cannot start the container: "), "{words}");
        assert!(words.contains("/no/such/program"), "{words}");
        assert!(!words.contains(&id) && !words.contains("code: "), "{words}");
    }

    let id = rig.run(&pod, script("twice", "exec sleep 1000")).await;
    assert_eq!(
        rig.start_container(&id).await.unwrap_err().code(),
        Code::FailedPrecondition
    );
    let lost = rig.create("unknown", script("main", "true")).await.unwrap_err();
    assert_eq!(lost.code(), Code::NotFound);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_of_containerd_serves_all_containers_of_a_pod() {
    let rig = Rig::start().await;
    let pod = rig.run_sandbox(rig.host_pod("web")).await.unwrap();
    let first = rig.run(&pod, script("first", "exec sleep 1000")).await;
    let second = rig.run(&pod, script("second", "exec sleep 1000")).await;
    assert_eq!(rig.parent(&first).await, rig.parent(&second).await);
    // The process was started for the first one, and stays for the others.
    rig.remove(&first).await.unwrap();
    let third = rig.run(&pod, script("third", "echo third")).await;
    assert_eq!(rig.exited(&third).await.exit_code, 0);
    assert_eq!(rig.log("third.log"), ["stdout F third"]);
    assert_eq!(
        rig.status(&second).await.unwrap().state(),
        ContainerState::ContainerRunning
    );
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stats_and_limits_are_those_of_the_kernel() {
    let rig = Rig::start().await;
    let pod = rig.run_sandbox(rig.pod("web")).await.unwrap();
    let id = rig
        .run(
            &pod,
            script(
                "main",
                "head -c 100000 /dev/zero > /tmp/file; while true; do :; done",
            ),
        )
        .await;
    let stats = wait::until("the container has used some CPU and written its file", || async {
        let request = cri::ContainerStatsRequest {
            container_id: id.clone(),
        };
        let stats = rig
            .runtime()
            .container_stats(request)
            .await?
            .into_inner()
            .stats
            .context("stats")?;
        let used = stats
            .cpu
            .as_ref()
            .and_then(|cpu| cpu.usage_core_nano_seconds)
            .context("cpu")?
            .value;
        let rate = stats
            .cpu
            .as_ref()
            .and_then(|cpu| cpu.usage_nano_cores)
            .context("a rate")?
            .value;
        ensure!(used > 0 && rate > 0, "{stats:?}");
        // Measured again ten seconds after it was measured too early.
        let written = stats.writable_layer.as_ref().and_then(|layer| layer.used_bytes);
        ensure!(written.context("a layer")?.value >= 100_000, "{stats:?}");
        Ok(stats)
    })
    .await;
    assert!(stats.memory.unwrap().working_set_bytes.unwrap().value > 0);
    let request = cri::PodSandboxStatsRequest {
        pod_sandbox_id: pod.clone(),
    };
    let stats = rig
        .runtime()
        .pod_sandbox_stats(request)
        .await
        .unwrap()
        .into_inner()
        .stats
        .unwrap()
        .linux
        .unwrap();
    assert_eq!(stats.containers.len(), 1);
    assert_eq!(stats.network.unwrap().default_interface.unwrap().name, "eth0");

    let change = cri::LinuxContainerResources {
        memory_limit_in_bytes: 64 << 20,
        ..Default::default()
    };
    let request = cri::UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(change),
        ..Default::default()
    };
    rig.runtime().update_container_resources(request).await.unwrap();
    let request = cri::ContainerStatsRequest {
        container_id: id.clone(),
    };
    let memory = rig
        .runtime()
        .container_stats(request)
        .await
        .unwrap()
        .into_inner()
        .stats
        .unwrap()
        .memory
        .unwrap();
    let limit = memory.available_bytes.unwrap().value + memory.working_set_bytes.unwrap().value;
    assert_eq!(limit, 64 << 20);
    let limits = rig.status(&id).await.unwrap().resources.unwrap().linux.unwrap();
    assert_eq!(limits.memory_limit_in_bytes, 64 << 20);
    rig.finish().await;
}
