//! Everything that runs pods, put together: relist, table, workers, status sync, events.

use std::sync::Arc;

use clone8s::huge_pages::PageSize;
use clone8s_daemon::{Supervisor, cgroups::Cgroups};
use tokio::sync::{Semaphore, watch};

use crate::{
    ApiChannel, Config,
    admission::Admitted,
    clock::Clock,
    desired::Desired,
    events::{self, EventRecorder},
    eviction::Evictions,
    image_archives::ArchiveImages,
    mirrors::Mirrors,
    objects::Objects,
    pod::{
        execute::Executor,
        pull::ImagePuller,
        worker::{LOOKS, WorkerContext},
    },
    pod_cgroups::{PodCgroups, Weights},
    relist::Relist,
    runtime::{Runtime, RuntimeHealth},
    status::{StatusBoard, sync::StatusSync},
    table::PodTable,
    user_ranges::UserRanges,
    volumes::Volumes,
};

/// What running pods needs.
pub(crate) struct Setup {
    pub(crate) config: Arc<Config>,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) clock: Clock,
    pub(crate) desired: watch::Receiver<Desired>,
    pub(crate) api: ApiChannel,
    pub(crate) mirrors: watch::Receiver<Option<Mirrors>>,
    pub(crate) board: StatusBoard,
    pub(crate) objects: watch::Receiver<Objects>,
    pub(crate) evictions: watch::Receiver<Evictions>,
    pub(crate) archives: watch::Receiver<ArchiveImages>,
    /// The node's own address.
    pub(crate) host_ip: String,
    /// Bytes.
    pub(crate) node_memory: i64,
    /// Thousandths of a core.
    pub(crate) node_milli_cpu: i64,
    /// Of the huge pages that the node has.
    pub(crate) page_sizes: Vec<PageSize>,
}

/// Starts all of it; returns what the others may know of the runtime.
pub(crate) fn spawn(supervisor: &mut Supervisor, setup: Setup) -> watch::Receiver<RuntimeHealth> {
    let shutdown = supervisor.shutdown().clone();
    let (relist, feeds) = Relist::new(Arc::clone(&setup.runtime), setup.config.intervals.relist);
    let (recorder, happenings) = EventRecorder::new();
    let health = feeds.health.clone();
    let cgroups = setup
        .config
        .cgroup_root
        .as_ref()
        .map(|root| PodCgroups::new(Cgroups::of_host(), root, setup.config.pod_max_pids));
    if let Some(cgroups) = &cgroups {
        let free = setup.node_milli_cpu - i64::try_from(setup.config.reserved.milli_cpu).unwrap_or(i64::MAX);
        let weights = Weights::new(cgroups.clone(), setup.desired.clone(), free);
        supervisor.spawn("weight of pods", weights.run(shutdown.clone()));
    }
    let images = ImagePuller::new(
        Arc::clone(&setup.runtime),
        setup.archives,
        setup.objects.clone(),
        recorder.clone(),
        setup.config.max_parallel_pulls,
    );
    let context = WorkerContext {
        executor: Executor {
            cgroups,
            runtime: setup.runtime,
            images,
            volumes: Volumes::new(&setup.config.data_dir),
            user_ranges: UserRanges::new(&setup.config.data_dir),
            clock: setup.clock,
            log_root: setup.config.log_root.clone(),
            objects: setup.objects,
            host_ip: setup.host_ip.clone(),
            node_memory: setup.node_memory,
            node_milli_cpu: setup.node_milli_cpu,
            page_sizes: setup.page_sizes,
            seccomp_profiles: setup.config.seccomp_profiles(),
            cluster_domain: setup.config.cluster_domain.clone(),
        },
        intervals: setup.config.intervals.clone(),
        clock: setup.clock,
        board: setup.board.clone(),
        events: recorder,
        host_ip: setup.host_ip,
        runtime_health: health.clone(),
        shutdown: shutdown.clone(),
        looks: Semaphore::new(LOOKS),
    };
    let admitted = Admitted::new(setup.config.allowed_unsafe_sysctls.clone());
    let node = setup.config.node_name.clone();
    let sync = StatusSync::new(
        &node,
        setup.board.subscribe(),
        setup.desired.clone(),
        setup.mirrors,
        setup.api.clone(),
    );
    let table = PodTable::new(context, setup.desired, setup.evictions, feeds, admitted);
    supervisor.spawn("relist", Arc::clone(&relist).run(shutdown.clone()));
    supervisor.spawn("runtime events", relist.follow_events(shutdown.clone()));
    supervisor.spawn("pod workers", table.run(shutdown.clone()));
    supervisor.spawn("status sync", sync.run(shutdown.clone()));
    supervisor.spawn(
        "events",
        events::run(happenings, setup.api, node, setup.clock, shutdown),
    );
    health
}

/// The node's memory in bytes (proc_meminfo(5)), or 0 where that cannot be read.
pub(crate) fn node_memory() -> i64 {
    use procfs::Current as _;
    procfs::Meminfo::current().map_or(0, |meminfo| i64::try_from(meminfo.mem_total).unwrap_or(i64::MAX))
}

/// The node's cores in thousandths (proc_stat(5)), or 0 where that cannot be read.
pub(crate) fn node_milli_cpu() -> i64 {
    use procfs::CurrentSI as _;
    procfs::KernelStats::current().map_or(0, |stats| {
        i64::try_from(stats.cpu_time.len())
            .unwrap_or(0)
            .saturating_mul(1_000)
    })
}

#[cfg(test)]
mod tests;
