//! The pods that the apiserver wants here, from three kinds of news: pure.
//!
//! A list replaces everything. A watch goes on from it, in order. A hint from the queue may run ahead of the watch:
//! it counts only while its revision is newer than all that the watch has shown, and the watch has the last word.

use std::{collections::BTreeMap, sync::Arc};

use clone8s::{
    object::Object as _,
    v1::{Pod, WatchEventType, WatchPodsResponse},
};

use crate::desired::{PodKey, conditions_of_others, is_overruled};

/// One change of one pod, as told on the queue.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Hint {
    pub pod: Arc<Pod>,
    pub revision: i64,
    pub change: HintedChange,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HintedChange {
    /// Added or modified.
    Put,
    Deleted,
}

/// What to do after an event of the watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    GoOn,
    /// The watch has passed a revision without showing what a hint said of it: only a list tells the truth.
    Relist,
}

#[derive(Debug, Default)]
pub(super) struct ApiView {
    pods: BTreeMap<PodKey, Bound>,
    /// Everything up to this revision has been seen, if not by this kubelet then by one before it; 0 where nobody knows.
    seen: i64,
    /// A watch can go on from what has been seen.
    may_resume: bool,
    /// Pods that a hint has changed at a revision that the watch has not reached yet.
    ahead: BTreeMap<PodKey, i64>,
}

/// A pod that is bound to this node.
#[derive(Debug)]
struct Bound {
    pod: Arc<Pod>,
    /// The newest that is known; `pod` may be older, where all that is newer is its status.
    revision: i64,
}

impl ApiView {
    /// What a kubelet before has left.
    pub(super) fn new(pods: impl IntoIterator<Item = Arc<Pod>>, seen: i64) -> Self {
        let mut view = Self {
            seen,
            ..Self::default()
        };
        for pod in pods {
            view.put(PodKey::of(&pod), pod.resource_version(), pod);
        }
        view
    }

    pub(super) fn pods(&self) -> impl Iterator<Item = (&PodKey, &Arc<Pod>)> {
        self.pods.iter().map(|(key, bound)| (key, &bound.pod))
    }

    /// Where a watch goes on; None when only a list will do.
    pub(super) fn resume_from(&self) -> Option<i64> {
        (self.may_resume && self.ahead.is_empty()).then_some(self.seen)
    }

    /// The newest revision of anything that was seen or hinted: nothing older says anything of a pod that is gone.
    pub(super) fn newest(&self) -> i64 {
        self.ahead.values().copied().fold(self.seen, i64::max)
    }

    /// The watch cannot go on from where it was.
    pub(super) fn forget_position(&mut self) {
        self.may_resume = false;
    }

    pub(super) fn listed(&mut self, pods: Vec<Pod>, revision: i64) {
        let listed: BTreeMap<PodKey, Pod> = pods.into_iter().map(|pod| (PodKey::of(&pod), pod)).collect();
        self.pods.retain(|key, _| listed.contains_key(key));
        for (key, pod) in listed {
            self.put(key, pod.resource_version(), Arc::new(pod));
        }
        self.seen = revision;
        self.may_resume = true;
        self.ahead.clear();
    }

    pub(super) fn watched(&mut self, event: WatchPodsResponse) -> Next {
        let kind = event.r#type();
        let revision = event.resource_version;
        if let Some(pod) = event.pod {
            let key = PodKey::of(&pod);
            if self.revision_of(&key) <= revision {
                self.ahead.remove(&key);
                match kind {
                    WatchEventType::Added | WatchEventType::Modified => {
                        self.put(key, revision, Arc::new(pod));
                    }
                    WatchEventType::Deleted => drop(self.pods.remove(&key)),
                    _ => {}
                }
            }
        }
        self.seen = self.seen.max(revision);
        if self.ahead.values().any(|ahead| *ahead <= self.seen) {
            Next::Relist
        } else {
            Next::GoOn
        }
    }

    /// Takes a hint when it is news.
    pub(super) fn hinted(&mut self, hint: Hint) {
        let key = PodKey::of(&hint.pod);
        if hint.revision <= self.seen || hint.revision <= self.revision_of(&key) {
            return;
        }
        self.ahead.insert(key.clone(), hint.revision);
        match hint.change {
            HintedChange::Put => self.put(key, hint.revision, hint.pod),
            HintedChange::Deleted => drop(self.pods.remove(&key)),
        }
    }

    /// The newest revision that is known of a pod, be it there or deleted.
    fn revision_of(&self, key: &PodKey) -> i64 {
        let stored = self.pods.get(key).map_or(0, |bound| bound.revision);
        stored.max(self.ahead.get(key).copied().unwrap_or(0))
    }

    fn put(&mut self, key: PodKey, revision: i64, pod: Arc<Pod>) {
        match self.pods.get_mut(&key) {
            // The node's own reports come back on its watch: they wake nobody and cost no write to the disk.
            Some(bound) if asks_the_same(&bound.pod, &pod) => bound.revision = revision,
            _ => drop(self.pods.insert(key, Bound { pod, revision })),
        }
    }
}

/// True when two versions of a pod differ in what the node has reported alone. That a pod has ended counts as asking
/// for something else: it must not be started again. So does what others say in its status.
fn asks_the_same(a: &Pod, b: &Pod) -> bool {
    let wish = |pod: &Pod| {
        let mut metadata = pod.metadata.clone().unwrap_or_default();
        metadata.resource_version = 0;
        let phase = pod.status.as_ref().map_or("", |status| &status.phase);
        let ended = matches!(phase, "Succeeded" | "Failed");
        (metadata, ended)
    };
    let said = |pod: &Pod| -> Vec<(String, String)> {
        conditions_of_others(pod)
            .map(|one| (one.r#type.clone(), one.status.clone()))
            .collect()
    };
    a.spec == b.spec && wish(a) == wish(b) && is_overruled(a) == is_overruled(b) && said(a) == said(b)
}

#[cfg(test)]
mod tests;
