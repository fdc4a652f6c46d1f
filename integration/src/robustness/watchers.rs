//! Watchers that follow a selection over all apiservers, leaving and coming back at random.

use std::time::Duration;

use futures::StreamExt as _;
use rand::Rng as _;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tonic::{Status, transport::Channel};

use super::{
    Clock,
    clients::{refusal, rng},
    history::{Kind, Refusal, Revision, Selector, Start, Told, Watch},
    objects,
};

/// Longer than the time between two bookmarks: who hears nothing for so long is at an apiserver that hangs.
const SILENCE: Duration = Duration::from_secs(7);
const OPEN: Duration = Duration::from_secs(4);
/// How many times longer than others one that stays away pauses.
const AWAY: u32 = 15;

/// One watcher.
pub(super) struct Watcher {
    pub(super) number: usize,
    pub(super) seed: u64,
    pub(super) channels: Vec<Channel>,
    pub(super) clock: Clock,
    pub(super) kind: Kind,
    pub(super) selector: Selector,
    /// Whether it stays away for so long after each break that history may be gone when it comes back.
    pub(super) stays_away: bool,
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
            let stream = objects::watch(self.kind, &self.selector, start, channel);
            match timeout(OPEN, stream).await {
                Ok(Ok(stream)) => {
                    told.push((asked, Told::Opened(start)));
                    if let Left::Done = self.follow(stream, patience, &mut position, &mut told).await {
                        break;
                    }
                }
                Ok(Err(status)) => self.broken(&status, &mut position, &mut told),
                Err(_) => {}
            }
            let pause = Duration::from_millis(rng.random_range(10..300));
            // All that is to come has come once there is a target.
            let is_over = self.target.borrow().is_some();
            sleep(if self.stays_away && !is_over {
                pause * AWAY
            } else {
                pause
            })
            .await;
        }
        Watch {
            watcher: format!("{} of {:?}, {:?}", self.number, self.kind, self.selector),
            kind: self.kind,
            selector: self.selector,
            told,
        }
    }

    /// Reads so many events, or to the stream's end, or until everything was told.
    async fn follow(
        &mut self,
        mut stream: objects::Stream,
        mut patience: usize,
        position: &mut Option<Revision>,
        told: &mut Vec<(Duration, Told)>,
    ) -> Left {
        let mut initial = position.is_none() || self.start == Start::State;
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
                message = timeout(SILENCE, stream.next()) => message,
                changed = self.target.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return Left::Done,
                },
            };
            let news = match message {
                Ok(Some(Ok(news))) => news,
                Ok(None) => {
                    let silent = "the stream ended without an error".to_owned();
                    told.push((self.clock.now(), Told::Failed(silent)));
                    return Left::Broken;
                }
                Ok(Some(Err(status))) => {
                    self.broken(&status, position, told);
                    return Left::Broken;
                }
                Err(_) => return Left::Broken,
            };
            initial &= !matches!(news, Told::Synced(_));
            if !initial && let Some(revision) = news.revision() {
                *position = Some(revision);
            }
            patience = patience.saturating_sub(1);
            told.push((self.clock.now(), news));
        }
    }

    /// A watch may end for an outage, because it was read too slowly, or because what it is to tell is forgotten; nothing
    /// else happens in a run.
    fn broken(&self, status: &Status, position: &mut Option<Revision>, told: &mut Vec<(Duration, Told)>) {
        let news = match (refusal(status), &position) {
            (None, _) => return,
            (Some(Refusal::Other(error)), _) if error.contains("WATCH_TOO_SLOW") => return,
            (Some(Refusal::Compacted), Some(after)) => Told::Compacted(*after),
            (Some(other), _) => Told::Failed(format!("{other:?}")),
        };
        if let Told::Compacted(_) = news {
            // From the present state.
            *position = None;
        }
        told.push((self.clock.now(), news));
    }
}
