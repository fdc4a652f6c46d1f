use tokio::{task::JoinSet, time::timeout};

use super::*;
use crate::{
    clock::Clock,
    runtime::fake::{FakeRuntime, Fault},
};

const SOON: Duration = Duration::from_mins(10);

/// A kubelet's folder beside a runtime in memory, to which an archive is a text of its images' names.
struct Bench {
    dir: tempfile::TempDir,
    runtime: FakeRuntime,
    images: watch::Receiver<ArchiveImages>,
    _running: JoinSet<()>,
}

impl Bench {
    fn start(prepare: impl FnOnce(&Path, &FakeRuntime)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = FakeRuntime::new(Clock::Wall);
        prepare(dir.path(), &runtime);
        let (folder, images) = ArchiveFolder::new(dir.path().to_owned(), Arc::new(runtime.clone()));
        let mut running = JoinSet::new();
        running.spawn(async move { folder.run(Shutdown::new()).await.unwrap() });
        Self {
            dir,
            runtime,
            images,
            _running: running,
        }
    }

    async fn until(&mut self, names: &[&str]) {
        let wait = self
            .images
            .wait_for(|images| images.settled && images.names.iter().eq(names));
        let seen = timeout(SOON, wait).await.is_ok();
        assert!(seen, "expected {names:?}, last seen {:?}", self.images.borrow());
    }

    fn imports(&self) -> usize {
        let calls = self.runtime.calls();
        calls
            .iter()
            .filter(|call| call.starts_with("ImportImageArchive"))
            .count()
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_in_the_folder_is_loaded_once_and_what_comes_later_too() {
    let mut bench = Bench::start(|dir, _| {
        fs::write(dir.join("a.tar"), "one:1\ntwo:1").unwrap();
        fs::write(dir.join(".b.tar"), "hidden:1").unwrap();
        fs::write(dir.join("notes.txt"), "no archive").unwrap();
    });
    bench.until(&["one:1", "two:1"]).await;
    fs::write(bench.dir.path().join("b.tar.gz"), "three:1").unwrap();
    bench.until(&["one:1", "three:1", "two:1"]).await;
    assert_eq!(bench.imports(), 2);
    // What is listed no more is nobody's to keep.
    fs::remove_file(bench.dir.path().join("a.tar")).unwrap();
    bench.until(&["three:1"]).await;
    assert_eq!(bench.imports(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_broken_archive_holds_up_no_other_and_is_tried_again_when_it_changes() {
    let mut bench = Bench::start(|dir, _| {
        fs::write(dir.join("a.tar"), "").unwrap();
        fs::write(dir.join("b.tar"), "two:1").unwrap();
    });
    bench.until(&["two:1"]).await;
    fs::write(bench.dir.path().join("a.tar"), "one:1").unwrap();
    bench.until(&["one:1", "two:1"]).await;
}

#[tokio::test(start_paused = true)]
async fn another_runtime_takes_none_and_nothing_is_waited_for() {
    let mut bench = Bench::start(|dir, runtime| {
        fs::write(dir.join("a.tar"), "one:1").unwrap();
        let unknown = RuntimeError {
            call: "ImportImageArchive",
            reason: RuntimeErrorReason::Unimplemented,
            message: "unknown service".to_owned(),
        };
        runtime.inject("ImportImageArchive", Fault::Fail(unknown));
    });
    bench.until(&[]).await;
    assert_eq!(bench.imports(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_is_away_is_asked_again_before_anything_is_missed() {
    let mut bench = Bench::start(|dir, runtime| {
        fs::write(dir.join("a.tar"), "one:1").unwrap();
        let away = RuntimeError {
            call: "ImportImageArchive",
            reason: RuntimeErrorReason::Unavailable,
            message: "nobody answers".to_owned(),
        };
        runtime.inject("ImportImageArchive", Fault::Fail(away));
    });
    bench.until(&["one:1"]).await;
    assert_eq!(bench.imports(), 2);
}
