//! Pods come from three places; each adds, updates and deletes them.

use clone8s::client::{Query, Resource as _};
use clone8s::object::Object as _;
use clone8s::v1::Pod;
use clone8s_integration::{
    ControlPlane, Foreign, Node, RabbitMq, Registry, Sandbox,
    node::{Place, RuntimeKind},
    pods, wait,
};
use rstest::rstest;
use serde_json::json;

fn place(pod: &str, container: &str) -> Place {
    Place {
        pod: pod.into(),
        container: container.into(),
    }
}

#[rstest]
#[case::on_our_shim(RuntimeKind::Shim)]
#[case::on_containerds_own_cri(RuntimeKind::CriPlugin)]
#[tokio::test]
async fn the_folder_adds_updates_and_removes_a_pod_and_a_broken_file_changes_nothing(
    #[case] runtime: RuntimeKind,
) {
    let sandbox = Sandbox::new();
    let registry = Registry::shared().await;
    let (one, two) = (registry.image("busybox:1"), registry.image("busybox:2"));
    let mut node = Node::start_on(&sandbox, "alone", runtime).await;
    node.write_manifest(
        "web.yaml",
        &pods::flat_yaml("web", &[("stays", &one), ("changes", &one)]),
    );
    node.start_kubelet::<String>([]);
    let first = node.runs_exactly(&[("web", "stays"), ("web", "changes")]).await;

    // Only the container whose image is another one starts again.
    node.write_manifest(
        "web.yaml",
        &pods::flat_yaml("web", &[("stays", &one), ("changes", &two)]),
    );
    let second = wait::until("the changed container runs the new image", || async {
        let runs = node.runs().await?;
        let changed = runs
            .get(&place("web", "changes"))
            .is_some_and(|run| run.id != first[&place("web", "changes")].id);
        anyhow::ensure!(changed && runs.len() == 2, "{runs:?}");
        Ok(runs)
    })
    .await;
    assert_eq!(second[&place("web", "stays")], first[&place("web", "stays")]);

    // A second file, and the first one broken: the last good version stays.
    node.write_manifest(
        "web.yaml",
        "version: v0\nname: web\ncontainers: [ {name: stays, image",
    );
    node.write_manifest("other.yaml", &pods::flat_yaml("other pod", &[("main", &one)]));
    let third = node
        .runs_exactly(&[("web", "stays"), ("web", "changes"), ("other-pod", "main")])
        .await;
    assert_eq!(third[&place("web", "stays")], first[&place("web", "stays")]);
    assert_eq!(third[&place("web", "changes")], second[&place("web", "changes")]);
    wait::until("the log names the broken file", || async {
        let log = node.kubelet.log();
        anyhow::ensure!(log.contains("web.yaml"), "{log}");
        Ok(())
    })
    .await;

    // Half of the pods go; a renamed file is the same pod.
    std::fs::rename(
        node.manifests().join("other.yaml"),
        node.manifests().join("renamed.yaml"),
    )
    .unwrap();
    node.remove_manifest("web.yaml");
    let last = node.runs_exactly(&[("other-pod", "main")]).await;
    assert_eq!(
        last[&place("other-pod", "main")],
        third[&place("other-pod", "main")]
    );
    node.remove_manifest("renamed.yaml");
    node.runs_exactly(&[]).await;
}

