//! Collection of images: those that nothing has used for long, and the longest unused while their disk is full.
//!
//! An image is in use while a container was made from it, and while a desired pod names it, whether the pod has come
//! that far or not. One that came from an archive stays: no registry could give it again; and so does what an archive of
//! the node's folder holds, wherever it came from. How long an image has not been used is known since the kubelet's start
//! alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    io,
    path::Path,
    sync::Arc,
    time::Duration,
};

use clone8s::cri::Image;
use clone8s_daemon::Shutdown;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};

use crate::{
    desired::Desired,
    image_archives::ArchiveImages,
    outage::Outage,
    pod,
    runtime::{ImageRef, Runtime, RuntimeError},
};

const LOOK_EVERY: Duration = Duration::from_mins(1);
const LOOK_AT_MOST_EVERY: Duration = Duration::from_secs(1);

/// When images go. The names and defaults are those of Kubernetes' `KubeletConfiguration` (`imageGC…`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImagePolicy {
    /// From this part of the disk on (percent), images go …
    pub high_threshold: u8,
    /// … until so much of it is in use.
    pub low_threshold: u8,
    /// One that is newer here stays.
    pub min_age: Duration,
    /// One that nothing has used for so long goes, however much room there is; None is never.
    pub max_age: Option<Duration>,
}

impl Default for ImagePolicy {
    fn default() -> Self {
        Self {
            high_threshold: 85,
            low_threshold: 80,
            min_age: Duration::from_mins(2),
            max_age: None,
        }
    }
}

/// Bytes of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Disk {
    capacity: u64,
    used: u64,
}

type ReadDisk = fn(&Path) -> io::Result<Disk>;

/// Removes images for as long as the kubelet runs.
pub(crate) struct Collector {
    policy: ImagePolicy,
    runtime: Arc<dyn Runtime>,
    desired: watch::Receiver<Desired>,
    archives: watch::Receiver<ArchiveImages>,
    read_disk: ReadDisk,
    known: Known,
    runtime_outage: Outage,
    disk_outage: Outage,
}

impl Collector {
    pub(crate) fn new(
        policy: ImagePolicy,
        runtime: Arc<dyn Runtime>,
        desired: watch::Receiver<Desired>,
        archives: watch::Receiver<ArchiveImages>,
    ) -> Self {
        Self {
            policy,
            runtime,
            desired,
            archives,
            read_disk,
            known: Known::default(),
            runtime_outage: Outage::new("collection of images"),
            disk_outage: Outage::new("making room on the images' disk"),
        }
    }

    pub(crate) async fn run(mut self, shutdown: Shutdown) -> Result<(), Infallible> {
        let period = self.policy.max_age.unwrap_or(LOOK_EVERY);
        let mut ticks = interval(period.clamp(LOOK_AT_MOST_EVERY, LOOK_EVERY));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                _ = ticks.tick() => match self.look().await {
                    Ok(()) => self.runtime_outage.over(),
                    Err(error) => self.runtime_outage.failed(error),
                },
            }
        }
    }

    async fn look(&mut self) -> Result<(), RuntimeError> {
        let desired = self.desired.borrow_and_update().clone();
        let images = self.runtime.list_images().await?;
        let in_use = self.in_use(&desired).await?;
        let now = Instant::now();
        self.known.note(&images, &in_use, now);
        if !desired.complete {
            return Ok(());
        }
        let excess = self.excess().await?;
        let mut freed = 0;
        for image in self.known.to_go(&images, &self.policy, excess, now) {
            // A pod that has come meanwhile may name it: the next look knows.
            if self.desired.has_changed().unwrap_or(false) {
                return Ok(());
            }
            self.runtime.remove_image(&ImageRef::new(&image.id)).await?;
            freed += image.size;
            tracing::info!(
                image = image.repo_tags.first().unwrap_or(&image.id),
                bytes = image.size,
                "removed an image that nothing uses"
            );
        }
        if freed >= excess {
            self.disk_outage.over();
        } else {
            let missing = excess - freed;
            self.disk_outage.failed(format!(
                "{missing} bytes more should go, and no image is left that may; make room on the disk"
            ));
        }
        Ok(())
    }

    /// The ids of the images that containers were made from, or will be.
    async fn in_use(&self, desired: &Desired) -> Result<BTreeSet<String>, RuntimeError> {
        let containers = self.runtime.list_containers(None).await?;
        let mut ids: BTreeSet<_> = containers
            .into_iter()
            .flat_map(|container| [container.image_id, container.image_ref])
            .collect();
        let named = desired
            .pods
            .values()
            .flat_map(|pod| pod::images::named(pod.spec()));
        let mut names: BTreeSet<_> = named.map(str::to_owned).collect();
        names.extend(self.runtime.sandbox_image().await?);
        names.extend(self.archives.borrow().names.iter().cloned());
        for name in names {
            let found = self.runtime.image_status(&name).await?;
            ids.extend(found.map(|image| image.id));
        }
        Ok(ids)
    }

    /// The bytes that are to be freed.
    async fn excess(&mut self) -> Result<u64, RuntimeError> {
        let Some(folder) = self.runtime.image_folder().await? else {
            return Ok(0);
        };
        match (self.read_disk)(&folder) {
            Ok(disk) => Ok(self.policy.excess(disk)),
            Err(error) => {
                self.disk_outage.failed(format!(
                    "cannot read how full the disk of {} is: {error}",
                    folder.display()
                ));
                Ok(0)
            }
        }
    }
}

