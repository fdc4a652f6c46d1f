//! Where pods' cgroups are and what they are held to, as the kernel shows it.

use std::fs;

use anyhow::{Context as _, ensure};
use clone8s::{
    cri::{ListPodSandboxRequest, RemovePodSandboxRequest},
    v1::Pod,
};
use clone8s_daemon::cgroups::Cgroups;
use clone8s_integration::{ControlPlane, Node, Registry, Sandbox, node::RuntimeKind, pods, wait};
use rstest::rstest;

fn manifest(name: &str, image: &str, resources: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  hostNetwork: true\n  \
         terminationGracePeriodSeconds: 1\n  containers:\n  - name: app\n    image: {image}\n    \
         command: [sleep, \"10000\"]\n    resources: {resources}\n"
    )
}

fn pod(name: &str, image: &str, resources: &str) -> Pod {
    pods::from_yaml(&manifest(name, image, resources))
}

/// The pod's cgroup, as the kernel tells it of a process: without the container's own.
fn cgroup(pid: u32, controller: &str) -> anyhow::Result<String> {
    let all = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let mut lines = all
        .lines()
        .filter_map(|line| line.split_once(':')?.1.split_once(':'));
    let is_unified = Cgroups::of_host().is_unified();
    let own = lines.find(|(names, _)| is_unified || names.split(',').any(|name| name == controller));
    let (_, path) = own.with_context(|| format!("{all:?} has no {controller}"))?;
    Ok(path
        .rsplit_once('/')
        .context("a container's cgroup")?
        .0
        .to_owned())
}

/// What a file of a cgroup says, which has a name of its own in each version.
fn read(cgroup: &str, controller: &str, v1: &str, v2: &str) -> anyhow::Result<String> {
    let host = Cgroups::of_host();
    let file = if host.is_unified() { v2 } else { v1 };
    let path = host.dir(controller, cgroup).join(file);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    Ok(text.trim().to_owned())
}

fn pids(cgroup: &str, file: &str) -> String {
    read(cgroup, "pids", file, file).unwrap()
}

#[rstest]
#[case::on_our_shim(RuntimeKind::Shim)]
#[case::on_containerds_own_cri(RuntimeKind::CriPlugin)]
#[tokio::test]
async fn pods_are_grouped_by_class_and_held_to_what_their_containers_have(#[case] runtime: RuntimeKind) {
    let sandbox = Sandbox::new();
    let registry = Registry::shared().await;
    let image = registry.image("busybox:1");
    let plane = ControlPlane::start(&sandbox, None).await;
    let mut node = Node::start_on(&sandbox, "classes", runtime).await;
    node.kubelet
        .args_mut()
        .extend(["--pod-max-pids", "77", "--system-reserved", "memory=64Mi"].map(Into::into));
    node.join(&plane, None).await;
    let told = plane.node_ready("classes").await.status.unwrap();
    ensure_less(&told.allocatable["memory"], &told.capacity["memory"]);

    for (name, resources) in [
        ("held", "{limits: {cpu: 200m, memory: 32Mi}}"),
        ("asks", "{requests: {cpu: 100m}}"),
        ("any", "{}"),
    ] {
        plane.create(pod(name, &image, resources)).await;
    }
    for (name, class, place) in [
        ("held", "Guaranteed", "/pod"),
        ("asks", "Burstable", "/burstable/pod"),
        ("any", "BestEffort", "/besteffort/pod"),
    ] {
        plane.running(name).await;
        let status = plane.pod(name).await.unwrap().status.unwrap();
        assert_eq!(status.qos_class, class);
        let cgroup = cgroup(node.pid_of(name).await, "memory").unwrap();
        let wanted = format!("{}{place}", node.cgroup_root());
        assert!(cgroup.starts_with(&wanted), "{name}: {cgroup}");
        assert_eq!(pids(&cgroup, "pids.max"), "77");
    }
    wait::until("each class weighs what it should", || async {
        for (class, v1, v2) in [("burstable", "102", "4"), ("besteffort", "2", "1")] {
            let class = format!("{}/{class}", node.cgroup_root());
            let found = read(&class, "cpu", "cpu.shares", "cpu.weight")?;
            ensure!(found == v1 || found == v2, "{class} weighs {found}");
        }
        Ok(())
    })
    .await;
    let held = node.pid_of("held").await;
    let of_held = cgroup(held, "memory").unwrap();
    let memory = || read(&of_held, "memory", "memory.limit_in_bytes", "memory.max").unwrap();
    assert_eq!(memory(), (32 << 20).to_string());
    let status = plane.pod("held").await.unwrap().status.unwrap();
    let in_effect = status.container_statuses[0].resources.clone().unwrap();
    assert_eq!(in_effect.limits["memory"], "32Mi");

    // A resize takes the whole pod along, and no container restarts.
    for (limit, bytes) in [("48Mi", 48 << 20), ("40Mi", 40 << 20)] {
        plane
            .change("held", |pod| {
                let container = &mut pod.spec.as_mut().unwrap().containers[0];
                let resources = container.resources.as_mut().unwrap();
                for amounts in [&mut resources.limits, &mut resources.requests] {
                    amounts.insert("memory".to_owned(), limit.to_owned());
                }
            })
            .await;
        wait::until(
            "the pod is held to the new limit, as its status tells",
            || async {
                let status = plane.pod("held").await?.status.unwrap_or_default();
                let told = status.container_statuses[0].resources.clone().unwrap_or_default();
                ensure!(told.limits["memory"] == limit, "{told:?}");
                ensure!(memory() == bytes.to_string(), "{}", memory());
                Ok(())
            },
        )
        .await;
    }
    assert_eq!(node.pid_of("held").await, held, "it runs on");

    for name in ["held", "asks", "any"] {
        plane.delete(name).await;
        plane.gone(name).await;
    }
    assert!(!Cgroups::of_host().exists(&of_held), "{of_held} is left");
}

