//! Limits of containers and pods, as the kernel has them. Both versions of cgroups: this runs in an emulated machine
//! too, as a plain program.

#![allow(clippy::large_futures, reason = "a test holds whole CRI messages")]

#[path = "rig/mod.rs"]
mod rig;

use std::{fs, path::Path};

use anyhow::ensure;
use clone8s::cri;
use clone8s_integration::wait;
use tonic::Code;

use self::rig::{Rig, script};

/// A value of a cgroup that a container or pod is in, by its file in either version.
fn cgroup_value(cgroup: &str, v1: (&str, &str), v2: &str) -> String {
    let path = if is_v2() {
        format!("/sys/fs/cgroup{cgroup}/{v2}")
    } else {
        format!("/sys/fs/cgroup/{}{cgroup}/{}", v1.0, v1.1)
    };
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    text.trim().to_owned()
}

fn is_v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

async fn cgroup_of(rig: &Rig, id: &str) -> String {
    let info = rig.container_info(id).await;
    info["cgroup"].as_str().expect("a cgroup").to_owned()
}

fn limited(name: &str, limits: cri::LinuxContainerResources) -> cri::ContainerConfig {
    let mut container = script(name, "exec sleep 1000");
    container.linux.get_or_insert_default().resources = Some(limits);
    container
}

async fn update(rig: &Rig, id: &str, limits: cri::LinuxContainerResources) -> Result<(), tonic::Status> {
    let request = cri::UpdateContainerResourcesRequest {
        container_id: id.to_owned(),
        linux: Some(limits),
        ..Default::default()
    };
    rig.runtime().update_container_resources(request).await.map(drop)
}

