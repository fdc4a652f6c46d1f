//! Where images come from, and what becomes of those that no pod of a node names any more.

use std::{fs, io::Read as _, path::Path};

use anyhow::{Context as _, ensure};
use clone8s::{
    client::{Query, Resource as _},
    cri::{ImageSpec, ImageStatusRequest, image_service_client::ImageServiceClient},
    manifest,
    object::AnyObject,
    v1::{Event, Secret},
};
use clone8s_integration::{
    ControlPlane, Image, Node, Registry, Sandbox, SlowLine, node::RuntimeKind, pods, wait,
};
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
        fs::rename(&hidden, folder.join(name)).unwrap();
    };
    archive("first.tar", FIRST);
    let mut node = Node::start(&sandbox, "archives").await;
    node.write_manifest("first.yaml", &pods::flat_yaml("first", &[("c", FIRST)]));
    node.start_kubelet([
        "--image-archives",
        folder.to_str().unwrap(),
        "--image-maximum-gc-age",
        "1",
        "--image-minimum-gc-age",
        "1",
    ]);
    node.runs_exactly(&[("first", "c")]).await;
    let log = node.kubelet.log();
    assert!(!log.contains("ErrImagePull"), "the pod missed its image: {log}");

    fs::write(folder.join("broken.tar"), "no tar").unwrap();
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

/// examples/pull-secret.yaml for this registry and this image.
fn private(registry: &Registry, image: &str, password: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/pull-secret.yaml"))
        .unwrap()
        // The other runtime has no network for pods here.
        .replace("  imagePullSecrets:", "  hostNetwork: true\n  imagePullSecrets:")
        .replace("registry.example.com/team/app:1", image)
        .replace("registry.example.com", registry.address())
        .replace("not-a-good-one", password)
}

fn secret_of(text: &str) -> Secret {
    let documents = manifest::parse_valid("pull-secret.yaml", text).unwrap();
    let mut secrets = documents
        .into_iter()
        .filter_map(|document| match document.object {
            AnyObject::Secret(secret) => Some(secret),
            _ => None,
        });
    secrets.next().unwrap()
}

/// The pod alone.
fn pod_of(text: &str) -> &str {
    text.split("---\n").last().unwrap()
}

#[rstest]
#[case::our_shim(RuntimeKind::Shim)]
#[case::containerds_own_cri(RuntimeKind::CriPlugin)]
#[tokio::test]
async fn a_private_registry_is_shown_the_credentials_of_the_pods_secret(#[case] runtime: RuntimeKind) {
    const WRONG: &str = "wr0ng-passw0rd";
    let sandbox = Sandbox::new();
    let registry = Registry::with_credentials(&sandbox, "ann", "s3cret").await;
    let image = Image::busybox().push(&registry, "team/app:1").unwrap();
    let plane = ControlPlane::start(&sandbox, None).await;
    let mut node = Node::start_on(&sandbox, "private", runtime).await;
    let objects = sandbox.make_dir("objects");
    node.kubelet
        .args_mut()
        .extend(["--config-objects".into(), objects.clone().into()]);
    node.join(&plane, None).await;
    plane.node_ready("private").await;

    let text = private(&registry, &image, WRONG);
    Secret::create(&plane.channel(), secret_of(&text)).await.unwrap();
    plane.create(pods::from_yaml(pod_of(&text))).await;
    let told = wait::until("the pod says whose credentials were refused", || async {
        let pod = plane.pod("private").await?;
        let told = pods::waiting(&pod);
        ensure!(
            told.contains(registry.address()) && told.contains("registry-login"),
            "{told}"
        );
        Ok(told)
    })
    .await;
    assert!(!told.contains(WRONG), "{told}");
    let right = private(&registry, &image, "s3cret");
    wait::until("the secret is changed", || async {
        let mut secret = Secret::get(&plane.channel(), "default", "registry-login").await?;
        secret.data = secret_of(&right).data;
        secret.string_data = secret_of(&right).string_data;
        Ok(Secret::update(&plane.channel(), secret).await?)
    })
    .await;
    plane.running("private").await;
    plane.delete("private").await;
    plane.gone("private").await;
    assert!(!node.kubelet.log().contains(WRONG));

    // A pod of the folder has the node's own secret, for an image that is not there yet.
    let image = Image::busybox()
        .env("VERSION", "own")
        .push(&registry, "team/own:1")
        .unwrap();
    let text = private(&registry, &image, "s3cret");
    let (secret, pod) = text.split_once("---\n").unwrap();
    fs::write(objects.join("login.yaml"), secret).unwrap();
    node.write_manifest("private.yaml", pod);
    node.runs_exactly(&[("private", "app")]).await;
}

/// The only event of a reason.
async fn event(plane: &ControlPlane, reason: &str) -> anyhow::Result<Event> {
    let (events, _) = Event::list_all(&plane.channel(), &Query::default()).await?;
    let mut of_reason = events.into_iter().filter(|event| event.reason == reason);
    let first = of_reason.next().with_context(|| format!("no {reason}"))?;
    ensure!(of_reason.next().is_none(), "{reason} is told by several events");
    Ok(first)
}

#[tokio::test]
async fn a_long_pull_tells_how_far_it_is_in_one_event_and_its_end_tells_time_and_bytes() {
    const BYTES: usize = 4 << 20;
    let sandbox = Sandbox::new();
    let registry = Registry::start(&sandbox).await;
    // What does not compress takes its time.
    let mut noise = vec![0; BYTES];
    fs::File::open("/dev/urandom")
        .unwrap()
        .read_exact(&mut noise)
        .unwrap();
    Image::busybox()
        .file("/noise", 0o644, noise)
        .push(&registry, "large:1")
        .unwrap();
    let line = SlowLine::to(registry.address(), BYTES / 16).await;
    let image = format!("{}/large:1", line.address());
    let plane = ControlPlane::start(&sandbox, None).await;
    let mut node = Node::start(&sandbox, "slow").await;
    node.join(&plane, None).await;
    plane.node_ready("slow").await;

    plane.create(pods::pod("large", &[("c", &image)])).await;
    let progress = wait::until("the pull says how far it is", || async {
        let pulling = event(&plane, "Pulling").await?;
        ensure!(pulling.message.contains("bytes ("), "{}", pulling.message);
        Ok(pulling)
    })
    .await;
    assert!(progress.count >= 2, "{progress:?}");
    let numbers: Vec<usize> = progress
        .message
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|word| word.parse().ok())
        .collect();
    // The address and the tag come first.
    let [done, all, percent] = numbers[numbers.len() - 6..numbers.len() - 3] else {
        panic!("{}", progress.message)
    };
    assert!(0 < done && done < all && BYTES < all, "{}", progress.message);
    assert!(percent < 100, "{}", progress.message);

    plane.running("large").await;
    let pulled = event(&plane, "Pulled").await.unwrap().message;
    assert!(pulled.contains("including waiting). Image size: "), "{pulled}");
    event(&plane, "Pulling").await.unwrap();
    for reason in ["Created", "Started"] {
        let told = event(&plane, reason).await.unwrap().message;
        assert!(
            told.contains(" container c in ") && told.ends_with(" s"),
            "{told}"
        );
    }
    plane.delete("large").await;
    plane.gone("large").await;
}
