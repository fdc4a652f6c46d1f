use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::sources::fixtures::pod;

fn saved(name: &str, image: &str) -> (PodKey, Saved) {
    let pod = Arc::new(pod(name, image));
    let origin = format!("{name}.yaml");
    (PodKey::of(&pod), Saved { pod, origin })
}

#[tokio::test]
async fn what_is_kept_is_there_after_a_restart_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("checkpoints/api");
    let mut checkpoint = Checkpoint::open(path.clone()).unwrap();
    assert!(checkpoint.is_new());
    let both = SavedPods::from([saved("a", "one"), saved("b", "one")]);
    checkpoint.keep(&both).await.unwrap();
    assert_eq!(Checkpoint::open(path.clone()).unwrap().pods(), &both);

    let changed = SavedPods::from([saved("b", "two")]);
    checkpoint.keep(&changed).await.unwrap();
    let restarted = Checkpoint::open(path).unwrap();
    assert_eq!(restarted.pods(), &changed);
    assert!(restarted.is_whole() && !restarted.is_new());
}

#[tokio::test]
async fn when_a_pod_goes_the_revision_that_was_told_stays() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    let mut checkpoint = Checkpoint::open(path.clone()).unwrap();
    let both = SavedPods::from([saved("a", "one"), saved("b", "one")]);
    checkpoint.keep_at(&both, 7).await.unwrap();
    assert_eq!(
        Checkpoint::open(path.clone()).unwrap().revision(),
        0,
        "none has gone"
    );
    let one = SavedPods::from([saved("b", "one")]);
    checkpoint.keep_at(&one, 9).await.unwrap();
    checkpoint.keep_at(&one, 11).await.unwrap();
    let restarted = Checkpoint::open(path.clone()).unwrap();
    assert_eq!((restarted.revision(), restarted.pods()), (9, &one));
    fs::write(path.join("revision"), "nine").unwrap();
    assert_eq!(Checkpoint::open(path).unwrap().revision(), 0);
}

#[tokio::test]
async fn files_are_for_their_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut checkpoint = Checkpoint::open(dir.path().join("queue")).unwrap();
    checkpoint
        .keep(&SavedPods::from([saved("a", "one")]))
        .await
        .unwrap();
    let mode = |path: &str| fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("queue/default_a.pb"), 0o600);
    assert_eq!(mode("queue"), 0o700);
}

#[tokio::test]
async fn every_broken_byte_of_a_file_sets_it_aside_and_spares_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    let mut checkpoint = Checkpoint::open(path.clone()).unwrap();
    checkpoint
        .keep(&SavedPods::from([saved("a", "one"), saved("b", "one")]))
        .await
        .unwrap();
    let file = path.join("default_a.pb");
    let whole = fs::read(&file).unwrap();
    // The origin stands at the end, outside of the checksum: it names a file for people.
    let checked = whole.len() - "a.yaml".len() - 2;
    for position in 0..checked {
        let mut broken = whole.clone();
        broken[position] ^= 0x55;
        fs::write(&file, &broken).unwrap();
        let restarted = Checkpoint::open(path.clone()).unwrap();
        assert_eq!(restarted.pods().len(), 1, "byte {position}");
        assert!(!restarted.is_whole(), "byte {position}");
        fs::remove_file(path.join("default_a.corrupt")).unwrap();
    }
    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    assert!(!Checkpoint::open(path).unwrap().is_whole());
}

#[tokio::test]
async fn saving_a_pod_anew_or_clearing_makes_the_checkpoint_whole_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    fs::write(path.join("default_a.pb"), "garbage").unwrap();
    fs::write(path.join("default_b.pb"), "garbage").unwrap();
    let mut checkpoint = Checkpoint::open(path.clone()).unwrap();
    assert!(!checkpoint.is_whole());
    // Still so after another restart: nobody has said what was in the files.
    assert!(!Checkpoint::open(path.clone()).unwrap().is_whole());

    checkpoint
        .keep(&SavedPods::from([saved("a", "one")]))
        .await
        .unwrap();
    assert!(!checkpoint.is_whole());
    assert!(!path.join("default_a.corrupt").exists() && path.join("default_b.corrupt").exists());
    checkpoint.clear_set_aside().await.unwrap();
    assert!(checkpoint.is_whole());
    assert!(Checkpoint::open(path).unwrap().is_whole());
}

#[tokio::test]
async fn a_write_that_a_crash_cut_short_leaves_the_version_before() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    let before = SavedPods::from([saved("a", "one")]);
    Checkpoint::open(path.clone())
        .unwrap()
        .keep(&before)
        .await
        .unwrap();
    fs::write(path.join("default_a.tmp"), "half").unwrap();
    let restarted = Checkpoint::open(path.clone()).unwrap();
    assert_eq!(restarted.pods(), &before);
    assert!(restarted.is_whole());
    assert!(!path.join("default_a.tmp").exists());
}

#[tokio::test]
async fn pods_that_come_and_go_together_are_all_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    let mut checkpoint = Checkpoint::open(path.clone()).unwrap();
    let many = |from: u32, to: u32| (from..to).map(|n| saved(&format!("pod-{n}"), "one")).collect();
    for wanted in [many(0, 100), many(50, 150), SavedPods::new()] {
        checkpoint.keep(&wanted).await.unwrap();
        assert_eq!(checkpoint.pods(), &wanted);
        assert_eq!(Checkpoint::open(path.clone()).unwrap().pods(), &wanted);
    }
}

#[tokio::test]
async fn a_disk_that_refuses_names_the_file_and_a_second_try_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api");
    let mut checkpoint = Checkpoint::open(path.clone()).unwrap();
    fs::remove_dir(&path).unwrap();
    let wanted = SavedPods::from([saved("a", "one")]);
    let error = checkpoint.keep(&wanted).await.unwrap_err();
    assert!(error.to_string().contains("default_a.pb"), "{error}");
    fs::create_dir(&path).unwrap();
    checkpoint.keep(&wanted).await.unwrap();
    assert_eq!(Checkpoint::open(path.clone()).unwrap().pods(), &wanted);

    // One that cannot be written keeps no other from the disk.
    let more = SavedPods::from([saved("a", "one"), saved("b", "one"), saved("c", "one")]);
    fs::create_dir(path.join("default_b.tmp")).unwrap();
    let error = checkpoint.keep(&more).await.unwrap_err();
    assert!(error.to_string().contains("default_b.pb"), "{error}");
    assert!(path.join("default_c.pb").exists());
    fs::remove_dir(path.join("default_b.tmp")).unwrap();
    checkpoint.keep(&more).await.unwrap();
    assert_eq!(Checkpoint::open(path).unwrap().pods(), &more);
}
