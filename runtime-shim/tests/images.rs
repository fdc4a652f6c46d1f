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
    drop(registry);
    rig.finish().await;
}