fn memory_of(cgroup: &str) -> String {
    cgroup_value(cgroup, ("memory", "memory.limit_in_bytes"), "memory.max")
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_set_changed_told_and_kept_through_a_restart() {
    let mut rig = Rig::start().await;
    let pod = rig.run_sandbox(rig.host_pod("web")).await.unwrap();
    let limits = cri::LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: 50_000,
        cpu_shares: 512,
        cpuset_cpus: "0".into(),
        memory_limit_in_bytes: 64 << 20,
        memory_swap_limit_in_bytes: 64 << 20,
        // As kubelets send it on hosts without limits for huge pages too.
        hugepage_limits: vec![cri::HugepageLimit {
            page_size: "2MB".into(),
            limit: 0,
        }],
        ..Default::default()
    };
    let id = rig.run(&pod, limited("main", limits.clone())).await;
    let cgroup = cgroup_of(&rig, &id).await;
    assert_eq!(memory_of(&cgroup), (64 << 20).to_string());
    let quota = cgroup_value(&cgroup, ("cpu", "cpu.cfs_quota_us"), "cpu.max");
    assert!(quota.starts_with("50000"), "{quota}");
    assert_eq!(
        cgroup_value(&cgroup, ("cpuset", "cpuset.cpus"), "cpuset.cpus"),
        "0"
    );

    let change = cri::LinuxContainerResources {
        cpu_quota: 25_000,
        memory_limit_in_bytes: 96 << 20,
        memory_swap_limit_in_bytes: 128 << 20,
        ..Default::default()
    };
    update(&rig, &id, change).await.unwrap();
    assert_eq!(memory_of(&cgroup), (96 << 20).to_string());
    let quota = cgroup_value(&cgroup, ("cpu", "cpu.cfs_quota_us"), "cpu.max");
    assert!(quota.starts_with("25000"), "{quota}");
    let expected = cri::LinuxContainerResources {
        cpu_quota: 25_000,
        memory_limit_in_bytes: 96 << 20,
        memory_swap_limit_in_bytes: 128 << 20,
        ..limits
    };
    rig.kill_and_restart().await;
    let told = rig.status(&id).await.unwrap().resources.unwrap().linux.unwrap();
    assert_eq!(told, expected);

    // What is wrong changes nothing.
    for (wrong, field) in [
        (
            cri::LinuxContainerResources {
                cpu_period: 7,
                ..Default::default()
            },
            "linux.cpu_period",
        ),
        (
            cri::LinuxContainerResources {
                cpuset_cpus: "1-0".into(),
                ..Default::default()
            },
            "linux.cpuset_cpus",
        ),
        (
            cri::LinuxContainerResources {
                memory_limit_in_bytes: 1 << 40,
                ..Default::default()
            },
            "linux.memory_swap_limit_in_bytes",
        ),
    ] {
        let refused = update(&rig, &id, wrong).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().starts_with(field), "{refused:?}");
    }
    let told = rig.status(&id).await.unwrap().resources.unwrap().linux.unwrap();
    assert_eq!(told, expected);
    assert_eq!(memory_of(&cgroup), (96 << 20).to_string());
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_that_a_container_holds_is_not_taken_and_a_limit_can_go() {
    const HELD: usize = 20_000_000;
    let rig = Rig::start().await;
    let pod = rig.run_sandbox(rig.host_pod("web")).await.unwrap();
    let memory = |bytes| cri::LinuxContainerResources {
        memory_limit_in_bytes: bytes,
        ..Default::default()
    };
    let mut holding = script(
        "main",
        &format!("held=$(head -c {HELD} /dev/zero | tr '\\0' x); while sleep 1; do :; done"),
    );
    holding.linux.get_or_insert_default().resources = Some(memory(128 << 20));
    let id = rig.run(&pod, holding).await;
    let cgroup = cgroup_of(&rig, &id).await;
    let used = || {
        let used = cgroup_value(&cgroup, ("memory", "memory.usage_in_bytes"), "memory.current");
        used.parse::<usize>().unwrap()
    };
    let shell_alone = || {
        cgroup_value(&cgroup, ("memory", "cgroup.procs"), "cgroup.procs")
            .lines()
            .count()
            <= 2
    };
    wait::until("the container holds its memory", || async {
        ensure!(used() > HELD && shell_alone(), "{} bytes", used());
        Ok(())
    })
    .await;
    let refused = update(&rig, &id, memory(8 << 20)).await.unwrap_err();
    assert_ne!(refused.code(), Code::InvalidArgument, "{refused:?}");
    assert_eq!(memory_of(&cgroup), (128 << 20).to_string());
    update(&rig, &id, memory(96 << 20)).await.unwrap();
    assert_eq!(memory_of(&cgroup), (96 << 20).to_string());

    update(&rig, &id, memory(-1)).await.unwrap();
    let no_limit = memory_of(&cgroup);
    assert!(
        no_limit == "max" || no_limit.parse::<u64>().unwrap() > 1 << 62,
        "{no_limit}"
    );
    let told = rig.status(&id).await.unwrap();
    assert_eq!(told.resources.unwrap().linux.unwrap().memory_limit_in_bytes, -1);
    assert_eq!(told.state, cri::ContainerState::ContainerRunning as i32);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_changed_before_the_start_are_those_it_starts_with() {
    let rig = Rig::start().await;
    let pod = rig.run_sandbox(rig.host_pod("web")).await.unwrap();
    let id = rig
        .create(&pod, limited("main", cri::LinuxContainerResources::default()))
        .await
        .unwrap();
    let change = cri::LinuxContainerResources {
        memory_limit_in_bytes: 48 << 20,
        ..Default::default()
    };
    update(&rig, &id, change.clone()).await.unwrap();
    rig.start_container(&id).await.unwrap();
    assert_eq!(memory_of(&cgroup_of(&rig, &id).await), (48 << 20).to_string());
    rig.stop(&id, 0).await.unwrap();
    let ended = update(&rig, &id, change).await.unwrap_err();
    assert_eq!(ended.code(), Code::FailedPrecondition);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_cgroup_v2_are_set_where_there_are_any() {
    let rig = Rig::start().await;
    let pod = rig.run_sandbox(rig.host_pod("web")).await.unwrap();
    let limits = cri::LinuxContainerResources {
        unified: [
            ("memory.high".to_owned(), (32 << 20).to_string()),
            ("pids.max".to_owned(), "77".to_owned()),
        ]
        .into(),
        ..Default::default()
    };
    let created = rig.create(&pod, limited("main", limits)).await;
    if is_v2() {
        let id = created.unwrap();
        rig.start_container(&id).await.unwrap();
        let cgroup = cgroup_of(&rig, &id).await;
        assert_eq!(
            cgroup_value(&cgroup, ("", ""), "memory.high"),
            (32 << 20).to_string()
        );
        assert_eq!(cgroup_value(&cgroup, ("", ""), "pids.max"), "77");
    } else {
        let refused = created.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert!(
            refused.message().contains("config.linux.resources.unified"),
            "{refused:?}"
        );
    }
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_own_cgroup_has_the_limits_of_all_its_containers_and_more() {
    let mut rig = Rig::start().await;
    let mut config = rig.host_pod("web");
    let memory = |bytes: i64| {
        Some(cri::LinuxContainerResources {
            memory_limit_in_bytes: bytes,
            ..Default::default()
        })
    };
    let linux = config.linux.as_mut().unwrap();
    // No cgroup of the caller's: the shim makes one.
    linux.cgroup_parent.clear();
    linux.resources = memory(100 << 20);
    linux.overhead = memory(28 << 20);
    let pod = rig.run_sandbox(config).await.unwrap();
    let cgroup = format!("/clone8s/{pod}");
    assert_eq!(memory_of(&cgroup), (128 << 20).to_string());
    let id = rig.run(&pod, limited("main", memory(64 << 20).unwrap())).await;
    assert_eq!(memory_of(&cgroup_of(&rig, &id).await), (64 << 20).to_string());

    let update = |resources: Option<cri::LinuxContainerResources>| cri::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: pod.clone(),
        overhead: None,
        resources,
    };
    rig.runtime()
        .update_pod_sandbox_resources(update(memory(200 << 20)))
        .await
        .unwrap();
    assert_eq!(memory_of(&cgroup), (228 << 20).to_string());
    let wrong = rig
        .runtime()
        .update_pod_sandbox_resources(update(memory(-5)))
        .await
        .unwrap_err();
    assert_eq!(wrong.code(), Code::InvalidArgument);
    assert!(
        wrong.message().contains("resources.memory_limit_in_bytes"),
        "{wrong:?}"
    );
    rig.kill_and_restart().await;
    assert_eq!(rig.sandbox_info(&pod).await["memoryLimit"], 200 << 20);
    rig.remove_sandbox(&pod).await.unwrap();
    let gone = if is_v2() {
        format!("/sys/fs/cgroup{cgroup}")
    } else {
        format!("/sys/fs/cgroup/memory{cgroup}")
    };
    assert!(!Path::new(&gone).exists(), "{gone} is left");
    rig.finish().await;
}
