use std::time::Duration;

use super::*;
use crate::sources::fixtures::{NODE, image};

fn now(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn manifest(name: &str, image: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n  containers:\n  - name: main\n    image: {image}\n"
    )
}

fn folder(files: &[(&str, &str)]) -> BTreeMap<FileName, Content> {
    let bytes = |text: &str| Content::Bytes(text.as_bytes().to_vec());
    files
        .iter()
        .map(|(name, text)| ((*name).to_owned(), bytes(text)))
        .collect()
}

fn new() -> Manifests {
    Manifests::new(NODE, BTreeMap::new())
}

fn running(manifests: &Manifests) -> Vec<(&str, &str, &str)> {
    manifests
        .pods()
        .iter()
        .map(|(key, saved)| (key.name.as_str(), image(&saved.pod), saved.origin.as_str()))
        .collect()
}

fn uid_of(manifests: &Manifests, name: &str) -> String {
    manifests.pods()[&PodKey::new("default", name)]
        .pod
        .uid()
        .to_owned()
}

#[test]
fn a_file_added_changed_and_removed_is_a_pod_added_changed_and_removed() {
    let mut manifests = new();
    assert_eq!(
        manifests.scanned(folder(&[("a.yaml", &manifest("a", "one"))]), now(1)),
        []
    );
    assert_eq!(running(&manifests), [("a", "one", "a.yaml")]);
    let uid = uid_of(&manifests, "a");

    manifests.scanned(folder(&[("a.yaml", &manifest("a", "two"))]), now(2));
    assert_eq!(running(&manifests), [("a", "two", "a.yaml")]);
    assert_eq!(uid_of(&manifests, "a"), uid, "a change is an update in place");
    let meta = manifests
        .pods()
        .values()
        .next()
        .unwrap()
        .pod
        .metadata
        .clone()
        .unwrap();
    assert_eq!(meta.generation, 2);
    assert_eq!(meta.creation_timestamp.unwrap().seconds, 1);

    manifests.scanned(folder(&[]), now(3));
    assert_eq!(running(&manifests), []);
}

#[test]
fn several_documents_are_several_pods_and_one_taken_out_stops_alone() {
    let mut manifests = new();
    let both = format!("{}---\n{}", manifest("a", "one"), manifest("b", "one"));
    manifests.scanned(folder(&[("both.yaml", &both)]), now(1));
    assert_eq!(
        running(&manifests),
        [("a", "one", "both.yaml"), ("b", "one", "both.yaml")]
    );
    manifests.scanned(folder(&[("both.yaml", &manifest("b", "one"))]), now(2));
    assert_eq!(running(&manifests), [("b", "one", "both.yaml")]);
}

#[test]
fn a_broken_file_keeps_its_last_good_pods_and_is_reported_once_for_each_content() {
    let mut manifests = new();
    manifests.scanned(folder(&[("a.yaml", &manifest("a", "one"))]), now(1));
    let broken = folder(&[("a.yaml", "kind: Pod\nspec: [")]);
    let notices = manifests.scanned(broken.clone(), now(2));
    assert!(
        matches!(&notices[..], [Notice::Broken { file, kept: 1, .. }] if file == "a.yaml"),
        "{notices:?}"
    );
    assert_eq!(running(&manifests), [("a", "one", "a.yaml")]);
    assert_eq!(manifests.scanned(broken, now(3)), []);

    let otherwise = folder(&[("a.yaml", "kind: Pod\nspec: [ ")]);
    assert_eq!(manifests.scanned(otherwise, now(4)).len(), 1);
    let mended = manifests.scanned(folder(&[("a.yaml", &manifest("a", "two"))]), now(5));
    assert_eq!(
        mended,
        [Notice::Mended {
            file: "a.yaml".into()
        }]
    );
    assert_eq!(running(&manifests), [("a", "two", "a.yaml")]);
}

#[test]
fn a_file_that_was_emptied_keeps_its_pods_and_only_its_removal_stops_them() {
    let mut manifests = new();
    manifests.scanned(folder(&[("a.yaml", &manifest("a", "one"))]), now(1));
    let notices = manifests.scanned(folder(&[("a.yaml", "# nothing\n")]), now(2));
    assert!(matches!(&notices[..], [Notice::Broken { .. }]), "{notices:?}");
    assert_eq!(running(&manifests), [("a", "one", "a.yaml")]);
}

