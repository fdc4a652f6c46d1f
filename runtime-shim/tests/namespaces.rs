//! Whose processes and users a container has, on a real containerd and kernel.

#![allow(clippy::large_futures, reason = "a test holds whole CRI messages")]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

#[path = "rig/mod.rs"]
mod rig;

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use anyhow::ensure;
use clone8s::cri::{self, ContainerState, NamespaceMode, PodSandboxState};
use clone8s_integration::wait;
use rustix::process::{Pid, Signal, kill_process};
use tonic::Code;

use self::rig::{Rig, namespaces, script, security};

/// Of a pod's first process, as told to people; none where it has no such process.
async fn init_of(rig: &Rig, pod: &str) -> Option<u32> {
    let info = rig.sandbox_info(pod).await;
    info["pid"].as_u64().map(|pid| u32::try_from(pid).unwrap())
}

fn shared_pod(rig: &Rig, name: &str) -> cri::PodSandboxConfig {
    let mut config = rig.host_pod(name);
    namespaces(&mut config).pid = NamespaceMode::Pod.into();
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_that_share_processes_see_each_other_and_their_orphans_are_reaped() {
    let mut rig = Rig::start().await;
    let pod = rig.run_sandbox(shared_pod(&rig, "shared")).await.unwrap();
    assert_eq!(init_of(&rig, &pod).await, None, "nobody wants the namespace yet");
    let first = rig.run(&pod, script("first", "exec sleep 1000")).await;
    let second = rig.run(&pod, script("second", "exec sleep 1000")).await;
    let seen = rig.exec(&first, "ps -o pid,args").await;
    assert_eq!(seen.matches("sleep 1000").count(), 2, "{seen}");
    assert!(seen.contains("clone8s-pod-init"), "{seen}");

    // An orphan whose end nobody waits for is gone, not a zombie.
    rig.exec(&first, "sh -c 'sleep 0.1 & exec true' & exec true")
        .await;
    wait::until("the orphan is reaped", || async {
        let all = rig.exec(&first, "cat /proc/[0-9]*/stat | cut -d ' ' -f 3").await;
        ensure!(!all.contains('Z'), "{all}");
        Ok(())
    })
    .await;

    // The first process cannot be killed from within, and gives away nothing of the host.
    rig.exec(&second, "kill -9 1; kill 1; kill -0 $$").await;
    let init = init_of(&rig, &pod).await.expect("a first process");
    let escape = rig
        .exec(
            &second,
            "cat /proc/1/root/etc/hostname /proc/1/environ 2>&1 || true",
        )
        .await;
    assert!(
        escape.contains("denied") || escape.contains("can't open"),
        "{escape}"
    );
    assert_eq!(
        fs::read_link(format!("/proc/{init}/cwd")).unwrap(),
        Path::new("/"),
        "its root is its own"
    );
    let status = fs::read_to_string(format!("/proc/{init}/status")).unwrap();
    for line in [
        "CapPrm:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Uid:\t65534\t65534",
    ] {
        assert!(status.contains(line), "{line} in {status}");
    }
    let cgroup = fs::read_to_string(format!("/proc/{init}/cgroup")).unwrap();
    assert!(cgroup.contains(&format!("shared/{pod}")), "{cgroup}");

    // It outlives the shim, and containers go on joining it.
    rig.kill_and_restart().await;
    assert_eq!(init_of(&rig, &pod).await, Some(init));
    let third = rig.run(&pod, script("third", "exec sleep 1000")).await;
    assert_eq!(
        rig.exec(&third, "ps -o args").await.matches("sleep 1000").count(),
        3
    );

    // One container's end is not another's.
    rig.stop(&first, 0).await.unwrap();
    assert_eq!(
        rig.status(&second).await.unwrap().state(),
        ContainerState::ContainerRunning
    );
    rig.stop_sandbox(&pod).await.unwrap();
    assert!(!Path::new(&format!("/proc/{init}")).exists() || zombie(init));
    rig.finish().await;
}

/// Dead, with a parent that has not looked yet.
fn zombie(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_first_process_is_killed_is_not_ready_and_can_be_removed() {
    let rig = Rig::start().await;
    let pod = rig.run_sandbox(shared_pod(&rig, "shared")).await.unwrap();
    let main = rig.run(&pod, script("main", "exec sleep 1000")).await;
    let init = init_of(&rig, &pod).await.expect("a first process");
    kill_process(Pid::from_raw(init.cast_signed()).unwrap(), Signal::KILL).unwrap();
    assert_eq!(rig.exited(&main).await.exit_code, 137);
    wait::until("the pod is not ready", || async {
        let state = rig.sandbox_status(&pod).await?.state();
        ensure!(state == PodSandboxState::SandboxNotready, "{state:?}");
        Ok(())
    })
    .await;
    let refused = rig.create(&pod, script("late", "true")).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_sees_its_own_the_hosts_or_a_targets_processes() {
    let rig = Rig::start().await;
    let pod = rig.run_sandbox(rig.host_pod("web")).await.unwrap();
    let main = rig.run(&pod, script("main", "exec sleep 1234")).await;
    assert_eq!(init_of(&rig, &pod).await, None);
    let with_pid = |name: &str, mode: NamespaceMode, target: &str| {
        let mut config = script(name, "ps -o args; readlink /proc/self/ns/pid");
        security(&mut config).namespace_options = Some(cri::NamespaceOption {
            network: NamespaceMode::Node.into(),
            pid: mode.into(),
            target_id: target.to_owned(),
            ..Default::default()
        });
        config
    };
    let own = rig
        .output(&pod, with_pid("own", NamespaceMode::Container, ""))
        .await
        .join("\n");
    assert!(!own.contains("sleep 1234"), "{own}");
    let target = rig
        .output(&pod, with_pid("look", NamespaceMode::Target, &main))
        .await
        .join("\n");
    assert!(target.contains("sleep 1234"), "{target}");
    let host = rig
        .output(&pod, with_pid("host", NamespaceMode::Node, ""))
        .await
        .join("\n");
    let own_namespace = fs::read_link("/proc/self/ns/pid").unwrap();
    assert!(host.contains(&*own_namespace.to_string_lossy()), "{host}");

    let unknown = rig
        .create(&pod, with_pid("u", NamespaceMode::Target, "nope"))
        .await;
    let unknown = unknown.unwrap_err();
    assert_eq!(unknown.code(), Code::InvalidArgument);
    assert!(
        unknown.message().contains("namespace_options.target_id"),
        "{unknown:?}"
    );
    rig.stop(&main, 0).await.unwrap();
    let ended = rig
        .create(&pod, with_pid("e", NamespaceMode::Target, &main))
        .await;
    assert_eq!(ended.unwrap_err().code(), Code::FailedPrecondition);
    rig.finish().await;
}

fn ids() -> Vec<cri::IdMapping> {
    vec![cri::IdMapping {
        host_id: 300_000,
        container_id: 0,
        length: 65_536,
    }]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_with_users_of_its_own_is_root_inside_and_nobody_outside() {
    let rig = Rig::start().await;
    // The OCI runtime looks up the root's path as the pod's user.
    fs::set_permissions(rig.dir.dir(), fs::Permissions::from_mode(0o711)).unwrap();
    let mut config = rig.pod("users");
    namespaces(&mut config).userns_options = Some(cri::UserNamespace {
        mode: NamespaceMode::Pod.into(),
        uids: ids(),
        gids: ids(),
    });
    namespaces(&mut config).pid = NamespaceMode::Pod.into();
    config.linux.as_mut().unwrap().sysctls = [
        ("net.ipv4.ip_unprivileged_port_start".to_owned(), "80".to_owned()),
        ("kernel.shm_rmid_forced".to_owned(), "1".to_owned()),
    ]
    .into();
    let pod = rig.run_sandbox(config).await.unwrap();
    let data = rig.dir.make_dir("data");
    fs::write(data.join("file"), "text").unwrap();
    let mut container = script("main", "exec sleep 1000");
    container.mounts = vec![cri::Mount {
        container_path: "/data".into(),
        host_path: data.display().to_string(),
        uid_mappings: ids(),
        gid_mappings: ids(),
        ..Default::default()
    }];
    security(&mut container).capabilities = Some(cri::Capability {
        add_capabilities: vec!["NET_ADMIN".into()],
        ..Default::default()
    });
    let main = rig.run(&pod, container).await;
    let (pid, _) = rig.process(&main).await;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("Uid:\t300000\t300000"), "{status}");
    assert_eq!(
        rig.exec(&main, "id -u; cat /proc/self/uid_map | tr -s ' '").await,
        "0\n 0 300000 65536"
    );
    // The image's files are root's, the volume's too, and both can be written.
    let script = "stat -c %u:%g / /bin /bin/busybox /data /data/file /etc/hosts /dev/shm | sort -u; \
                  echo new > /made && echo more > /data/made && echo x > /dev/shm/x && cat /data/file";
    assert_eq!(rig.exec(&main, script).await, "0:0\ntext");
    let made = fs::metadata(data.join("made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (0, 0), "mapped back on the disk");
    // What the pod's root may do ends at the pod.
    assert_eq!(
        rig.exec(
            &main,
            "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced"
        )
        .await,
        "80\n1"
    );
    assert_eq!(
        rig.exec(&main, "ip link set lo down && ip link set lo up && echo ok")
            .await,
        "ok"
    );
    rig.exec(&main, "! cat /proc/1/root/etc/hostname 2>/dev/null")
        .await;
    let init = init_of(&rig, &pod).await.expect("a first process");
    let users = |pid: u64| fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
    assert_eq!(users(init.into()), users(pid));

    let second = rig.run(&pod, script_that_sleeps("second")).await;
    assert_eq!(
        rig.exec(&second, "ps -o args")
            .await
            .matches("sleep 1000")
            .count(),
        2
    );
    let listed = rig
        .sandbox_status(&pod)
        .await
        .unwrap()
        .linux
        .unwrap()
        .namespaces
        .unwrap();
    assert_eq!(listed.options.unwrap().userns_options.unwrap().uids, ids());
    rig.finish().await;
}

fn script_that_sleeps(name: &str) -> cri::ContainerConfig {
    script(name, "exec sleep 1000")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kernel_parameters_of_a_pod_are_its_own() {
    let rig = Rig::start().await;
    let mut config = rig.pod("web");
    let before = fs::read_to_string("/proc/sys/kernel/msgmax").unwrap();
    config.linux.as_mut().unwrap().sysctls = [
        ("net.core.somaxconn".to_owned(), "77".to_owned()),
        ("kernel.msgmax".to_owned(), "4321".to_owned()),
    ]
    .into();
    let pod = rig.run_sandbox(config.clone()).await.unwrap();
    let values = rig
        .output(
            &pod,
            script("show", "cat /proc/sys/net/core/somaxconn /proc/sys/kernel/msgmax"),
        )
        .await;
    assert_eq!(values, ["77", "4321"]);
    assert_eq!(fs::read_to_string("/proc/sys/kernel/msgmax").unwrap(), before);

    let sysctls = &mut config.linux.as_mut().unwrap().sysctls;
    *sysctls = [("kernel.panic".to_owned(), "1".to_owned())].into();
    config.metadata.as_mut().unwrap().uid = "another".into();
    let refused = rig.run_sandbox(config).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(
        refused.message().contains("config.linux.sysctls[kernel.panic]"),
        "{refused:?}"
    );
    rig.finish().await;
}
