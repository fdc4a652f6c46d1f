//! Registries behind TLS, passwords, tokens and mirrors, as certs.d and credentials set them up.

#![allow(clippy::large_futures, reason = "a test holds whole CRI messages")]

#[path = "faulty/mod.rs"]
mod faulty;
#[path = "rig/mod.rs"]
mod rig;
#[path = "faulty/store.rs"]
mod store;

use std::{fs, path::PathBuf};

use clone8s::cri;
use clone8s_integration::{Image, Registry, pki::Ca};
use tonic::{Code, Status};

use self::{
    faulty::{Answer, Faulty},
    rig::Rig,
    store::{Entry, Layer, Store, tar_of},
};

async fn pull(rig: &Rig, reference: &str, auth: Option<cri::AuthConfig>) -> Result<String, Status> {
    let request = cri::PullImageRequest {
        image: Some(spec(reference)),
        auth,
        sandbox_config: None,
    };
    Ok(rig.images().pull_image(request).await?.into_inner().image_ref)
}

fn spec(reference: &str) -> cri::ImageSpec {
    cri::ImageSpec {
        image: reference.to_owned(),
        ..Default::default()
    }
}

async fn remove(rig: &Rig, reference: &str) {
    let image = Some(spec(reference));
    let request = cri::RemoveImageRequest { image };
    rig.images().remove_image(request).await.expect("the image goes");
}

/// A rig whose shim reads `certs.d` and `auth.json` of its folder, and a way to write the former.
async fn rig() -> (Rig, PathBuf) {
    let dir = tempfile::tempdir().expect("a folder").keep();
    let certs = dir.join("certs.d");
    fs::create_dir(&certs).expect("a folder");
    let auth = dir.join("auth.json");
    let rig = Rig::start_with(&[
        "--registry-hosts-dir",
        &certs.display().to_string(),
        "--registry-auth-file",
        &auth.display().to_string(),
    ])
    .await;
    (rig, dir)
}

