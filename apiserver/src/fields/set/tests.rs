use proptest::prelude::*;
use rstest::rstest;

use super::*;

fn set(text: &str) -> FieldSet {
    FieldSet::parse(text).unwrap()
}

#[rstest]
#[case("")]
#[case("metadata(labels([app],[example.com/tier])),spec(containers([web](image,name)),nodeName)")]
#[case("spec(containers([web](ports([80,TCP](containerPort)))))")]
#[case(r#"data([""],["\"\\"],["a]b"])"#)]
fn a_set_reads_what_it_writes(#[case] text: &str) {
    assert_eq!(set(text).to_string(), text);
}

#[rstest]
#[case("spec(")]
#[case("spec)")]
#[case("spec,")]
#[case("[a")]
#[case(r#"["a]"#)]
#[case("()")]
fn what_is_no_set_is_refused(#[case] text: &str) {
    assert_eq!(FieldSet::parse(text), None);
    let deep = "a(".repeat(DEEPEST + 2) + "b" + &")".repeat(DEEPEST + 2);
    assert_eq!(FieldSet::parse(&deep), None);
}

#[test]
fn removing_leaves_no_empty_places() {
    let mut own = set("metadata(labels([a],[b])),spec(nodeName)");
    own.remove(&set("metadata(labels([a],[b])),spec(hostname)"));
    assert_eq!(own, set("spec(nodeName)"));
    own.remove(&set("spec"));
    assert_eq!(own, FieldSet::default());
}

#[test]
fn what_sets_have_in_common_is_told_by_paths() {
    let own = set("metadata(labels([app])),spec(containers([web](env([A](value)),image)))");
    let theirs = set("metadata(labels([tier])),spec(containers([web](env([A](value,name)),args)))");
    assert_eq!(own.common(&theirs), ["spec.containers[web].env[A].value"]);
}

fn any_set() -> impl Strategy<Value = FieldSet> {
    let step = prop_oneof![
        "[a-c]{1,2}".prop_map(Step::Field),
        "[a-b\\]\"(,]{0,3}".prop_map(Step::Key),
    ];
    let leaf = Just(FieldSet::default());
    leaf.prop_recursive(4, 32, 4, move |inner| {
        prop::collection::btree_map(step.clone(), inner, 0..4).prop_map(|inner| FieldSet { inner })
    })
}

proptest! {
    #[test]
    fn any_set_reads_what_it_writes(own in any_set()) {
        prop_assert_eq!(FieldSet::parse(&own.to_string()), Some(own));
    }

    #[test]
    fn what_was_removed_is_no_longer_in_common(mut own in any_set(), other in any_set()) {
        own.remove(&other);
        prop_assert_eq!(other.common(&own), Vec::<String>::new());
    }

    #[test]
    fn adding_what_is_there_changes_nothing(own in any_set()) {
        let mut twice = own.clone();
        twice.add(&own);
        prop_assert_eq!(twice, own);
    }
}
