//! What pods have on the node's disk: their volumes and their logs. Only pods that have a limit are looked at, and a walk
//! that takes long is not repeated soon. Blocks.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use clone8s::v1::{PodSpec, PodStats, VolumeStats, volume::Source};
use tokio::time::Instant;

use crate::{
    desired::{DesiredPod, DesiredPods, PodUid},
    logs,
    volumes::Volumes,
};

/// Of a walk's time, that passes before the next: looking takes one percent of a core at the most.
const REST: u32 = 100;
/// The unit of `st_blocks` (stat(2)).
const BLOCK: u64 = 512;

/// What was found the last time.
#[derive(Debug, Default)]
pub(super) struct Storage {
    pods: BTreeMap<PodUid, Found>,
}

#[derive(Debug)]
struct Found {
    volumes: Vec<VolumeStats>,
    /// By container.
    logs: BTreeMap<String, u64>,
    look_again_at: Instant,
}

impl Storage {
    /// Looks at every pod whose turn it is, and forgets those that are gone.
    pub(super) fn look(&mut self, pods: &DesiredPods, volumes: &Volumes, log_root: &Path) {
        let named: BTreeSet<_> = pods.values().map(DesiredPod::uid).collect();
        self.pods.retain(|uid, _| named.contains(uid));
        for (key, pod) in pods.iter().filter(|(_, pod)| has_limits(pod.spec())) {
            let uid = pod.uid();
            let begun = Instant::now();
            if self
                .pods
                .get(&uid)
                .is_some_and(|found| found.look_again_at > begun)
            {
                continue;
            }
            let on_disk = pod.spec().volumes.iter().filter(|volume| {
                matches!(&volume.source, Some(Source::EmptyDir(empty_dir)) if empty_dir.medium.is_empty())
            });
            let sizes = on_disk.map(|volume| VolumeStats {
                name: volume.name.clone(),
                used_bytes: disk_use(&volumes.volume_dir(&uid, &volume.name)),
            });
            let logs = logs::pod_dir(log_root, key, &uid);
            let lasting = pod.spec().all_containers().map(|container| &container.name);
            let ephemeral = pod.spec().ephemeral_containers.iter();
            let names = lasting.chain(ephemeral.map(|container| &container.name));
            let of_containers = names.map(|name| (name.clone(), disk_use(&logs.join(name))));
            let (volumes, logs) = (sizes.collect(), of_containers.collect());
            let rest = begun.elapsed().saturating_mul(REST).min(Duration::from_hours(1));
            let found = Found {
                volumes,
                logs,
                look_again_at: begun + rest,
            };
            self.pods.insert(uid, found);
        }
    }

    /// Adds what was found of a pod.
    pub(super) fn tell(&self, pod: &mut PodStats) {
        let Some(found) = self.pods.get(&PodUid::new(&pod.uid)) else {
            return;
        };
        pod.volumes.clone_from(&found.volumes);
        for container in &mut pod.containers {
            container.logs_used_bytes = found.logs.get(&container.name).copied().unwrap_or(0);
        }
    }
}

fn has_limits(spec: &PodSpec) -> bool {
    let mut volumes = spec.volumes.iter();
    let has_bounded_volume = volumes.any(|volume| {
        matches!(&volume.source, Some(Source::EmptyDir(empty_dir)) if !empty_dir.size_limit.is_empty())
    });
    let mut resources = spec
        .all_containers()
        .filter_map(|container| container.resources.as_ref());
    has_bounded_volume || resources.any(|resources| resources.limits.contains_key("ephemeral-storage"))
}

/// The bytes that all below a folder takes. What cannot be read, because it has just gone, takes none; links are not
/// followed, other file systems not entered, and a file with several names counts once.
pub(crate) fn disk_use(root: &Path) -> u64 {
    let Ok(top) = fs::symlink_metadata(root) else {
        return 0;
    };
    let mut sum = 0;
    let mut seen = BTreeSet::new();
    let mut folders: Vec<PathBuf> = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).into_iter().flatten();
        for entry in entries.filter_map(io::Result::ok) {
            let Ok(about) = entry.metadata() else { continue };
            if about.dev() != top.dev() || about.nlink() > 1 && about.is_file() && !seen.insert(about.ino()) {
                continue;
            }
            sum += about.blocks() * BLOCK;
            if about.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_below_counts_once_and_nothing_outside() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("volume");
        fs::create_dir_all(root.join("inner")).unwrap();
        let outside = dir.path().join("outside");
        fs::write(&outside, vec![1; 1 << 20]).unwrap();
        let empty = disk_use(&root);
        fs::write(root.join("inner/file"), vec![1; 64 << 10]).unwrap();
        let full = disk_use(&root);
        assert!(full - empty >= 64 << 10, "{empty} {full}");
        fs::hard_link(root.join("inner/file"), root.join("again")).unwrap();
        std::os::unix::fs::symlink(&outside, root.join("link")).unwrap();
        let with_links = disk_use(&root);
        assert!(with_links - full < 32 << 10, "{full} {with_links}");
        assert_eq!(disk_use(&root.join("absent")), 0);
    }
}