fn configure(dir: &std::path::Path, registry: &str, hosts: &str) {
    let folder = dir.join("certs.d").join(registry);
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("hosts.toml"), hosts).expect("a file");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_with_an_authority_of_its_own_is_trusted_once_that_is_named() {
    let (rig, dir) = rig().await;
    let ca = Ca::new(&rig.dir.dir().join("ca"), "private").unwrap();
    let registry = Registry::with_tls(&rig.dir, &ca).await;
    let reference = Image::busybox().push(&registry, "team/app:1").unwrap();
    let server = format!("server = \"https://{}\"\n", registry.address());

    configure(&dir, registry.address(), &server);
    let error = pull(&rig, &reference, None).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error:?}");
    for told in [
        reference.as_str(),
        registry.address(),
        "no authority",
        "`ca`",
        "hosts.toml",
    ] {
        assert!(error.message().contains(told), "{told}: {error:?}");
    }
    // Without a restart.
    let with_ca = format!("{server}ca = \"{}\"\n", ca.certificate_file().display());
    configure(&dir, registry.address(), &with_ca);
    let id = pull(&rig, &reference, None).await.unwrap();
    remove(&rig, &id).await;
    configure(&dir, registry.address(), &format!("{server}skip_verify = true\n"));
    assert_eq!(pull(&rig, &reference, None).await.unwrap(), id);
    configure(&dir, registry.address(), "server = [");
    let error = pull(&rig, &reference, None).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition, "{error:?}");
    assert!(error.message().contains("hosts.toml"), "{error:?}");

    let strict = Registry::with_client_certificates(&rig.dir, &ca).await;
    let reference = Image::busybox().push(&strict, "team/app:1").unwrap();
    let server = format!(
        "server = \"https://{}\"\nca = [\"{}\"]\n",
        strict.address(),
        ca.certificate_file().display()
    );
    configure(&dir, strict.address(), &server);
    let error = pull(&rig, &reference, None).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error:?}");
    let pair = strict.client_certificates().unwrap();
    let client = format!(
        "client = [[\"{0}/client.cert\", \"{0}/client.key\"]]\n",
        pair.display()
    );
    configure(&dir, strict.address(), &(server + &client));
    pull(&rig, &reference, None).await.unwrap();
    drop((registry, strict));
    fs::remove_dir_all(dir).unwrap();
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_serves_what_the_registry_itself_cannot() {
    let (rig, dir) = rig().await;
    let mirror = Registry::start(&rig.dir).await;
    let image = Image::busybox().env("FROM", "mirror");
    image.push(&mirror, "team/app:1").unwrap();
    let broken = Faulty::start(|_| Answer::new(500));
    let hosts = format!(
        "server = \"http://{0}\"\n[host.\"http://{0}\"]\n[host.\"http://{1}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
        broken.address(),
        mirror.address()
    );
    // A name that no DNS knows.
    configure(&dir, "registry.invalid", &hosts);
    let reference = "registry.invalid/team/app:1";
    let id = pull(&rig, reference, None).await.unwrap();
    let images = rig
        .images()
        .list_images(cri::ListImagesRequest { filter: None })
        .await
        .unwrap()
        .into_inner()
        .images;
    let found = images.iter().find(|image| image.id == id).unwrap();
    assert_eq!(
        found.repo_tags,
        [reference],
        "under its own name, not the mirror's"
    );
    assert!(found.repo_digests[0].starts_with("registry.invalid/team/app@sha256:"));

    // For every registry without a folder of its own.
    configure(&dir, "_default", &hosts);
    assert_eq!(
        pull(&rig, "other.invalid:5000/team/app:1", None).await.unwrap(),
        id
    );
    let error = pull(&rig, "other.invalid:5000/team/app:2", None)
        .await
        .unwrap_err();
    assert!(error.message().contains(mirror.address()), "{error:?}");
    drop((broken, mirror));
    fs::remove_dir_all(dir).unwrap();
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_of_a_file_are_used_where_a_call_has_none() {
    let (rig, dir) = rig().await;
    let registry = Registry::with_credentials(&rig.dir, "ann", "s3cret").await;
    let reference = Image::busybox().push(&registry, "private:1").unwrap();
    let error = pull(&rig, &reference, None).await.unwrap_err();
    assert_eq!(error.code(), Code::Unauthenticated, "{error:?}");
    let file = |password: &str| {
        let entry = serde_json::json!({"username": "ann", "password": password});
        let text = serde_json::json!({"auths": {registry.address(): entry}}).to_string();
        fs::write(dir.join("auth.json"), text).unwrap();
    };
    file("wrong-one");
    let error = pull(&rig, &reference, None).await.unwrap_err();
    assert!(error.message().contains("refuses the credentials"), "{error:?}");
    file("s3cret");
    let id = pull(&rig, &reference, None).await.unwrap();
    remove(&rig, &id).await;
    // A caller's own come first, and those for another server stay at home.
    let auth = |server: &str, password: &str| {
        Some(cri::AuthConfig {
            username: "ann".into(),
            password: password.into(),
            server_address: server.into(),
            ..Default::default()
        })
    };
    let error = pull(&rig, &reference, auth("", "wrong-two")).await.unwrap_err();
    assert_eq!(error.code(), Code::Unauthenticated, "{error:?}");
    let error = pull(&rig, &reference, auth("elsewhere.io", "s3cret"))
        .await
        .unwrap_err();
    assert!(error.message().contains("without credentials"), "{error:?}");
    pull(&rig, &reference, auth(registry.address(), "s3cret"))
        .await
        .unwrap();
    let log = rig.shim.log();
    for secret in ["s3cret", "wrong-one", "wrong-two", "YW5uOnMzY3JldA"] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
    drop(registry);
    fs::remove_dir_all(dir).unwrap();
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_server_admits_identity_tokens_passwords_and_registry_tokens() {
    let (rig, dir) = rig().await;
    let mut store = Store::default();
    let target = store.image(&[Layer::gzip(tar_of(&[Entry::file("a", "b")]))]);
    store.tag("app:1", &target);
    let tokens = Faulty::start(|seen| {
        let knows_password = seen.header("authorization") == Some("Basic YW5uOnMzY3JldA==");
        let knows_identity = seen.body.contains("refresh_token=identity");
        if knows_password || knows_identity {
            Answer::ok(r#"{"token": "t0ken"}"#)
        } else {
            Answer::new(401)
        }
    });
    let realm = format!("http://{}/token", tokens.address());
    let registry = Faulty::start(move |seen| {
        if seen.header("authorization") == Some("Bearer t0ken") {
            return store.answer(seen);
        }
        let challenge = format!("Bearer realm=\"{realm}\",service=\"r\",scope=\"repository:app:pull\"");
        Answer::new(401).header("www-authenticate", &challenge)
    });
    let reference = registry.image("app:1");
    let good = [
        cri::AuthConfig {
            auth: "YW5uOnMzY3JldA==".into(),
            ..Default::default()
        },
        cri::AuthConfig {
            identity_token: "identity".into(),
            ..Default::default()
        },
        cri::AuthConfig {
            registry_token: "t0ken".into(),
            ..Default::default()
        },
    ];
    for auth in good {
        let id = pull(&rig, &reference, Some(auth)).await.unwrap();
        remove(&rig, &id).await;
    }
    let bad = [
        None,
        Some(cri::AuthConfig {
            identity_token: "stolen".into(),
            ..Default::default()
        }),
        Some(cri::AuthConfig {
            registry_token: "old".into(),
            ..Default::default()
        }),
    ];
    for auth in bad {
        let error = pull(&rig, &reference, auth).await.unwrap_err();
        assert_eq!(error.code(), Code::Unauthenticated, "{error:?}");
        assert!(error.message().contains(&registry.address()), "{error:?}");
    }
    let log = rig.shim.log();
    for secret in ["s3cret", "identity\"", "t0ken", "stolen"] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
    drop((registry, tokens));
    fs::remove_dir_all(dir).unwrap();
    rig.finish().await;
}
