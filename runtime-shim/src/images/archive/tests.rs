use std::{io::Write as _, sync::LazyLock};

use flate2::{Compression, write::GzEncoder};
use proptest::prelude::*;
use rstest::rstest;
use serde_json::json;
use tempfile::TempDir;

use super::{super::digest::Digest, *};

const LIMIT: u64 = 1 << 20;

/// A tar of these entries; a name may be anything, as an attacker would write it.
fn tar_of(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in entries {
        let mut header = tar::Header::new_gnu();
        let field = &mut header.as_gnu_mut().unwrap().name;
        field[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_entry_type(tar::EntryType::Regular);
        header.set_cksum();
        builder.append(&header, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

fn open(bytes: &[u8]) -> (TempDir, Result<Vec<Contents>>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.tar");
    std::fs::write(&path, bytes).unwrap();
    let contents = Archive::open(&path, LIMIT).and_then(|archive| archive.contents());
    (dir, contents)
}

/// An OCI layout with one image, as `localhost/app:1`.
fn layout() -> Vec<u8> {
    let config = json!({"rootfs": {"diff_ids": [Digest::of(b"layer")]}}).to_string();
    let pointer = |media_type: &str, bytes: &[u8]| json!({"mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len()});
    let manifest = json!({
        "schemaVersion": 2,
        "config": pointer("application/vnd.oci.image.config.v1+json", config.as_bytes()),
        "layers": [pointer("application/vnd.oci.image.layer.v1.tar", b"layer")],
    })
    .to_string();
    let mut listed = pointer("application/vnd.oci.image.manifest.v1+json", manifest.as_bytes());
    listed["annotations"] = json!({"io.containerd.image.name": "localhost/app:1"});
    let index = json!({"manifests": [listed]}).to_string();
    let path = |bytes: &[u8]| blob_path(&Digest::of(bytes));
    tar_of(&[
        ("index.json", index.as_bytes()),
        (&path(manifest.as_bytes()), manifest.as_bytes()),
        (&path(config.as_bytes()), config.as_bytes()),
        (&path(b"layer"), b"layer"),
        ("../../outside", b"never written"),
        ("/absolute", b"never written"),
    ])
}

#[test]
fn an_oci_layout_is_read_with_or_without_compression() {
    let plain = layout();
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&plain).unwrap();
    let zstd = zstd::encode_all(&*plain, 1).unwrap();
    for bytes in [plain, gzip.finish().unwrap(), zstd] {
        let (_dir, contents) = open(&bytes);
        let contents = contents.unwrap();
        assert_eq!(contents[0].names, ["localhost/app:1"]);
        assert_eq!(contents[0].blobs.len(), 3);
    }
}

#[test]
fn a_docker_archive_is_read_and_given_digests() {
    let config = json!({"rootfs": {"diff_ids": []}}).to_string();
    let manifest =
        json!([{"Config": "c.json", "RepoTags": ["app:2"], "Layers": ["l/layer.tar", "z/layer.tar"]}]);
    let zstd = [0x28, 0xb5, 0x2f, 0xfd, 0];
    let bytes = tar_of(&[
        ("manifest.json", manifest.to_string().as_bytes()),
        ("c.json", config.as_bytes()),
        ("l/layer.tar", b"layer"),
        ("z/layer.tar", &zstd),
    ]);
    let (_dir, contents) = open(&bytes);
    let contents = contents.unwrap();
    assert_eq!(contents[0].names, ["docker.io/library/app:2"]);
    let types: Vec<_> = contents[0]
        .blobs
        .iter()
        .map(|(blob, _)| blob.media_type.rsplit('.').next().unwrap())
        .collect();
    assert_eq!(types, ["v1+json", "v1+json", "tar", "tar+zstd"]);
    assert_eq!(contents[0].blobs[2].0.digest, Digest::of(b"layer"));
}

#[rstest]
#[case::nothing_of_the_kind(tar_of(&[("a", b"b")]), "neither")]
#[case::no_image(tar_of(&[("index.json", b"{\"manifests\": []}")]), "has no image")]
#[case::no_json(tar_of(&[("index.json", b"{")]), "index.json")]
#[case::absent_blob(
    tar_of(&[("manifest.json", b"[{\"Config\": \"../../../etc/passwd\", \"Layers\": []}]")]),
    "has no entry ../../../etc/passwd"
)]
#[case::cut_off({ let mut bytes = layout(); bytes.truncate(1800); bytes }, "")]
#[case::no_tar(vec![0xff; 4096], "")]
#[case::empty(Vec::new(), "neither")]
#[case::bomb_of_zstd(zstd::encode_all(&*vec![0; 8 << 20], 1).unwrap(), "unpacks to more than 1048576 bytes")]
#[case::bomb({
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(&vec![0; 8 << 20]).unwrap();
    gzip.finish().unwrap()
}, "unpacks to more than 1048576 bytes")]
fn what_is_no_archive_is_refused_by_its_path(#[case] bytes: Vec<u8>, #[case] told: &str) {
    let (dir, contents) = open(&bytes);
    let error = clone8s_daemon::supervisor::chain(&contents.unwrap_err());
    assert!(error.contains(told), "{error}");
    assert!(
        error.contains(&dir.path().join("app.tar").display().to_string()),
        "{error}"
    );
}

static LAYOUT: LazyLock<Vec<u8>> = LazyLock::new(layout);

proptest! {
    #[test]
    fn a_damaged_archive_is_read_or_refused(
        changes in prop::collection::vec((0_usize..8192, any::<u8>()), 0..20),
        length in 0_usize..10_000,
    ) {
        let mut bytes = LAYOUT.clone();
        for (at, byte) in changes {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        bytes.truncate(length);
        let size = bytes.len() as u64;
        let (_dir, contents) = open(&bytes);
        for image in contents.into_iter().flatten() {
            for (_, source) in image.blobs {
                if let Source::Extent(extent) = source {
                    prop_assert!(extent.end().is_some_and(|end| end <= size));
                }
            }
        }
    }
}
