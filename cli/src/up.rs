//! `c8s up`: a whole cluster in one process, with containerd beside it as a child.
//!
//! ```text
//! lock the run folder ─► containerd ─┐
//!                     └► apiserver ──┼─► controllers, kubelet, runtime-shim ─► ready
//! SIGTERM: parts end ─► containerd ends; pods run on, and the next `c8s up` finds them
//! SIGUSR1 (`c8s down`): parts end ─► pods, network and folders are removed ─► containerd ends
//! ```
//! containerd's shims outlive containerd and this process: that is what keeps pods running in between.

mod args;
pub(crate) mod containerd;
mod detach;
mod layout;
mod lock;
mod notify;
pub(crate) mod orphans;
mod parts;
pub(crate) mod pidfd;
mod preflight;
mod ready;
pub(crate) mod teardown;

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
use clone8s_daemon::{Shutdown, Supervisor, log_file::LogFiles, process, telemetry::Telemetry};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::Instant,
};

pub use self::args::UpArgs;
pub(crate) use self::{
    args::{DEFAULT_DATA_DIR, DEFAULT_RUN_DIR},
    layout::{Cluster, Layout},
    lock::{Held, Lock, Locked},
};
use self::{containerd::Containerd, notify::Notifier};

/// Threads for the async runtime: a machine's own cluster is mostly idle, and every thread costs memory.
const THREADS: usize = 2;
/// Of each log file; one older part of the same size is kept.
const MAX_LOG_BYTES: u64 = 8 << 20;
/// How long the parts may take to end.
const GRACE: Duration = Duration::from_secs(10);

/// Runs a cluster until SIGTERM, or starts one in the background.
pub fn run(args: &UpArgs, telemetry: &Telemetry) -> ExitCode {
    if args.detach {
        return detach::run(args);
    }
    process::run_on(telemetry, Some(THREADS), async |shutdown| {
        Box::pin(serve(args, shutdown)).await
    })
}

async fn serve(args: &UpArgs, shutdown: Shutdown) -> Result<()> {
    let started = Instant::now();
    if args.session {
        // Started by `--detach`: the terminal's hang-up is not for us. An error says that it never was.
        let _ = rustix::process::setsid();
    }
    let cluster = args.cluster()?;
    // What the flags contradict is told before anything starts.
    let kubelet = parts::kubelet_config(args, &cluster)?;
    preflight::check(&cluster)?;
    let lock = Lock::take(&cluster.layout())?;
    cluster.save()?;
    let mut teardown_asked = signal(SignalKind::user_defined1()).context("cannot listen for SIGUSR1")?;

    orphans::take_in()?;
    // What the parts stand on ends after them.
    let ground_shutdown = Shutdown::new();
    let mut ground = Supervisor::new(ground_shutdown.clone());
    ground.spawn("orphans", orphans::reap(ground_shutdown.clone()));
    if let Some(containerd) = Containerd::start(&cluster).await? {
        ground.spawn("containerd", containerd.keep(ground_shutdown.clone()));
    }
    let logs = logs(args, &cluster.layout());
    ground.spawn("log files", logs.keep_bounded(ground_shutdown.clone()));

    let parts_shutdown = shutdown.child_token();
    let notifier = Notifier::from_environment()?;
    notifier.status("starting");
    let parts = async {
        let outcome = run_parts(args, &cluster, kubelet, started, &notifier, &parts_shutdown).await;
        notifier.stopping();
        outcome
    };
    // None unless asked for.
    let mut removed: Option<Result<()>> = None;
    let parts_then_pods = async {
        tokio::pin!(parts);
        let outcome = tokio::select! {
            outcome = &mut parts => outcome,
            _ = teardown_asked.recv() => {
                tracing::info!("asked to remove everything");
                parts_shutdown.cancel();
                let outcome = parts.await;
                removed = Some(teardown::pods(&cluster).await);
                outcome
            }
        };
        ground_shutdown.cancel();
        outcome
    };
    let ground_then_parts = async {
        let outcome = ground.run(GRACE).await;
        parts_shutdown.cancel();
        outcome
    };
    let (parts_outcome, ground_outcome) = tokio::join!(parts_then_pods, ground_then_parts);
    if let Some(removed) = removed {
        // What is left is found by the next `c8s down` through the run folder.
        removed?;
        teardown::traces(&cluster, lock).await?;
    }
    // The ground failing is the cause, the parts ending its consequence.
    ground_outcome?;
    parts_outcome
}

/// The log files of a cluster, which runs for months.
fn logs(args: &UpArgs, layout: &Layout) -> LogFiles {
    LogFiles {
        // In the foreground our output is whoever's started us.
        own: args.session.then(|| layout.up_log()),
        others: vec![layout.containerd_log()],
        bytes: MAX_LOG_BYTES,
    }
}

async fn run_parts(
    args: &UpArgs,
    cluster: &Cluster,
    kubelet: clone8s_kubelet::Config,
    started: Instant,
    notifier: &Notifier,
    shutdown: &Shutdown,
) -> Result<()> {
    let mut supervisor = Supervisor::new(shutdown.clone());
    parts::start(args, cluster, kubelet, &mut supervisor).await?;
    let announce = async {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = ready::wait(cluster, clone8s_daemon::clock::now()) => {
                tracing::info!(node = cluster.node_name, after = ?started.elapsed(), "ready");
                notifier.ready();
            }
        }
    };
    let (outcome, ()) = tokio::join!(supervisor.run(GRACE), announce);
    Ok(outcome?)
}
