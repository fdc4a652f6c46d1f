//! Has images for containers: from the node, or from a registry, so many at a time.
//!
//! ```text
//! on the node? ─no─► a turn (first come, first served) ─► on the node now? ─no─► pull ─► here
//!                                                                               └─ every 10 s: how far
//! ```
//! What waits for its turn costs nothing, and nothing limits how much may wait: each container waits for one image at most.

use std::{convert::Infallible, num::NonZeroU32, sync::Arc, time::Duration};

use clone8s::cri::PodSandboxConfig;
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, sleep, timeout},
};

use super::images;
use crate::{
    desired::DesiredPod,
    events::{EventRecorder, EventType::Normal},
    image_archives::ArchiveImages,
    objects::Objects,
    pull_logins::Logins,
    runtime::{ImageRef, PullProgress, Runtime, RuntimeError, RuntimeErrorReason},
};

/// How long a pull waits for the apiserver to tell of the pod's secrets.
const SECRETS: Duration = Duration::from_secs(5);
/// Between two words about how far a pull is; a quicker one says nothing.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// The node's way to images. Clones share its turns.
#[derive(Clone)]
pub struct ImagePuller {
    runtime: Arc<dyn Runtime>,
    archives: watch::Receiver<ArchiveImages>,
    objects: watch::Receiver<Objects>,
    events: EventRecorder,
    turns: Arc<Semaphore>,
    most: NonZeroU32,
}

impl std::fmt::Debug for ImagePuller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImagePuller")
            .field("most", &self.most)
            .finish_non_exhaustive()
    }
}

impl ImagePuller {
    /// No more than `most` pulls run at a time.
    pub(crate) fn new(
        runtime: Arc<dyn Runtime>,
        archives: watch::Receiver<ArchiveImages>,
        objects: watch::Receiver<Objects>,
        events: EventRecorder,
        most: NonZeroU32,
    ) -> Self {
        let turns = usize::try_from(most.get())
            .map_or(Semaphore::MAX_PERMITS, |most| most.min(Semaphore::MAX_PERMITS));
        Self {
            runtime,
            archives,
            objects,
            events,
            turns: Arc::new(Semaphore::new(turns)),
            most,
        }
    }

    /// The image where the runtime has it. One that is missing may still come from an archive, before it is said to be.
    pub(crate) async fn find(&self, image: &str) -> Result<Option<ImageRef>, RuntimeError> {
        let mut archives = self.archives.clone();
        let was_settled = archives.borrow().settled;
        let mut found = self.runtime.image_status(image).await?;
        if found.is_none() && !was_settled {
            // An error says that nobody loads archives any more.
            let _ = archives.wait_for(|images| images.settled).await;
            found = self.runtime.image_status(image).await?;
        }
        Ok(found.map(|image| ImageRef::new(image.id)))
    }

    /// Has an image that a container needs. Dropping the call gives its turn to the next.
    pub(crate) async fn pull(
        &self,
        pod: &DesiredPod,
        container: &str,
        image: &str,
        sandbox: &PodSandboxConfig,
    ) -> Result<ImageRef, RuntimeError> {
        let asked = Instant::now();
        // It may have come since the last try: from an archive, or by a person.
        if let Some(found) = self.come_meanwhile(pod, container, image).await {
            return Ok(found);
        }
        let turn = if let Ok(turn) = self.turns.try_acquire() {
            Some(turn)
        } else {
            let message = format!(
                "Image {image:?} waits for its turn: the node pulls {} at a time, the first that was asked for first",
                self.most
            );
            self.events.record(pod, Normal, "PullQueued", message);
            // Never closed.
            let turn = self.turns.acquire().await.ok();
            if let Some(found) = self.come_meanwhile(pod, container, image).await {
                return Ok(found);
            }
            turn
        };
        let began = Instant::now();
        let message = format!("Pulling image {image:?}");
        self.events.record_of(pod, Normal, "Pulling", image, message);
        let logins = self.logins(pod, image).await;
        let found = tokio::select! {
            pulled = logins.pull(&*self.runtime, image, sandbox) => pulled?,
            never = self.report(pod, image) => match never {},
        };
        let took = began.elapsed();
        drop(turn);
        self.tell_end(pod, image, &found, took, asked.elapsed()).await;
        Ok(found)
    }

    /// The image, where it is here and the container does not want it pulled all the same.
    async fn come_meanwhile(&self, pod: &DesiredPod, container: &str, image: &str) -> Option<ImageRef> {
        if images::is_always_pulled(pod.spec(), container, image) {
            return None;
        }
        let found = self.find(image).await.ok().flatten()?;
        tell_present(&self.events, pod, image);
        Some(found)
    }

    /// The secrets of a pod that has just come are on their way.
    async fn logins(&self, pod: &DesiredPod, image: &str) -> Logins {
        let mut objects = self.objects.clone();
        let mut logins = Logins::default();
        let known = objects.wait_for(|objects| {
            logins = Logins::of(pod, image, objects);
            !logins.is_partial
        });
        // Without them the pull may do all the same, and says what is missing where it does not.
        let _ = timeout(SECRETS, known).await.map(drop);
        logins
    }

    /// Tells from time to time how far a pull is, where the runtime knows, until it is dropped.
    async fn report(&self, pod: &DesiredPod, image: &str) -> Infallible {
        let began = Instant::now();
        loop {
            sleep(REPORT_EVERY).await;
            match self.runtime.pull_progress(image).await {
                Ok(Some(progress)) => {
                    let message = describe(image, progress, began.elapsed());
                    self.events.record_of(pod, Normal, "Pulling", image, message);
                }
                Err(error) if error.reason == RuntimeErrorReason::Unimplemented => {
                    return std::future::pending().await;
                }
                // Not begun, or over; or the runtime is busy, which the pull itself will tell.
                Ok(None) | Err(_) => {}
            }
        }
    }

    async fn tell_end(&self, pod: &DesiredPod, image: &str, found: &ImageRef, took: Duration, all: Duration) {
        let size = self.runtime.image_status(found.as_str()).await.ok().flatten();
        let size = size.map_or_else(String::new, |image| {
            format!(". Image size: {} bytes.", image.size)
        });
        let message = format!(
            "Successfully pulled image {image:?} in {} ({} including waiting){size}",
            seconds(took),
            seconds(all)
        );
        self.events.record_of(pod, Normal, "Pulled", image, message);
    }
}

/// The image was on the node.
pub(super) fn tell_present(events: &EventRecorder, pod: &DesiredPod, image: &str) {
    let message = format!("Container image {image:?} already present on machine");
    events.record(pod, Normal, "Pulled", message);
}

/// For people, as "1.204 s".
pub(super) fn seconds(time: Duration) -> String {
    format!("{:.3} s", time.as_secs_f64())
}

fn describe(image: &str, progress: PullProgress, since: Duration) -> String {
    let PullProgress {
        bytes,
        bytes_total,
        layers_unpacked,
        layers_total,
    } = progress;
    let since = since.as_secs();
    if bytes_total == 0 {
        return format!("Pulling image {image:?}: the registry has not yet told its layers, after {since} s");
    }
    let percent = u128::from(bytes) * 100 / u128::from(bytes_total);
    format!(
        "Pulling image {image:?}: {bytes} of {bytes_total} bytes ({percent}%), {layers_unpacked} of {layers_total} layers \
         unpacked, after {since} s"
    )
}

#[cfg(test)]
mod tests;
