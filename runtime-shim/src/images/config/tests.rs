use proptest::prelude::*;
use rstest::rstest;

use super::*;

fn digest(byte: u8) -> Digest {
    Digest::of(&[byte])
}

fn listed(platform: Option<&str>, byte: u8) -> Descriptor {
    let platform = platform.map(|text| {
        let (os, architecture) = text.split_once('/').unwrap();
        Platform {
            os: os.into(),
            architecture: architecture.into(),
            variant: String::new(),
        }
    });
    Descriptor {
        platform,
        ..Descriptor::new(OCI_MANIFEST, digest(byte), 1)
    }
}

fn manifest(media_type: &str, config: &str, layers: &[&str]) -> Vec<u8> {
    let descriptor =
        |media_type: &str| serde_json::json!({"mediaType": media_type, "digest": digest(1), "size": 1});
    let layers: Vec<_> = layers.iter().map(|layer| descriptor(layer)).collect();
    let mut document =
        serde_json::json!({"schemaVersion": 2, "config": descriptor(config), "layers": layers});
    if !media_type.is_empty() {
        document["mediaType"] = media_type.into();
    }
    document.to_string().into_bytes()
}

#[test]
fn nulls_in_a_configuration_are_empty() {
    let text = r#"{"config": {"Env": null, "Cmd": ["sh"], "User": null, "Labels": {}},
        "rootfs": {"type": "layers", "diff_ids": []}}"#;
    let config = ImageConfig::read(&digest(1), text.as_bytes(), 0).unwrap();
    let expected = RunConfig {
        cmd: vec!["sh".into()],
        ..Default::default()
    };
    assert_eq!(config.config.unwrap(), expected);
}

#[test]
fn the_manifest_of_an_index_is_the_hosts() {
    let host = Host::here();
    let own = host.to_string();
    let architecture = own.split('/').nth(1).unwrap();
    let windows = format!("windows/{architecture}");
    let index = Index {
        manifests: vec![
            listed(Some("unknown/unknown"), 1),
            listed(Some(&windows), 2),
            listed(None, 3),
            listed(Some(&own), 4),
        ],
    };
    let chosen: Vec<_> = index
        .choices(host)
        .unwrap()
        .iter()
        .map(|d| d.digest.clone())
        .collect();
    assert_eq!(chosen, [digest(4), digest(3)]);
    let index = Index {
        manifests: vec![listed(Some("linux/s390x"), 1), listed(Some("unknown/unknown"), 2)],
    };
    assert_eq!(index.choices(host).unwrap_err(), ["linux/s390x"]);
}

#[test]
fn a_chain_id_covers_all_layers_below() {
    let ids = [digest(1), digest(2)];
    let chain = chain_ids(&ids);
    assert_eq!(chain[0], ids[0]);
    assert_eq!(chain[1], Digest::of(format!("{} {}", ids[0], ids[1]).as_bytes()));
    assert!(chain_ids(&[]).is_empty());
}

#[rstest]
#[case("application/vnd.oci.image.layer.v1.tar", "")]
#[case("application/vnd.oci.image.layer.v1.tar+gzip", "+gzip")]
#[case("application/vnd.oci.image.layer.v1.tar+zstd", "+zstd")]
#[case("application/vnd.docker.image.rootfs.diff.tar", "")]
#[case("application/vnd.docker.image.rootfs.diff.tar.gzip", "+gzip")]
#[case("application/vnd.docker.image.rootfs.diff.tar.zstd", "+zstd")]
fn a_layer_of_either_family_is_unpacked(#[case] media_type: &str, #[case] suffix: &str) {
    let layer = Descriptor::new(media_type, digest(1), 1);
    assert_eq!(as_unpacked(&layer).unwrap(), format!("{OCI_LAYER}{suffix}"));
    assert!(Document::read("app", &manifest("", OCI_CONFIG, &[media_type])).is_ok());
}

#[rstest]
#[case("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")]
#[case("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip")]
#[case("application/vnd.oci.image.layer.v1.tar+gzip+encrypted")]
#[case("application/vnd.oci.image.layer.v1.tar.gzip")]
#[case("application/vnd.oci.image.layer.v1.tarball")]
#[case("text/plain")]
#[case("")]
fn what_is_no_layer_is_refused_by_its_type(#[case] media_type: &str) {
    let error = Document::read("app:1", &manifest(OCI_MANIFEST, OCI_CONFIG, &[media_type])).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("app:1") && error.contains(&format!("{media_type:?}")),
        "{error}"
    );
}