#[tokio::test]
async fn a_program_of_any_kind_adds_updates_and_deletes_pods_through_the_queue() {
    let sandbox = Sandbox::new();
    let (broker, registry) = (RabbitMq::shared().await, Registry::shared().await);
    let vhost = broker.vhost();
    let (one, two) = (registry.image("busybox:1"), registry.image("busybox:2"));
    let mut node = Node::start(&sandbox, "queued").await;
    node.start_kubelet(["--amqp", &vhost]);
    let json_message = |action: &str, image: &str| {
        json!({ "action": action, "pod": {
            "version": "v0", "name": "flat", "hostNetwork": true,
            "containers": [{ "name": "stays", "image": one }, { "name": "changes", "image": image }],
        }})
        .to_string()
    };
    Foreign::send_to_node(&vhost, "queued", "application/json", &json_message("add", &one)).await;
    let first = node.runs_exactly(&[("flat", "stays"), ("flat", "changes")]).await;

    let yaml = format!(
        "action: add\npod:\n  apiVersion: v1\n  kind: Pod\n  metadata:\n    name: shaped\n  spec:\n    \
         hostNetwork: true\n    terminationGracePeriodSeconds: 1\n    containers:\n      - name: main\n        image: {one}\n"
    );
    Foreign::send_to_node(&vhost, "queued", "application/yaml", &yaml).await;
    node.runs_exactly(&[("flat", "stays"), ("flat", "changes"), ("shaped", "main")])
        .await;

    // What nobody can understand goes to the dead letters, with the reason, and holds up nothing.
    for (content_type, body) in [
        ("application/json", "{ not json"),
        (
            "application/json",
            r#"{"action":"explode","pod":{"version":"v0","name":"x","containers":[]}}"#,
        ),
        (
            "application/yaml",
            "action: add\npod:\n  version: v0\n  name: twins\n  containers:\n    - {name: a, image: i}\n    - {name: a, image: i}\n",
        ),
        ("image/png", "PNG"),
    ] {
        Foreign::send_to_node(&vhost, "queued", content_type, body).await;
    }
    Foreign::send_to_node(
        &vhost,
        "queued",
        "application/json",
        &json_message("update", &two),
    )
    .await;
    let second = wait::until("the changed container runs the new image", || async {
        let runs = node.runs().await?;
        let changed = runs
            .get(&place("flat", "changes"))
            .is_some_and(|run| run.id != first[&place("flat", "changes")].id);
        anyhow::ensure!(changed && runs.len() == 3, "{runs:?}");
        Ok(runs)
    })
    .await;
    assert_eq!(second[&place("flat", "stays")], first[&place("flat", "stays")]);
    let foreign = Foreign::connect(&vhost).await.unwrap();
    let mut dead = Vec::new();
    while dead.len() < 4 {
        let letter = wait::until("a dead letter", || async {
            foreign
                .take("clone8s.dead")
                .await?
                .ok_or_else(|| anyhow::anyhow!("only {dead:?}"))
        })
        .await;
        assert!(!letter.header("x-reason").is_empty(), "{letter:?}");
        dead.push(letter);
    }
    let reasons: Vec<_> = dead
        .iter()
        .map(|letter| letter.header("x-reason").to_owned())
        .collect();
    assert!(
        reasons.iter().any(|reason| reason.contains("explode")),
        "{reasons:?}"
    );
    assert!(
        reasons.iter().any(|reason| reason.contains("image/png")),
        "{reasons:?}"
    );
    foreign.close().await;

    let delete = json!({ "action": "delete", "pod": {
        "version": "v0", "name": "flat", "containers": [{ "name": "stays", "image": one }] } });
    Foreign::send_to_node(&vhost, "queued", "application/json", &delete.to_string()).await;
    node.runs_exactly(&[("shaped", "main")]).await;

    // The checkpoint keeps what the queue gave, with the broker gone and the kubelet restarted.
    let kept = node.runs().await.unwrap();
    node.kubelet.kill();
    node.kubelet.start().unwrap();
    wait::holds_for(
        std::time::Duration::from_secs(2),
        "the queue's pod stays as it is",
        || async {
            anyhow::ensure!(node.runs().await? == kept, "{:?}", node.runs().await?);
            Ok(())
        },
    )
    .await;
}

