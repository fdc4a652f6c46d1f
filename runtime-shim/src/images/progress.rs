//! How far pulls have got.

use std::{
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use serde::Serialize;
use tokio::time::Instant;

use super::config::Descriptor;
use crate::table::lock;

/// Between two lines in the log about one pull.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// All pulls under way.
#[derive(Debug, Default)]
pub(crate) struct Pulls(Mutex<Vec<Weak<Pull>>>);

/// One pull under way.
#[derive(Debug)]
pub(super) struct Pull {
    image: String,
    began: Instant,
    layers: Mutex<Vec<Arc<Layer>>>,
    unpacked: AtomicUsize,
}

/// One blob of a pull.
#[derive(Debug)]
pub(super) struct Layer {
    size: u64,
    here: AtomicU64,
}

/// What a pull has done so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Progress {
    pub(crate) image: String,
    pub(crate) seconds: u64,
    /// Of all blobs together; those that were here already count as well.
    pub(crate) bytes: u64,
    /// 0 until the manifest is known.
    pub(crate) bytes_total: u64,
    pub(crate) layers_unpacked: usize,
    pub(crate) layers_total: usize,
}

impl Pulls {
    /// The pull is listed as long as what this returns lives.
    pub(super) fn begin(&self, image: &str) -> Arc<Pull> {
        let pull = Arc::new(Pull {
            image: image.to_owned(),
            began: Instant::now(),
            layers: Mutex::default(),
            unpacked: AtomicUsize::new(0),
        });
        let mut pulls = lock(&self.0);
        pulls.retain(|pull| pull.strong_count() > 0);
        pulls.push(Arc::downgrade(&pull));
        pull
    }

    /// Every pull under way, the oldest first.
    pub(crate) fn now(&self) -> Vec<Progress> {
        let pulls = lock(&self.0);
        pulls
            .iter()
            .filter_map(Weak::upgrade)
            .map(|pull| pull.progress())
            .collect()
    }
}

impl Pull {
    /// A blob that the image needs.
    pub(super) fn add(&self, blob: &Descriptor) -> Arc<Layer> {
        let layer = Arc::new(Layer {
            size: blob.size,
            here: AtomicU64::new(0),
        });
        lock(&self.layers).push(Arc::clone(&layer));
        layer
    }

    pub(super) fn unpacked_one(&self) {
        self.unpacked.fetch_add(1, Relaxed);
    }

    fn progress(&self) -> Progress {
        let layers = lock(&self.layers);
        let sum = |of: fn(&Layer) -> u64| layers.iter().map(|layer| of(layer)).fold(0, u64::saturating_add);
        Progress {
            image: self.image.clone(),
            seconds: self.began.elapsed().as_secs(),
            bytes: sum(|layer| layer.here.load(Relaxed)),
            bytes_total: sum(|layer| layer.size),
            layers_unpacked: self.unpacked.load(Relaxed),
            // The first is the configuration.
            layers_total: layers.len().saturating_sub(1),
        }
    }

    /// Writes to the log from time to time, for ever.
    pub(super) async fn report(&self) {
        loop {
            tokio::time::sleep(REPORT_EVERY).await;
            let now = self.progress();
            tracing::info!(
                image = now.image,
                seconds = now.seconds,
                bytes = now.bytes,
                of = now.bytes_total,
                layers = now.layers_total,
                unpacked = now.layers_unpacked,
                "pulling"
            );
        }
    }
}

impl Layer {
    /// So many bytes are here.
    pub(super) fn reach(&self, at: u64) {
        self.here.store(at.min(self.size), Relaxed);
    }

    pub(super) fn complete(&self) {
        self.reach(self.size);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::digest::Digest, *};

    #[test]
    fn a_pull_is_told_as_long_as_it_lasts() {
        let pulls = Pulls::default();
        let pull = pulls.begin("app");
        pull.add(&Descriptor::new("", Digest::of(b"config"), 10))
            .complete();
        pull.add(&Descriptor::new("", Digest::of(b"layer"), 100))
            .reach(40);
        let now = pulls.now();
        assert_eq!(
            (now[0].bytes, now[0].bytes_total, now[0].layers_total),
            (50, 110, 1)
        );
        drop(pull);
        assert!(pulls.now().is_empty());
    }
}