#[rstest]
#[case::no_image(manifest(OCI_MANIFEST, "application/vnd.cncf.helm.config.v1+json", &[]), "helm")]
#[case::schema_1(br#"{"schemaVersion": 1, "fsLayers": []}"#.to_vec(), "schema 1")]
#[case::typed_schema_1(
    manifest("application/vnd.docker.distribution.manifest.v1+prettyjws", OCI_CONFIG, &[]),
    "schema 1"
)]
#[case::index_that_says_manifest(
    format!(r#"{{"mediaType": "{OCI_MANIFEST}", "manifests": []}}"#).into_bytes(),
    "is not the"
)]
#[case::manifest_that_says_index(manifest(OCI_INDEX, OCI_CONFIG, &[]), "is not the")]
#[case::both(br#"{"manifests": [], "layers": []}"#.to_vec(), "both")]
#[case::neither(b"{}".to_vec(), "missing field")]
#[case::not_json(b"<html>".to_vec(), "expected value")]
#[case::deep([br#"{"manifests": "#.to_vec(), vec![b'['; 1 << 20]].concat(), "")]
#[case::layers(manifest("", OCI_CONFIG, &[OCI_LAYER; MAX_LAYERS + 1]), "513 layers")]
fn a_document_that_is_no_image_is_refused(#[case] document: Vec<u8>, #[case] told: &str) {
    let error = Document::read("app:1", &document).unwrap_err().to_string();
    assert!(error.contains("app:1") && error.contains(told), "{error}");
}

#[rstest]
#[case(r#"{"mediaType": "m", "digest": "sha256:../../etc/passwd", "size": 1}"#)]
#[case(r#"{"mediaType": "m", "digest": "md5:d41d8cd98f00b204e9800998ecf8427e", "size": 1}"#)]
#[case(r#"{"mediaType": "m", "size": 1}"#)]
#[case(
    r#"{"digest": "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "size": -1}"#
)]
#[case(
    r#"{"digest": "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "size": 18446744073709551615}"#
)]
fn a_descriptor_has_a_digest_and_a_size(#[case] text: &str) {
    assert!(serde_json::from_str::<Descriptor>(text).is_err());
}

#[test]
fn a_configuration_must_fit_its_manifest() {
    let text = format!(r#"{{"rootfs": {{"diff_ids": ["{}"]}}}}"#, digest(1));
    assert!(ImageConfig::read(&digest(9), text.as_bytes(), 1).is_ok());
    let error = ImageConfig::read(&digest(9), text.as_bytes(), 2)
        .unwrap_err()
        .to_string();
    assert!(error.contains("2 layers, but 1 diff ids"), "{error}");
    let text = r#"{"os": "windows", "architecture": "amd64", "rootfs": {"diff_ids": []}}"#;
    let error = ImageConfig::read(&digest(9), text.as_bytes(), 0)
        .unwrap_err()
        .to_string();
    assert!(error.contains("windows/amd64"), "{error}");
}

/// JSON that is near enough to a document to get past the first checks.
fn near_documents() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<i64>().prop_map(Into::into),
        any::<bool>().prop_map(Into::into),
        Just(serde_json::json!(Digest::of(b""))),
        Just(serde_json::json!(OCI_MANIFEST)),
        Just(serde_json::json!(OCI_INDEX)),
        Just(serde_json::json!(OCI_LAYER)),
        ".{0,12}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        let key = prop::sample::select(vec![
            "mediaType",
            "schemaVersion",
            "manifests",
            "layers",
            "config",
            "digest",
            "size",
            "platform",
            "os",
            "architecture",
            "rootfs",
            "diff_ids",
            "Env",
            "annotations",
        ]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::hash_map(key.prop_map(str::to_owned), inner, 0..8)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Document::read("app", &bytes);
        let _ = ImageConfig::read(&digest(1), &bytes, 1);
    }

    #[test]
    fn whatever_is_read_can_be_unpacked_and_has_sound_sizes(document in near_documents()) {
        let bytes = document.to_string().into_bytes();
        match Document::read("app", &bytes) {
            Ok((Document::Manifest(manifest), _)) => {
                prop_assert!(manifest.layers.iter().all(|layer| as_unpacked(layer).is_some()));
                prop_assert!(manifest.layers.iter().all(|layer| i64::try_from(layer.size).is_ok()));
                let _ = manifest.size();
            }
            Ok((Document::Index(index), _)) => {
                let found = index.choices(Host::here()).is_ok_and(|choices| choices.is_empty());
                prop_assert!(!found, "a choice is never empty");
            }
            Err(_) => {}
        }
        let _ = ImageConfig::read(&digest(1), &bytes, 0);
    }
}
