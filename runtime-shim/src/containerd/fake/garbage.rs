//! containerd's garbage collection: what no lease, image or container refers to goes.

use std::collections::BTreeSet;

use super::State;

const CONTENT: &str = "containerd.io/gc.ref.content.";
const SNAPSHOT: &str = "containerd.io/gc.ref.snapshot.";

impl State {
    pub(super) fn collect_garbage(&mut self) {
        let mut blobs = BTreeSet::new();
        let mut snapshots = BTreeSet::new();
        let targets = self.images.values().filter_map(|image| image.target.as_ref());
        let mut to_see: Vec<String> = targets.map(|target| target.digest.clone()).collect();
        for lease in self.leases.values() {
            to_see.extend(lease.blobs.iter().cloned());
            snapshots.extend(lease.snapshots.iter().cloned());
        }
        while let Some(digest) = to_see.pop() {
            let Some(blob) = self.blobs.get(&digest) else {
                continue;
            };
            if !blobs.insert(digest) {
                continue;
            }
            for (label, value) in &blob.labels {
                if label.starts_with(CONTENT) {
                    to_see.push(value.clone());
                } else if label.starts_with(SNAPSHOT) {
                    snapshots.insert(value.clone());
                }
            }
        }
        let keys = self.containers.values().map(|container| &container.snapshot_key);
        snapshots.extend(keys.cloned());
        let mut below: Vec<String> = snapshots.iter().cloned().collect();
        while let Some(name) = below.pop() {
            if let Some(snapshot) = self.snapshots.get(&name)
                && snapshots.insert(snapshot.parent.clone())
            {
                below.push(snapshot.parent.clone());
            }
        }
        self.blobs.retain(|digest, _| blobs.contains(digest));
        self.snapshots.retain(|name, _| snapshots.contains(name));
    }
}
