use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use clone8s::{
    object::Object as _,
    v1::{
        ListPodsResponse, WatchEventType,
        pod_service_server::{PodService, PodServiceServer},
    },
};
use tokio::{sync::watch, task::JoinSet, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, codegen::BoxStream, transport::Server};

use super::*;
use crate::{
    desired::Source,
    sources::{
        fixtures::{NODE, image, stored},
        view::Views,
    },
};

const SOON: Duration = Duration::from_secs(20);

/// What one apiserver process answers.
#[derive(Clone, Default)]
struct Apiserver {
    state: Arc<Mutex<Script>>,
}

#[derive(Default)]
struct Script {
    pods: Vec<Pod>,
    revision: i64,
    /// The revisions that watches asked for.
    watched_from: Vec<i64>,
    lists: usize,
    /// What a watch from before this revision gets.
    compacted: i64,
    events: Option<mpsc::Sender<Result<WatchPodsResponse, Status>>>,
}

impl Apiserver {
    fn lock(&self) -> MutexGuard<'_, Script> {
        self.state.lock().unwrap()
    }

    fn holds(&self, revision: i64, pods: &[(&str, &str, i64)]) {
        let mut state = self.lock();
        state.revision = revision;
        state.pods = pods
            .iter()
            .map(|(name, image, revision)| stored(name, image, *revision))
            .collect();
    }

    async fn send(&self, kind: WatchEventType, name: &str, image: &str, revision: i64) {
        self.send_pod(kind, stored(name, image, revision), revision).await;
    }

    async fn send_pod(&self, kind: WatchEventType, pod: Pod, revision: i64) {
        let events = self.lock().events.clone().expect("a watch is open");
        let event = WatchPodsResponse {
            r#type: kind.into(),
            pod: Some(pod),
            resource_version: revision,
            previous: None,
        };
        events.send(Ok(event)).await.unwrap();
    }
}

#[tonic::async_trait]
impl PodService for Apiserver {
    async fn list_pods(
        &self,
        request: Request<ListPodsRequest>,
    ) -> Result<Response<ListPodsResponse>, Status> {
        let request = request.into_inner();
        assert_eq!(request.field_selector, "spec.nodeName=node-1");
        let mut state = self.lock();
        // Two pods a page, so that every list of more has several.
        let from: usize = request.page_token.parse().unwrap_or(0);
        state.lists += usize::from(from == 0);
        let pods: Vec<Pod> = state.pods.iter().skip(from).take(2).cloned().collect();
        let next = from + pods.len();
        Ok(Response::new(ListPodsResponse {
            pods,
            next_page_token: if next < state.pods.len() {
                next.to_string()
            } else {
                String::new()
            },
            resource_version: state.revision,
        }))
    }

    async fn watch_pods(
        &self,
        request: Request<WatchPodsRequest>,
    ) -> Result<Response<BoxStream<WatchPodsResponse>>, Status> {
        let request = request.into_inner();
        assert_eq!(request.field_selector, "spec.nodeName=node-1");
        let mut state = self.lock();
        state.watched_from.push(request.resource_version);
        if request.resource_version < state.compacted {
            return Err(Status::out_of_range("compacted"));
        }
        let (sender, receiver) = mpsc::channel(16);
        state.events = Some(sender);
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

struct Fixture {
    dir: tempfile::TempDir,
    apiserver: Apiserver,
    hints: mpsc::Sender<HintDelivery>,
    views: watch::Receiver<Views>,
    mirrors: watch::Receiver<Option<Mirrors>>,
    _api: watch::Sender<Option<Channel>>,
    server: JoinSet<()>,
    source: JoinSet<()>,
}

impl Fixture {
    fn start(dir: tempfile::TempDir, apiserver: Apiserver) -> Self {
        let checkpoint = Checkpoint::open(dir.path().join("api")).unwrap();
        let (sender, views) = watch::channel(Views::of(&[Source::Api]));
        let view = ViewSender::new(Source::Api, Arc::new(sender));
        let (hints, hinted) = mpsc::channel(1);
        let (api, api_receiver) =
            watch::channel(Some(clone8s_daemon::unix::channel(socket(dir.path())).into()));
        let (mirrors_sender, mirrors) = watch::channel(None);
        let source = ApiSource::new(NODE, api_receiver, Some(hinted), checkpoint, view, mirrors_sender);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            source.run(Shutdown::new()).await.unwrap();
        });
        Self {
            dir,
            apiserver,
            hints,
            views,
            mirrors,
            _api: api,
            server: JoinSet::new(),
            source: tasks,
        }
    }

