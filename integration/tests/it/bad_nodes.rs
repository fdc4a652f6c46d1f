//! What is wrong with an image or a runtime holds up what needs it, and nothing else.

use clone8s::{client::Resource as _, v1};
use clone8s_integration::{ControlPlane, Image, Node, Registry, Sandbox, pods, wait};

#[tokio::test]
async fn an_image_that_cannot_be_pulled_holds_up_its_own_container_alone_until_it_can() {
    let sandbox = Sandbox::new();
    let registry = Registry::shared().await;
    let locked = Registry::with_credentials(&sandbox, "user", "secret").await;
    let secret_image = Image::busybox().push(&locked, "secret:1").unwrap();
    let late_image = registry.image(&format!("late-{}:1", sandbox.id()));
    let plane = ControlPlane::start(&sandbox, None).await;
    let mut node = Node::start(&sandbox, "node").await;
    node.join(&plane, None).await;
    plane.node_ready("node").await;

    let image = registry.image("busybox:1");
    plane.create(pods::pod("steady", &[("main", &image)])).await;
    plane.running("steady").await;
    let before = node.runs_exactly(&[("steady", "main")]).await;
    plane
        .create(pods::pod("late", &[("main", &late_image), ("beside", &image)]))
        .await;
    plane
        .create(pods::pod("locked", &[("main", &secret_image)]))
        .await;
    for (name, image, word) in [
        ("late", &late_image, "no such image"),
        ("locked", &secret_image, "401"),
    ] {
        wait::until(
            &format!("pod {name} says why its image cannot be pulled"),
            || async {
                let waiting = pods::waiting(&plane.pod(name).await?);
                let said = waiting.contains("ErrImagePull") || waiting.contains("ImagePullBackOff");
                anyhow::ensure!(said && waiting.contains(image.as_str()), "{waiting}");
                let lower = waiting.to_lowercase();
                let cause = lower.contains(word)
                    || (word == "401" && (lower.contains("credential") || lower.contains("auth")));
                anyhow::ensure!(cause, "{waiting}");
                Ok(())
            },
        )
        .await;
    }
    // The container beside it runs, and so does the other pod.
    let runs = node.runs_exactly(&[("steady", "main"), ("late", "beside")]).await;
    assert!(before.iter().all(|(place, run)| runs[place] == *run));

    let tag = late_image
        .strip_prefix(&format!("{}/", registry.address()))
        .unwrap();
    Image::busybox().push(&registry, tag).unwrap();
    plane.running("late").await;
    node.runs_exactly(&[("steady", "main"), ("late", "beside"), ("late", "main")])
        .await;
}

#[tokio::test]
async fn without_a_runtime_the_node_says_so_and_recovers_when_it_comes() {
    let sandbox = Sandbox::new();
    let plane = ControlPlane::start(&sandbox, None).await;
    let mut node = Node::start(&sandbox, "node").await;
    node.shim.kill();
    node.join(&plane, None).await;
    not_ready(&plane, "shim.sock").await;
    node.shim.start().unwrap();
    plane.node_ready("node").await;

    // The shim is there, and containerd behind it is not.
    node.containerd.process.kill();
    not_ready(&plane, "containerd").await;
    node.kubelet.check_running().unwrap();
    node.shim.check_running().unwrap();
    node.containerd.start_again().await;
    plane.node_ready("node").await;
}

/// Waits until the node is not ready, with a reason that holds the word.
async fn not_ready(plane: &ControlPlane, word: &str) {
    wait::until(&format!("the node is not ready because of {word}"), || async {
        let node = v1::Node::get(&plane.channel(), "", "node").await?;
        let conditions = node.status.unwrap_or_default().conditions;
        let told = conditions
            .iter()
            .any(|it| it.r#type == "Ready" && it.status == "False" && it.message.contains(word));
        anyhow::ensure!(told, "{conditions:?}");
        Ok(())
    })
    .await;
}
