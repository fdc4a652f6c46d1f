//! Whose processes, queues and users a pod's containers have, as its manifest says and the kernel shows.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use clone8s_integration::{
    Node, Registry, Sandbox,
    node::{Place, Runs, RuntimeKind},
    wait,
};
use rstest::rstest;

/// The pid of a container's process.
fn pid(runs: &Runs, pod: &str, container: &str) -> u32 {
    let place = Place {
        pod: pod.into(),
        container: container.into(),
    };
    runs[&place].pid
}

fn namespace(pid: impl std::fmt::Display, kind: &str) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap()
}

#[rstest]
#[case::on_our_shim(RuntimeKind::Shim)]
#[case::on_containerds_own_cri(RuntimeKind::CriPlugin)]
#[tokio::test]
async fn processes_and_queues_are_the_nodes_the_pods_or_each_containers_own(#[case] runtime: RuntimeKind) {
    let sandbox = Sandbox::new();
    let registry = Registry::shared().await;
    let image = registry.image("busybox:1");
    let mut node = Node::start_on(&sandbox, "spaces", runtime).await;
    let manifest = |name: &str, more: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  hostNetwork: true\n  {more}\n  \
             terminationGracePeriodSeconds: 1\n  containers:\n  - {{name: a, image: \"{image}\"}}\n  \
             - {{name: b, image: \"{image}\"}}\n"
        )
    };
    for (name, more) in [
        ("apart", "shareProcessNamespace: false"),
        ("shared", "shareProcessNamespace: true"),
        ("nodes", "hostPID: true\n  hostIPC: true"),
    ] {
        node.write_manifest(&format!("{name}.yaml"), &manifest(name, more));
    }
    node.start_kubelet::<String>([]);
    let places: Vec<_> = ["apart", "shared", "nodes"]
        .into_iter()
        .flat_map(|pod| [(pod, "a"), (pod, "b")])
        .collect();
    let runs = node.runs_exactly(&places).await;
    let of = |pod: &str, container: &str, kind: &str| namespace(pid(&runs, pod, container), kind);

    assert_ne!(of("apart", "a", "pid"), of("apart", "b", "pid"));
    assert_eq!(of("shared", "a", "pid"), of("shared", "b", "pid"));
    assert_ne!(of("shared", "a", "pid"), namespace("self", "pid"));
    for container in ["a", "b"] {
        for kind in ["pid", "ipc"] {
            assert_eq!(of("nodes", container, kind), namespace("self", kind), "{kind}");
        }
    }
    // A pod's containers share their queues, which no other pod has.
    assert_eq!(of("apart", "a", "ipc"), of("apart", "b", "ipc"));
    assert_ne!(of("apart", "a", "ipc"), of("shared", "a", "ipc"));
    assert_ne!(of("apart", "a", "ipc"), namespace("self", "ipc"));
}

#[tokio::test]
async fn a_pod_with_users_of_its_own_is_nobody_on_the_node_and_owns_its_volumes() {
    let sandbox = Sandbox::new();
    let registry = Registry::shared().await;
    let image = registry.image("busybox:1");
    let mut node = Node::start(&sandbox, "users").await;
    let manifest = |name: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  hostUsers: false\n  \
             terminationGracePeriodSeconds: 1\n  volumes:\n  - {{name: data, emptyDir: {{}}}}\n  containers:\n  \
             - name: main\n    image: \"{image}\"\n    command: [sh, -c, \"touch /data/made; exec sleep 1000\"]\n    \
             volumeMounts:\n    - {{name: data, mountPath: /data}}\n"
        )
    };
    for name in ["one", "two"] {
        node.write_manifest(&format!("{name}.yaml"), &manifest(name));
    }
    node.start_kubelet::<String>([]);
    let runs = node.runs_exactly(&[("one", "main"), ("two", "main")]).await;
    let root_of = |runs: &Runs, pod: &str| -> u32 {
        let map = fs::read_to_string(format!("/proc/{}/uid_map", pid(runs, pod, "main"))).unwrap();
        let mut words = map.split_whitespace().map(|word| word.parse::<u32>().unwrap());
        let (inside, outside, length) = (words.next(), words.next(), words.next());
        assert_eq!((inside, length), (Some(0), Some(65_536)), "{map}");
        outside.unwrap()
    };
    let (one, two) = (root_of(&runs, "one"), root_of(&runs, "two"));
    assert!(one >= 65_536 && two >= 65_536 && one != two, "{one}, {two}");
    assert_ne!(
        namespace(pid(&runs, "one", "main"), "user"),
        namespace("self", "user")
    );

    // What its root makes in a volume is its root's there, and root's on the node: as without users of its own.
    let within = PathBuf::from(format!("/proc/{}/root/data/made", pid(&runs, "one", "main")));
    let on_node = wait::until("both pods have made their file", || async {
        let on_node = volume_files(node.dir());
        anyhow::ensure!(on_node.len() == 2, "{on_node:?}");
        Ok(on_node)
    })
    .await;
    assert_eq!(fs::metadata(&within).unwrap().uid(), one);
    for file in on_node {
        assert_eq!(fs::metadata(&file).unwrap().uid(), 0, "{file:?}");
    }

    // Another kubelet keeps them all as they are.
    node.kubelet.kill();
    node.start_kubelet::<String>([]);
    node.write_manifest("three.yaml", &manifest("three"));
    let later = node
        .runs_exactly(&[("one", "main"), ("two", "main"), ("three", "main")])
        .await;
    for pod in ["one", "two"] {
        assert_eq!(pid(&later, pod, "main"), pid(&runs, pod, "main"));
    }
    let three = root_of(&later, "three");
    assert!(![one, two].contains(&three), "{three}");
}

/// The files `made` of volumes named `data` of the node's pods.
fn volume_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.ends_with("volumes/data") {
            found.extend(Some(path.join("made")).filter(|made| made.exists()));
        } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) && !path.ends_with("rootfs") {
            found.extend(volume_files(&path));
        }
    }
    found
}
