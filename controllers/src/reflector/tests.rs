use std::sync::{Arc, Mutex};

use clone8s::v1::{
    ObjectMeta, Pod, WatchPodsRequest, WatchPodsResponse,
    pod_service_server::{PodService, PodServiceServer},
};
use futures::{StreamExt as _, stream};
use hyper_util::rt::TokioIo;
use tonic::{
    Request, Response,
    transport::{Endpoint, Server},
};

use super::*;

/// Answers each watch with the next script, and remembers what it was asked for.
#[derive(Debug, Clone, Default)]
struct Scripted {
    scripts: Arc<Mutex<Vec<Script>>>,
    asked: Arc<Mutex<Vec<(i64, bool)>>>,
}

type Script = Vec<Result<WatchPodsResponse, Status>>;

#[tonic::async_trait]
impl PodService for Scripted {
    async fn watch_pods(
        &self,
        request: Request<WatchPodsRequest>,
    ) -> Result<Response<tonic::codegen::BoxStream<WatchPodsResponse>>, Status> {
        let request = request.into_inner();
        self.asked
            .lock()
            .unwrap()
            .push((request.resource_version, request.send_initial_state));
        let mut scripts = self.scripts.lock().unwrap();
        if scripts.is_empty() {
            // The last watch has nothing more to say, and stays open.
            return Ok(Response::new(Box::pin(stream::pending())));
        }
        Ok(Response::new(Box::pin(stream::iter(scripts.remove(0)))))
    }
}

#[allow(clippy::unnecessary_wraps)] // As the scripts take it.
fn frame(event: WatchEventType, name: &str, revision: i64) -> Result<WatchPodsResponse, Status> {
    let mut response = WatchPodsResponse {
        resource_version: revision,
        pod: (!name.is_empty()).then(|| pod(name)),
        ..WatchPodsResponse::default()
    };
    response.set_type(event);
    Ok(response)
}

fn pod(name: &str) -> Pod {
    Pod {
        metadata: Some(ObjectMeta {
            name: name.to_owned(),
            ..ObjectMeta::default()
        }),
        ..Pod::default()
    }
}

/// The first updates that a consumer gets of the scripts, and what the server was asked for until then.
async fn reflected(scripts: Vec<Script>, count: usize) -> (Vec<Update<Pod>>, Vec<(i64, bool)>) {
    let server = Scripted {
        scripts: Arc::new(Mutex::new(scripts)),
        ..Scripted::default()
    };
    let asked = Arc::clone(&server.asked);
    let (near, far) = tokio::io::duplex(1 << 16);
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        let incoming = stream::once(async { Ok::<_, std::io::Error>(far) }).chain(stream::pending());
        Server::builder()
            .add_service(PodServiceServer::new(server))
            .serve_with_incoming(incoming)
            .await
            .unwrap();
    });
    let mut near = Some(near);
    let channel =
        Endpoint::from_static("http://localhost").connect_with_connector_lazy(tower::service_fn(move |_| {
            let near = near.take().map(TokioIo::new);
            async move { near.ok_or_else(|| std::io::Error::other("connected twice")) }
        }));
    let (updates, mut received) = mpsc::channel(1);
    let shutdown = Shutdown::new();
    tasks.spawn(reflect::<Pod>(
        channel.into(),
        Query::default(),
        updates,
        shutdown.clone(),
    ));
    let mut seen = Vec::new();
    while seen.len() < count {
        seen.push(received.recv().await.unwrap());
    }
    // The reflector goes on to its next watch by itself.
    let expected = asked.lock().unwrap().len();
    shutdown.cancel();
    drop(received);
    let asked = asked.lock().unwrap()[..expected].to_vec();
    (seen, asked)
}

#[tokio::test]
async fn the_present_state_arrives_whole_and_changes_follow() {
    use WatchEventType::{Added, Bookmark, Deleted, Modified, Synced};
    let script = vec![
        frame(Added, "a", 3),
        frame(Added, "b", 5),
        frame(Synced, "", 7),
        frame(Modified, "a", 8),
        frame(Bookmark, "", 9),
        frame(Deleted, "b", 10),
    ];
    let (updates, asked) = reflected(vec![script], 3).await;
    assert_eq!(
        updates,
        [
            Update::Replaced(vec![pod("a"), pod("b")]),
            Update::Changed(pod("a")),
            Update::Deleted(pod("b")),
        ]
    );
    assert_eq!(asked[0], (0, true));
}

#[tokio::test]
async fn a_broken_watch_goes_on_after_the_last_revision() {
    use WatchEventType::{Bookmark, Modified, Synced};
    let first = vec![
        frame(Synced, "", 7),
        frame(Bookmark, "", 9),
        Err(Status::unavailable("restarting")),
    ];
    let second = vec![frame(Modified, "a", 12)];
    let third = vec![frame(Modified, "a", 13)];
    let (updates, asked) = reflected(vec![first, second, third], 3).await;
    assert_eq!(
        updates,
        [
            Update::Replaced(Vec::new()),
            Update::Changed(pod("a")),
            Update::Changed(pod("a")),
        ]
    );
    assert_eq!(asked, [(0, true), (9, false), (12, false)]);
}

#[tokio::test]
async fn a_gap_in_the_history_starts_from_the_present_state_again() {
    use WatchEventType::{Added, Synced};
    let first = vec![frame(Synced, "", 7), Err(Status::out_of_range("compacted"))];
    let second = vec![frame(Added, "a", 90), frame(Synced, "", 91)];
    let (updates, asked) = reflected(vec![first, second], 2).await;
    assert_eq!(
        updates,
        [Update::Replaced(Vec::new()), Update::Replaced(vec![pod("a")])]
    );
    assert_eq!(asked, [(0, true), (0, true)]);
}

#[tokio::test]
async fn half_a_state_is_never_shown() {
    use WatchEventType::{Added, Synced};
    let first = vec![frame(Added, "a", 3), Err(Status::unavailable("restarting"))];
    let second = vec![frame(Added, "b", 5), frame(Synced, "", 6)];
    let (updates, asked) = reflected(vec![first, second], 1).await;
    assert_eq!(updates, [Update::Replaced(vec![pod("b")])]);
    assert_eq!(asked, [(0, true), (0, true)]);
}