impl ImagePolicy {
    fn excess(&self, disk: Disk) -> u64 {
        let share = |percent: u8| disk.capacity / 100 * u64::from(percent);
        if disk.capacity == 0 || disk.used < share(self.high_threshold) {
            return 0;
        }
        disk.used.saturating_sub(share(self.low_threshold))
    }
}

fn read_disk(folder: &Path) -> io::Result<Disk> {
    let room = rustix::fs::statvfs(folder)?;
    let bytes = |blocks: u64| blocks.saturating_mul(room.f_frsize);
    let used = bytes(room.f_blocks.saturating_sub(room.f_bfree));
    Ok(Disk {
        // As df(1) has it: what is kept for root is nobody's to use.
        capacity: used.saturating_add(bytes(room.f_bavail)),
        used,
    })
}

/// What is known of the images that are here, by their ids.
#[derive(Debug, Default)]
struct Known(BTreeMap<String, History>);

#[derive(Debug, Clone, Copy)]
struct History {
    first_seen: Instant,
    /// As `first_seen` for one that was never used.
    last_used: Instant,
    is_used: bool,
}

impl Known {
    fn note(&mut self, images: &[Image], in_use: &BTreeSet<String>, now: Instant) {
        let before = std::mem::take(&mut self.0);
        self.0 = images
            .iter()
            .map(|image| {
                let mut history = before.get(&image.id).copied().unwrap_or(History {
                    first_seen: now,
                    last_used: now,
                    is_used: false,
                });
                history.is_used = names(image).any(|name| in_use.contains(name));
                if history.is_used {
                    history.last_used = now;
                }
                (image.id.clone(), history)
            })
            .collect();
    }

    /// The images that are to go, the longest unused first.
    fn to_go<'i>(
        &self,
        images: &'i [Image],
        policy: &ImagePolicy,
        excess: u64,
        now: Instant,
    ) -> Vec<&'i Image> {
        let mut idle: Vec<_> = images
            .iter()
            .filter(|image| !image.pinned && !image.repo_digests.is_empty())
            .filter_map(|image| Some((image, self.0.get(&image.id)?)))
            .filter(|(_, history)| !history.is_used && now - history.first_seen >= policy.min_age)
            .collect();
        idle.sort_by_key(|(image, history)| (history.last_used, history.first_seen, &image.id));
        let mut freed = 0;
        idle.retain(|(image, history)| {
            let is_old = policy.max_age.is_some_and(|age| now - history.last_used >= age);
            let goes = is_old || freed < excess;
            if goes {
                freed += image.size;
            }
            goes
        });
        idle.into_iter().map(|(image, _)| image).collect()
    }
}

/// All that a container may call an image by.
fn names(image: &Image) -> impl Iterator<Item = &String> {
    [&image.id]
        .into_iter()
        .chain(&image.repo_tags)
        .chain(&image.repo_digests)
}

#[cfg(test)]
mod tests;
