//! What the node and its containers use: sampled once an interval, shared by a watch channel, published on the bus.

mod containers;
pub(crate) mod host;
mod publish;
mod rate;
mod storage;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use clone8s::{cri::ContainerStats, v1::NodeStats};
use clone8s_daemon::{Shutdown, clock, supervisor::chain};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};

pub(crate) use self::storage::disk_use;
use self::{containers::pods, rate::Rates, storage::Storage};
pub use self::{
    host::{HostReading, ReadError},
    publish::Publisher,
};
use crate::{
    Config, desired::Desired, outage::Outage, runtime::Runtime, timestamp::timestamp, volumes::Volumes,
};

/// One look at everything.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub stats: NodeStats,
    pub host: HostReading,
}

/// The latest sample; None before the first.
pub type Samples = watch::Receiver<Option<Arc<Sample>>>;

const FIRST_INTERVAL: Duration = Duration::from_secs(1);

/// Samples for as long as the kubelet runs.
pub struct Sampler {
    config: Arc<Config>,
    runtime: Arc<dyn Runtime>,
    desired: watch::Receiver<Desired>,
    samples: watch::Sender<Option<Arc<Sample>>>,
    rates: Rates,
    storage: Storage,
    host_outage: Outage,
    runtime_outage: Outage,
}

impl std::fmt::Debug for Sampler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sampler").finish_non_exhaustive()
    }
}

impl Sampler {
    pub fn new(
        config: Arc<Config>,
        runtime: Arc<dyn Runtime>,
        desired: watch::Receiver<Desired>,
    ) -> (Self, Samples) {
        let (samples, receiver) = watch::channel(None);
        let sampler = Self {
            config,
            runtime,
            desired,
            samples,
            rates: Rates::default(),
            storage: Storage::default(),
            host_outage: Outage::new("sample of the node's use of resources"),
            runtime_outage: Outage::new("sample of the containers' use of resources"),
        };
        (sampler, receiver)
    }

    pub async fn run(mut self, shutdown: Shutdown) -> Result<(), Infallible> {
        let period = self.config.intervals.stats;
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut samples = 0u32;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                _ = ticks.tick() => self.sample().await,
            }
            samples = samples.saturating_add(1);
            if samples == 1 {
                // A rate needs two samples: the first shall not be waited for a whole interval.
                ticks.reset_after(period.min(FIRST_INTERVAL));
            }
        }
    }

    async fn sample(&mut self) {
        let paths = self.disks();
        let pods = Arc::clone(&self.desired.borrow().pods);
        let (volumes, log_root) = (Volumes::new(&self.config.data_dir), self.config.log_root.clone());
        let mut storage = std::mem::take(&mut self.storage);
        let read = tokio::task::spawn_blocking(move || {
            storage.look(&pods, &volumes, &log_root);
            (host::read(&paths), storage)
        });
        let host = match read.await {
            Ok((host, storage)) => {
                self.storage = storage;
                host
            }
            Err(stopped) => return self.host_outage.failed(stopped),
        };
        let host = match host {
            Ok(host) => host,
            Err(error) => return self.host_outage.failed(chain(&error)),
        };
        self.host_outage.over();
        let containers = match self.runtime.list_container_stats().await {
            Ok(containers) => {
                self.runtime_outage.over();
                containers
            }
            // The node's own numbers are worth having without the containers'.
            Err(error) => {
                self.runtime_outage.failed(error);
                Vec::new()
            }
        };
        let sample = self.assemble(host, &containers, clock::now(), Instant::now());
        self.samples.send_replace(Some(Arc::new(sample)));
    }

    fn assemble(
        &mut self,
        host: HostReading,
        containers: &[ContainerStats],
        now: SystemTime,
        taken: Instant,
    ) -> Sample {
        let mut next = Rates::default();
        let cpu = next.node(&self.rates, host.cpu_busy_nano_seconds, taken);
        let mut pods = pods(containers, &self.rates, &mut next);
        for pod in &mut pods {
            self.storage.tell(pod);
        }
        let stats = NodeStats {
            node_name: self.config.node_name.clone(),
            time: Some(timestamp(now)),
            cpu: Some(cpu),
            memory: Some(host.memory),
            filesystems: host.filesystems.clone(),
            networks: host.networks.clone(),
            load: Some(host.load),
            pods,
        };
        self.rates = next;
        Sample { stats, host }
    }

    /// What the pods fill: the first is the one that the node's capacity is about.
    fn disks(&self) -> Vec<PathBuf> {
        vec![
            self.config.data_dir.clone(),
            self.config.log_root.clone(),
            PathBuf::from("/"),
        ]
    }
}

/// Containers by name, in the order of their pods.
type ByPod<T> = BTreeMap<(String, String, String), T>;

#[cfg(test)]
mod tests;
