use clone8s::v1::{Container, Node, NodeSpec, ObjectMeta, Pod, PodSpec, ResourceRequirements};
use proptest::prelude::*;
use rstest::rstest;

use super::*;

fn mask<K: Kind>(paths: &[&str]) -> Result<Option<Mask<K>>, ApiError> {
    Mask::parse(Some(&FieldMask {
        paths: paths.iter().map(ToString::to_string).collect(),
    }))
}

fn pod(labels: &[(&str, &str)], image: &str) -> Pod {
    Pod {
        metadata: Some(ObjectMeta {
            name: "web".into(),
            labels: labels
                .iter()
                .map(|(key, value)| ((*key).into(), (*value).into()))
                .collect(),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            containers: vec![Container {
                name: "main".into(),
                image: image.into(),
                resources: Some(ResourceRequirements::default()),
                ..Container::default()
            }],
            restart_policy: "Always".into(),
            ..PodSpec::default()
        }),
        status: None,
    }
}

fn over(paths: &[&str], given: &Pod, current: &Pod) -> Pod {
    mask::<Pod>(paths).unwrap().unwrap().over(given, current).unwrap()
}

#[test]
fn what_is_named_changes_and_nothing_else() {
    let current = pod(&[("app", "a"), ("team", "x")], "old");
    let given = pod(&[("app", "b")], "new");
    assert_eq!(
        over(&["metadata.labels"], &given, &current),
        pod(&[("app", "b")], "old")
    );
    assert_eq!(
        over(&["metadata.labels.app"], &given, &current),
        pod(&[("app", "b"), ("team", "x")], "old")
    );
    assert_eq!(
        over(&["metadata.labels.team", "spec.containers"], &given, &current),
        pod(&[("app", "a")], "new")
    );
}

#[test]
fn what_the_object_leaves_out_becomes_unset() {
    let current = pod(&[("app", "a")], "old");
    let mut expected = current.clone();
    expected.spec.as_mut().unwrap().restart_policy.clear();
    let given = Pod::default();
    assert_eq!(over(&["spec.restartPolicy"], &given, &current), expected);
    expected.spec = None;
    assert_eq!(over(&["spec"], &given, &current), expected);
    // A message that neither has is not made for it.
    let bare = Pod::default();
    assert_eq!(over(&["spec.node_selector"], &given, &bare), bare);
}

#[test]
fn a_key_with_dots_stands_in_backticks() {
    let given = pod(&[("example.com/app", "b")], "old");
    let current = pod(&[("example.com/app", "a"), ("x", "y")], "old");
    assert_eq!(
        over(&["metadata.labels.`example.com/app`"], &given, &current),
        pod(&[("example.com/app", "b"), ("x", "y")], "old")
    );
}

#[test]
fn both_spellings_of_a_name_are_taken() {
    let given = Node {
        spec: Some(NodeSpec { unschedulable: true }),
        ..Node::default()
    };
    let next = mask::<Node>(&["spec.unschedulable"])
        .unwrap()
        .unwrap()
        .over(&given, &Node::default())
        .unwrap();
    assert_eq!(next, given);
    for path in ["spec.node_selector", "spec.nodeSelector"] {
        assert!(mask::<Pod>(&[path]).is_ok());
    }
}

#[test]
fn an_empty_mask_and_a_star_name_everything() {
    assert!(Mask::<Pod>::parse(None).unwrap().is_none());
    assert!(mask::<Pod>(&[]).unwrap().is_none());
    assert!(mask::<Pod>(&["*"]).unwrap().is_none());
}

#[rstest]
#[case(
    "spec.contianers",
    "there is no field \"contianers\"; did you mean \"containers\"?"
)]
#[case("sepc", "did you mean \"spec\"?")]
#[case("spec.zzzzzzzzzzzz", "PodSpec has containers, ")]
#[case("spec.containers.image", "\"containers\" is changed as a whole")]
#[case("metadata.labels.a.b", "\"labels\" is changed as a whole")]
#[case(
    "metadata.uid",
    "an update does not change it; of the metadata it changes labels"
)]
#[case("status.phase", "UpdatePodStatus writes it")]
#[case("metadata.labels.`app", "without its end")]
#[case("", "there is no field \"\"")]
fn a_path_that_leads_nowhere_is_refused_by_name(#[case] path: &str, #[case] why: &str) {
    let error = mask::<Pod>(&["metadata.labels", path]).unwrap_err().to_string();
    assert!(
        error.contains(&format!("{path:?}")) && error.contains(why),
        "{error}"
    );
}

#[test]
fn a_path_without_end_is_refused_by_its_length() {
    let error = mask::<Pod>(&[&"a".repeat(1 << 20)]).unwrap_err().to_string();
    assert!(error.contains("a path of 1048576 bytes"), "{error}");
}

/// Paths that lead somewhere, nearly lead somewhere, or are no paths.
fn any_path() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "metadata",
        "spec",
        "status",
        "labels",
        "annotations",
        "containers",
        "restart_policy",
        "restartPolicy",
        "nodeSelector",
        "dnsConfig",
        "searches",
        "uid",
        "app",
        "`",
        ".",
        "*",
        "[0]",
        "\u{1F980}",
        " ",
        "",
    ]);
    prop_oneof![
        prop::collection::vec(words, 0..6).prop_map(|words| words.join(".")),
        "\\PC{0,40}",
    ]
}

proptest! {
    #[test]
    fn a_mask_of_any_paths_is_refused_by_its_field_or_changes_an_object_once(
        paths in prop::collection::vec(any_path(), 0..5),
        images in ("[a-z]{1,3}", "[a-z]{1,3}"),
        labels in ("[a-z]{1,3}", "[a-z]{1,3}"),
    ) {
        let paths: Vec<_> = paths.iter().map(String::as_str).collect();
        match mask::<Pod>(&paths) {
            Ok(Some(mask)) => {
                let current = pod(&[("app", &labels.0)], &images.0);
                let given = pod(&[("app", &labels.1), ("more", "x")], &images.1);
                let once = mask.over(&given, &current).unwrap();
                prop_assert_eq!(&mask.over(&given, &once).unwrap(), &once);
                prop_assert_eq!(&mask.over(&current, &current).unwrap(), &current);
                // No mask reaches what the server alone writes.
                prop_assert_eq!(&once.status, &current.status);
                prop_assert_eq!(&once.metadata.unwrap().name, &current.metadata.unwrap().name);
            }
            Ok(None) => prop_assert!(paths.is_empty() || paths.contains(&"*")),
            Err(ApiError::Invalid { violations, .. }) => prop_assert_eq!(&violations[0].field, "update_mask"),
            Err(other) => prop_assert!(false, "{other}"),
        }
    }
}
