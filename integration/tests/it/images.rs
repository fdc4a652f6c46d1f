//! What becomes of images that no pod of a node names any more, and images that no registry has.

use anyhow::ensure;
use clone8s::cri::{ImageSpec, ImageStatusRequest, image_service_client::ImageServiceClient};
use clone8s_integration::{Image, Node, Registry, Sandbox, node::RuntimeKind, pods, wait};
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

#[tokio::test]
async fn images_of_archives_are_there_before_pods_miss_them_and_stay() {
    const FIRST: &str = "archived.example/first:1";
    const SECOND: &str = "archived.example/second:1";
    let sandbox = Sandbox::new();
    let folder = sandbox.make_dir("archives");
    let archive = |name: &str, image: &str| {
        let hidden = folder.join(format!(".{name}"));
        Image::busybox().write_archive(&hidden, image).unwrap();
        std::fs::rename(&hidden, folder.join(name)).unwrap();
    };
    archive("first.tar", FIRST);
    let mut node = Node::start(&sandbox, "archives").await;
    node.write_manifest("first.yaml", &pods::flat_yaml("first", &[("c", FIRST)]));
    node.start_kubelet([
        "--image-archives",
        folder.to_str().unwrap(),
        "--backoff-base",
        "1",
        "--image-maximum-gc-age",
        "1",
        "--image-minimum-gc-age",
        "1",
    ]);
    node.runs_exactly(&[("first", "c")]).await;
    let log = node.kubelet.log();
    assert!(!log.contains("ErrImagePull"), "the pod missed its image: {log}");

    std::fs::write(folder.join("broken.tar"), "no tar").unwrap();
    archive("second.tar", SECOND);
    node.write_manifest("second.yaml", &pods::flat_yaml("second", &[("c", SECOND)]));
    node.runs_exactly(&[("first", "c"), ("second", "c")]).await;
    wait::until("the log names the broken archive", || async {
        let log = node.kubelet.log();
        ensure!(log.contains("broken.tar"), "{log}");
        Ok(())
    })
    .await;

    node.remove_manifest("first.yaml");
    node.runs_exactly(&[("second", "c")]).await;
    wait::holds_for(
        std::time::Duration::from_secs(5),
        "an archive's image stays",
        || async {
            ensure!(has(&node, FIRST).await?, "{FIRST} is gone");
            Ok(())
        },
    )
    .await;
}

#[tokio::test]
async fn another_runtime_takes_no_archives_and_runs_what_it_has() {
    let sandbox = Sandbox::new();
    let registry = Registry::shared().await;
    let folder = sandbox.make_dir("archives");
    Image::busybox()
        .write_archive(&folder.join("first.tar"), "archived.example/first:1")
        .unwrap();
    let mut node = Node::start_on(&sandbox, "archives", RuntimeKind::CriPlugin).await;
    node.write_manifest(
        "other.yaml",
        &pods::flat_yaml("other", &[("c", &registry.image("busybox:1"))]),
    );
    node.start_kubelet(["--image-archives", folder.to_str().unwrap()]);
    node.runs_exactly(&[("other", "c")]).await;
    let log = node.kubelet.log();
    assert!(log.contains("takes no image archives"), "{log}");
}