    async fn serve(&mut self) {
        let incoming = clone8s_daemon::unix::listen(&socket(self.dir.path()))
            .await
            .unwrap();
        let server = Server::builder().add_service(PodServiceServer::new(self.apiserver.clone()));
        self.server
            .spawn(async move { server.serve_with_incoming(incoming).await.unwrap() });
    }

    /// As if the process were killed.
    async fn kill_apiserver(&mut self) {
        self.apiserver.lock().events = None;
        self.server.shutdown().await;
    }

    async fn until_it_runs(&mut self, expected: &[&str]) {
        let running = |views: &Views| -> Vec<String> {
            views
                .api
                .pods
                .values()
                .map(|pod| format!("{}={}", pod.name(), image(pod)))
                .collect()
        };
        let wait = self.views.wait_for(|views| running(views) == expected);
        let seen = timeout(SOON, wait).await.is_ok();
        let last = running(&self.views.borrow());
        assert!(seen, "expected {expected:?}, last seen {last:?}");
    }

    async fn until_watched(&self, times: usize) {
        let watching = async {
            while self.apiserver.lock().watched_from.len() < times || self.apiserver.lock().events.is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(SOON, watching).await.expect("a watch");
    }

    /// Returns when the hint is on disk.
    async fn hint(&self, change: HintedChange, name: &str, image: &str, revision: i64) {
        let hint = Hint {
            pod: Arc::new(stored(name, image, revision)),
            revision,
            change,
        };
        let (checkpointed, answer) = oneshot::channel();
        self.hints
            .send(HintDelivery { hint, checkpointed })
            .await
            .unwrap();
        timeout(SOON, answer).await.expect("an answer").unwrap();
    }
}

fn socket(dir: &Path) -> PathBuf {
    dir.join("api.sock")
}

async fn started(revision: i64, pods: &[(&str, &str, i64)]) -> Fixture {
    let apiserver = Apiserver::default();
    apiserver.holds(revision, pods);
    let mut fixture = Fixture::start(tempfile::tempdir().unwrap(), apiserver);
    fixture.serve().await;
    fixture
}

#[tokio::test]
async fn a_list_that_no_watch_can_follow_is_not_made_without_end() {
    let fixture = started(7, &[("a", "one", 2)]).await;
    fixture.apiserver.lock().compacted = i64::MAX;
    let listed = async {
        while fixture.apiserver.lock().lists < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, listed).await.expect("it is tried again");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let lists = fixture.apiserver.lock().lists;
    assert!(lists <= 10, "{lists} lists within a second");
}

#[tokio::test]
async fn a_pod_that_cannot_be_this_nodes_is_passed_over_and_disturbs_no_other() {
    let strange = [
        edited(|pod| pod.metadata_mut().name = "../../etc".to_owned()),
        edited(|pod| pod.metadata_mut().uid = "../../etc".to_owned()),
        edited(|pod| pod.metadata_mut().uid.clear()),
        edited(|pod| pod.metadata_mut().namespace = "a/b".to_owned()),
        edited(|pod| pod.spec.get_or_insert_default().node_name = "node-2".to_owned()),
        Pod::default(),
    ];
    let apiserver = Apiserver::default();
    apiserver.holds(9, &[("a", "one", 2), ("b", "one", 3)]);
    apiserver.lock().pods.splice(1..1, strange.clone());
    let mut fixture = Fixture::start(tempfile::tempdir().unwrap(), apiserver);
    fixture.serve().await;
    fixture.until_it_runs(&["a=one", "b=one"]).await;
    fixture.until_watched(1).await;

    for (revision, pod) in (10..).zip(strange) {
        fixture
            .apiserver
            .send_pod(WatchEventType::Added, pod, revision)
            .await;
    }
    fixture
        .apiserver
        .send(WatchEventType::Added, "c", "one", 20)
        .await;
    fixture.until_it_runs(&["a=one", "b=one", "c=one"]).await;
    let files = std::fs::read_dir(fixture.dir.path().join("api")).unwrap().count();
    assert_eq!(files, 3);
    assert!(!fixture.dir.path().join("etc.pb").exists());
}

fn edited(edit: impl FnOnce(&mut Pod)) -> Pod {
    let mut pod = stored("strange", "one", 5);
    edit(&mut pod);
    pod
}

#[tokio::test]
async fn every_page_of_the_list_and_then_each_change_is_shown() {
    let mut fixture = started(9, &[("a", "one", 2), ("b", "one", 3), ("c", "one", 4)]).await;
    fixture.until_it_runs(&["a=one", "b=one", "c=one"]).await;
    assert!(fixture.views.borrow().api.spoken);
    fixture.until_watched(1).await;
    assert_eq!(fixture.apiserver.lock().watched_from, [9]);
    fixture
        .apiserver
        .send(WatchEventType::Modified, "a", "two", 10)
        .await;
    fixture
        .apiserver
        .send(WatchEventType::Deleted, "b", "one", 11)
        .await;
    fixture
        .apiserver
        .send(WatchEventType::Added, "d", "one", 12)
        .await;
    fixture.until_it_runs(&["a=two", "c=one", "d=one"]).await;
}

#[tokio::test]
async fn after_a_restart_of_the_apiserver_the_watch_goes_on_where_it_was() {
    let mut fixture = started(9, &[("a", "one", 2)]).await;
    fixture.until_watched(1).await;
    fixture
        .apiserver
        .send(WatchEventType::Modified, "a", "two", 10)
        .await;
    fixture.until_it_runs(&["a=two"]).await;
    fixture.kill_apiserver().await;
    fixture.serve().await;
    fixture.until_watched(2).await;
    let state = fixture.apiserver.lock();
    assert_eq!((state.watched_from.as_slice(), state.lists), (&[9, 10][..], 1));
}

#[tokio::test]
async fn a_watch_that_cannot_go_on_is_followed_by_a_list_which_drops_what_is_gone() {
    let mut fixture = started(9, &[("a", "one", 2), ("b", "one", 3)]).await;
    fixture.until_watched(1).await;
    fixture.kill_apiserver().await;
    fixture.apiserver.holds(50, &[("b", "one", 3)]);
    fixture.apiserver.lock().compacted = 40;
    fixture.serve().await;
    fixture.until_it_runs(&["b=one"]).await;
    fixture.until_watched(3).await;
    assert_eq!(fixture.apiserver.lock().watched_from, [9, 9, 50]);
}

#[tokio::test]
async fn hints_count_while_the_apiserver_is_away_and_survive_a_restart_of_the_kubelet() {
    let mut fixture = started(9, &[("a", "one", 2)]).await;
    fixture.until_watched(1).await;
    fixture.kill_apiserver().await;
    fixture.hint(HintedChange::Put, "a", "two", 11).await;
    fixture.hint(HintedChange::Put, "b", "one", 12).await;
    fixture.hint(HintedChange::Put, "old", "one", 5).await;
    fixture.until_it_runs(&["a=two", "b=one"]).await;

    fixture.source.shutdown().await;
    let mut restarted = Fixture::start(fixture.dir, fixture.apiserver);
    restarted.until_it_runs(&["a=two", "b=one"]).await;
    assert!(
        restarted.views.borrow().api.spoken,
        "an intact checkpoint is all that was wanted"
    );
    // The list has the last word: "b" was deleted in the meantime.
    restarted.apiserver.holds(20, &[("a", "two", 11)]);
    restarted.serve().await;
    restarted.until_it_runs(&["a=two"]).await;
}

#[tokio::test]
async fn without_a_checkpoint_nothing_is_said_until_the_apiserver_answers() {
    let apiserver = Apiserver::default();
    apiserver.holds(9, &[]);
    let mut fixture = Fixture::start(tempfile::tempdir().unwrap(), apiserver);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!fixture.views.borrow().api.spoken);
    fixture.serve().await;
    timeout(SOON, fixture.views.wait_for(|views| views.api.spoken))
        .await
        .expect("a list")
        .unwrap();
}

