use std::{
    fs::{self, File},
    io::Write as _,
    sync::Arc,
    time::Duration,
};

use clone8s::{object::Object as _, v1::Pod};
use tokio::{sync::watch, task::JoinSet, time::timeout};

use super::*;
use crate::{
    desired::Source,
    sources::{
        fixtures::{NODE, image},
        view::Views,
    },
    watched_folder::{QUIET, RESCAN_WITHOUT_EVENTS},
};

/// Generous: the machine may be busy.
const SOON: Duration = Duration::from_secs(20);

struct Folder {
    root: tempfile::TempDir,
    views: watch::Receiver<Views>,
    tasks: JoinSet<Result<(), Infallible>>,
    shutdown: Shutdown,
}

impl Folder {
    fn start(root: tempfile::TempDir) -> Self {
        let checkpoint = Checkpoint::open(root.path().join("checkpoints/folder")).unwrap();
        let (sender, views) = watch::channel(Views::of(&[Source::Folder]));
        let view = ViewSender::new(Source::Folder, Arc::new(sender));
        let source = FolderSource::new(root.path().join("manifests"), NODE, checkpoint, view).unwrap();
        let shutdown = Shutdown::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(source.run(shutdown.clone()));
        Self {
            root,
            views,
            tasks,
            shutdown,
        }
    }

    async fn stop(mut self) -> tempfile::TempDir {
        self.shutdown.cancel();
        self.tasks.join_next().await.unwrap().unwrap().unwrap();
        self.root
    }

    fn path(&self, file: &str) -> PathBuf {
        self.root.path().join("manifests").join(file)
    }

    fn running(views: &Views) -> Vec<String> {
        let line = |pod: &Arc<Pod>| format!("{}={}", pod.name(), image(pod));
        views.folder.pods.values().map(line).collect()
    }

    async fn until_it_runs(&mut self, expected: &[&str]) {
        let wait = self
            .views
            .wait_for(|views| views.folder.spoken && Self::running(views) == expected);
        let seen = timeout(SOON, wait).await.is_ok();
        let last = Self::running(&self.views.borrow());
        assert!(seen, "expected {expected:?}, last seen {last:?}");
    }
}

fn manifest(name: &str, image: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n  containers:\n  - name: main\n    image: {image}\n"
    )
}

fn new_folder() -> Folder {
    Folder::start(tempfile::tempdir().unwrap())
}

#[tokio::test]
async fn files_come_change_and_go() {
    let mut folder = new_folder();
    folder.until_it_runs(&[]).await;
    fs::write(folder.path("a.yaml"), manifest("a", "one")).unwrap();
    fs::write(folder.path("b.json"), r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "b"}, "spec": {"containers": [{"name": "main", "image": "one"}]}}"#).unwrap();
    folder.until_it_runs(&["a=one", "b=one"]).await;
    fs::write(folder.path("a.yaml"), manifest("a", "two")).unwrap();
    folder.until_it_runs(&["a=two", "b=one"]).await;
    fs::remove_file(folder.path("b.json")).unwrap();
    folder.until_it_runs(&["a=two"]).await;
    // As an editor saves: write beside, rename over.
    fs::write(folder.path(".a.yaml.swp"), "editor's own").unwrap();
    fs::write(folder.path("a.yaml~"), manifest("backup", "one")).unwrap();
    fs::write(folder.path(".a.yaml.new"), manifest("a", "three")).unwrap();
    fs::rename(folder.path(".a.yaml.new"), folder.path("a.yaml")).unwrap();
    folder.until_it_runs(&["a=three"]).await;
}

#[tokio::test]
async fn a_file_is_read_when_its_writer_has_closed_it() {
    let mut folder = new_folder();
    folder.until_it_runs(&[]).await;
    let whole = format!("{}  - name: second\n    image: one\n", manifest("a", "one"));
    // The first half is a pod of its own, which must not run.
    let (half, rest) = whole.split_at(whole.len() - "  - name: second\n    image: one\n".len());
    let mut file = File::create(folder.path("a.yaml")).unwrap();
    file.write_all(half.as_bytes()).unwrap();
    file.sync_all().unwrap();
    tokio::time::sleep(QUIET * 4).await;
    assert_eq!(Folder::running(&folder.views.borrow()), Vec::<String>::new());
    file.write_all(rest.as_bytes()).unwrap();
    drop(file);
    folder.until_it_runs(&["a=one"]).await;
    let pod = folder.views.borrow().folder.pods.values().next().unwrap().clone();
    assert_eq!(pod.spec.as_ref().unwrap().containers.len(), 2);
}

#[tokio::test]
async fn a_restart_with_a_broken_file_keeps_its_pod_and_its_uid() {
    let mut folder = new_folder();
    fs::write(folder.path("a.yaml"), manifest("a", "one")).unwrap();
    folder.until_it_runs(&["a=one"]).await;
    let uid = folder
        .views
        .borrow()
        .folder
        .pods
        .values()
        .next()
        .unwrap()
        .uid()
        .to_owned();
    let root = folder.stop().await;

    fs::write(root.path().join("manifests/a.yaml"), "kind: [").unwrap();
    let mut folder = Folder::start(root);
    folder.until_it_runs(&["a=one"]).await;
    assert_eq!(
        folder.views.borrow().folder.pods.values().next().unwrap().uid(),
        uid
    );
}

#[tokio::test]
async fn a_folder_that_disappears_keeps_its_pods_and_one_that_comes_back_counts() {
    let mut folder = new_folder();
    fs::write(folder.path("a.yaml"), manifest("a", "one")).unwrap();
    folder.until_it_runs(&["a=one"]).await;
    let (here, away) = (folder.path(""), folder.root.path().join("away"));
    fs::rename(&here, &away).unwrap();
    tokio::time::sleep(RESCAN_WITHOUT_EVENTS * 2).await;
    folder.until_it_runs(&["a=one"]).await;

    fs::create_dir(&here).unwrap();
    fs::write(folder.path("b.yaml"), manifest("b", "one")).unwrap();
    folder.until_it_runs(&["b=one"]).await;
    // The new folder is watched like the old one.
    fs::write(folder.path("c.yaml"), manifest("c", "one")).unwrap();
    folder.until_it_runs(&["b=one", "c=one"]).await;
}

#[tokio::test]
async fn what_is_no_regular_file_is_passed_over() {
    let mut folder = new_folder();
    fs::create_dir(folder.path("folder.yaml")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        folder.path("pipe.yaml"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    std::os::unix::fs::symlink("nowhere", folder.path("link.yaml")).unwrap();
    fs::write(folder.path("a.yaml"), manifest("a", "one")).unwrap();
    folder.until_it_runs(&["a=one"]).await;
}

#[test]
fn a_file_in_the_folders_place_is_refused_by_its_path() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("manifests");
    fs::write(&path, "").unwrap();
    let checkpoint = Checkpoint::open(root.path().join("checkpoint")).unwrap();
    let view = ViewSender::new(Source::Folder, Arc::new(watch::Sender::new(Views::of(&[]))));
    let error = FolderSource::new(path, NODE, checkpoint, view).unwrap_err();
    assert!(matches!(error, FolderError::NotAFolder { .. }), "{error}");
}
