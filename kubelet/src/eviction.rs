//! Pods that take more of the node's disk than they may: they end, are told as failed, and do not run again.
//!
//! ```text
//! runs ──(a sample shows it beyond a limit)──► evicted, noted on disk ──(nobody names it any more)──► forgotten
//! ```
//!
//! `<data>/evictions/<uid>` holds why, from before the first container is stopped: a kubelet that starts in the middle
//! goes on.

mod verdict;

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use clone8s_daemon::Shutdown;
use tokio::sync::watch;

use crate::{
    desired::{Desired, DesiredPod, PodUid},
    outage::Outage,
    stats::{Sample, Samples},
};
use verdict::verdict;

/// Why pods were evicted, for people, as long as somebody names them.
pub(crate) type Evictions = Arc<BTreeMap<PodUid, String>>;

/// Judges each sample, for as long as the kubelet runs.
pub(crate) struct Evictor {
    dir: PathBuf,
    desired: watch::Receiver<Desired>,
    samples: Samples,
    evictions: watch::Sender<Evictions>,
    outage: Outage,
}

impl Evictor {
    /// Reads what an earlier kubelet has noted. Blocks.
    pub(crate) fn open(
        data_dir: &Path,
        desired: watch::Receiver<Desired>,
        samples: Samples,
    ) -> io::Result<(Self, watch::Receiver<Evictions>)> {
        let dir = data_dir.join("evictions");
        fs::create_dir_all(&dir)?;
        let known = fs::read_dir(&dir)?
            .map(|entry| {
                let entry = entry?;
                let uid = PodUid::new(entry.file_name().to_string_lossy());
                Ok((uid, fs::read_to_string(entry.path())?))
            })
            .collect::<io::Result<_>>()?;
        let (evictions, receiver) = watch::channel(Arc::new(known));
        let evictor = Self {
            dir,
            desired,
            samples,
            evictions,
            outage: Outage::new("note of an eviction"),
        };
        Ok((evictor, receiver))
    }

    pub(crate) async fn run(mut self, shutdown: Shutdown) -> Result<(), Infallible> {
        // Each sample counts once: a pod of the folder that comes again has the uid that it had.
        let mut is_new = true;
        loop {
            let sample = self.samples.borrow_and_update().clone().filter(|_| is_new);
            match self.look(sample.as_deref()).await {
                Ok(()) => self.outage.over(),
                // No pod is evicted before it is certain that the next kubelet knows.
                Err(error) => self.outage.failed(error),
            }
            let changed;
            (is_new, changed) = tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                changed = self.samples.changed() => (true, changed),
                changed = self.desired.changed() => (false, changed),
            };
            if changed.is_err() {
                break;
            }
        }
        shutdown.cancelled().await;
        Ok(())
    }

    async fn look(&mut self, sample: Option<&Sample>) -> io::Result<()> {
        let desired = self.desired.borrow_and_update().clone();
        let stats = sample.iter().flat_map(|sample| &sample.stats.pods);
        let stats: BTreeMap<_, _> = stats.map(|pod| (pod.uid.as_str(), pod)).collect();
        let mut evictions = BTreeMap::clone(&self.evictions.borrow());
        let before = evictions.len();
        for pod in desired.pods.values().filter(|pod| !pod.is_terminating()) {
            let uid = pod.uid();
            let stats = stats.get(uid.as_str()).filter(|_| !evictions.contains_key(&uid));
            let Some(message) = stats.and_then(|stats| verdict(pod.spec(), stats)) else {
                continue;
            };
            tokio::fs::write(self.dir.join(uid.as_str()), &message).await?;
            tracing::warn!(pod = %pod.key(), message, "evicting a pod");
            evictions.insert(uid, message);
        }
        let mut changed = evictions.len() != before;
        if desired.complete {
            let named: BTreeSet<_> = desired.pods.values().map(DesiredPod::uid).collect();
            let forgotten: Vec<_> = evictions
                .keys()
                .filter(|uid| !named.contains(*uid))
                .cloned()
                .collect();
            for uid in forgotten {
                match tokio::fs::remove_file(self.dir.join(uid.as_str())).await {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
                evictions.remove(&uid);
                changed = true;
            }
        }
        if changed {
            self.evictions.send_replace(Arc::new(evictions));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
