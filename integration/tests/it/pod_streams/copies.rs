//! Files and folders, there and back.

use std::{fs, os::unix::fs::symlink};

use super::{Cluster, sha256, two_containers};

#[tokio::test]
async fn files_and_folders_are_copied_both_ways() {
    let cluster = Cluster::start(two_containers).await;
    let dir = cluster.sandbox.dir().join("copies");
    fs::create_dir_all(dir.join("site/sub")).unwrap();
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 241) as u8).collect();
    fs::write(dir.join("site/big"), &bytes).unwrap();
    fs::write(dir.join("site/sub/small"), "small").unwrap();
    symlink("sub/small", dir.join("site/link")).unwrap();
    let here = |path: &str| dir.join(path).display().to_string();
    let copy = |args: &[&str]| {
        let output = cluster.run(&[&["cp", "-c", "main"], args].concat());
        assert!(output.success, "{args:?}: {}", output.stderr);
        output.stderr
    };

    // A folder under a new name, and into one that is there.
    copy(&[&here("site"), "box:/srv"]);
    copy(&[&here("site"), "default/box:/tmp/"]);
    let listed = cluster.run(&[
        "exec",
        "box",
        "-c",
        "main",
        "--",
        "sh",
        "-c",
        "cat /srv/link /tmp/site/sub/small; sha256sum </srv/big",
    ]);
    assert_eq!(listed.stdout, format!("smallsmall{}  -\n", sha256(&bytes)));
    // A file, by name and into a folder.
    copy(&[&here("site/sub/small"), "box:/tmp/renamed"]);
    copy(&["box:/tmp/renamed", &here("")]);
    assert_eq!(fs::read_to_string(dir.join("renamed")).unwrap(), "small");

    // The folder back: as a new one, and into one that is there.
    copy(&["box:/srv", &here("back")]);
    copy(&["box:/srv", &here("site")]);
    for folder in ["back", "site/srv"] {
        assert!(
            fs::read(dir.join(folder).join("big")).unwrap() == bytes,
            "{folder}"
        );
        assert_eq!(
            fs::read_to_string(dir.join(folder).join("link")).unwrap(),
            "small"
        );
    }
    // A link that leads out of the copy stays there.
    let made = cluster.run(&["exec", "box", "-c", "main", "--", "ln", "-s", "/etc", "/srv/etc"]);
    assert!(made.success, "{}", made.stderr);
    let told = copy(&["box:/srv", &here("second")]);
    assert!(
        told.contains("left out") && !dir.join("second/etc").exists(),
        "{told}"
    );

    for (args, expected) in [
        (["cp", "box:/absent", &here("absent")], "absent"),
        (["cp", &here("absent"), "box:/tmp"], "absent"),
        (["cp", &here("site"), "box:/no/such/"], "is no folder"),
        (["cp", &here("site"), &here("other")], "POD:PATH"),
    ] {
        let refused = cluster.run(&[&args[..], &["-c", "main"]].concat());
        assert!(
            !refused.success && refused.stderr.contains(expected),
            "{args:?}: {}",
            refused.stderr
        );
    }
    let gone = cluster.run(&["exec", "box", "-c", "side", "--", "rm", "/bin/tar"]);
    assert!(gone.success, "{}", gone.stderr);
    let refused = cluster.run(&["cp", "box:/etc/passwd", &here("passwd"), "-c", "side"]);
    assert!(refused.stderr.contains("has no tar"), "{}", refused.stderr);
    cluster.end().await;
}
