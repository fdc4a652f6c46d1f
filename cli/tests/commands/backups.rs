use std::{fs, os::unix::fs::PermissionsExt as _};

use clone8s::{
    client::{From, Query, Resource as _},
    v1::Pod,
};
use clone8s_daemon::unix;
use tonic::Code;

use super::cluster::{Cluster, c8s, failure, words};

const OBJECTS: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: hello, labels: {app: hello}}
spec:
  containers:
  - {name: web, image: 'busybox:1.36'}
---
apiVersion: v1
kind: Secret
metadata: {name: key}
stringData: {password: hunter2}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {a: b}
";

/// Every object as it is, but for the revision of its last write.
async fn shown(cluster: &Cluster) -> String {
    let mut all = String::new();
    for kind in ["pods", "secrets", "configmaps", "namespaces"] {
        all += &cluster.ok(&["get", kind, "-o", "yaml"]).await;
    }
    let without_revisions = |line: &&str| !line.contains("resourceVersion");
    all.lines()
        .filter(without_revisions)
        .collect::<Vec<_>>()
        .join("\n")
}

async fn restore(args: &[&str]) -> std::process::Output {
    c8s("unix:///nowhere", &[&["restore"], args].concat())
        .output()
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_taken_from_a_running_cluster_is_that_cluster_again() {
    let mut cluster = Cluster::start().await;
    let objects = cluster.file("objects.yaml", OBJECTS);
    cluster.ok(&["apply", "-f", &objects]).await;
    let before = shown(&cluster).await;
    let token = cluster.ok(&["token", "create"]).await;
    let root_ca = fs::read_to_string(cluster.data_dir.join("pki/ca.crt")).unwrap();
    let file = cluster.folder.path().join("backup");
    let file = file.to_str().unwrap();
    let said = cluster.ok(&["backup", file]).await;
    assert!(said.contains("entries at revision"), "{said}");
    assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    let said = cluster.refused(&["backup", file]).await;
    assert!(said.contains("--force"), "{said}");

    // What is written after it is not in it, and who has seen it must hear so.
    let later = cluster.file("later.yaml", &OBJECTS.replace("name: hello,", "name: later,"));
    cluster.ok(&["apply", "-f", &later]).await;
    let (_, seen) = Pod::list_all(&unix::channel(cluster.socket()), &Query::default())
        .await
        .unwrap();

    // In use, then stopped but not empty.
    let old = cluster.data_dir.to_str().unwrap().to_owned();
    let said = failure(&restore(&[file, "--apiserver-dir", &old]).await);
    assert!(said.contains("another process has this store open"), "{said}");
    cluster.stop().await;
    let said = failure(&restore(&[file, "--apiserver-dir", &old]).await);
    assert!(said.contains("--replace"), "{said}");

    let new = cluster.folder.path().join("new");
    let output = restore(&[file, "--apiserver-dir", new.to_str().unwrap()]).await;
    assert!(output.status.success(), "{}", words(&output.stderr));
    cluster.move_to(new).await;
    assert_eq!(shown(&cluster).await, before);
    let restored_ca = fs::read_to_string(cluster.data_dir.join("pki/ca.crt")).unwrap();
    assert_eq!(restored_ca, root_ca);
    assert!(token.contains('.'), "{token}");

    let channel = unix::channel(cluster.socket());
    for revision in [1, seen] {
        let watch = Pod::watch(&channel, &Query::default(), From::Revision(revision)).await;
        let error = match watch {
            Ok(mut watch) => watch.next().await.unwrap_err(),
            Err(error) => error,
        };
        assert_eq!(error.code(), Code::OutOfRange, "{error}");
    }
    let (_, now) = Pod::list_all(&channel, &Query::default()).await.unwrap();
    assert!(now > seen + 1_000_000, "{now} after {seen}");

    // Over what is there, once that is said.
    cluster.ok(&["delete", "secret", "key"]).await;
    cluster.stop().await;
    let place = cluster.data_dir.clone();
    let output = restore(&[file, "--replace", "--apiserver-dir", place.to_str().unwrap()]).await;
    assert!(output.status.success(), "{}", words(&output.stderr));
    cluster.move_to(place).await;
    assert_eq!(shown(&cluster).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_not_a_whole_backup_changes_nothing() {
    let cluster = Cluster::start().await;
    let file = cluster.folder.path().join("backup");
    cluster.ok(&["backup", file.to_str().unwrap()]).await;
    let whole = fs::read(&file).unwrap();
    let mut altered = whole.clone();
    altered[whole.len() / 2] ^= 0x40;
    let place = cluster.folder.path().join("place");
    for (bytes, why) in [
        (&whole[..whole.len() - 3], "cut off"),
        (&altered[..], "backup"),
        (&b"PK\x03\x04"[..], "not a backup"),
    ] {
        fs::write(&file, bytes).unwrap();
        let said =
            failure(&restore(&[file.to_str().unwrap(), "--apiserver-dir", place.to_str().unwrap()]).await);
        assert!(said.contains(why), "{said}");
        assert!(!place.exists());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_holds_nothing_is_nothing_to_migrate() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_str().unwrap();
    let output = c8s(
        "unix:///nowhere",
        &[
            "migrate",
            "--etcd",
            "http://127.0.0.1:1",
            "--apiserver-dir",
            place,
        ],
    )
    .output()
    .await
    .unwrap();
    assert!(failure(&output).contains("no embedded store"));
}
