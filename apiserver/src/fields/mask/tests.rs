use clone8s::v1::{Container, Node, NodeSpec, ObjectMeta, Pod, PodSpec, ResourceRequirements};
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
