//! Watchers that follow a selection over all apiservers, leaving and coming back at random.

use std::time::Duration;

use clone8s::v1::{Pod, WatchEventType, WatchPodsRequest, pod_service_client::PodServiceClient};
use rand::Rng as _;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tonic::{Status, Streaming, transport::Channel};

use super::{
    Clock,
    clients::{named_version, refusal, rng},
    history::{Change, Refusal, Revision, Selector, Start, State, Told, Verb, Watch},
};

/// Longer than the time between two bookmarks: who hears nothing for so long is at an apiserver that hangs.
const SILENCE: Duration = Duration::from_secs(7);
const OPEN: Duration = Duration::from_secs(4);

/// One watcher.
pub(super) struct Watcher {
    pub(super) number: usize,
    pub(super) seed: u64,
    pub(super) channels: Vec<Channel>,
    pub(super) clock: Clock,
    pub(super) selector: Selector,
    /// Where it begins, and begins again after each break where that is the present state.
    pub(super) start: Start,
    /// Up to where it has to come, once that is known.
    pub(super) target: watch::Receiver<Option<Revision>>,
}

/// Why a stream is left.
enum Left {
    /// All was told.
    Done,
    Broken,
}

impl Watcher {
    pub(super) async fn run(mut self) -> Watch {
        let mut told = Vec::new();
        let mut position = match self.start {
            Start::State => None,
            Start::After(revision) => Some(revision),
        };
        for count in 0.. {
            let mut rng = rng(self.seed, self.number, count);
            let channel = self.channels[rng.random_range(0..self.channels.len())].clone();
            let start = match (self.start, position) {
                (Start::After(_), Some(position)) => Start::After(position),
                _ => Start::State,
            };
            let patience = rng.random_range(1..80);
            let asked = self.clock.now();
            match timeout(OPEN, open(channel, &self.selector, start)).await {
                Ok(Ok(stream)) => {
                    told.push((asked, Told::Opened(start)));
                    if let Left::Done = self.follow(stream, patience, &mut position, &mut told).await {
                        break;
                    }
                }
                Ok(Err(status)) => self.broken(&status, &mut told),
                Err(_) => {}
            }
            sleep(Duration::from_millis(rng.random_range(10..300))).await;
        }
        Watch {
            watcher: format!("{} of {:?}", self.number, self.selector),
            selector: self.selector,
            told,
        }
    }

    /// Reads so many events, or to the stream's end, or until everything was told.
    async fn follow(
        &mut self,
        mut stream: Streaming<clone8s::v1::WatchPodsResponse>,
        mut patience: usize,
        position: &mut Option<Revision>,
        told: &mut Vec<(Duration, Told)>,
    ) -> Left {
        let mut initial = self.start == Start::State;
        loop {
            let target = *self.target.borrow_and_update();
            if !initial && target.is_some_and(|target| position.is_some_and(|position| position >= target)) {
                return Left::Done;
            }
            // Who has to come to the end does not leave any more.
            if !initial && target.is_none() && patience == 0 {
                return Left::Broken;
            }
            let message = tokio::select! {
                message = timeout(SILENCE, stream.message()) => message,
                changed = self.target.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return Left::Done,
                },
            };
            let response = match message {
                Ok(Ok(Some(response))) => response,
                Ok(Ok(None)) => {
                    let silent = "the stream ended without an error".to_owned();
                    told.push((self.clock.now(), Told::Failed(silent)));
                    return Left::Broken;
                }
                Ok(Err(status)) => {
                    self.broken(&status, told);
                    return Left::Broken;
                }
                Err(_) => return Left::Broken,
            };
            let revision = response.resource_version;
            let news = match (response.r#type(), &response.pod) {
                (WatchEventType::Bookmark, None) => Told::Bookmark(revision),
                (WatchEventType::Synced, None) => {
                    initial = false;
                    Told::Synced(revision)
                }
                (kind, Some(pod)) if let Some(change) = change(kind, revision, pod) => Told::Event(change),
                other => Told::Failed(format!("{other:?} makes no sense")),
            };
            if !initial {
                *position = Some(revision);
            }
            patience = patience.saturating_sub(1);
            told.push((self.clock.now(), news));
        }
    }

    /// A watch may end for an outage, or because it was read too slowly; nothing else happens in a run.
    fn broken(&self, status: &Status, told: &mut Vec<(Duration, Told)>) {
        if let Some(other) = refusal(status)
            && !matches!(&other, Refusal::Other(error) if error.contains("WATCH_TOO_SLOW"))
        {
            told.push((self.clock.now(), Told::Failed(format!("{other:?}"))));
        }
    }
}

async fn open(
    channel: Channel,
    selector: &Selector,
    start: Start,
) -> Result<Streaming<clone8s::v1::WatchPodsResponse>, Status> {
    let chosen = selector.request();
    let request = WatchPodsRequest {
        namespace: "default".to_owned(),
        label_selector: chosen.label_selector,
        field_selector: chosen.field_selector,
        resource_version: match start {
            Start::State => 0,
            Start::After(revision) => revision,
        },
        send_initial_state: start == Start::State,
        include_previous: false,
    };
    Ok(PodServiceClient::new(channel)
        .watch_pods(request)
        .await?
        .into_inner())
}

fn change(kind: WatchEventType, revision: Revision, pod: &Pod) -> Option<Change> {
    let verb = match kind {
        WatchEventType::Added => Verb::Added,
        WatchEventType::Modified => Verb::Modified,
        WatchEventType::Deleted => Verb::Deleted,
        _ => return None,
    };
    Some(Change {
        revision,
        name: named_version(pod).0,
        verb,
        state: State::of(pod),
    })
}
