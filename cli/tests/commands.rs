//! The commands against a real apiserver on a socket of its own, as a person runs them.

// In a test a panic is the report; clippy knows that only of functions that are tests themselves.
#![allow(clippy::unwrap_used)]

mod commands {
    mod backups;
    pub(crate) mod cluster;
    mod drain;
    mod wait;
}

use std::{
    path::Path,
    process::Stdio,
    time::{Duration, UNIX_EPOCH},
};

use clone8s::{
    client::Resource as _,
    object::Object as _,
    v1::{
        ContainerStats, CpuStats, MemoryStats, Node, NodeStats, NodeStatus, ObjectMeta, Pod, PodStats,
        UpdateNodeStatusRequest, node_service_client::NodeServiceClient,
    },
};
use commands::cluster::{Cluster, c8s, failure, words};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    time::timeout,
};

const POD: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: hello, labels: {app: hello}}
spec:
  containers:
  - {name: web, image: 'busybox:1.36'}
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn applying_creates_then_changes_then_leaves_alone() {
    let cluster = Cluster::start().await;
    let file = cluster.file("pod.yaml", POD);
    assert_eq!(cluster.ok(&["apply", "-f", &file]).await, "pod/hello created\n");
    assert_eq!(cluster.ok(&["apply", "-f", &file]).await, "pod/hello unchanged\n");
    cluster.file("pod.yaml", &POD.replace("1.36", "1.37"));
    assert_eq!(
        cluster.ok(&["apply", "-f", &file]).await,
        "pod/hello configured\n"
    );
    let shown = cluster.ok(&["get", "pod/hello", "-o", "yaml"]).await;
    assert!(shown.contains("image: busybox:1.37"), "{shown}");
    // What is shown can be applied again.
    let again = cluster.file("shown.yaml", &shown);
    assert_eq!(
        cluster.ok(&["apply", "-f", &again]).await,
        "pod/hello unchanged\n"
    );
    let said = cluster.refused(&["apply", "-f", &file, "-f", &again]).await;
    assert!(
        said.contains("shown.yaml: line 1: pod/hello is declared already"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_diff_tells_what_an_apply_would_change_and_restart_and_changes_nothing() {
    let cluster = Cluster::start().await;
    let differs = async |file: &str| {
        let output = cluster.command(&["diff", "-f", file]).output().await.unwrap();
        let (said, wrong) = (words(&output.stdout), words(&output.stderr));
        assert_eq!(output.status.code(), Some(1), "{said}{wrong}");
        said
    };
    let file = cluster.file("pod.yaml", POD);
    let said = differs(&file).await;
    assert!(
        said.starts_with("--- pod/hello (not there)\n+++ pod/hello (applied)\n")
            && said.contains("\n+kind: Pod\n"),
        "{said}"
    );
    cluster.refused(&["get", "pod", "hello"]).await;

    cluster.ok(&["apply", "-f", &file]).await;
    assert_eq!(cluster.ok(&["diff", "-f", &file]).await, "");
    cluster.file("pod.yaml", &POD.replace("1.36", "1.37"));
    let said = differs(&file).await;
    for line in [
        "-    image: busybox:1.36\n",
        "+    image: busybox:1.37\n",
        "# pod/hello: container web restarts\n",
    ] {
        assert!(said.contains(line), "{said}");
    }
    cluster.file("pod.yaml", &POD.replace("app: hello", "app: other"));
    let said = differs(&file).await;
    assert!(said.ends_with("# pod/hello: no container restarts\n"), "{said}");

    let wrong = cluster.file("wrong.yaml", &POD.replace("hello", "Hello"));
    let output = cluster.command(&["diff", "-f", &wrong]).output().await.unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(words(&output.stderr).contains("wrong.yaml"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_diff_shows_no_value_of_a_secret() {
    let cluster = Cluster::start().await;
    let secret = "{apiVersion: v1, kind: Secret, metadata: {name: s}, stringData: {kept: one, changed: two}}";
    let file = cluster.file("secret.yaml", secret);
    cluster.ok(&["apply", "-f", &file]).await;
    cluster.file("secret.yaml", &secret.replace("two", "three"));
    let output = cluster.command(&["diff", "-f", &file]).output().await.unwrap();
    let said = words(&output.stdout);
    for line in [
        "-  changed: '*** (before)'\n",
        "+  changed: '*** (after)'\n",
        "   kept: '***'\n",
    ] {
        assert!(said.contains(line), "{said}");
    }
    // In clear or in base64.
    for value in ["one", "two", "three", "b25l", "dHdv", "dGhyZWU="] {
        assert!(!said.contains(value), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_manifest_names_no_more_is_removed_and_what_others_set_stays() {
    let cluster = Cluster::start().await;
    let annotated = POD.replace("app: hello}}", "app: hello, old: x}, annotations: {note: n}}");
    let file = cluster.file("pod.yaml", &annotated);
    cluster.ok(&["apply", "-f", &file]).await;
    let theirs = POD.replace("app: hello", "team: a");
    let theirs = cluster.file("theirs.yaml", &theirs);
    cluster
        .ok(&["apply", "-f", &theirs, "--field-manager", "team"])
        .await;
    cluster.file("pod.yaml", POD);
    assert_eq!(
        cluster.ok(&["apply", "-f", &file, "--dry-run"]).await,
        "pod/hello configured (dry run)\n"
    );
    cluster.ok(&["apply", "-f", &file]).await;
    let shown = cluster.ok(&["get", "pod/hello", "-o", "yaml"]).await;
    assert!(
        shown.contains("app: hello") && shown.contains("team: a"),
        "{shown}"
    );
    for gone in ["old:", "annotations", "note", "managedFields"] {
        assert!(!shown.contains(gone), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_set_which_fields_is_shown_when_asked_for() {
    let cluster = Cluster::start().await;
    let file = cluster.file("pod.yaml", POD);
    cluster
        .ok(&["apply", "-f", &file, "--field-manager", "team"])
        .await;
    for (what, first) in [("pod/hello", ""), ("pods", "---\n")] {
        let get = ["get", what, "-o", "yaml", "--show-managed-fields"];
        let shown = cluster.ok(&get).await;
        let yaml: serde_yaml::Value = serde_yaml::from_str(shown.strip_prefix(first).unwrap()).unwrap();
        let managed = &yaml["metadata"]["managedFields"][0];
        assert_eq!(managed["manager"], "team", "{shown}");
        assert_eq!(managed["operation"], "Apply", "{shown}");
        assert!(managed["time"].as_str().unwrap().ends_with('Z'), "{shown}");
        let fields = managed["fields"].as_str().unwrap();
        assert!(fields.contains("spec(containers([web](image"), "{shown}");
    }
    let get = ["get", "pods", "-o", "json"];
    assert!(!cluster.ok(&get).await.contains("managedFields"));
    let shown = cluster.ok(&[&get[..], &["--show-managed-fields"]].concat()).await;
    let list: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(
        list["items"][0]["metadata"]["managedFields"][0]["manager"],
        "team"
    );
    // No manifest: what the apiserver notes is not for others to say.
    let noted = cluster
        .ok(&["get", "pod/hello", "-o", "yaml", "--show-managed-fields"])
        .await;
    let noted = cluster.file("noted.yaml", &noted.replace("manager: team", "manager: nobody"));
    cluster
        .ok(&["apply", "-f", &noted, "--field-manager", "team"])
        .await;
    let shown = cluster
        .ok(&["get", "pod/hello", "-o", "yaml", "--show-managed-fields"])
        .await;
    assert!(!shown.contains("nobody"), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_field_of_another_manager_is_taken_over_by_force_alone() {
    let cluster = Cluster::start().await;
    let file = cluster.file("pod.yaml", POD);
    cluster.ok(&["apply", "-f", &file]).await;
    let theirs = cluster.file("theirs.yaml", &POD.replace("1.36", "1.37"));
    let by_other = ["apply", "-f", &theirs, "--field-manager", "other"];
    let said = cluster.refused(&by_other).await;
    assert!(said.contains("spec.containers[web].image is c8s's"), "{said}");
    let forced = [&by_other[..], &["--force-conflicts"]].concat();
    assert_eq!(cluster.ok(&forced).await, "pod/hello configured\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_comes_from_standard_input_too() {
    let cluster = Cluster::start().await;
    let mut command = cluster.command(&["apply", "-f", "-"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input
        .write_all(b"version: v0\nname: dummy pod\ncontainers: [{name: c, image: i}]\n")
        .await
        .unwrap();
    drop(input);
    let output = child.wait_with_output().await.unwrap();
    assert_eq!(words(&output.stdout), "pod/dummy-pod created\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_one_file_is_wrong_nothing_is_sent() {
    let cluster = Cluster::start().await;
    let good = cluster.file("good.yaml", POD);
    let bad = cluster.file("bad.yaml", &POD.replace("image:", "imag:"));
    let said = cluster.refused(&["apply", "-f", &good, "-f", &bad]).await;
    assert!(said.starts_with("error: nothing was sent:\n"), "{said}");
    assert!(
        said.contains("bad.yaml: document 1, line 6, column 17: spec.containers[0].imag: unknown field; did you mean \"image\"?"),
        "{said}"
    );
    assert_eq!(cluster.ok(&["get", "pods", "-o", "name"]).await, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_server_refuses_is_told_with_its_line() {
    let cluster = Cluster::start().await;
    let file = cluster.file("pod.yaml", POD);
    cluster.ok(&["apply", "-f", &file]).await;
    cluster.file("pod.yaml", &POD.replace("spec:", "spec:\n  hostNetwork: true"));
    let said = cluster.refused(&["apply", "-f", &file]).await;
    assert!(
        said.contains("pod.yaml: document 1, line 5, column 16: spec.hostNetwork: cannot be changed"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_is_made_before_what_is_in_it() {
    let cluster = Cluster::start().await;
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: shop}\ndata: {k: v}\n---\n\
                apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";
    let file = cluster.file("shop.yaml", text);
    assert_eq!(
        cluster.ok(&["apply", "-f", &file]).await,
        "namespace/shop created\nconfigmap/a created\n"
    );
    let table = cluster.ok(&["get", "cm", "-A"]).await;
    let cells: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().take(3).collect())
        .collect();
    assert_eq!(cells, [vec!["NAMESPACE", "NAME", "DATA"], vec!["shop", "a", "1"]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn selectors_narrow_what_is_shown() {
    let cluster = Cluster::start().await;
    let other = POD.replace("hello", "other");
    let file = cluster.file("pods.yaml", &format!("{POD}---\n{other}"));
    cluster.ok(&["apply", "-f", &file]).await;
    assert_eq!(
        cluster.ok(&["get", "po", "-l", "app=other", "-o", "name"]).await,
        "pod/other\n"
    );
    let by_field = [
        "get",
        "pods",
        "--field-selector",
        "metadata.name!=other",
        "-o",
        "name",
    ];
    assert_eq!(cluster.ok(&by_field).await, "pod/hello\n");
    let said = cluster
        .refused(&["get", "pods", "--field-selector", "spec.nodename=n1"])
        .await;
    assert!(
        said.contains("spec.nodename") && said.contains("spec.nodeName"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_deleted_is_gone_and_deleting_it_again_says_so() {
    let cluster = Cluster::start().await;
    let file = cluster.file("pod.yaml", POD);
    cluster.ok(&["apply", "-f", &file]).await;
    assert_eq!(cluster.ok(&["delete", "-f", &file]).await, "pod/hello deleted\n");
    let said = cluster.refused(&["delete", "pod", "hello"]).await;
    assert!(said.contains("hello") && said.contains("not found"), "{said}");
    assert_eq!(
        cluster
            .ok(&["delete", "pod", "hello", "--ignore-not-found"])
            .await,
        ""
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_deletions_are_asked_for_before_the_first_is_waited_for() {
    let cluster = Cluster::start().await;
    let held = |name: &str, finalizers: &str| {
        let text = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, finalizers: [{finalizers}]}}\n"
        );
        cluster.file(&format!("{name}.yaml"), &text)
    };
    for name in ["one", "two"] {
        cluster
            .ok(&["apply", "-f", &held(name, "example.com/held")])
            .await;
    }
    let mut delete = cluster
        .command(&["delete", "configmap", "one", "two"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let both_are_ending = async {
        while cluster
            .ok(&["get", "configmaps", "-o", "yaml"])
            .await
            .matches("deletionTimestamp:")
            .count()
            < 2
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_mins(1), both_are_ending)
        .await
        .expect("the second deletion waits for the first");
    assert!(delete.try_wait().unwrap().is_none());
    let again = cluster
        .command(&["apply", "-f", &held("one", "example.com/held")])
        .output()
        .await
        .unwrap();
    assert_eq!(
        words(&again.stderr),
        "note: configmap/one is being deleted; apply it again when it is gone\n"
    );

    let mut lines = BufReader::new(delete.stdout.take().unwrap()).lines();
    for name in ["one", "two"] {
        cluster.ok(&["apply", "-f", &held(name, "")]).await;
        // At once, whatever the other still takes.
        let line = timeout(Duration::from_mins(1), lines.next_line()).await.unwrap();
        assert_eq!(line.unwrap().unwrap(), format!("configmap/{name} deleted"));
    }
    assert!(delete.wait().await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_are_deleted_by_their_labels() {
    let cluster = Cluster::start().await;
    let other = POD.replace("hello", "other");
    let file = cluster.file("pods.yaml", &format!("{POD}---\n{other}"));
    cluster.ok(&["apply", "-f", &file]).await;
    assert_eq!(
        cluster.ok(&["delete", "pods", "-l", "app=other"]).await,
        "pod/other deleted\n"
    );
    assert_eq!(cluster.ok(&["get", "pods", "-o", "name"]).await, "pod/hello\n");
    let said = cluster.refused(&["delete", "pods"]).await;
    assert!(said.contains("say which"), "{said}");
    let said = cluster.refused(&["delete", "pod", "hello", "--all"]).await;
    assert!(said.contains("not by two of them"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_objects_of_a_kind_are_deleted_once_that_is_said() {
    let cluster = Cluster::start().await;
    let other = POD.replace("hello", "other");
    let file = cluster.file("pods.yaml", &format!("{POD}---\n{other}"));
    cluster.ok(&["apply", "-f", &file]).await;
    assert_eq!(
        cluster.ok(&["delete", "pods", "--all", "--dry-run"]).await,
        "pod/hello deleted (dry run)\npod/other deleted (dry run)\n"
    );
    let by_field = ["delete", "pods", "--field-selector", "metadata.name=other"];
    assert_eq!(cluster.ok(&by_field).await, "pod/other deleted\n");
    assert_eq!(
        cluster.ok(&["delete", "pods", "--all"]).await,
        "pod/hello deleted\n"
    );
    assert_eq!(cluster.ok(&["get", "pods", "-o", "name"]).await, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_cordoned_and_taken_back() {
    let cluster = Cluster::start().await;
    let node = "apiVersion: v1\nkind: Node\nmetadata: {name: n1, labels: {zone: a}}\n";
    let file = cluster.file("node.yaml", node);
    cluster.ok(&["apply", "-f", &file]).await;
    assert_eq!(cluster.ok(&["cordon", "n1"]).await, "node/n1 cordoned\n");
    let shown = cluster.ok(&["get", "node", "n1", "-o", "yaml"]).await;
    assert!(
        shown.contains("unschedulable: true") && shown.contains("zone: a"),
        "{shown}"
    );
    // The manifest does not name it, so that applying leaves it.
    cluster.ok(&["apply", "-f", &file]).await;
    let chosen = [
        "get",
        "nodes",
        "-o",
        "name",
        "--field-selector",
        "spec.unschedulable=true",
    ];
    assert_eq!(cluster.ok(&chosen).await, "node/n1\n");
    assert_eq!(cluster.ok(&["uncordon", "n1"]).await, "node/n1 uncordoned\n");
    assert_eq!(cluster.ok(&chosen).await, "");
    let said = cluster.refused(&["cordon", "n1", "nowhere"]).await;
    assert!(
        said.contains("node/nowhere: ") && said.contains("not found"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_description_tells_the_spec_and_says_that_there_are_no_events() {
    let cluster = Cluster::start().await;
    let file = cluster.file("pod.yaml", POD);
    cluster.ok(&["apply", "-f", &file]).await;
    let text = cluster.ok(&["describe", "pod", "hello"]).await;
    for part in [
        "Name:            hello",
        "Labels:          app=hello",
        "  web:\n",
        "busybox:1.36",
        "Events:\n  none",
    ] {
        assert!(text.contains(part), "{part:?} is missing from\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_outlives_its_server() {
    let mut cluster = Cluster::start().await;
    let file = cluster.file("pod.yaml", POD);
    cluster.ok(&["apply", "-f", &file]).await;
    let mut watch = cluster
        .command(&["watch", "pods", "-o", "name"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut next = async || {
        timeout(Duration::from_secs(20), lines.next_line())
            .await
            .unwrap()
            .unwrap()
            .unwrap()
    };
    assert_eq!(next().await, "ADDED pod/hello");
    cluster.restart().await;
    cluster.file("pod.yaml", &POD.replace("1.36", "1.37"));
    cluster.ok(&["apply", "-f", &file]).await;
    assert_eq!(next().await, "MODIFIED pod/hello");
    cluster.ok(&["delete", "pod/hello", "--grace-period", "0"]).await;
    let mut last = next().await;
    // The request to delete is a change of its own where the pod has a node.
    while last == "MODIFIED pod/hello" {
        last = next().await;
    }
    assert_eq!(last, "DELETED pod/hello");
    watch.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_token_is_all_that_is_printed() {
    let cluster = Cluster::start().await;
    let token = cluster
        .ok(&["token", "create", "--node", "n1", "--ttl", "60"])
        .await;
    assert_eq!(token.trim_end().split('.').count(), 3);
    assert_eq!(token.lines().count(), 1);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_with_the_next_step() {
    let output = c8s("unix:///nowhere/api.sock", &["get", "pods"])
        .output()
        .await
        .unwrap();
    assert_eq!(
        failure(&output),
        "error: no apiserver at /nowhere/api.sock: start one with `c8s up`, or name another with --server\n"
    );
}

#[tokio::test]
async fn a_socket_without_a_server_is_an_error_and_no_wait() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let said = failure(
        &c8s(&format!("unix://{}", path.display()), &["watch", "pods"])
            .output()
            .await
            .unwrap(),
    );
    assert!(said.contains("the apiserver cannot be reached"), "{said}");
}

#[tokio::test]
async fn wrong_usage_has_an_exit_code_of_its_own() {
    for args in [vec!["fly"], vec!["get", "pods", "-o", "xml"], vec!["apply"]] {
        let output = c8s("unix:///nowhere/api.sock", &args).output().await.unwrap();
        assert_eq!(
            output.status.code(),
            Some(2),
            "{args:?}: {}",
            words(&output.stderr)
        );
    }
}

#[tokio::test]
async fn the_version_is_one_line() {
    let output = c8s("unix:///nowhere/api.sock", &["version"])
        .output()
        .await
        .unwrap();
    assert_eq!(
        words(&output.stdout),
        concat!("c8s ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn top_shows_the_latest_samples_and_a_dash_where_there_is_none() {
    let cluster = Cluster::start().await;
    let channel = clone8s_daemon::unix::channel(cluster.socket());
    let now = clone8s_daemon::clock::now().duration_since(UNIX_EPOCH).unwrap();
    let named = |name: &str| {
        Some(ObjectMeta {
            name: name.to_owned(),
            ..Default::default()
        })
    };
    let mut uids = Vec::new();
    for name in ["idle", "busy", "waiting"] {
        let pod = format!("{{version: v0, name: {name}, containers: [{{name: c, image: i}}]}}");
        let file = cluster.file("pod.yaml", &pod);
        cluster.ok(&["apply", "-f", &file]).await;
        uids.push(
            Pod::get(&channel, "default", name)
                .await
                .unwrap()
                .uid()
                .to_owned(),
        );
    }
    let container = |name: &str, milli: u64, mebi: u64| ContainerStats {
        name: name.to_owned(),
        cpu: Some(CpuStats {
            usage_nano_cores: milli * 1_000_000,
            ..Default::default()
        }),
        memory: Some(MemoryStats {
            working_set_bytes: mebi << 20,
            ..Default::default()
        }),
        ..Default::default()
    };
    let pod = |uid: &str, containers| PodStats {
        uid: uid.to_owned(),
        containers,
        ..Default::default()
    };
    let node = Node {
        metadata: named("n1"),
        status: Some(NodeStatus {
            capacity: [("cpu".to_owned(), "2".to_owned())].into(),
            stats: Some(NodeStats {
                time: Some(pbjson_types::Timestamp {
                    seconds: i64::try_from(now.as_secs()).unwrap() - 300,
                    nanos: 0,
                }),
                cpu: Some(CpuStats {
                    usage_nano_cores: 500_000_000,
                    ..Default::default()
                }),
                memory: Some(MemoryStats {
                    total_bytes: 1_000 << 20,
                    working_set_bytes: 250 << 20,
                    ..Default::default()
                }),
                pods: vec![
                    pod(&uids[0], vec![container("c", 1, 2)]),
                    pod(&uids[1], vec![container("c", 300, 40), container("side", 5, 2)]),
                ],
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    Node::create(&channel, node.clone()).await.unwrap();
    NodeServiceClient::new(channel)
        .update_node_status(UpdateNodeStatusRequest {
            node: Some(node),
            ..Default::default()
        })
        .await
        .unwrap();
    let lines = async |args: &[&str]| -> Vec<Vec<String>> {
        let shown = cluster.ok(args).await;
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
        shown.lines().skip(1).map(words).collect()
    };
    let nodes = lines(&["top", "nodes"]).await;
    assert_eq!(nodes[0][..7], ["n1", "500m", "25%", "250Mi", "25%", "-", "-"]);
    assert!(nodes[0][7].starts_with("5m"), "{nodes:?}");
    let pods = lines(&["top", "pods"]).await;
    assert_eq!(pods[0][..3], ["busy", "305m", "42Mi"]);
    assert_eq!(pods[1][..3], ["idle", "1m", "2Mi"]);
    assert_eq!(pods[2], ["waiting", "-", "-", "-"]);
    assert_eq!(lines(&["top", "pods", "busy"]).await.len(), 1);
    let said = cluster.refused(&["top", "pod", "bsy"]).await;
    assert!(said.contains("pod/bsy is not there"), "{said}");
    let by_memory = lines(&["top", "pod", "-A", "--containers", "--sort-by", "memory"]).await;
    let by_memory: Vec<_> = by_memory.iter().map(|line| line[..3].join(" ")).collect();
    assert_eq!(
        by_memory,
        [
            "default busy c",
            "default busy side",
            "default idle c",
            "default waiting -"
        ]
    );
}

#[tokio::test]
async fn every_command_has_help_with_an_example() {
    for command in [
        "apply", "get", "describe", "delete", "cordon", "uncordon", "drain", "backup", "restore", "migrate",
        "logs", "watch", "wait", "top", "push", "token",
    ] {
        let output = c8s("unix:///nowhere/api.sock", &[command, "--help"])
            .output()
            .await
            .unwrap();
        let help = words(&output.stdout);
        assert!(
            output.status.success() && help.contains(&format!("  c8s {command}")),
            "{help}"
        );
    }
}

#[tokio::test]
async fn a_push_to_a_broker_that_is_not_there_says_so_without_the_password() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pod.yaml");
    std::fs::write(&file, POD).unwrap();
    // Taken, so that nobody else gets it, and nobody listens.
    let taken = tokio::net::TcpSocket::new_v4().unwrap();
    taken.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let closed = taken.local_addr().unwrap().port();
    let broker = format!("amqp://user:hunter2@127.0.0.1:{closed}");
    let args = ["push", "--amqp", &broker, "--node", "n1", "-f", path(&file)];
    let said = failure(&c8s("unix:///nowhere/api.sock", &args).output().await.unwrap());
    assert!(
        said.contains("pod/hello: not sent") && said.contains(&closed.to_string()),
        "{said}"
    );
    assert!(!said.contains("hunter2"), "{said}");
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}
