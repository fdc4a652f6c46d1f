//! ContainerStats and PodSandboxStats: what containers and pods use, from cgroup files, the network namespace's
//! counters and the snapshotter.

mod network;
mod sample;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use clone8s::cri;
use futures::{StreamExt as _, stream};

use self::sample::Sample;
use crate::{
    container::{Container, state::State},
    error::Result,
    pins::SandboxDir,
    sandbox::Sandbox,
    shim::Shim,
    steps::timed,
    table::lock,
    time::now_nanos,
};

/// How many containers are sampled at a time.
const AT_ONCE: usize = 8;
/// A rate is not worth much over less.
const MIN_SPAN: Duration = Duration::from_millis(100);

/// The CPU time of earlier samples by cgroup, from which rates are made.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    earlier: Mutex<HashMap<String, CpuTime>>,
}

#[derive(Debug, Clone, Copy)]
struct CpuTime {
    at: i64,
    nanos: u64,
    rate: u64,
}

impl Rates {
    /// CPU nanoseconds a second since the sample before; none at the first.
    fn rate(&self, cgroup: &str, at: i64, nanos: u64) -> Option<u64> {
        let mut earlier = lock(&self.earlier);
        let Some(before) = earlier.get(cgroup).copied() else {
            earlier.insert(cgroup.to_owned(), CpuTime { at, nanos, rate: 0 });
            return None;
        };
        let span = u64::try_from(at - before.at).unwrap_or(0);
        if u128::from(span) < MIN_SPAN.as_nanos() {
            return Some(before.rate);
        }
        let used = u128::from(nanos.saturating_sub(before.nanos)) * 1_000_000_000;
        let rate = u64::try_from(used / u128::from(span)).unwrap_or(u64::MAX);
        earlier.insert(cgroup.to_owned(), CpuTime { at, nanos, rate });
        Some(rate)
    }

    /// For a cgroup that is gone.
    pub(crate) fn forget(&self, cgroup: &str) {
        lock(&self.earlier).remove(cgroup);
    }
}

impl Shim {
    pub(crate) async fn container_stats(&self, container: &Arc<Container>) -> Result<cri::ContainerStats> {
        let at = now_nanos();
        let running = matches!(container.state(), State::Running { .. });
        let sample = running
            .then(|| self.cgroups.sample(&container.detail.cgroup))
            .flatten();
        let usage = timed(
            "snapshot usage",
            self.containerd
                .snapshot_usage(&self.config.snapshotter, container.id.as_str()),
        )
        .await?;
        let layer = cri::FilesystemUsage {
            timestamp: at,
            fs_id: Some(cri::FilesystemIdentifier {
                mountpoint: self.images.snapshot_root().await?,
            }),
            used_bytes: some(usage.bytes),
            inodes_used: some(usage.inodes),
        };
        Ok(cri::ContainerStats {
            attributes: Some(cri::ContainerAttributes {
                id: container.id.to_string(),
                metadata: container.config.metadata.clone(),
                labels: container.config.labels.clone(),
                annotations: container.config.annotations.clone(),
            }),
            cpu: sample
                .as_ref()
                .map(|sample| self.cpu(&container.detail.cgroup, sample, at)),
            memory: sample.as_ref().map(|sample| sample.memory(at)),
            swap: sample.as_ref().map(|sample| sample.swap(at)),
            writable_layer: Some(layer),
            io: None,
        })
    }

    /// Containers that go meanwhile are left out.
    pub(crate) async fn stats_of(&self, containers: Vec<Arc<Container>>) -> Vec<cri::ContainerStats> {
        let all = stream::iter(containers)
            .map(|container| async move { self.container_stats(&container).await.ok() });
        all.buffered(AT_ONCE)
            .filter_map(|stats| async { stats })
            .collect()
            .await
    }

    pub(crate) async fn sandbox_stats(&self, sandbox: &Sandbox) -> cri::PodSandboxStats {
        let at = now_nanos();
        let parent = sandbox.cgroup_parent();
        let containers = self.table.containers_of(&sandbox.id);
        // The pod's own cgroup, where it has one to itself; else the sum of its containers is all that is known.
        let own = self
            .table
            .sandboxes()
            .iter()
            .all(|other| other.id == sandbox.id || other.cgroup_parent() != parent);
        let sample = own.then(|| self.cgroups.sample(&parent)).flatten();
        let network = if sandbox.wanted.net && sandbox.is_ready() {
            let path = SandboxDir::new(&self.config.state_dir, &sandbox.id).net();
            network::usage(path, at).await
        } else {
            None
        };
        let process_count = sample.as_ref().map(|sample| sample.processes);
        cri::PodSandboxStats {
            attributes: Some(cri::PodSandboxAttributes {
                id: sandbox.id.to_string(),
                metadata: sandbox.config.metadata.clone(),
                labels: sandbox.config.labels.clone(),
                annotations: sandbox.config.annotations.clone(),
            }),
            linux: Some(cri::LinuxPodSandboxStats {
                cpu: sample.as_ref().map(|sample| self.cpu(&parent, sample, at)),
                memory: sample.as_ref().map(|sample| sample.memory(at)),
                network,
                process: process_count.map(|count| cri::ProcessUsage {
                    timestamp: at,
                    process_count: some(count),
                }),
                containers: self.stats_of(containers).await,
                io: None,
            }),
            windows: None,
        }
    }

    fn cpu(&self, cgroup: &str, sample: &Sample, at: i64) -> cri::CpuUsage {
        cri::CpuUsage {
            timestamp: at,
            usage_core_nano_seconds: some(sample.cpu_nanos),
            usage_nano_cores: self.rates.rate(cgroup, at, sample.cpu_nanos).and_then(some),
            psi: None,
        }
    }
}

#[expect(clippy::unnecessary_wraps, reason = "CRI's numbers are optional messages")]
fn some(value: u64) -> Option<cri::UInt64Value> {
    Some(cri::UInt64Value { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_cpu_time_over_the_time_between_samples() {
        let rates = Rates::default();
        assert_eq!(rates.rate("/c1", 0, 0), None);
        // Half a second of CPU in one second.
        assert_eq!(rates.rate("/c1", 1_000_000_000, 500_000_000), Some(500_000_000));
        // Asked again at once: the same answer.
        assert_eq!(rates.rate("/c1", 1_000_000_001, 500_000_000), Some(500_000_000));
        rates.forget("/c1");
        assert_eq!(rates.rate("/c1", 2_000_000_000, 0), None);
    }
}
