//! What mounts are like in real containers, as the kernel and the containers see them.

use std::{fs, path::Path};

use anyhow::ensure;
use clone8s_integration::{Node, Registry, Sandbox, node::RuntimeKind, pods, wait};
use rstest::rstest;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};

/// Mounts of the node that a test makes, gone with it.
struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn tmpfs(at: &'a Path) -> Self {
        fs::create_dir_all(at).unwrap();
        mount("test", at, "tmpfs", MountFlags::empty(), None).unwrap();
        Self(at)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = unmount(self.0, UnmountFlags::DETACH);
    }
}

async fn until_said(node: &Node, container: &str, line: &str, expected: &str) {
    wait::until(&format!("{line:?} says {expected:?}"), || async {
        let said = node.shell("mounted", container, line).await?;
        ensure!(said == expected, "{said:?}");
        Ok(())
    })
    .await;
}

#[rstest]
#[case::on_our_shim(RuntimeKind::Shim)]
#[case::on_containerds_own_cri(RuntimeKind::CriPlugin)]
#[tokio::test]
async fn mounts_pass_on_what_they_are_asked_to(#[case] runtime: RuntimeKind) {
    let sandbox = Sandbox::new();
    let registry = Registry::shared().await;
    let shared = sandbox.make_dir("shared");
    let [early, late, theirs] = ["early", "late", "theirs"].map(|name| shared.join(name));
    let _shared = Mounted::tmpfs(&shared);
    mount_change(&shared, MountPropagationFlags::SHARED).unwrap();
    let _early = Mounted::tmpfs(&early);
    let manifest = pods::example(
        "volumes.yaml",
        &[
            ("clone8s.local/hello:1", &registry.image("busybox:1")),
            ("imagePullPolicy: Never", "imagePullPolicy: IfNotPresent"),
            (
                "path: /srv/clone8s-shared",
                &format!("path: {}", shared.display()),
            ),
        ],
    );
    let mut node = Node::start_on(&sandbox, "mounts", runtime).await;
    node.write_manifest("mounted.yaml", &manifest);
    node.start_kubelet::<String>([]);
    node.runs_exactly(&[("mounted", "reader"), ("mounted", "mounter")])
        .await;

    until_said(
        &node,
        "reader",
        "touch /own/file; test -c /null && echo device",
        "device",
    )
    .await;
    assert!(shared.join("of-mounted/file").exists(), "subPathExpr");
    let _late = Mounted::tmpfs(&late);
    fs::write(late.join("file"), "").unwrap();
    until_said(
        &node,
        "reader",
        "ls /shared/late; ls /frozen/late | wc -l",
        "file\n0",
    )
    .await;
    fs::create_dir(&theirs).unwrap();
    until_said(
        &node,
        "mounter",
        "mount -t tmpfs t /shared/theirs && touch /shared/theirs/file && echo done",
        "done",
    )
    .await;
    assert!(theirs.join("file").exists(), "Bidirectional");
    let _theirs = Mounted(&theirs);

    // What was mounted below before is read-only in the container only where the runtime can do that.
    let is_ours = runtime == RuntimeKind::Shim;
    let expected = if is_ours { "refused" } else { "written" };
    let line = "touch /frozen/early/x 2>/dev/null && echo written || echo refused";
    until_said(&node, "reader", line, expected).await;

    node.remove_manifest("mounted.yaml");
    node.runs_exactly(&[]).await;
}

/// On our shim alone: containerd 1.6 knows no image mounts of CRI.
#[tokio::test]
async fn an_image_is_a_volume_of_another_images_container() {
    let sandbox = Sandbox::new();
    let registry = Registry::shared().await;
    let manifest = pods::example(
        "image-volume.yaml",
        &[
            (
                "image: clone8s.local/hello:1",
                &format!("image: {}", registry.image("busybox:1")),
            ),
            ("imagePullPolicy: Never", "imagePullPolicy: IfNotPresent"),
            (
                "reference: clone8s.local/hello:1",
                &format!("reference: {}", registry.image("busybox:2")),
            ),
            ("subPath: www", "subPath: bin"),
        ],
    );
    let mut node = Node::start(&sandbox, "images").await;
    node.write_manifest("borrower.yaml", &manifest);
    node.start_kubelet(["--image-maximum-gc-age", "1", "--image-minimum-gc-age", "1"]);
    node.runs_exactly(&[("borrower", "app")]).await;
    let line =
        "test -x /data/bin/busybox && test -x /page/busybox && ! touch /data/x 2>/dev/null && echo there";
    let said = node.shell("borrower", "app", line).await.unwrap();
    assert_eq!(said, "there");
    node.remove_manifest("borrower.yaml");
    node.runs_exactly(&[]).await;
}
