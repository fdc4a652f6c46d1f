//! Who a pod's processes are, what they may do, and what they call each other: as its manifest says and the kernel shows.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use clone8s_integration::{
    ControlPlane, Node, Registry, Sandbox,
    node::{Place, Runs, RuntimeKind},
    pods, wait,
};
use rstest::rstest;

/// A manifest of the examples, with an image of the tests' registry.
fn example(name: &str, image: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../examples")
        .join(name);
    fs::read_to_string(path)
        .unwrap()
        .replace("clone8s.local/hello:1", image)
        .replace("imagePullPolicy: Never", "imagePullPolicy: IfNotPresent")
}

fn pid(runs: &Runs, pod: &str, container: &str) -> u32 {
    let place = Place {
        pod: pod.into(),
        container: container.into(),
    };
    runs[&place].pid
}

/// A line of a process' status (proc_pid_status(5)), its words with one space between them.
fn status(pid: u32, line: &str) -> anyhow::Result<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let found = status
        .lines()
        .find_map(|text| text.strip_prefix(line)?.strip_prefix(':'));
    let words: Vec<_> = found.context("no such line")?.split_whitespace().collect();
    Ok(words.join(" "))
}

/// The program of a container takes a moment to be what it was told to be.
async fn until_status(pid: u32, expected: &[(&str, &str)]) {
    wait::until(&format!("process {pid} has {expected:?}"), || async {
        for (line, words) in expected {
            let found = status(pid, line)?;
            ensure!(found == *words, "{line}: {found:?}");
        }
        Ok(())
    })
    .await;
}

/// A file as a container sees it.
fn within(pid: u32, path: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/root{path}"))
}

#[rstest]
#[case::on_our_shim(RuntimeKind::Shim)]
#[case::on_containerds_own_cri(RuntimeKind::CriPlugin)]
#[tokio::test]
async fn a_pod_is_who_its_security_context_says(#[case] runtime: RuntimeKind) {
    let sandbox = Sandbox::new();
    let registry = Registry::shared().await;
    let mut node = Node::start_on(&sandbox, "careful", runtime).await;
    let mut manifest = example("security.yaml", &registry.image("busybox:1"));
    if runtime == RuntimeKind::CriPlugin {
        // There pods have no network of their own.
        manifest = manifest.replace("\nspec:\n", "\nspec:\n  hostNetwork: true\n");
    }
    node.write_manifest("careful.yaml", &manifest);
    node.start_kubelet::<String>([]);
    let containers = [("careful", "writer"), ("careful", "reader")];
    let runs = node.runs_exactly(&containers).await;
    let (writer, reader) = (pid(&runs, "careful", "writer"), pid(&runs, "careful", "reader"));
    let common = [
        ("Gid", "3000 3000 3000 3000"),
        ("Seccomp", "2"),
        ("CapEff", "0000000000000000"),
    ];
    until_status(writer, &common).await;
    until_status(
        writer,
        &[
            ("Uid", "1001 1001 1001 1001"),
            ("NoNewPrivs", "1"),
            ("CapBnd", "0000000000000000"),
        ],
    )
    .await;
    until_status(reader, &common).await;
    until_status(reader, &[("Uid", "1000 1000 1000 1000"), ("NoNewPrivs", "0")]).await;
    for pid in [writer, reader] {
        let groups = status(pid, "Groups").unwrap();
        for group in ["2000", "4000"] {
            assert!(groups.split(' ').any(|word| word == group), "{groups}");
        }
    }

    // The volumes are the group's, and so is what is made in them.
    wait::until("the writer has written", || async {
        let page = fs::metadata(within(reader, "/shared/page"))?;
        ensure!(
            (page.uid(), page.gid(), page.mode() & 0o777) == (1001, 2000, 0o660),
            "{page:?}"
        );
        Ok(())
    })
    .await;
    let shared = fs::metadata(within(reader, "/shared")).unwrap();
    assert_eq!((shared.gid(), shared.mode() & 0o7777), (2000, 0o2777));
    let told = fs::metadata(within(reader, "/told/..data/labels")).unwrap();
    assert_eq!((told.uid(), told.gid(), told.mode() & 0o7777), (0, 2000, 0o440));

    let parameter = node
        .shell("careful", "reader", "cat /proc/sys/kernel/shm_rmid_forced")
        .await
        .unwrap();
    assert_eq!(parameter, "1");
    let hosts = fs::read_to_string(within(reader, "/etc/hosts")).unwrap();
    assert!(
        hosts
            .lines()
            .any(|line| line == "192.0.2.10\tdb.example\tcache.example"),
        "{hosts}"
    );
    assert!(hosts.contains("localhost"), "{hosts}");

    // Only whom it concerns starts anew.
    node.write_manifest(
        "careful.yaml",
        &manifest.replace("runAsUser: 1000", "runAsUser: 1002"),
    );
    wait::until("the reader is somebody else", || async {
        let runs = node.runs().await?;
        let place = Place {
            pod: "careful".into(),
            container: "reader".into(),
        };
        let found = runs.get(&place).context("it does not run")?;
        ensure!(status(found.pid, "Uid")?.starts_with("1002 "), "{found:?}");
        Ok(())
    })
    .await;
    let later = node.runs_exactly(&containers).await;
    assert_eq!(pid(&later, "careful", "writer"), writer);
    node.remove_manifest("careful.yaml");
    node.runs_exactly(&[]).await;
}