#[test]
fn a_renamed_file_keeps_its_pod_as_it_is() {
    let mut manifests = new();
    manifests.scanned(folder(&[("a.yaml", &manifest("a", "one"))]), now(1));
    let before = manifests.pods().values().next().unwrap().pod.clone();
    manifests.scanned(folder(&[("z.yaml", &manifest("a", "one"))]), now(2));
    assert!(Arc::ptr_eq(
        &before,
        &manifests.pods().values().next().unwrap().pod
    ));
    assert_eq!(running(&manifests), [("a", "one", "z.yaml")]);
}

#[test]
fn of_two_files_with_one_pod_the_first_by_name_runs_and_the_other_takes_over_when_it_goes() {
    let mut manifests = new();
    let (first, second) = (manifest("a", "one"), manifest("a", "two"));
    let both = folder(&[("10-a.yaml", &first), ("20-a.yaml", &second)]);
    let notices = manifests.scanned(both.clone(), now(1));
    let duplicate = Notice::Duplicate {
        key: PodKey::new("default", "a"),
        runs: "10-a.yaml".into(),
        ignored: "20-a.yaml".into(),
    };
    assert_eq!(notices, [duplicate]);
    assert_eq!(running(&manifests), [("a", "one", "10-a.yaml")]);
    assert_eq!(manifests.scanned(both, now(2)), [], "said once");
    let uid = uid_of(&manifests, "a");
    manifests.scanned(folder(&[("20-a.yaml", &second)]), now(3));
    assert_eq!(running(&manifests), [("a", "two", "20-a.yaml")]);
    assert_eq!(uid_of(&manifests, "a"), uid);
}

#[test]
fn a_pod_that_was_removed_and_comes_back_is_another_pod() {
    let mut manifests = new();
    let present = folder(&[("a.yaml", &manifest("a", "one"))]);
    manifests.scanned(present.clone(), now(1));
    let first = uid_of(&manifests, "a");
    manifests.scanned(folder(&[]), now(2));
    manifests.scanned(present, now(3));
    assert_ne!(uid_of(&manifests, "a"), first);
}

#[test]
fn a_restart_keeps_every_uid_with_the_checkpoint_and_without_it() {
    let present = folder(&[("a.yaml", &manifest("a", "one"))]);
    let mut first = new();
    first.scanned(present.clone(), now(1));
    let mut restarted = Manifests::new(NODE, first.pods().clone());
    restarted.scanned(present.clone(), now(9));
    assert_eq!(restarted.pods(), first.pods());

    let mut without = new();
    without.scanned(present, now(9));
    assert_eq!(uid_of(&without, "a"), uid_of(&first, "a"));
}

#[test]
fn after_a_restart_a_broken_file_still_has_its_last_good_version_and_a_removed_one_has_not() {
    let mut first = new();
    let two = folder(&[
        ("a.yaml", &manifest("a", "one")),
        ("b.yaml", &manifest("b", "one")),
    ]);
    first.scanned(two, now(1));
    let mut restarted = Manifests::new(NODE, first.pods().clone());
    restarted.scanned(folder(&[("a.yaml", "kind: [")]), now(2));
    assert_eq!(running(&restarted), [("a", "one", "a.yaml")]);
}

#[test]
fn a_file_that_is_being_written_or_cannot_be_read_stays_as_it_was() {
    let mut manifests = new();
    manifests.scanned(folder(&[("a.yaml", &manifest("a", "one"))]), now(1));
    let one = |content| BTreeMap::from([("a.yaml".to_owned(), content)]);
    assert_eq!(manifests.scanned(one(Content::Unsettled), now(2)), []);
    assert_eq!(running(&manifests), [("a", "one", "a.yaml")]);
    let unreadable = one(Content::Unreadable("permission denied".into()));
    assert_eq!(manifests.scanned(unreadable.clone(), now(3)).len(), 1);
    assert_eq!(manifests.scanned(unreadable, now(4)), []);
    assert_eq!(running(&manifests), [("a", "one", "a.yaml")]);
    let mended = manifests.scanned(folder(&[("a.yaml", &manifest("a", "one"))]), now(5));
    assert_eq!(
        mended,
        [Notice::Mended {
            file: "a.yaml".into()
        }]
    );
}

#[test]
fn a_new_file_that_is_being_written_does_not_run_yet() {
    let mut manifests = new();
    let contents = BTreeMap::from([("a.yaml".to_owned(), Content::Unsettled)]);
    assert_eq!(manifests.scanned(contents, now(1)), []);
    assert_eq!(running(&manifests), []);
}
