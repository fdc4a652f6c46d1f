//! ContainerStats, PodSandboxStats and ListPodSandboxMetrics: what containers and pods use, from cgroup files, the
//! network namespaces' counters and the snapshotter.
//!
//! What one answer costs is bounded: about fifteen small files a cgroup, read on a thread that may block; one thread
//! for the networks of all pods asked for; and a walk of each writable layer at most every ten seconds. Nothing
//! looks through `/proc`.

mod devices;
mod layers;
mod metrics;
mod network;
mod pressure;
mod rates;
mod sample;

use std::{collections::HashMap, sync::Arc};

use clone8s::cri;
use futures::{StreamExt as _, stream};

pub(crate) use self::{layers::Layers, metrics::descriptors, rates::Rates};
use self::{network::Interface, sample::Sample};
use crate::{
    container::{Container, state::State},
    error::{Error, Result},
    ids::SandboxId,
    pins::SandboxDir,
    sandbox::Sandbox,
    shim::Shim,
    time::now_nanos,
};

/// How many writable layers are measured at a time.
const AT_ONCE: usize = 8;

/// One look at some sandboxes and all that is in them.
struct Reading {
    at: i64,
    pods: Vec<Pod>,
}

struct Pod {
    sandbox: Arc<Sandbox>,
    cgroup: String,
    /// None where the pod has no cgroup to itself.
    sample: Option<Sample>,
    /// None on the host's network.
    interfaces: Option<Vec<Interface>>,
    containers: Vec<Measured>,
}

/// A container with what it uses.
struct Measured {
    at: i64,
    container: Arc<Container>,
    /// None for one that does not run.
    sample: Option<Sample>,
    layer: Option<cri::FilesystemUsage>,
}

impl Shim {
    pub(crate) async fn container_stats(&self, container: Arc<Container>) -> Result<cri::ContainerStats> {
        let all = self.stats_of(vec![Arc::clone(&container)]).await;
        all.into_iter().next().ok_or(Error::NotFound {
            kind: "container",
            id: container.id.to_string(),
        })
    }

    pub(crate) async fn stats_of(&self, containers: Vec<Arc<Container>>) -> Vec<cri::ContainerStats> {
        let measured = self.measured(containers).await;
        let all = measured.iter();
        all.map(|measured| self.describe_container(measured)).collect()
    }

    pub(crate) async fn sandbox_stats_of(&self, sandboxes: Vec<Arc<Sandbox>>) -> Vec<cri::PodSandboxStats> {
        let reading = self.read(sandboxes).await;
        let all = reading.pods.iter();
        all.map(|pod| self.describe_sandbox(pod, reading.at)).collect()
    }

    pub(crate) async fn metrics_of(&self, sandboxes: Vec<Arc<Sandbox>>) -> Vec<cri::PodSandboxMetrics> {
        let reading = self.read(sandboxes).await;
        let all = reading.pods.iter();
        all.map(|pod| metrics::of_pod(pod, reading.at)).collect()
    }

    async fn read(&self, sandboxes: Vec<Arc<Sandbox>>) -> Reading {
        let at = now_nanos();
        let mut users: HashMap<String, usize> = HashMap::new();
        for sandbox in self.table.sandboxes() {
            *users.entry(sandbox.cgroup_parent()).or_default() += 1;
        }
        // A parent that several pods share tells nothing of one of them.
        let own = |sandbox: &Sandbox| {
            users
                .get(&sandbox.cgroup_parent())
                .is_none_or(|&users| users == 1)
        };
        let parents: Vec<_> = sandboxes
            .iter()
            .map(|sandbox| own(sandbox).then(|| sandbox.cgroup_parent()))
            .collect();
        let networks: HashMap<SandboxId, Vec<Interface>> = self.networks_of(&sandboxes).await;
        let mut containers: HashMap<SandboxId, Vec<Measured>> = HashMap::new();
        let wanted = sandboxes
            .iter()
            .flat_map(|sandbox| self.table.containers_of(&sandbox.id))
            .collect();
        for measured in self.measured(wanted).await {
            let pod = containers.entry(measured.container.sandbox.clone()).or_default();
            pod.push(measured);
        }
        let samples = self.samples(parents).await;
        let pods = sandboxes.into_iter().zip(samples).map(|(sandbox, sample)| Pod {
            cgroup: sandbox.cgroup_parent(),
            interfaces: networks.get(&sandbox.id).cloned(),
            containers: containers.remove(&sandbox.id).unwrap_or_default(),
            sample,
            sandbox,
        });
        Reading {
            at,
            pods: pods.collect(),
        }
    }

