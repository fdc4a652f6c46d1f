use std::sync::atomic::{AtomicU64, Ordering};

use clone8s::cri::PodSandboxConfig;
use rstest::rstest;

use super::*;
use crate::{
    clock::Clock,
    pod::testing::{container, pod},
    runtime::fake::{FakeRuntime, ImageBehavior},
};

const MINUTE: Duration = Duration::from_mins(1);

fn image(id: &str, size: u64) -> Image {
    Image {
        id: id.to_owned(),
        repo_tags: vec![format!("{id}:1")],
        repo_digests: vec![format!("{id}@sha256:0")],
        size,
        ..Default::default()
    }
}

fn used(ids: &[&str]) -> BTreeSet<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

/// Looks once a minute at four images, of which each look names the ones in use; then says which go.
fn gone(looks: &[&[&str]], policy: &ImagePolicy, excess: u64) -> Vec<String> {
    let images = ["a", "b", "c", "d"].map(|id| image(id, 10));
    let start = Instant::now();
    let mut known = Known::default();
    let mut now = start;
    for (minute, in_use) in (0..).zip(looks) {
        now = start + MINUTE * minute;
        known.note(&images, &used(in_use), now);
    }
    let gone = known.to_go(&images, policy, excess, now);
    gone.into_iter().map(|image| image.id.clone()).collect()
}

#[rstest]
#[case::room_enough(0, &[])]
#[case::one_is_enough(10, &["c"])]
#[case::in_the_order_of_their_last_use(21, &["c", "b", "a"])]
#[case::what_is_used_stays(1_000, &["c", "b", "a"])]
fn on_a_full_disk_the_longest_unused_goes_first(#[case] excess: u64, #[case] expected: &[&str]) {
    let looks: &[&[&str]] = &[
        &["a", "b", "c", "d"],
        &["a", "b", "d"],
        &["a", "d"],
        &["d"],
        &["d"],
    ];
    assert_eq!(gone(looks, &ImagePolicy::default(), excess), expected);
}

#[test]
fn what_is_unused_for_long_goes_with_room_enough() {
    let policy = ImagePolicy {
        max_age: Some(3 * MINUTE),
        ..ImagePolicy::default()
    };
    let looks: &[&[&str]] = &[&["a", "b"], &["b"], &["b"], &["b", "d"], &["d"]];
    assert_eq!(gone(looks, &policy, 0), ["a", "c"]);
}

#[test]
fn what_is_new_or_pinned_or_from_an_archive_stays() {
    let mut pinned = image("pinned", 10);
    pinned.pinned = true;
    let mut archive = image("archive", 10);
    archive.repo_digests.clear();
    let old = [image("old", 10), pinned, archive];
    let all = [&old[..], &[image("new", 10)]].concat();
    let start = Instant::now();
    let mut known = Known::default();
    known.note(&old, &used(&[]), start);
    let later = start + 2 * MINUTE;
    known.note(&all, &used(&[]), later);
    let gone = known.to_go(&all, &ImagePolicy::default(), 1_000, later);
    assert_eq!(gone, [&old[0]]);
}

#[test]
fn an_image_is_used_by_whatever_name_a_container_calls_it() {
    let images = [image("a", 10)];
    for name in ["a", "a:1", "a@sha256:0"] {
        let mut known = Known::default();
        known.note(&images, &used(&[name]), Instant::now());
        assert!(known.0["a"].is_used, "{name}");
    }
}

#[rstest]
#[case::below(849, 0)]
#[case::at_the_threshold(850, 50)]
#[case::full(1_000, 200)]
fn a_disk_is_emptied_from_the_high_to_the_low_threshold(#[case] used: u64, #[case] expected: u64) {
    let disk = Disk {
        capacity: 1_000,
        used,
    };
    assert_eq!(ImagePolicy::default().excess(disk), expected);
    let none = Disk { capacity: 0, used: 0 };
    assert_eq!(ImagePolicy::default().excess(none), 0);
}

#[test]
fn the_disk_of_a_folder_can_be_read() {
    let disk = read_disk(Path::new("/")).unwrap();
    assert!(disk.capacity > 0 && disk.used <= disk.capacity);
}

#[tokio::test(start_paused = true)]
async fn images_go_while_the_disk_is_full_and_never_one_that_a_pod_waits_for() {
    static USED: AtomicU64 = AtomicU64::new(100);
    let runtime = FakeRuntime::new(Clock::virtual_from(std::time::SystemTime::UNIX_EPOCH));
    for image in ["old:1", "wanted:1", "pending:1"] {
        runtime.add_image(
            image,
            ImageBehavior {
                size: 100,
                ..Default::default()
            },
        );
        runtime
            .pull_image(image, PodSandboxConfig::default(), None)
            .await
            .unwrap();
    }
    let desired = |complete| Desired {
        // None of them has a container yet.
        pods: Arc::new(
            [
                pod("p", vec![container("c", "wanted:1")]),
                pod("q", vec![container("c", "pending:1")]),
            ]
            .into_iter()
            .map(|pod| (pod.key(), pod))
            .collect(),
        ),
        complete,
    };
    let sources = watch::Sender::new(desired(false));
    let mut collector = Collector::new(
        ImagePolicy::default(),
        Arc::new(runtime.clone()),
        sources.subscribe(),
        crate::image_archives::none(),
    );
    collector.read_disk = |_| {
        Ok(Disk {
            capacity: 1_000,
            used: USED.load(Ordering::SeqCst),
        })
    };
    let shutdown = Shutdown::new();
    let mut running = tokio::task::JoinSet::new();
    running.spawn(collector.run(shutdown.clone()));
    let removed = || -> Vec<String> {
        let calls = runtime.calls();
        calls
            .into_iter()
            .filter(|call| call.starts_with("RemoveImage"))
            .collect()
    };
    tokio::time::sleep(10 * MINUTE).await;
    USED.store(1_000, Ordering::SeqCst);
    tokio::time::sleep(10 * MINUTE).await;
    assert_eq!(removed(), [""; 0], "nothing goes before all sources have spoken");
    sources.send_replace(desired(true));
    tokio::time::sleep(10 * MINUTE).await;
    assert_eq!(removed(), ["RemoveImage sha256:old:1"]);
    shutdown.cancel();
    running.join_next().await.unwrap().unwrap().unwrap();
}
