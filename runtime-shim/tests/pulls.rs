//! Pulls that are broken off, lied to and attacked, on a real containerd.

#![allow(clippy::large_futures, reason = "a test holds whole CRI messages")]

#[path = "faulty/mod.rs"]
mod faulty;
#[path = "rig/mod.rs"]
mod rig;
#[path = "faulty/store.rs"]
mod store;

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use anyhow::{Context as _, ensure};
use clone8s::cri;
use clone8s_integration::{image::digest, wait};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use tonic::{Code, Status};

use self::{
    faulty::{Answer, Faulty, Seen},
    rig::{Rig, script},
    store::{Entry, Layer, Store, digest_of, noise, shell, tar_of, told},
};

fn image(reference: &str) -> cri::ImageSpec {
    cri::ImageSpec {
        image: reference.to_owned(),
        ..Default::default()
    }
}

async fn pull(rig: &Rig, reference: &str) -> Result<String, Status> {
    let request = cri::PullImageRequest {
        image: Some(image(reference)),
        ..Default::default()
    };
    Ok(rig.images().pull_image(request).await?.into_inner().image_ref)
}

async fn find(rig: &Rig, reference: &str) -> Option<cri::Image> {
    let request = cri::ImageStatusRequest {
        image: Some(image(reference)),
        verbose: true,
    };
    let reply = rig.images().image_status(request).await.expect("a status");
    reply.into_inner().image
}

/// What `Status` tells of pulls under way.
async fn pulls(rig: &Rig) -> anyhow::Result<Vec<Value>> {
    let request = cri::StatusRequest { verbose: true };
    let info = rig.runtime().status(request).await?.into_inner().info;
    Ok(serde_json::from_str(
        info.get("pulls").context("pulls are told")?,
    )?)
}

fn ctr(rig: &Rig, args: &[&str]) -> String {
    rig.containerd.ctr("clone8s", args).expect("ctr works")
}

/// Neither leases nor half-unpacked layers.
fn assert_nothing_under_way(rig: &Rig) {
    let leases = ctr(rig, &["leases", "list", "--quiet"]);
    assert_eq!(leases.trim(), "", "leases are left");
    let snapshots = ctr(rig, &["snapshots", "list"]);
    assert!(!snapshots.contains("extract-"), "{snapshots}");
}

/// An image of one layer of noise on a shell.
fn large(seed: u64, length: usize) -> (Store, Value) {
    let mut store = Store::default();
    let noise = Layer::plain(tar_of(&[Entry::file("noise", noise(seed, length))]));
    let target = store.image(&[Layer::gzip(tar_of(&shell())), noise]);
    store.tag("app:1", &target);
    (store, target)
}

/// The blob of a large image is sent at some 3 MB/s.
fn slowly(store: &Store, seen: &Seen) -> Answer {
    let answer = store.answer(seen);
    if seen.path.contains("/blobs/") {
        answer.pause(Duration::from_millis(5))
    } else {
        answer
    }
}

async fn some_is_here(rig: &Rig) {
    wait::until("some of the layer is here", || async {
        let pulls = pulls(rig).await?;
        let bytes = pulls.first().and_then(|pull| pull["bytes"].as_u64());
        ensure!(bytes > Some(4 << 20), "{pulls:?}");
        Ok(())
    })
    .await;
}

