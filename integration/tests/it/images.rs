//! What becomes of images that no pod of a node names any more.

use anyhow::ensure;
use clone8s::cri::{ImageSpec, ImageStatusRequest, image_service_client::ImageServiceClient};
use clone8s_integration::{Node, Registry, Sandbox, node::RuntimeKind, pods, wait};
use rstest::rstest;

async fn has(node: &Node, image: &str) -> anyhow::Result<bool> {
    let channel = clone8s_daemon::unix::channel(node.runtime_socket());
    let request = ImageStatusRequest {
        image: Some(ImageSpec {
            image: image.to_owned(),
            ..ImageSpec::default()
        }),
        verbose: false,
    };
    let answer = ImageServiceClient::new(channel).image_status(request).await?;
    Ok(answer.into_inner().image.is_some())
}

#[rstest]
#[case::our_shim(RuntimeKind::Shim)]
#[case::containerds_own_cri(RuntimeKind::CriPlugin)]
#[tokio::test]
async fn an_image_that_nothing_uses_goes_and_comes_again_with_its_pod(#[case] runtime: RuntimeKind) {
    let sandbox = Sandbox::new();
    let registry = Registry::shared().await;
    let (one, two) = (registry.image("busybox:1"), registry.image("busybox:2"));
    let mut node = Node::start_on(&sandbox, "images", runtime).await;
    let [first, second] =
        [("first", &one), ("second", &two)].map(|(name, image)| pods::flat_yaml(name, &[("c", image)]));
    node.write_manifest("first.yaml", &first);
    node.write_manifest("second.yaml", &second);
    node.start_kubelet(["--image-maximum-gc-age", "1", "--image-minimum-gc-age", "1"]);
    node.runs_exactly(&[("first", "c"), ("second", "c")]).await;

    node.remove_manifest("first.yaml");
    wait::until("the image of the pod that is gone goes", || async {
        ensure!(!has(&node, &one).await?, "{one} is still there");
        Ok(())
    })
    .await;
    assert!(
        has(&node, &two).await.unwrap(),
        "the image of a pod that runs stays"
    );

    node.write_manifest("first.yaml", &first);
    node.runs_exactly(&[("first", "c"), ("second", "c")]).await;
    assert!(has(&node, &one).await.unwrap());
    node.remove_manifest("first.yaml");
    node.remove_manifest("second.yaml");
    node.runs_exactly(&[]).await;
}
