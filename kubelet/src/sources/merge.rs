//! Three sources, one desired set: folder before API before queue.
//!
//! The order is that of who is nearest to the machine: a manifest in the node's own folder must work when nothing
//! else does, and nobody far away can take its place. The apiserver comes before a stand-alone message because it
//! has checked the pod against everything else in the cluster.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    sync::Arc,
};

use clone8s_daemon::Shutdown;
use tokio::sync::watch;

use super::view::Views;
use crate::desired::{Desired, DesiredPod, PodKey, Source};

/// Two sources want different pods of one name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Conflict {
    pub(super) key: PodKey,
    pub(super) runs: Source,
    pub(super) ignored: Source,
}

/// Keeps the desired set up to date with the views.
#[derive(Debug)]
pub(super) struct Merge {
    views: watch::Receiver<Views>,
    desired: watch::Sender<Desired>,
    conflicts: BTreeSet<Conflict>,
}

impl Merge {
    pub(super) fn new(views: watch::Receiver<Views>, desired: watch::Sender<Desired>) -> Self {
        let mut merge = Self {
            views,
            desired,
            conflicts: BTreeSet::new(),
        };
        merge.merge_once();
        merge
    }

    pub(super) async fn run(mut self, shutdown: Shutdown) -> Result<(), Infallible> {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                changed = self.views.changed() => match changed {
                    Ok(()) => self.merge_once(),
                    // No source is left to change anything.
                    Err(_) => break,
                },
            }
        }
        shutdown.cancelled().await;
        Ok(())
    }

    fn merge_once(&mut self) {
        let (pods, conflicts, complete) = {
            let views = self.views.borrow_and_update();
            let (pods, conflicts) = merge(&views);
            (pods, conflicts, views.all_have_spoken())
        };
        for conflict in conflicts.difference(&self.conflicts) {
            tracing::warn!(
                pod = %conflict.key,
                runs = conflict.runs.name(),
                ignored = conflict.ignored.name(),
                "two sources want a pod of the same name; rename one"
            );
        }
        self.conflicts = conflicts;
        let next = Desired {
            pods: Arc::new(pods),
            complete,
        };
        self.desired.send_if_modified(|desired| {
            let changed = *desired != next;
            *desired = next;
            changed
        });
    }
}

/// The pods to run, and what was passed over.
pub(super) fn merge(views: &Views) -> (BTreeMap<PodKey, DesiredPod>, BTreeSet<Conflict>) {
    let mut desired: BTreeMap<PodKey, DesiredPod> = BTreeMap::new();
    let mut conflicts = BTreeSet::new();
    let by_precedence = [
        (Source::Folder, &views.folder),
        (Source::Api, &views.api),
        (Source::Queue, &views.queue),
    ];
    for (source, view) in by_precedence {
        for (key, pod) in &view.pods {
            if let Some(first) = desired.get(key) {
                conflicts.insert(Conflict {
                    key: key.clone(),
                    runs: first.source,
                    ignored: source,
                });
            } else {
                let pod = pod.clone();
                desired.insert(key.clone(), DesiredPod { pod, source });
            }
        }
    }
    (desired, conflicts)
}

#[cfg(test)]
mod tests;
