use std::{
    process::{Output, Stdio},
    time::Duration,
};

use clone8s::{
    client::Resource as _,
    v1::{Pod, PodStatus, UpdatePodStatusRequest, pod_service_client::PodServiceClient},
};
use clone8s_daemon::unix;
use tokio::{process::Child, time::timeout};

use super::cluster::{Cluster, failure, words};

fn config(name: &str, color: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, labels: {{app: x}}}}\ndata: {{color: {color}}}\n---\n"
    )
}

async fn apply(cluster: &Cluster, text: &str) {
    let file = cluster.file("objects.yaml", text);
    cluster.ok(&["apply", "-f", &file]).await;
}

/// A wait on its way.
fn begin(cluster: &Cluster, args: &[&str]) -> Child {
    let mut command = cluster.command(&[&["wait"], args].concat());
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

async fn end(wait: Child) -> Output {
    timeout(Duration::from_secs(30), wait.wait_with_output())
        .await
        .unwrap()
        .unwrap()
}

async fn still_waits(wait: &mut Child) {
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(wait.try_wait().unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_ends_when_all_are_there_as_they_are_to_be() {
    let mut cluster = Cluster::start().await;
    apply(&cluster, &config("one", "blue")).await;
    let mut named = begin(&cluster, &["configmap", "one", "two", "--for", "data.color=blue"]);
    let selected = begin(
        &cluster,
        &["configmaps", "-l", "app=x", "--for", "data[color]=green"],
    );
    still_waits(&mut named).await;
    apply(&cluster, &config("two", "red")).await;
    cluster.restart().await;
    still_waits(&mut named).await;
    apply(&cluster, &config("two", "blue")).await;
    let output = end(named).await;
    assert!(output.status.success(), "{}", words(&output.stderr));
    assert_eq!(
        words(&output.stdout),
        "configmap/one: data.color is blue\nconfigmap/two: data.color is blue\n"
    );

    apply(
        &cluster,
        &[config("one", "green"), config("two", "green")].concat(),
    )
    .await;
    let output = end(selected).await;
    assert!(output.status.success(), "{}", words(&output.stderr));
    assert_eq!(words(&output.stdout).lines().count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_that_takes_too_long_names_what_is_missing() {
    let cluster = Cluster::start().await;
    apply(&cluster, &config("one", "red")).await;
    let said = cluster
        .refused(&[
            "wait",
            "configmap",
            "one",
            "two",
            "--for",
            "data.color=blue",
            "--timeout",
            "1",
        ])
        .await;
    for part in [
        "after 1 s configmap/one: data.color is \"red\"; see `c8s describe configmap/one`",
        "configmap/two: not there",
    ] {
        assert!(said.contains(part), "{part:?} is missing from {said}");
    }
    let said = cluster
        .refused(&["wait", "pods", "--all", "--timeout", "1"])
        .await;
    assert!(said.contains("pods: not there"), "{said}");
    let said = cluster
        .refused(&["wait", "pod", "x", "--for", "status.phse=Running"])
        .await;
    assert!(said.contains("did you mean \"phase\"?"), "{said}");
    let said = cluster.refused(&["wait", "configmap", "one"]).await;
    assert!(said.contains("configmaps have no conditions"), "{said}");
    // The same among manifests is there, and that is all.
    let file = cluster.file("objects.yaml", &config("one", "red"));
    assert_eq!(
        cluster.ok(&["wait", "-f", &file]).await,
        "configmap/one: created\n"
    );
    let said = cluster.refused(&["wait", "pods"]).await;
    assert!(said.contains("say which: c8s wait KIND NAME"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_what_was_there_is_waited_for() {
    let cluster = Cluster::start().await;
    apply(&cluster, &[config("one", "red"), config("two", "red")].concat()).await;
    let mut wait = begin(&cluster, &["configmaps", "--all", "--for", "delete"]);
    still_waits(&mut wait).await;
    // What is selected no longer has not gone.
    let mut selected = begin(&cluster, &["configmaps", "-l", "app=x", "--for", "delete"]);
    still_waits(&mut selected).await;
    apply(&cluster, &config("two", "red").replace("app: x", "app: y")).await;
    cluster.ok(&["delete", "configmap", "one"]).await;
    // Another of the same name is not what was there.
    apply(&cluster, &config("one", "red")).await;
    still_waits(&mut wait).await;
    still_waits(&mut selected).await;
    cluster.ok(&["delete", "configmap", "two"]).await;
    for wait in [wait, selected] {
        let output = end(wait).await;
        assert_eq!(
            words(&output.stdout).lines().count(),
            2,
            "{}",
            words(&output.stderr)
        );
    }
    assert_eq!(
        cluster
            .ok(&["wait", "configmap", "gone", "--for", "delete"])
            .await,
        ""
    );
    assert_eq!(
        cluster.ok(&["wait", "configmap/one", "--for", "create"]).await,
        "configmap/one: created\n"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_has_ended_is_not_waited_for() {
    let cluster = Cluster::start().await;
    apply(
        &cluster,
        "apiVersion: v1\nkind: Pod\nmetadata: {name: job}\nspec:\n  containers: [{name: a, image: i}]\n",
    )
    .await;
    // The other would be waited for until the time is over.
    let mut wait = begin(&cluster, &["pod", "job", "other"]);
    still_waits(&mut wait).await;
    let channel = unix::channel(cluster.socket());
    let pod = Pod::get(&channel, "default", "job").await.unwrap();
    let failed = UpdatePodStatusRequest {
        pod: Some(Pod {
            status: Some(PodStatus {
                phase: "Failed".to_owned(),
                reason: "Evicted".to_owned(),
                ..PodStatus::default()
            }),
            ..pod
        }),
        ..UpdatePodStatusRequest::default()
    };
    PodServiceClient::new(channel)
        .update_pod_status(failed)
        .await
        .unwrap();
    let said = failure(&end(wait).await);
    assert!(
        said.contains("pod/job: ") && said.contains("the pod has ended: Failed (Evicted)"),
        "{said}"
    );
    cluster
        .ok(&["wait", "pod/job", "--for", "status.phase=Failed"])
        .await;
}