#[tokio::test]
async fn a_mirror_is_shown_as_such_and_never_run_nor_kept() {
    let apiserver = Apiserver::default();
    apiserver.holds(5, &[("a", "one", 3)]);
    let mut fixture = Fixture::start(tempfile::tempdir().unwrap(), apiserver);
    assert_eq!(*fixture.mirrors.borrow(), None);
    fixture.serve().await;
    fixture.until_it_runs(&["a=one"]).await;
    let none = timeout(SOON, fixture.mirrors.wait_for(Option::is_some)).await;
    assert!(none.unwrap().unwrap().as_ref().unwrap().is_empty());

    fixture.until_watched(1).await;
    let mut mirror = stored("web-node-1", "one", 6);
    mirror
        .metadata_mut()
        .annotations
        .insert(clone8s::mirror::MIRROR.to_owned(), "u1".to_owned());
    fixture.apiserver.send_pod(WatchEventType::Added, mirror, 6).await;
    let shown = timeout(
        SOON,
        fixture
            .mirrors
            .wait_for(|mirrors| mirrors.as_ref().is_some_and(|mirrors| !mirrors.is_empty())),
    );
    let key = PodKey::new("default", "web-node-1");
    assert!(shown.await.unwrap().unwrap().as_ref().unwrap().contains_key(&key));
    fixture.apiserver.send(WatchEventType::Added, "b", "two", 7).await;
    fixture.until_it_runs(&["a=one", "b=two"]).await;
    let kept = Checkpoint::open(fixture.dir.path().join("api")).unwrap();
    assert!(!kept.pods().contains_key(&key));
}