#[tokio::test]
async fn the_apiserver_adds_updates_and_deletes_pods_by_queue_and_by_watch() {
    let sandbox = Sandbox::new();
    let (broker, registry) = (RabbitMq::shared().await, Registry::shared().await);
    let vhost = broker.vhost();
    let (one, two) = (registry.image("busybox:1"), registry.image("busybox:2"));
    let plane = ControlPlane::start(&sandbox, Some(&vhost)).await;
    let mut by_queue = Node::start(&sandbox, "by-queue").await;
    by_queue.join(&plane, Some(&vhost)).await;
    let mut by_watch = Node::start(&sandbox, "watches").await;
    by_watch.join(&plane, None).await;

    for node in [&by_queue, &by_watch] {
        plane.node_ready(node.name()).await;
        let name = format!("pod-{}", node.name());
        let mut wanted = pods::pod(&name, &[("stays", &one), ("changes", &one)]);
        wanted
            .spec
            .as_mut()
            .unwrap()
            .node_selector
            .insert("kubernetes.io/hostname".into(), node.name().into());
        wanted.spec.as_mut().unwrap().node_selector.clear();
        wanted.spec.as_mut().unwrap().node_name = node.name().into();
        plane.create(wanted).await;
        let running = plane.running(&name).await;
        let first = node.runs_exactly(&[(&name, "stays"), (&name, "changes")]).await;
        let statuses = &running.status.as_ref().unwrap().container_statuses;
        for status in statuses {
            let run = &first[&place(&name, &status.name)];
            assert!(
                status.container_id.ends_with(&run.id),
                "{status:?} is not {run:?}"
            );
            assert_eq!(status.restart_count, 0);
        }

        let updated = plane
            .change(&name, |pod| {
                pod.spec.as_mut().unwrap().containers[1].image.clone_from(&two);
            })
            .await;
        assert_eq!(updated.metadata.as_ref().unwrap().generation, 2);
        // What was read before that write is stale now.
        let stale = Pod::update(&plane.channel(), running.clone()).await.unwrap_err();
        assert_eq!(stale.code(), tonic::Code::Aborted, "{stale:?}");
        let second = wait::until(
            "the changed container runs the new image, and its status says so",
            || async {
                let runs = node.runs().await?;
                let changed = runs
                    .get(&place(&name, "changes"))
                    .is_some_and(|run| run.id != first[&place(&name, "changes")].id);
                anyhow::ensure!(changed && runs.len() == 2, "{runs:?}");
                let pod = plane.pod(&name).await?;
                pods::check_ready(&pod)?;
                let status = pod.status.unwrap_or_default();
                anyhow::ensure!(status.observed_generation == 2, "{status:?}");
                anyhow::ensure!(
                    status.container_statuses.iter().any(|it| it.image == two),
                    "{status:?}"
                );
                Ok(runs)
            },
        )
        .await;
        assert_eq!(second[&place(&name, "stays")], first[&place(&name, "stays")]);

        plane.delete(&name).await;
        plane.gone(&name).await;
        node.runs_exactly(&[]).await;
    }
    // The nodes have no pods of their own, so that no mirror is there either.
    let (left, _) = Pod::list_all(&plane.channel(), &Query::default()).await.unwrap();
    assert!(
        left.is_empty(),
        "{:?}",
        left.iter().map(Pod::name).collect::<Vec<_>>()
    );
}

#[rstest]
#[case::on_our_shim(RuntimeKind::Shim)]
#[case::on_containerds_own_cri(RuntimeKind::CriPlugin)]
#[tokio::test]
async fn the_scheduler_places_a_pod_that_names_no_node_and_says_why_another_waits(
    #[case] runtime: RuntimeKind,
) {
    let sandbox = Sandbox::new();
    let registry = Registry::shared().await;
    let plane = ControlPlane::start(&sandbox, None).await;
    let mut node = Node::start_on(&sandbox, "only", runtime).await;
    node.join(&plane, None).await;
    plane.node_ready("only").await;

    let mut choosy = pods::pod("choosy", &[("main", &registry.image("busybox:1"))]);
    choosy
        .spec
        .as_mut()
        .unwrap()
        .node_selector
        .insert("disk".into(), "fast".into());
    plane.create(choosy).await;
    plane
        .create(pods::pod("easy", &[("main", &registry.image("busybox:1"))]))
        .await;
    let easy = plane.running("easy").await;
    assert_eq!(easy.spec.unwrap().node_name, "only");
    wait::until("the pod that fits nowhere says why", || async {
        let pod = plane.pod("choosy").await?;
        let conditions = pod.status.unwrap_or_default().conditions;
        let told = conditions
            .iter()
            .any(|it| it.r#type == "PodScheduled" && it.status == "False" && !it.message.is_empty());
        anyhow::ensure!(told, "{conditions:?}");
        Ok(())
    })
    .await;
    node.runs_exactly(&[("easy", "main")]).await;
}
