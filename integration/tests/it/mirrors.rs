//! Pods of a node's own, of its manifest folder and of its queue, as the API shows them.

use std::{fs, path::Path, time::Duration};

use clone8s::{
    client::{Query, Resource as _},
    mirror::{MIRROR, SOURCE, annotation},
    object::Object as _,
    v1::Pod,
};
use clone8s_integration::{
    ControlPlane, Foreign, Node, RabbitMq, Registry, Sandbox, command, node::Place, pods, wait,
};
use serde_json::json;

const NODE: &str = "own";

fn manifest(image: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/static-pod.yaml");
    fs::read_to_string(file)
        .unwrap()
        .replace("clone8s.local/hello:1", image)
}

async fn names(plane: &ControlPlane) -> anyhow::Result<Vec<String>> {
    let (pods, _) = Pod::list_all(&plane.channel(), &Query::default()).await?;
    Ok(pods.iter().map(|pod| pod.name().to_owned()).collect())
}

async fn shows(plane: &ControlPlane, expected: &[&str]) {
    wait::until(&format!("the API shows {expected:?}"), || async {
        let names = names(plane).await?;
        anyhow::ensure!(names == expected, "{names:?}");
        Ok(())
    })
    .await;
}

/// Waits until the mirror is another one than that of this uid, and its pod is ready.
async fn anew(plane: &ControlPlane, name: &str, uid: &str) -> Pod {
    wait::until(&format!("{name} is a new mirror"), || async {
        let pod = plane.pod(name).await?;
        anyhow::ensure!(pod.uid() != uid, "still {uid}");
        pods::check_ready(&pod)?;
        Ok(pod)
    })
    .await
}

fn c8s(plane: &ControlPlane, args: &[&str]) -> String {
    command::run(&mut plane.c8s(args)).unwrap()
}

#[tokio::test]
async fn the_api_shows_a_nodes_own_pods_and_has_no_hold_on_them() {
    let sandbox = Sandbox::new();
    let (broker, registry) = (RabbitMq::shared().await, Registry::shared().await);
    let vhost = broker.vhost();
    let (one, two) = (registry.image("busybox:1"), registry.image("busybox:2"));
    let mut plane = ControlPlane::start(&sandbox, Some(&vhost)).await;
    let mut node = Node::start(&sandbox, NODE).await;
    node.write_manifest("clock.yaml", &manifest(&one));
    node.join(&plane, Some(&vhost)).await;
    plane.node_ready(NODE).await;

    let mirror = plane.running("clock-own").await;
    assert_eq!(annotation(&mirror, SOURCE), Some("folder"));
    let first = node.runs_exactly(&[("clock", "ticks")]).await;
    let ticks = Place {
        pod: "clock".into(),
        container: "ticks".into(),
    };
    let status = &mirror.status.as_ref().unwrap().container_statuses[0];
    assert!(status.container_id.ends_with(&first[&ticks].id), "{status:?}");

    // What is asked of the mirror is asked of its pod.
    assert_eq!(c8s(&plane, &["logs", "clock-own"]), "the clock ticks\n");
    assert_eq!(
        c8s(
            &plane,
            &["exec", "clock-own", "--", "/bin/busybox", "echo", "here"]
        ),
        "here\n"
    );
    let described = c8s(&plane, &["describe", "pod", "clock-own"]);
    assert!(described.contains("Started"), "no events: {described}");
    let said = c8s(&plane, &["drain", NODE]);
    assert!(said.contains("pod default/clock-own stays"), "{said}");
    c8s(&plane, &["uncordon", NODE]);

    // Deleted, it comes again, and its pod has not noticed.
    plane.delete("clock-own").await;
    let again = anew(&plane, "clock-own", mirror.uid()).await;
    assert_eq!(node.runs().await.unwrap(), first);

    // The queue's own pods are shown too, beside pods of the API.
    let sent = json!({ "action": "add", "pod": {
        "version": "v0", "name": "sent", "hostNetwork": true, "containers": [{ "name": "main", "image": one }] } });
    Foreign::send_to_node(&vhost, NODE, "application/json", &sent.to_string()).await;
    let mut bound = pods::pod("bound", &[("main", &one)]);
    bound.spec.as_mut().unwrap().node_name = NODE.into();
    plane.create(bound).await;
    let of_queue = plane.running("sent-own").await;
    assert_eq!(annotation(&of_queue, SOURCE), Some("queue"));
    plane.running("bound").await;

    // With the apiserver away the folder rules on; what it did is shown when the apiserver is back.
    plane.apiserver.kill();
    node.write_manifest("clock.yaml", &manifest(&two));
    wait::until("the pod runs the new image", || async {
        let runs = node.runs().await?;
        let run = runs.get(&ticks);
        anyhow::ensure!(run.is_some_and(|run| run.id != first[&ticks].id), "{runs:?}");
        Ok(())
    })
    .await;
    plane.start_apiserver().await;
    let changed = anew(&plane, "clock-own", again.uid()).await;
    assert_eq!(changed.spec.as_ref().unwrap().containers[0].image, two);
    assert_eq!(annotation(&changed, MIRROR), annotation(&mirror, MIRROR));

    // No mirror is run, not after a restart of the kubelet either.
    let all = [("clock", "ticks"), ("sent", "main"), ("bound", "main")];
    let before = node.runs_exactly(&all).await;
    node.kubelet.kill();
    node.kubelet.start().unwrap();
    wait::holds_for(Duration::from_secs(3), "each pod runs once", || async {
        let now = node.runs().await?;
        anyhow::ensure!(now == before, "{now:?}");
        Ok(())
    })
    .await;
    shows(&plane, &["bound", "clock-own", "sent-own"]).await;

    node.remove_manifest("clock.yaml");
    shows(&plane, &["bound", "sent-own"]).await;
    node.runs_exactly(&all[1..]).await;
}
