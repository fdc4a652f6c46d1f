//! Who works on which pod: keeps one worker for each pod that is wanted or found, and tells it what is wanted.
//!
//! ```text
//! unknown ──(desired, or found and unwanted)──► worker ──(gone here and at its source)──► unknown
//! ```

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    convert::Infallible,
    sync::Arc,
};

use clone8s_daemon::Shutdown;
use tokio::{
    sync::{Notify, mpsc, watch},
    task::{Id, JoinError, JoinSet, spawn_blocking},
    time::{Duration, Instant, Interval, MissedTickBehavior, interval},
};

use crate::{
    admission::Admitted,
    desired::{Desired, DesiredPod, PodKey, PodUid},
    eviction::Evictions,
    objects::Objects,
    pod::{
        plan::Want,
        worker::{Worker, WorkerContext},
    },
    relist::{Feeds, Snapshot},
};

const CRASH_HOLD: Duration = Duration::from_secs(5);
/// Between looks for what former pods have left.
const SWEEP_EVERY: Duration = Duration::from_secs(20);

/// The table of workers.
pub(crate) struct PodTable {
    context: Arc<WorkerContext>,
    desired: watch::Receiver<Desired>,
    snapshot: watch::Receiver<Option<Arc<Snapshot>>>,
    wakes: mpsc::Receiver<PodKey>,
    objects: watch::Receiver<Objects>,
    evictions: watch::Receiver<Evictions>,
    /// The objects that the workers were last woken by.
    known_objects: Objects,
    workers: BTreeMap<PodKey, Handle>,
    tasks: JoinSet<()>,
    keys: HashMap<Id, PodKey>,
    admitted: Admitted,
    /// The snapshot that the workers were last woken by.
    seen: Option<Arc<Snapshot>>,
    /// When a pod's worker ended: an older snapshot may still show the pod.
    ended: BTreeMap<PodKey, Instant>,
    /// When a pod's worker panicked: the next one waits, in case it does too.
    crashed: BTreeMap<PodKey, Instant>,
    /// All sources have said once what they want.
    complete: bool,
    sweeps: Interval,
    /// The pods of which something was left that nobody names, at the last look; None before the first.
    forsaken: Option<BTreeSet<PodUid>>,
}

struct Handle {
    want: watch::Sender<Want>,
    wake: Arc<Notify>,
}

