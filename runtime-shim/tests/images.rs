//! Images from a real registry into a real containerd.

#![allow(clippy::large_futures, reason = "a test holds whole CRI messages")]

#[path = "rig/mod.rs"]
mod rig;

use clone8s::cri;
use clone8s_integration::{Image, Registry, process::free_port};
use tonic::{Code, Status};

use self::rig::{BUSYBOX, Rig, script};

async fn pull(rig: &Rig, reference: &str, auth: Option<cri::AuthConfig>) -> Result<String, Status> {
    let image = Some(cri::ImageSpec {
        image: reference.to_owned(),
        ..Default::default()
    });
    let request = cri::PullImageRequest {
        image,
        auth,
        sandbox_config: None,
    };
    Ok(rig.images().pull_image(request).await?.into_inner().image_ref)
}

async fn find(rig: &Rig, reference: &str) -> Option<cri::Image> {
    let image = Some(cri::ImageSpec {
        image: reference.to_owned(),
        ..Default::default()
    });
    let request = cri::ImageStatusRequest { image, verbose: true };
    rig.images()
        .image_status(request)
        .await
        .expect("a status")
        .into_inner()
        .image
}

async fn remove(rig: &Rig, reference: &str) {
    let image = Some(cri::ImageSpec {
        image: reference.to_owned(),
        ..Default::default()
    });
    rig.images()
        .remove_image(cri::RemoveImageRequest { image })
        .await
        .expect("the image goes");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_by_tag_and_by_digest_run_and_removed() {
    let rig = Rig::start().await;
    let registry = Registry::start(&rig.dir).await;
    let reference = Image::busybox()
        .env("FROM", "registry")
        .push(&registry, "team/app:1")
        .unwrap();
    let id = pull(&rig, &reference, None).await.unwrap();
    let image = find(&rig, &reference).await.unwrap();
    assert_eq!(image.id, id);
    assert_eq!(image.repo_tags, std::slice::from_ref(&reference));
    let by_digest = image.repo_digests[0].clone();
    assert!(
        by_digest.starts_with(&format!("{}@sha256:", registry.image("team/app"))),
        "{by_digest}"
    );
    assert_eq!(pull(&rig, &by_digest, None).await.unwrap(), id);
    for name in [id.as_str(), by_digest.as_str(), &id["sha256:".len()..][..12]] {
        assert_eq!(find(&rig, name).await.unwrap().id, id, "{name}");
    }

    let pod = rig.run_sandbox(rig.host_pod("web")).await.unwrap();
    let mut config = script("main", "echo $FROM");
    config.image = Some(cri::ImageSpec {
        image: id.clone(),
        ..Default::default()
    });
    let container = rig.run(&pod, config).await;
    rig.exited(&container).await;
    assert_eq!(rig.log("main.log"), ["stdout F registry"]);
    assert_eq!(rig.status(&container).await.unwrap().image_id, id);

    let list = |filter: Option<cri::ImageFilter>| {
        let mut client = rig.images();
        async move {
            client
                .list_images(cri::ListImagesRequest { filter })
                .await
                .unwrap()
                .into_inner()
                .images
        }
    };
    assert_eq!(list(None).await.len(), 2);
    let spec = cri::ImageSpec {
        image: BUSYBOX.into(),
        ..Default::default()
    };
    let only = list(Some(cri::ImageFilter { image: Some(spec) })).await;
    assert_eq!(only[0].repo_tags, [BUSYBOX]);

    let fs = rig
        .images()
        .image_fs_info(cri::ImageFsInfoRequest {})
        .await
        .unwrap()
        .into_inner();
    assert!(fs.image_filesystems[0].used_bytes.unwrap().value > 500_000);
    assert!(
        fs.image_filesystems[0]
            .fs_id
            .as_ref()
            .unwrap()
            .mountpoint
            .contains("overlayfs")
    );

    remove(&rig, &id).await;
    remove(&rig, &id).await;
    assert_eq!(find(&rig, &reference).await, None);
    assert_eq!(
        pull(&rig, &reference, None).await.unwrap(),
        id,
        "it can be had again"
    );
    drop(registry);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_pulled_is_told_with_image_registry_and_next_step() {
    let rig = Rig::start().await;
    let registry = Registry::with_credentials(&rig.dir, "ann", "s3cret").await;
    let reference = Image::busybox().push(&registry, "private:1").unwrap();
    let auth = |password: &str| {
        Some(cri::AuthConfig {
            username: "ann".into(),
            password: password.into(),
            ..Default::default()
        })
    };
    for auth in [None, auth("wrong")] {
        let refused = pull(&rig, &reference, auth).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused:?}");
        assert!(
            refused.message().contains(&reference) && refused.message().contains("credentials"),
            "{refused:?}"
        );
    }
    pull(&rig, &reference, auth("s3cret")).await.unwrap();

    let absent = registry.image("absent:1");
    let error = pull(&rig, &absent, auth("s3cret")).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound, "{error:?}");
    assert!(error.message().contains(&absent), "{error:?}");

    let nowhere = format!("127.0.0.1:{}/app:1", free_port());
    let error = pull(&rig, &nowhere, None).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error:?}");
    assert!(error.message().contains(&nowhere), "{error:?}");

    let error = pull(&rig, "Not A Reference", None).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument, "{error:?}");
    let log = rig.shim.log();
    assert!(
        !log.contains("s3cret") && !log.contains("wrong"),
        "a password is in the log"
    );
    assert_no_leases(&rig);
    drop(registry);
    rig.finish().await;
}