/// A pull whose caller goes when some of a large layer has come.
async fn begin_and_hang_up(rig: &Rig, reference: &str) {
    tokio::select! {
        ended = pull(rig, reference) => panic!("the pull has ended: {ended:?}"),
        () = some_is_here(rig) => {}
    }
    wait::until("the pull has ended", || async {
        let pulls = pulls(rig).await?;
        ensure!(pulls.is_empty(), "{pulls:?}");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_of_every_kind_make_one_file_system() {
    let rig = Rig::start().await;
    let mut store = Store::default();
    let file = |name: &str| tar_of(&[Entry::file(name, name)]);
    let whiteout = tar_of(&[Entry::file("two", "changed"), Entry::file(".wh.one", "")]);
    let ours = store.image(&[
        Layer::gzip(tar_of(&shell())),
        Layer::plain(file("one")),
        Layer::of_type(file("two"), "application/vnd.oci.image.layer.v1.tar+zstd"),
        Layer::of_type(file("three"), "application/vnd.docker.image.rootfs.diff.tar.zstd"),
        Layer::of_type(file("four"), "application/vnd.docker.image.rootfs.diff.tar.gzip"),
        Layer::of_type(whiteout, "application/vnd.docker.image.rootfs.diff.tar"),
    ]);
    let mut ours_here = ours.clone();
    ours_here["platform"] =
        json!({"os": "linux", "architecture": clone8s_integration::image::architecture().unwrap()});
    let mut other = store.image(&[Layer::plain(file("other"))]);
    other["platform"] = json!({"os": "linux", "architecture": "s390x"});
    let inner = store.index(&[ours_here]);
    let target = store.index(&[other.clone(), inner]);
    let only_other = store.index(&[other]);
    store.tag("app:latest", &target);
    store.tag("app:other", &only_other);
    let registry = Faulty::start(move |seen| store.answer(seen));

    // By neither tag nor digest, and by both.
    let id = pull(&rig, &registry.image("app")).await.unwrap();
    let both = registry.image(&format!("app:gone@{}", digest_of(&target)));
    assert_eq!(pull(&rig, &both).await.unwrap(), id);
    let pod = rig.run_sandbox(rig.host_pod("web")).await.unwrap();
    let mut config = script("main", "cd /; cat two three four; echo; test -e one || echo gone");
    config.image = Some(image(&id));
    let container = rig.run(&pod, config).await;
    rig.exited(&container).await;
    assert_eq!(
        rig.log("main.log"),
        ["stdout F changedthreefour", "stdout F gone"]
    );

    let error = pull(&rig, &registry.image("app:other")).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    assert!(error.message().contains("only: linux/s390x"), "{error:?}");
    assert_nothing_under_way(&rig);
    drop(registry);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_goes_on_after_the_shim_was_killed() {
    let mut rig = Rig::start().await;
    let (store, _) = large(1, 12 << 20);
    let registry = Faulty::start(move |seen| slowly(&store, seen));
    let reference = registry.image("app:1");
    let mut images = rig.images();
    let request = cri::PullImageRequest {
        image: Some(image(&reference)),
        ..Default::default()
    };
    let killed = async {
        some_is_here(&rig).await;
        rig.kill_and_restart().await;
    };
    let (broken, ()) = tokio::join!(images.pull_image(request), killed);
    broken.unwrap_err();
    pull(&rig, &reference).await.unwrap();
    let resumed = registry.seen().iter().map(Seen::range_start).max().unwrap();
    assert!(resumed >= 2 << 20, "{}", told(&registry.seen()));
    assert_nothing_under_way(&rig);
    drop(registry);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_hangs_up_ends_the_pull_and_the_next_goes_on() {
    let rig = Rig::start().await;
    let (store, _) = large(2, 12 << 20);
    let registry = Faulty::start(move |seen| slowly(&store, seen));
    let reference = registry.image("app:1");
    begin_and_hang_up(&rig, &reference).await;
    assert!(find(&rig, &reference).await.is_none());
    // Two at once: they share what is left.
    let (one, two) = tokio::join!(pull(&rig, &reference), pull(&rig, &reference));
    assert_eq!(one.unwrap(), two.unwrap());
    let blobs: Vec<_> = registry.seen_for("/blobs/");
    let starts = blobs.iter().filter(|seen| seen.range_start() >= 2 << 20).count();
    assert_eq!(starts, 1, "{}", told(&registry.seen()));
    assert_nothing_under_way(&rig);
    drop(registry);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_pull_has_left_goes_when_the_registry_has_the_image_no_more() {
    let rig = Rig::start().await;
    let (store, _) = large(4, 12 << 20);
    let is_removed = Arc::new(AtomicBool::new(false));
    let gone = Arc::clone(&is_removed);
    let registry = Faulty::start(move |seen| {
        if gone.load(SeqCst) {
            Answer::new(404)
        } else {
            slowly(&store, seen)
        }
    });
    let reference = registry.image("app:1");
    begin_and_hang_up(&rig, &reference).await;
    let leases = ctr(&rig, &["leases", "list", "--quiet"]);
    assert_eq!(leases.lines().count(), 1, "{leases}");
    is_removed.store(true, SeqCst);
    let error = pull(&rig, &reference).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound, "{error:?}");
    assert_nothing_under_way(&rig);
    drop(registry);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_hangs_keeps_nobody_else_waiting() {
    let rig = Rig::start_with(&["--registry-idle-timeout", "6"]).await;
    let (store, target) = large(3, 1 << 20);
    let (good, bad) = (store.clone(), store);
    let layer_hangs = Faulty::start(move |seen| {
        if seen.path.contains("/blobs/") {
            Answer::hang()
        } else {
            bad.answer(seen)
        }
    });
    let silent = Faulty::start(|_| Answer::hang());
    let registry = Faulty::start(move |seen| good.answer(seen));
    let (one, two) = (layer_hangs.image("app:1"), silent.image("app:1"));
    let hung = async { tokio::join!(pull(&rig, &one), pull(&rig, &two)) };
    let fine = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        // The very layers that the other registry does not send.
        let id = pull(&rig, &registry.image("app:1")).await;
        assert!(!pulls(&rig).await.unwrap().is_empty(), "the others still wait");
        id
    };
    let ((one, two), id) = tokio::join!(hung, fine);
    assert!(id.is_ok(), "{id:?}");
    // Once its layers are here by another way, nothing is left to wait for; or it gives up by itself.
    if let Err(error) = one {
        assert_eq!(error.code(), Code::Unavailable, "{error:?}");
    }
    let error = two.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error:?}");
    assert!(error.message().contains(&silent.address()), "{error:?}");
    assert!(
        find(&rig, digest_of(&target)).await.is_none(),
        "a manifest is no id"
    );
    drop((registry, silent, layer_hangs));
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_share_a_layer_fetch_it_once() {
    let rig = Rig::start().await;
    let mut store = Store::default();
    let base = Layer::plain(tar_of(&[Entry::file("noise", noise(4, 4 << 20))]));
    for version in ["1", "2"] {
        let own = Layer::gzip(tar_of(&[Entry::file("version", version)]));
        let target = store.image(&[base.clone(), own]);
        store.tag(&format!("app:{version}"), &target);
    }
    let registry = Faulty::start(move |seen| slowly(&store, seen));
    let (one, two) = (registry.image("app:1"), registry.image("app:2"));
    let (one, two) = tokio::join!(pull(&rig, &one), pull(&rig, &two));
    assert_ne!(one.unwrap(), two.unwrap());
    let shared = registry.seen_for(&digest(&base.tar));
    assert_eq!(shared.len(), 1, "{}", told(&registry.seen()));
    assert_nothing_under_way(&rig);
    drop(registry);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_are_told_and_not_kept() {
    let rig = Rig::start().await;
    let (mut store, target) = large(5, 1 << 20);
    let wrong_diff = store.image_with(&[Layer::plain(tar_of(&shell()))], &[digest(b"another")]);
    store.tag("app:diff", &wrong_diff);
    let lies = Arc::new(AtomicBool::new(true));
    let lying = Arc::clone(&lies);
    let registry = Faulty::start(move |seen| {
        let answer = store.answer(seen);
        if !lying.load(SeqCst) || !seen.path.contains("/blobs/") {
            return answer;
        }
        // Of the right length.
        answer.map_body(|body| body.iter_mut().for_each(|byte| *byte ^= 1))
    });
    let reference = registry.image("app:1");
    let error = pull(&rig, &reference).await.unwrap_err();
    assert_eq!(error.code(), Code::DataLoss, "{error:?}");
    assert!(
        error.message().contains(&reference) && error.message().contains("sent other bytes"),
        "{error:?}"
    );
    assert_nothing_under_way(&rig);
    lies.store(false, SeqCst);
    pull(&rig, &reference).await.unwrap();

    let error = pull(&rig, &registry.image("app:diff")).await.unwrap_err();
    assert_eq!(error.code(), Code::DataLoss, "{error:?}");
    assert!(error.message().contains(&digest(b"another")), "{error:?}");
    assert!(find(&rig, &registry.image("app:diff")).await.is_none());
    assert_nothing_under_way(&rig);
    let by_digest = registry.image(&format!("app@{}", digest_of(&target)));
    assert!(find(&rig, &by_digest).await.is_some());
    drop(registry);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_layers_stay_in_their_snapshot() {
    use tar::EntryType;
    let rig = Rig::start().await;
    let outside = rig.dir.make_dir("o");
    let canary = outside.join("canary");
    fs::write(&canary, "untouched").unwrap();
    let out = outside.display().to_string();
    let up = format!("{}{}", "../".repeat(12), out.trim_start_matches('/'));
    let link = |target: &str| Entry::link("esc", target);
    let hostile: Vec<(&str, Vec<Vec<Entry>>)> = vec![
        ("dots", vec![vec![Entry::file(&format!("{up}/pwned"), "x")]]),
        ("absolute", vec![vec![Entry::file(&format!("{out}/pwned"), "x")]]),
        ("link", vec![vec![link(&out), Entry::file("esc/pwned", "x")]]),
        (
            "link-below",
            vec![vec![link(&out)], vec![Entry::file("esc/pwned", "x")]],
        ),
        ("link-up", vec![vec![link(&up), Entry::file("esc/canary", "x")]]),
        (
            "hardlink",
            vec![vec![
                Entry::link("hard", &format!("{out}/canary")).of_kind(EntryType::Link),
                Entry::file("hard", "x"),
            ]],
        ),
        (
            "hardlink-through-link",
            vec![vec![
                link(&out),
                Entry::link("hard", "esc/canary").of_kind(EntryType::Link),
                Entry::file("hard", "x"),
            ]],
        ),
        (
            "whiteout",
            vec![vec![link(&out)], vec![Entry::file("esc/.wh.canary", "")]],
        ),
        (
            "opaque",
            vec![vec![link(&out)], vec![Entry::file("esc/.wh..wh..opq", "")]],
        ),
        (
            "whiteout-dots",
            vec![vec![Entry::file(&format!("{up}/.wh.canary"), "")]],
        ),
        (
            "device",
            vec![vec![
                Entry::file("zero", "").of_kind(EntryType::Char),
                Entry::file("fifo", "").of_kind(EntryType::Fifo),
            ]],
        ),
        (
            "folder-over-link",
            vec![
                vec![link(&out)],
                vec![
                    Entry::file("esc", "").of_kind(EntryType::Directory),
                    Entry::file("esc/pwned", "x"),
                ],
            ],
        ),
    ];
    let mut store = Store::default();
    for (name, layers) in &hostile {
        let layers: Vec<_> = layers
            .iter()
            .map(|entries| Layer::gzip(tar_of(entries)))
            .collect();
        let target = store.image(&layers);
        store.tag(&format!("app:{name}"), &target);
    }
    // Users are read from the image: these would be the host's.
    let mut with_users = shell();
    with_users.push(Entry::link("etc/passwd", "/../../../../../../../../etc/passwd"));
    with_users.push(Entry::link("etc/group", &format!("{out}/canary")));
    let users = store.image(&[Layer::gzip(tar_of(&with_users))]);
    store.tag("app:users", &users);
    let mut with_device = shell();
    with_device.push(Entry::file("etc/passwd", "").of_kind(EntryType::Char));
    let device = store.image(&[Layer::gzip(tar_of(&with_device))]);
    store.tag("app:device-users", &device);
    let registry = Faulty::start(move |seen| store.answer(seen));

    for (name, _) in &hostile {
        let outcome = pull(&rig, &registry.image(&format!("app:{name}"))).await;
        let found: Vec<_> = fs::read_dir(&outside)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(found, ["canary"], "{name}: {outcome:?}");
        assert_eq!(
            fs::read_to_string(&canary).unwrap(),
            "untouched",
            "{name}: {outcome:?}"
        );
        assert_eq!(
            std::os::unix::fs::MetadataExt::nlink(&fs::metadata(&canary).unwrap()),
            1,
            "{name}"
        );
    }
    assert_nothing_under_way(&rig);

    let pod = rig.run_sandbox(rig.host_pod("web")).await.unwrap();
    for name in ["users", "device-users"] {
        let reference = registry.image(&format!("app:{name}"));
        pull(&rig, &reference).await.unwrap();
        let mut config = script(name, "true");
        config.image = Some(image(&reference));
        config.linux = Some(cri::LinuxContainerConfig {
            security_context: Some(cri::LinuxContainerSecurityContext {
                // In every host's list, and in no image's here.
                run_as_username: "daemon".into(),
                ..Default::default()
            }),
            ..Default::default()
        });
        let error = rig.create(&pod, config).await.unwrap_err();
        assert!(error.message().contains("daemon"), "{error:?}");
    }
    drop(registry);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_outgrows_the_limit_is_stopped() {
    let limit = 64_u64 << 20;
    let rig = Rig::start_with(&["--image-size-limit", &limit.to_string()]).await;
    let mut store = Store::default();
    // A gigabyte of zeros in a megabyte: a header, and then members of one gzip stream, each of 16 MiB.
    let mut header = tar::Header::new_gnu();
    header.set_path("zeros").unwrap();
    header.set_size(1 << 30);
    header.set_mode(0o644);
    header.set_cksum();
    let member = |bytes: &[u8]| {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        std::io::Write::write_all(&mut gzip, bytes).unwrap();
        gzip.finish().unwrap()
    };
    let mut bomb = member(header.as_bytes());
    bomb.extend(member(&vec![0; 16 << 20]).repeat(64));
    let config = json!({"rootfs": {"type": "layers", "diff_ids": [digest(b"zeros")]}});
    let config = store.add(
        "application/vnd.oci.image.config.v1+json",
        config.to_string().into_bytes(),
    );
    let layer = store.add("application/vnd.oci.image.layer.v1.tar+gzip", bomb);
    let target = store.manifest(&config, std::slice::from_ref(&layer));
    store.tag("app:bomb", &target);
    let mut huge = layer;
    huge["size"] = json!(limit + 1);
    let target = store.manifest(&config, &[huge]);
    store.tag("app:huge", &target);
    let mut foreign = config.clone();
    foreign["mediaType"] = json!("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
    let target = store.manifest(&config, &[foreign]);
    store.tag("app:foreign", &target);
    let registry = Faulty::start(move |seen| store.answer(seen));

    for name in ["bomb", "huge"] {
        let reference = registry.image(&format!("app:{name}"));
        let error = pull(&rig, &reference).await.unwrap_err();
        assert_eq!(error.code(), Code::ResourceExhausted, "{error:?}");
        assert!(
            error.message().contains(&reference) && error.message().contains(&limit.to_string()),
            "{error:?}"
        );
        assert!(find(&rig, &reference).await.is_none());
        assert_nothing_under_way(&rig);
    }
    let error = pull(&rig, &registry.image("app:foreign")).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition, "{error:?}");
    assert!(error.message().contains("foreign.diff"), "{error:?}");
    drop(registry);
    rig.finish().await;
}
