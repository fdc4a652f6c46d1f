//! What containers have mounted, on a real containerd and kernel.

#![allow(clippy::large_futures, reason = "a test holds whole CRI messages")]

#[path = "rig/mod.rs"]
mod rig;

use std::{fs, path::Path, process::Command};

use anyhow::ensure;
use clone8s::cri::{self, MountPropagation};
use clone8s_integration::{Image, command, wait};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, unmount,
};
use tonic::Code;

use self::rig::{Rig, script};

fn bind(from: &Path, to: &str) -> cri::Mount {
    cri::Mount {
        container_path: to.into(),
        host_path: from.display().to_string(),
        ..Default::default()
    }
}

fn with(mut container: cri::ContainerConfig, mounts: Vec<cri::Mount>) -> cri::ContainerConfig {
    container.mounts = mounts;
    container
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_can_be_written_or_not_as_asked_and_a_missing_source_becomes_a_folder() {
    let rig = Rig::start().await;
    let pod = rig.run_sandbox(rig.host_pod("web")).await.unwrap();
    let data = rig.dir.make_dir("data");
    let inner = rig.dir.make_dir("data/inner");
    mount("t", &inner, "tmpfs", MountFlags::empty(), None).unwrap();
    let missing = rig.dir.dir().join("not/there/yet");
    let read_only = cri::Mount {
        readonly: true,
        ..bind(&data, "/ro")
    };
    let recursive = cri::Mount {
        recursive_read_only: true,
        container_path: "/rro".into(),
        ..read_only.clone()
    };
    let program = "touch /rw/a && echo rw; touch /ro/b 2>/dev/null || echo ro; \
                   touch /ro/inner/c && echo below; touch /rro/inner/d 2>/dev/null || echo all; \
                   touch /new/e && echo made; cat /rw/link/e && echo linked";
    // A link is followed when the container is made, on the host's side.
    std::os::unix::fs::symlink(&missing, data.join("target")).unwrap();
    let mounts = vec![
        bind(&data, "/rw"),
        read_only,
        recursive,
        bind(&missing, "/new"),
        bind(&data.join("target"), "/rw/link"),
    ];
    fs::create_dir_all(&missing).unwrap();
    fs::remove_dir(&missing).unwrap();
    fs::create_dir(data.join("link")).unwrap();
    let lines = rig.output(&pod, with(script("main", program), mounts)).await;
    assert_eq!(lines, ["rw", "ro", "below", "all", "made", "linked"]);
    assert!(missing.join("e").exists() && data.join("a").exists());
    unmount(&inner, UnmountFlags::empty()).unwrap();
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_mounts_pass_between_host_and_container_as_far_as_asked() {
    let rig = Rig::start().await;
    let pod = rig.run_sandbox(rig.host_pod("web")).await.unwrap();
    let shared = rig.dir.make_dir("shared");
    mount("t", &shared, "tmpfs", MountFlags::empty(), None).unwrap();
    mount_change(&shared, MountPropagationFlags::SHARED).unwrap();
    fs::create_dir(shared.join("late")).unwrap();
    fs::create_dir(shared.join("theirs")).unwrap();
    let passing = |propagation: MountPropagation, to: &str| cri::Mount {
        propagation: propagation.into(),
        ..bind(&shared, to)
    };
    let mounts = vec![
        passing(MountPropagation::PropagationPrivate, "/private"),
        passing(MountPropagation::PropagationHostToContainer, "/slave"),
        passing(MountPropagation::PropagationBidirectional, "/both"),
    ];
    let mut container = with(script("main", "exec sleep 1000"), mounts);
    rig::security(&mut container).capabilities = Some(cri::Capability {
        add_capabilities: vec!["SYS_ADMIN".into()],
        ..Default::default()
    });
    let id = rig.run(&pod, container).await;
    mount("t", shared.join("late"), "tmpfs", MountFlags::empty(), None).unwrap();
    fs::write(shared.join("late/file"), "").unwrap();
    let seen = "for d in private slave both; do test -e /$d/late/file && echo $d; done; true";
    assert_eq!(rig.exec(&id, seen).await, "slave\nboth");
    rig.exec(&id, "mount -t tmpfs t /both/theirs && touch /both/theirs/file")
        .await;
    assert!(shared.join("theirs/file").exists());
    rig.remove(&id).await.unwrap();
    for below in ["late", "theirs"] {
        unmount(shared.join(below), UnmountFlags::DETACH).unwrap();
    }

    mount_change(&shared, MountPropagationFlags::PRIVATE).unwrap();
    let refused = with(
        script("alone", "true"),
        vec![passing(MountPropagation::PropagationBidirectional, "/both")],
    );
    let refused = rig.create(&pod, refused).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(
        refused.message().contains("config.mounts[0].propagation"),
        "{refused:?}"
    );
    unmount(&shared, UnmountFlags::empty()).unwrap();
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_has_the_owners_that_are_asked_for() {
    let rig = Rig::start().await;
    let pod = rig.run_sandbox(rig.host_pod("web")).await.unwrap();
    let data = rig.dir.make_dir("data");
    fs::write(data.join("file"), "").unwrap();
    std::os::unix::fs::chown(data.join("file"), Some(7), Some(8)).unwrap();
    let range = |host_id: u32| {
        vec![cri::IdMapping {
            host_id,
            container_id: 0,
            length: 1000,
        }]
    };
    let mapped = cri::Mount {
        uid_mappings: range(5000),
        gid_mappings: range(6000),
        ..bind(&data, "/data")
    };
    let owner = "stat -c %u:%g /data/file; touch /data/mine 2>/dev/null || echo not mine; ";
    let mut container = with(script("main", owner), vec![mapped]);
    rig::security(&mut container).run_as_user = Some(cri::Int64Value { value: 5007 });
    assert_eq!(rig.output(&pod, container).await, ["5007:6008", "not mine"]);
    assert!(!rig.dir.dir().join("state/stages").join("x").exists());
    let stages = fs::read_dir(rig.dir.dir().join("state/stages")).map_or(0, Iterator::count);
    assert_eq!(stages, 0, "what a start needs is gone with it");
    rig.finish().await;
}

/// Imports an image that has nothing but files to be mounted.
fn import_data(rig: &Rig, name: &str) {
    let image = Image::empty()
        .file("data/inner/file", 0o644, b"content")
        .file("top", 0o600, b"top")
        .link("data/out", "/etc")
        .link("data/up", "../../../..");
    let archive = rig.dir.dir().join("data.tar");
    image.write_archive(&archive, name).expect("an archive");
    let mut import = Command::new(env!("CARGO_BIN_EXE_runtime-shim"));
    import
        .arg("import")
        .arg(&archive)
        .arg("--containerd")
        .arg(rig.containerd.socket());
    command::run(&mut import).expect("the import succeeds");
}

fn of_image(name: &str, sub_path: &str, to: &str) -> cri::Mount {
    cri::Mount {
        container_path: to.into(),
        image: Some(cri::ImageSpec {
            image: name.into(),
            ..Default::default()
        }),
        image_sub_path: sub_path.into(),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_a_volume_that_stays_while_it_is_used() {
    const DATA: &str = "localhost/data:1";
    let mut rig = Rig::start().await;
    import_data(&rig, DATA);
    let pod = rig.run_sandbox(rig.host_pod("web")).await.unwrap();
    let mounts = vec![
        of_image(DATA, "", "/whole"),
        of_image(DATA, "data/inner", "/part"),
        of_image(DATA, "top", "/one-file"),
        // Links in the image end in the image.
        of_image(DATA, "data/up", "/up"),
    ];
    let id = rig
        .run(&pod, with(script("main", "exec sleep 1000"), mounts))
        .await;
    let program = "cat /whole/data/inner/file /part/file /one-file; echo; ls /up; \
                   touch /part/x 2>/dev/null || echo read-only";
    let expected = "contentcontenttop\ndata\ntop\nread-only";
    assert_eq!(rig.exec(&id, program).await, expected);

    // Its name goes, its content stays, through a restart too.
    let image = Some(cri::ImageSpec {
        image: DATA.into(),
        ..Default::default()
    });
    rig.images()
        .remove_image(cri::RemoveImageRequest { image })
        .await
        .unwrap();
    rig.kill_and_restart().await;
    assert_eq!(rig.exec(&id, program).await, expected);
    let snapshots = |rig: &Rig| {
        let all = rig
            .containerd
            .ctr("clone8s", &["snapshots", "list"])
            .expect("ctr works");
        all.matches("-image-").count()
    };
    assert_eq!(snapshots(&rig), 4);
    rig.remove(&id).await.unwrap();
    assert_eq!(snapshots(&rig), 0);

    let gone = rig
        .create(&pod, with(script("late", "true"), vec![of_image(DATA, "", "/d")]))
        .await
        .unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
    assert!(gone.message().contains("config.mounts[0]"), "{gone:?}");
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_an_image_that_is_not_there_is_refused_and_leaves_nothing() {
    const DATA: &str = "localhost/data:1";
    let rig = Rig::start().await;
    import_data(&rig, DATA);
    let pod = rig.run_sandbox(rig.host_pod("web")).await.unwrap();
    // The last is a link to a folder that the image has not, though the host has it.
    for sub_path in ["nope", "data/inner/file/below", "data/out"] {
        let mounts = vec![of_image(DATA, "", "/whole"), of_image(DATA, sub_path, "/part")];
        let refused = rig
            .create(&pod, with(script("main", "true"), mounts))
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(
            refused.message().contains("config.mounts[1].image_sub_path"),
            "{refused:?}"
        );
    }
    for kind in ["snapshots", "containers"] {
        let left = rig.containerd.ctr("clone8s", &[kind, "list"]).expect("ctr works");
        assert!(!left.contains("-image-") && !left.contains("busybox"), "{left}");
    }
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_was_cut_off_leaves_no_mount_behind() {
    let mut rig = Rig::start().await;
    let stage = rig.dir.dir().join("state/stages/cut-off/mounts/0");
    fs::create_dir_all(&stage).unwrap();
    mount_bind("/usr", &stage).unwrap();
    rig.kill_and_restart().await;
    wait::until("the stage is cleared", || async {
        ensure!(!rig.dir.dir().join("state/stages/cut-off").exists());
        Ok(())
    })
    .await;
    assert!(Path::new("/usr/bin").exists());
    rig.finish().await;
}
