//! `c8s down`: stops the cluster of `c8s up` and removes what it made, whatever state it is in.
//!
//! A running cluster is asked to do it itself: it is the parent of what ends, and has containerd at hand. Where it
//! has crashed, we take its place.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use clone8s_daemon::{Shutdown, Supervisor, telemetry::Telemetry};
use rustix::process::Signal;
use tokio::time::{Instant, timeout};

use crate::up::{
    Cluster, DEFAULT_DATA_DIR, DEFAULT_RUN_DIR, Held, Layout, Lock, Locked,
    containerd::Containerd,
    orphans,
    pidfd::Pidfd,
    teardown::{self, remove_folder},
};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  c8s down            pods, network and processes go; images, objects, volumes and logs stay for the next `c8s up`
  c8s down --purge    everything goes")]
pub struct DownArgs {
    /// The run folder of the cluster
    #[arg(long, env = "CLONE8S_RUN_DIR", default_value = DEFAULT_RUN_DIR, value_name = "DIR")]
    run_dir: PathBuf,
    /// The data folder to purge [default: the one that the cluster used, else /var/lib/clone8s]
    #[arg(long, env = "CLONE8S_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Remove the data folder too: images, objects, certificates, volumes and logs
    #[arg(long)]
    purge: bool,
    /// Kill the cluster's process when it is not done after this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 90)]
    timeout: u64,
}

/// For containerd to end.
const GRACE: Duration = Duration::from_secs(30);

pub fn run(args: &DownArgs, telemetry: &Telemetry) -> ExitCode {
    clone8s_daemon::process::run_on(telemetry, Some(1), async |_shutdown| down(args).await)
}

async fn down(args: &DownArgs) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("must be root; try `sudo c8s down`");
    }
    let started = Instant::now();
    let run_dir = std::path::absolute(&args.run_dir)?;
    let cluster = Cluster::load(&run_dir)?;
    let data_dir = match (&args.data_dir, &cluster) {
        (Some(given), Some(cluster)) if std::path::absolute(given)? != cluster.data_dir => bail!(
            "--data-dir {}: the cluster in {} uses {}",
            given.display(),
            run_dir.display(),
            cluster.data_dir.display()
        ),
        (_, Some(cluster)) => cluster.data_dir.clone(),
        (Some(given), None) => std::path::absolute(given)?,
        (None, None) => DEFAULT_DATA_DIR.into(),
    };
    let layout = Layout::new(&run_dir, &data_dir);
    match cluster {
        None => println!("nothing is up in {}", run_dir.display()),
        Some(cluster) => {
            stop(&layout, Duration::from_secs(args.timeout)).await?;
            // Gone with everything when the process did it itself.
            if layout.cluster().exists() {
                take_down(&cluster).await?;
            }
            println!("down after {:.2} s", started.elapsed().as_secs_f64());
        }
    }
    if args.purge {
        purge(&layout)?;
    }
    Ok(())
}

/// Asks the process that runs the cluster to remove everything and end; one that does not is killed.
async fn stop(layout: &Layout, limit: Duration) -> Result<()> {
    let Locked::By(Some(pid)) = Held::try_take(&layout.lock())? else {
        return Ok(());
    };
    // From here on the handle is the process, whatever becomes of its id.
    let Some(process) = Pidfd::open(pid) else {
        return Ok(());
    };
    if let Locked::ByUs(_) = Held::try_take(&layout.lock())? {
        return Ok(());
    }
    println!("asking process {} to remove everything", process.pid());
    process
        .signal(Signal::USR1)
        .context("cannot signal the cluster's process")?;
    if timeout(limit, process.ended()).await.is_err() {
        println!(
            "process {} is not done after {limit:?}: killing it",
            process.pid()
        );
        process
            .signal(Signal::KILL)
            .context("cannot kill the cluster's process")?;
        process.ended().await;
    }
    Ok(())
}

/// What the cluster's process would have done.
async fn take_down(cluster: &Cluster) -> Result<()> {
    println!("removing what a cluster left that is gone");
    orphans::take_in()?;
    let lock = Lock::take(&cluster.layout())?;
    let shutdown = Shutdown::new();
    let mut ground = Supervisor::new(shutdown.clone());
    ground.spawn("orphans", orphans::reap(shutdown.clone()));
    if let Some(containerd) = Containerd::start(cluster).await? {
        ground.spawn("containerd", containerd.keep(shutdown.clone()));
    }
    let pods = async {
        let removed = teardown::pods(cluster).await;
        shutdown.cancel();
        removed
    };
    let (ended, removed) = tokio::join!(ground.run(GRACE), pods);
    removed.context("run `c8s down` again, or look into containerd's log")?;
    ended?;
    teardown::traces(cluster, lock).await
}

fn purge(layout: &Layout) -> Result<()> {
    let folder = &layout.data_dir;
    if !folder.exists() {
        return Ok(());
    }
    if !layout.marker().exists() {
        bail!(
            "{}: not the data folder of a cluster; nothing was removed",
            folder.display()
        );
    }
    remove_data(folder)?;
    println!("removed {}", folder.display());
    Ok(())
}

fn remove_data(folder: &Path) -> Result<()> {
    teardown::unmount_below(folder)?;
    remove_folder(folder)
}