fn assert_no_leases(rig: &Rig) {
    let leases = rig.containerd.ctr("clone8s", &["leases", "list", "--quiet"]);
    assert_eq!(leases.expect("ctr works").trim(), "");
}

async fn images(rig: &Rig) -> Vec<cri::Image> {
    let request = cri::ListImagesRequest { filter: None };
    let reply = rig.images().list_images(request).await.expect("a list");
    reply.into_inner().images
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_removed_stays_whole_under_the_container_that_runs_it() {
    let rig = Rig::start().await;
    let registry = Registry::start(&rig.dir).await;
    let image = Image::busybox().file("/greeting", 0o644, "hello");
    let one = image.push(&registry, "app:1").unwrap();
    let two = image.push(&registry, "app:2").unwrap();
    let id = pull(&rig, &one, None).await.unwrap();
    assert_eq!(pull(&rig, &two, None).await.unwrap(), id);
    let mut tags = find(&rig, &id).await.unwrap().repo_tags;
    tags.sort();
    assert_eq!(tags, [one.clone(), two.clone()]);

    let pod = rig.run_sandbox(rig.host_pod("web")).await.unwrap();
    let waiting = "while ! test -e /go; do sleep 0.1; done; cat /greeting; echo";
    let mut config = script("main", waiting);
    config.image = Some(cri::ImageSpec {
        image: one.clone(),
        ..Default::default()
    });
    let container = rig.run(&pod, config.clone()).await;
    config.metadata.as_mut().unwrap().name = "later".into();
    config.log_path = "later.log".into();
    let created = rig.create(&pod, config).await.unwrap();

    // By its id with all its names, and the garbage with them.
    remove(&rig, &id).await;
    assert_eq!(find(&rig, &one).await, None);
    assert_eq!(find(&rig, &two).await, None);
    let status = rig.status(&container).await.unwrap();
    assert_eq!(status.image_id, id);
    assert_eq!(status.image.unwrap().image, one);
    assert!(status.image_ref.contains("@sha256:"), "{}", status.image_ref);
    rig.start_container(&created).await.unwrap();
    for (container, log) in [(container, "main.log"), (created, "later.log")] {
        let request = cri::ExecSyncRequest {
            container_id: container.clone(),
            cmd: ["touch", "/go"].map(str::to_owned).to_vec(),
            timeout: 30,
        };
        rig.runtime().exec_sync(request).await.unwrap();
        rig.exited(&container).await;
        assert_eq!(rig.log(log), ["stdout F hello"]);
    }
    drop(registry);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pinned_images_are_told_as_such_by_every_call() {
    let registry_dir = clone8s_integration::Sandbox::new();
    let registry = Registry::start(&registry_dir).await;
    let pinned = Image::busybox()
        .env("A", "1")
        .push(&registry, "pinned:1")
        .unwrap();
    let other = Image::busybox().env("A", "2").push(&registry, "other:1").unwrap();
    let rig = Rig::start_with(&["--pin", &pinned]).await;
    for reference in [&pinned, &other] {
        pull(&rig, reference, None).await.unwrap();
    }
    assert!(find(&rig, &pinned).await.unwrap().pinned);
    assert!(!find(&rig, &other).await.unwrap().pinned);
    let labels = rig.containerd.ctr("clone8s", &["images", "list"]).unwrap();
    let labelled = labels.lines().find(|line| line.contains("pinned:1")).unwrap();
    assert!(labelled.contains("io.cri-containerd.pinned=pinned"), "{labelled}");
    // Anyone may pin by the label.
    rig.containerd
        .ctr(
            "clone8s",
            &["images", "label", &other, "io.cri-containerd.pinned=pinned"],
        )
        .unwrap();
    let listed = images(&rig).await;
    let all = listed
        .iter()
        .filter(|image| !image.repo_tags.contains(&BUSYBOX.to_owned()));
    assert!(
        all.clone().count() == 2 && all.clone().all(|image| image.pinned),
        "{listed:?}"
    );
    // A new pull takes nobody's label away.
    pull(&rig, &other, None).await.unwrap();
    assert!(find(&rig, &other).await.unwrap().pinned);
    drop(registry);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_moves_is_followed_and_what_is_current_is_not_fetched_again() {
    let rig = Rig::start().await;
    let registry = Registry::start(&rig.dir).await;
    let reference = Image::busybox().env("A", "1").push(&registry, "app:1").unwrap();
    let first = pull(&rig, &reference, None).await.unwrap();
    assert_eq!(pull(&rig, &reference, None).await.unwrap(), first);
    let log = rig.shim.log();
    assert_eq!(log.matches("\"manifest\"").count(), 1, "{log}");
    Image::busybox().env("A", "2").push(&registry, "app:1").unwrap();
    let second = pull(&rig, &reference, None).await.unwrap();
    assert_ne!(first, second);
    assert_eq!(find(&rig, &reference).await.unwrap().id, second);
    let old = find(&rig, &first).await.unwrap();
    assert!(old.repo_tags.is_empty() && old.repo_digests.len() == 1, "{old:?}");
    for name in [&first, &second] {
        remove(&rig, name).await;
    }
    remove(&rig, "never-seen:1").await;
    remove(&rig, "Not A Reference").await;
    assert_eq!(images(&rig).await.len(), 1, "the rig's own");
    assert_no_leases(&rig);
    drop(registry);
    rig.finish().await;
}