#[rstest]
#[case::on_our_shim(RuntimeKind::Shim)]
#[case::on_containerds_own_cri(RuntimeKind::CriPlugin)]
#[tokio::test]
async fn a_pod_that_forks_on_and_on_stops_at_its_limit_and_no_other_does(#[case] runtime: RuntimeKind) {
    let sandbox = Sandbox::new();
    let registry = Registry::shared().await;
    let image = registry.image("busybox:1");
    let plane = ControlPlane::start(&sandbox, None).await;
    let mut node = Node::start_on(&sandbox, "forks", runtime).await;
    let max = ["--pod-max-pids", "50"].map(Into::into);
    node.kubelet.args_mut().extend(max);
    node.join(&plane, None).await;
    plane.node_ready("forks").await;
    for name in ["greedy", "modest"] {
        plane.create(pod(name, &image, "{}")).await;
        plane.running(name).await;
    }
    let [greedy, modest] = [node.pid_of("greedy").await, node.pid_of("modest").await];
    let [of_greedy, of_modest] = [greedy, modest].map(|pid| cgroup(pid, "pids").unwrap());

    let forks = "exec 2>&1; for i in $(seq 100); do sleep 1000 >/dev/null 2>&1 & done; echo all";
    let said = node.shell("greedy", "app", forks).await.unwrap();
    assert!(
        said.contains("can't fork: Resource temporarily unavailable"),
        "{said}"
    );
    assert_eq!(pids(&of_greedy, "pids.max"), "50");
    let some = "for i in $(seq 20); do sleep 1 >/dev/null 2>&1 & done; echo all";
    assert_eq!(node.shell("modest", "app", some).await.unwrap(), "all");

    // A kubelet that comes back finds the cgroups of its pods again, and takes away those of pods that went meanwhile.
    node.kubelet.kill();
    plane.delete("greedy").await;
    node.kubelet.start().unwrap();
    plane.gone("greedy").await;
    assert!(!Cgroups::of_host().exists(&of_greedy), "{of_greedy} is left");
    assert_eq!(node.pid_of("modest").await, modest, "it runs on");
    assert_eq!(pids(&of_modest, "pids.max"), "50");
    assert_eq!(node.shell("modest", "app", some).await.unwrap(), "all");
}

#[rstest]
#[case::on_our_shim(RuntimeKind::Shim)]
#[case::on_containerds_own_cri(RuntimeKind::CriPlugin)]
#[tokio::test]
async fn cgroups_of_pods_that_went_while_no_kubelet_ran_go_with_its_start(#[case] runtime: RuntimeKind) {
    let sandbox = Sandbox::new();
    let registry = Registry::shared().await;
    let image = registry.image("busybox:1");
    let mut node = Node::start_on(&sandbox, "former", runtime).await;
    node.write_manifest("former.yaml", &manifest("former", &image, "{}"));
    node.start_kubelet([""; 0]);
    node.runs_exactly(&[("former", "app")]).await;
    let former = cgroup(node.pid_of("former").await, "memory").unwrap();

    node.kubelet.kill();
    node.remove_manifest("former.yaml");
    let mut cri = node.cri();
    let request = ListPodSandboxRequest::default();
    for found in cri.list_pod_sandbox(request).await.unwrap().into_inner().items {
        let request = RemovePodSandboxRequest {
            pod_sandbox_id: found.id,
        };
        cri.remove_pod_sandbox(request).await.unwrap();
    }
    let host = Cgroups::of_host();
    // As a runtime leaves it that takes away only what it has made.
    fs::create_dir_all(host.dir("memory", &former)).unwrap();
    node.kubelet.start().unwrap();
    wait::until("the cgroup of the former pod is gone", || async {
        ensure!(!host.exists(&former), "{former} is left");
        Ok(())
    })
    .await;
}

fn ensure_less(one: &str, other: &str) {
    let bytes = |text: &str| clone8s::quantity::bytes(text).unwrap();
    assert!(bytes(one) + (64 << 20) <= bytes(other), "{one} of {other}");
}