#[rstest]
#[case::on_our_shim(RuntimeKind::Shim)]
#[case::on_containerds_own_cri(RuntimeKind::CriPlugin)]
#[tokio::test]
async fn system_calls_are_filtered_unless_the_pod_says_otherwise(#[case] runtime: RuntimeKind) {
    let sandbox = Sandbox::new();
    let registry = Registry::shared().await;
    let image = registry.image("busybox:1");
    let mut node = Node::start_on(&sandbox, "filters", runtime).await;
    let profiles = node.dir().join("profiles");
    fs::create_dir_all(profiles.join("own")).unwrap();
    fs::write(
        profiles.join("own/no-mkdir.json"),
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}"#,
    )
    .unwrap();
    let container = |name: &str, context: &str| {
        format!("  - {{name: {name}, image: \"{image}\", securityContext: {{{context}}}}}\n")
    };
    let manifest = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: filtered}}\nspec:\n  hostNetwork: true\n  \
         terminationGracePeriodSeconds: 1\n  containers:\n{}{}{}{}",
        container("usual", ""),
        container("open", "seccompProfile: {type: Unconfined}"),
        container(
            "own",
            "seccompProfile: {type: Localhost, localhostProfile: own/no-mkdir.json}"
        ),
        container("all", "privileged: true"),
    );
    node.write_manifest("filtered.yaml", &manifest);
    let root = ["--seccomp-profile-root".into(), profiles.into_os_string()];
    node.start_kubelet(root);
    let containers = ["usual", "open", "own", "all"].map(|name| ("filtered", name));
    let runs = node.runs_exactly(&containers).await;
    for (container, seccomp) in [("usual", "2"), ("open", "0"), ("own", "2"), ("all", "0")] {
        until_status(pid(&runs, "filtered", container), &[("Seccomp", seccomp)]).await;
    }
    let made = node
        .shell(
            "filtered",
            "own",
            "mkdir /tmp/made 2>/dev/null && echo made || echo refused",
        )
        .await
        .unwrap();
    assert_eq!(made, "refused");
    node.remove_manifest("filtered.yaml");
    node.runs_exactly(&[]).await;
}

#[tokio::test]
async fn a_pod_is_called_as_its_spec_says_and_serves_a_low_port_without_being_root() {
    let sandbox = Sandbox::new();
    let registry = Registry::shared().await;
    let mut node = Node::start(&sandbox, "named").await;
    node.write_manifest("www.yaml", &example("names.yaml", &registry.image("busybox:1")));
    node.start_kubelet::<String>([]);
    let runs = node.runs_exactly(&[("www", "server")]).await;
    let server = pid(&runs, "www", "server");
    let full = "www-1.web.default.svc.cluster.local";
    wait::until("it serves its name", || async {
        let name = node
            .shell("www", "server", "wget -q -O - http://127.0.0.1:80/name")
            .await?;
        ensure!(name == full, "{name:?}");
        Ok(())
    })
    .await;
    until_status(server, &[("Uid", "1000 1000 1000 1000")]).await;
    let hosts = fs::read_to_string(within(server, "/etc/hosts")).unwrap();
    let own = format!("\t{full}\twww-1");
    assert!(hosts.lines().any(|line| line.ends_with(&own)), "{hosts}");
    assert!(
        hosts.lines().any(|line| line == "0.0.0.0\tads.example"),
        "{hosts}"
    );
    node.remove_manifest("www.yaml");
    node.runs_exactly(&[]).await;
}

#[tokio::test]
async fn what_a_node_does_not_do_is_said_and_done_once_it_may_be() {
    let sandbox = Sandbox::new();
    let registry = Registry::shared().await;
    let image = registry.image("busybox:1");
    let plane = ControlPlane::start(&sandbox, None).await;
    let mut node = Node::start(&sandbox, "strict").await;
    node.join(&plane, None).await;
    plane.node_ready("strict").await;
    let manifest = |name: &str, context: &str| {
        pods::from_yaml(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  hostNetwork: true\n  \
             terminationGracePeriodSeconds: 1\n  securityContext: {{{context}}}\n  containers:\n  \
             - {{name: main, image: \"{image}\"}}\n"
        ))
    };
    plane.create(manifest("rooted", "runAsNonRoot: true")).await;
    let sysctls = "sysctls: [{name: kernel.msgmax, value: \"16384\"}]";
    plane.create(manifest("tuned", sysctls)).await;
    wait::until("one must not be root", || async {
        let waiting = pods::waiting(&plane.pod("rooted").await?);
        let expected = [
            "CreateContainerConfigError",
            "runAsNonRoot and image will run as root",
        ];
        ensure!(expected.iter().all(|text| waiting.contains(text)), "{waiting}");
        Ok(())
    })
    .await;
    wait::until("one must not change the parameter", || async {
        let status = plane.pod("tuned").await?.status.unwrap_or_default();
        ensure!(
            status.reason == "SysctlForbidden" && status.message.contains("kernel.msgmax"),
            "{status:?}"
        );
        Ok(())
    })
    .await;

    node.kubelet.kill();
    node.start_kubelet(["--allowed-unsafe-sysctls", "kernel.msg*"]);
    plane.running("tuned").await;
    let value = node
        .shell("tuned", "main", "cat /proc/sys/kernel/msgmax")
        .await
        .unwrap();
    assert_eq!(value, "16384");
    for name in ["rooted", "tuned"] {
        plane.delete(name).await;
        plane.gone(name).await;
    }
    node.runs_exactly(&[]).await;
}