    async fn networks_of(&self, sandboxes: &[Arc<Sandbox>]) -> HashMap<SandboxId, Vec<Interface>> {
        let (ids, paths): (Vec<_>, Vec<_>) = sandboxes
            .iter()
            .filter(|sandbox| sandbox.wanted.net && sandbox.is_ready())
            .map(|sandbox| {
                let dir = SandboxDir::new(&self.config.state_dir, &sandbox.id);
                (sandbox.id.clone(), dir.net())
            })
            .unzip();
        if paths.is_empty() {
            return HashMap::new();
        }
        let read = network::interfaces(paths).await;
        ids.into_iter()
            .zip(read)
            .filter_map(|(id, interfaces)| Some((id, interfaces?)))
            .collect()
    }

    async fn measured(&self, containers: Vec<Arc<Container>>) -> Vec<Measured> {
        let at = now_nanos();
        let cgroups = containers
            .iter()
            .map(|container| {
                let running = matches!(container.state(), State::Running { .. });
                running.then(|| container.detail.cgroup.clone())
            })
            .collect();
        let samples = self.samples(cgroups).await;
        let layers = stream::iter(containers.clone())
            .map(|container| async move { self.layer_usage(&container).await })
            .buffered(AT_ONCE)
            .collect::<Vec<_>>()
            .await;
        let all = containers.into_iter().zip(samples).zip(layers);
        all.map(|((container, sample), layer)| Measured {
            at,
            container,
            sample,
            layer,
        })
        .collect()
    }

    /// Reads cgroups on a thread that may block: the kernel takes its time to sum up the larger ones.
    async fn samples(&self, cgroups: Vec<Option<String>>) -> Vec<Option<Sample>> {
        let count = cgroups.len();
        let host = self.cgroups.clone();
        let read = tokio::task::spawn_blocking(move || {
            let all = cgroups.into_iter();
            all.map(|cgroup| sample::sample(&host, &cgroup?))
                .collect::<Vec<_>>()
        });
        read.await.unwrap_or_else(|_| vec![None; count])
    }

    fn describe_container(&self, measured: &Measured) -> cri::ContainerStats {
        let &Measured {
            at,
            ref container,
            ref sample,
            ref layer,
        } = measured;
        let sample = sample.as_ref();
        cri::ContainerStats {
            attributes: Some(cri::ContainerAttributes {
                id: container.id.to_string(),
                metadata: container.config.metadata.clone(),
                labels: container.config.labels.clone(),
                annotations: container.config.annotations.clone(),
            }),
            cpu: sample.map(|sample| self.cpu(&container.detail.cgroup, sample, at)),
            memory: sample.map(|sample| sample.memory_usage(at)),
            swap: sample.map(|sample| sample.swap_usage(at)),
            writable_layer: layer.clone(),
            io: sample.and_then(|sample| sample.io_usage(at)),
        }
    }

    fn describe_sandbox(&self, pod: &Pod, at: i64) -> cri::PodSandboxStats {
        let sandbox = &pod.sandbox;
        let sample = pod.sample.as_ref();
        let containers = pod
            .containers
            .iter()
            .map(|measured| self.describe_container(measured))
            .collect();
        cri::PodSandboxStats {
            attributes: Some(cri::PodSandboxAttributes {
                id: sandbox.id.to_string(),
                metadata: sandbox.config.metadata.clone(),
                labels: sandbox.config.labels.clone(),
                annotations: sandbox.config.annotations.clone(),
            }),
            linux: Some(cri::LinuxPodSandboxStats {
                cpu: sample.map(|sample| self.cpu(&pod.cgroup, sample, at)),
                memory: sample.map(|sample| sample.memory_usage(at)),
                network: pod
                    .interfaces
                    .as_ref()
                    .map(|interfaces| network::usage(interfaces, at)),
                process: sample.map(|sample| sample.process_usage(at)),
                containers,
                io: sample.and_then(|sample| sample.io_usage(at)),
            }),
            windows: None,
        }
    }

    fn cpu(&self, cgroup: &str, sample: &Sample, at: i64) -> cri::CpuUsage {
        sample.cpu_usage(at, self.rates.rate(cgroup, at, sample.cpu.total))
    }
}

#[expect(clippy::unnecessary_wraps, reason = "CRI's numbers are optional messages")]
fn some(value: u64) -> Option<cri::UInt64Value> {
    Some(cri::UInt64Value { value })
}
