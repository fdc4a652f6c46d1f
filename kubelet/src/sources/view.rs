//! What each source wants, as of now: the input of the merge.

use std::{collections::BTreeMap, sync::Arc};

use clone8s::v1::Pod;
use tokio::sync::watch;

use crate::desired::{PodKey, Source, are_equal};

/// What one source wants.
#[derive(Debug, Clone, Default)]
pub(super) struct View {
    pub(super) pods: BTreeMap<PodKey, Arc<Pod>>,
    /// False until the source has said, now or in an intact checkpoint, all that it wants: until then a pod that
    /// is not in `pods` may be wanted all the same.
    pub(super) spoken: bool,
}

impl PartialEq for View {
    fn eq(&self, other: &Self) -> bool {
        let is_one = |((key, pod), (other_key, other_pod))| key == other_key && are_equal(pod, other_pod);
        self.spoken == other.spoken
            && self.pods.len() == other.pods.len()
            && self.pods.iter().zip(&other.pods).all(is_one)
    }
}

/// The views of all sources. A source that is not configured has spoken, and wants nothing.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Views {
    pub(super) folder: View,
    pub(super) api: View,
    pub(super) queue: View,
}

impl Views {
    /// Before any of the configured sources has spoken.
    pub(super) fn of(configured: &[Source]) -> Self {
        let view = |source| View {
            spoken: !configured.contains(&source),
            ..View::default()
        };
        Self {
            folder: view(Source::Folder),
            api: view(Source::Api),
            queue: view(Source::Queue),
        }
    }

    pub(super) fn all_have_spoken(&self) -> bool {
        self.folder.spoken && self.api.spoken && self.queue.spoken
    }
}

/// Where one source puts its view.
#[derive(Debug, Clone)]
pub(super) struct ViewSender {
    source: Source,
    views: Arc<watch::Sender<Views>>,
}

impl ViewSender {
    pub(super) fn new(source: Source, views: Arc<watch::Sender<Views>>) -> Self {
        Self { source, views }
    }

    /// Wakes the merge only when the view has changed.
    pub(super) fn replace(&self, view: View) {
        self.views.send_if_modified(|views| {
            let slot = match self.source {
                Source::Folder => &mut views.folder,
                Source::Api => &mut views.api,
                Source::Queue => &mut views.queue,
            };
            let changed = *slot != view;
            if changed {
                *slot = view;
            }
            changed
        });
    }
}