impl PodTable {
    pub(crate) fn new(
        context: WorkerContext,
        desired: watch::Receiver<Desired>,
        evictions: watch::Receiver<Evictions>,
        feeds: Feeds,
        admitted: Admitted,
    ) -> Self {
        let mut sweeps = interval(SWEEP_EVERY);
        // Two looks are to be so long apart, whatever held up the first.
        sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            desired,
            evictions,
            snapshot: feeds.snapshot,
            wakes: feeds.wakes,
            objects: context.executor.objects.clone(),
            known_objects: Objects::default(),
            context: Arc::new(context),
            workers: BTreeMap::new(),
            tasks: JoinSet::new(),
            keys: HashMap::new(),
            admitted,
            seen: None,
            ended: BTreeMap::new(),
            crashed: BTreeMap::new(),
            complete: false,
            sweeps,
            forsaken: None,
        }
    }

    /// Runs until shutdown, then waits for the workers.
    pub(crate) async fn run(mut self, shutdown: Shutdown) -> Result<(), Infallible> {
        loop {
            self.reconcile();
            tokio::select! {
                changed = self.desired.changed() => if changed.is_err() { break },
                changed = self.snapshot.changed() => if changed.is_err() { break },
                changed = self.evictions.changed() => if changed.is_err() { break },
                Some(key) = self.wakes.recv() => self.wake(&key),
                changed = self.objects.changed() => {
                    if changed.is_err() { break }
                    self.wake_concerned();
                }
                Some(ended) = self.tasks.join_next_with_id() => self.note_end(ended),
                _ = self.sweeps.tick() => self.sweep().await,
                () = shutdown.cancelled() => break,
            }
        }
        shutdown.cancelled().await;
        while self.tasks.join_next().await.is_some() {}
        Ok(())
    }

    /// Brings the workers in line with what is desired and what is there.
    fn reconcile(&mut self) {
        // Before the first list nobody knows whether a pod runs already.
        let Some(snapshot) = self.snapshot.borrow_and_update().clone() else {
            return;
        };
        let desired = self.desired.borrow_and_update().clone();
        let running: BTreeSet<PodUid> = snapshot
            .pods
            .values()
            .flat_map(|digest| digest.uids.iter().cloned())
            .collect();
        let evictions = Arc::clone(&self.evictions.borrow_and_update());
        let mut wants = self.admitted.admit(&desired.pods, &running, &evictions);
        if desired.complete {
            let unwanted = |key: &&PodKey| !desired.pods.contains_key(*key);
            let found = snapshot.pods.keys().filter(|key| {
                // A list from before the end of a pod's worker says nothing about what came after.
                self.ended.get(*key).is_none_or(|ended| *ended < snapshot.taken)
            });
            let orphans: Vec<_> = self
                .workers
                .keys()
                .chain(found)
                .filter(unwanted)
                .cloned()
                .collect();
            wants.extend(orphans.into_iter().map(|key| (key, Want::Stop { pod: None })));
        }
        self.ended.retain(|_, ended| *ended >= snapshot.taken);
        for (key, want) in wants {
            self.tell(key, want);
        }
        self.wake_changed(snapshot);
        if desired.complete && !self.complete {
            self.complete = true;
            self.sweeps.reset_immediately();
        }
    }

    fn tell(&mut self, key: PodKey, want: Want) {
        if let Some(handle) = self.workers.get(&key) {
            handle.want.send_if_modified(|old| {
                let differs = !old.asks_the_same_as(&want);
                if differs {
                    *old = want;
                }
                differs
            });
            return;
        }
        // The next list comes by here again.
        if self
            .crashed
            .get(&key)
            .is_some_and(|crashed| crashed.elapsed() < CRASH_HOLD)
        {
            return;
        }
        self.crashed.remove(&key);
        let (sender, receiver) = watch::channel(want);
        let wake = Arc::new(Notify::new());
        let worker = Worker::new(
            Arc::clone(&self.context),
            key.clone(),
            receiver,
            Arc::clone(&wake),
        );
        let task = self.tasks.spawn(Box::new(worker).run());
        self.keys.insert(task.id(), key.clone());
        self.ended.remove(&key);
        self.workers.insert(key, Handle { want: sender, wake });
    }

    fn wake(&self, key: &PodKey) {
        if let Some(handle) = self.workers.get(key) {
            handle.wake.notify_one();
        }
    }

    /// Wakes the workers of pods that look different than in the list before.
    fn wake_changed(&mut self, snapshot: Arc<Snapshot>) {
        if let Some(seen) = &self.seen {
            if Arc::ptr_eq(seen, &snapshot) {
                return;
            }
            for key in self.workers.keys() {
                if seen.pods.get(key) != snapshot.pods.get(key) {
                    self.wake(key);
                }
            }
        }
        self.seen = Some(snapshot);
    }

    /// Wakes the workers of pods that refer to objects which have changed.
    fn wake_concerned(&mut self) {
        let objects = self.objects.borrow_and_update().clone();
        for handle in self.workers.values() {
            let want = handle.want.borrow();
            let is_concerned = want
                .pod()
                .is_some_and(|pod| objects.seen_by(pod) != self.known_objects.seen_by(pod));
            if is_concerned {
                handle.wake.notify_one();
            }
        }
        self.known_objects = objects;
    }

    fn note_end(&mut self, ended: Result<(Id, ()), JoinError>) {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, ())| *id);
        let Some(key) = self.keys.remove(&id) else { return };
        if let Err(error) = ended {
            tracing::error!(pod = %key, %error, "a pod worker failed; another takes its place");
            self.crashed.insert(key.clone(), Instant::now());
        }
        self.workers.remove(&key);
        self.context.board.remove(&key);
        self.ended.insert(key, Instant::now());
    }

    /// Removes what is left on the node of pods that nobody names any more: of those that went while no kubelet ran, and,
    /// when they are nobody's at two looks in a row, of those whose worker never came to know what there was.
    async fn sweep(&mut self) {
        let context = Arc::clone(&self.context);
        let looked = spawn_blocking(move || context.executor.volumes.known()).await;
        let mut left = match looked {
            Ok(Ok(left)) => left,
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot look for the folders of former pods");
                return;
            }
            // It is the end of the kubelet.
            Err(_) => return,
        };
        // After the look: whose folder was there has been named by now, if anybody does.
        let Some(snapshot) = self.snapshot.borrow().clone() else {
            return;
        };
        {
            let desired = self.desired.borrow();
            if !desired.complete {
                return;
            }
            for uid in desired.pods.values().map(DesiredPod::uid) {
                left.remove(&uid);
            }
        }
        for uid in snapshot.pods.values().flat_map(|digest| &digest.uids) {
            left.remove(uid);
        }
        let before = self.forsaken.replace(left.clone());
        left.retain(|uid| before.as_ref().is_none_or(|before| before.contains(uid)));
        if left.is_empty() {
            return;
        }
        let context = Arc::clone(&self.context);
        self.tasks.spawn_blocking(move || context.executor.sweep(&left));
    }
}
