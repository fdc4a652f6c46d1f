//! Our own containerd: a child with its own folders and socket, kept alive, and found again after a crash of ours.
//!
//! ```text
//! start ──► running ──ends──► (delay) ──► start
//!   │          └──shutdown──► SIGTERM ──(10 s)──► SIGKILL
//!   └─ one is running already with our configuration (we were killed): adopted
//! ```

use std::{
    fs::{self, OpenOptions},
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clone8s_daemon::{Shutdown, backoff};
use rustix::process::{Pid, Signal};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use super::{
    layout::{Cluster, Layout, Runtime},
    pidfd::Pidfd,
};

const TERM_GRACE: Duration = Duration::from_secs(10);
/// One that lived this long was healthy: the next delay is the first again.
const HEALTHY: Duration = Duration::from_mins(1);
/// Ending earlier than this at the first start is a broken configuration, not bad luck.
const TOO_SHORT: Duration = Duration::from_secs(3);

/// A running containerd.
#[derive(Debug)]
pub(crate) struct Containerd {
    layout: Layout,
    process: Process,
    since: Instant,
}

#[derive(Debug)]
enum Process {
    Child(Child),
    /// Started by an earlier process of ours.
    Adopted(Pidfd),
}

impl Containerd {
    /// Starts or adopts the cluster's own containerd, without waiting until it serves; None when it uses another.
    pub(crate) async fn start(cluster: &Cluster) -> Result<Option<Self>> {
        if cluster.runtime != Runtime::Own {
            return Ok(None);
        }
        let layout = cluster.layout();
        let config = config(&layout);
        let path = config_path(&layout);
        let unchanged = fs::read_to_string(&path).is_ok_and(|old| old == config);
        let running = running(&layout)?;
        for folder in [layout.containerd_run(), layout.containerd_data(), layout.logs()] {
            fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        fs::write(&path, config).with_context(|| format!("cannot write {}", path.display()))?;
        let process = match running {
            Some(adopted) if unchanged => {
                tracing::info!(pid = adopted.pid(), "adopted the containerd that is running");
                adopted
            }
            Some(mut stale) => {
                stale.stop().await;
                spawn(&layout)?
            }
            None => spawn(&layout)?,
        };
        Ok(Some(Self {
            layout,
            process,
            since: Instant::now(),
        }))
    }

    /// Keeps it running until shutdown, then stops it; the containers run on under their shims.
    pub(crate) async fn keep(mut self, shutdown: Shutdown) -> Result<()> {
        let mut delays = backoff::reconnect();
        let mut starts = 1;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => {
                    self.stop().await;
                    return Ok(());
                }
                how = self.process.ended() => {
                    let log = self.layout.containerd_log();
                    if starts == 1 && self.since.elapsed() < TOO_SHORT {
                        bail!("containerd ended at once ({how}): {}; see {}", last_line(&log), log.display());
                    }
                    if self.since.elapsed() > HEALTHY {
                        delays = backoff::reconnect();
                    }
                    tracing::warn!(how, log = %log.display(), "containerd ended: starting it again");
                }
            }
            let delay = delays.next().unwrap_or(Duration::from_secs(5));
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = sleep(delay) => {}
            }
            self.process = spawn(&self.layout)?;
            self.since = Instant::now();
            starts += 1;
        }
    }

    /// Asks it to end, and makes it end.
    pub(crate) async fn stop(&mut self) {
        self.process.stop().await;
    }
}

impl Process {
    fn pid(&self) -> Option<i32> {
        match self {
            Self::Child(child) => child.id().and_then(|pid| i32::try_from(pid).ok()),
            Self::Adopted(process) => Some(process.pid()),
        }
    }

    /// Waits for the end, and says how it was. Cancellation-safe.
    async fn ended(&mut self) -> String {
        match self {
            Self::Child(child) => match child.wait().await {
                Ok(status) => status.to_string(),
                Err(error) => error.to_string(),
            },
            Self::Adopted(process) => {
                process.ended().await;
                "it was not our child".to_owned()
            }
        }
    }

    async fn stop(&mut self) {
        for signal in [Signal::TERM, Signal::KILL] {
            self.signal(signal);
            if timeout(TERM_GRACE, self.ended()).await.is_ok() {
                return;
            }
            tracing::warn!(?signal, "containerd does not end");
        }
    }

    fn signal(&self, signal: Signal) {
        // An error says that it has ended already.
        let _ = match self {
            Self::Child(child) => match child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
                Some(pid) => rustix::process::kill_process(pid, signal),
                None => Ok(()),
            },
            Self::Adopted(process) => process.signal(signal),
        };
    }
}

fn spawn(layout: &Layout) -> Result<Process> {
    let log = layout.containerd_log();
    // Appended to, so that it can be emptied while containerd writes.
    let out = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log)
        .with_context(|| format!("cannot open {}", log.display()))?;
    let child = Command::new("containerd")
        .arg("--config")
        .arg(config_path(layout))
        // systemd asks us, not containerd, whether the cluster is up.
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        // Ctrl-C in our terminal is for us: containerd ends last.
        .process_group(0)
        .spawn()
        .context("cannot start containerd")?;
    if let Some(pid) = child.id() {
        fs::write(pid_path(layout), pid.to_string())?;
    }
    Ok(Process::Child(child))
}

/// The containerd that runs with our configuration, if one does.
fn running(layout: &Layout) -> Result<Option<Process>> {
    let pid = match fs::read_to_string(pid_path(layout)) {
        Ok(text) => text.trim().parse().ok().and_then(Pid::from_raw),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).context("cannot read containerd's process id"),
    };
    let Some(pid) = pid else { return Ok(None) };
    // First the handle, then the look: the id cannot change hands in between.
    let process = Pidfd::open(pid).filter(|_| is_ours(pid, layout));
    Ok(process.map(Process::Adopted))
}

fn is_ours(pid: Pid, layout: &Layout) -> bool {
    let command = fs::read(format!("/proc/{}/cmdline", pid.as_raw_pid())).unwrap_or_default();
    let config = config_path(layout);
    let mut words = command.split(|byte| *byte == 0);
    words.any(|word| word == config.as_os_str().as_encoded_bytes())
}

fn config(layout: &Layout) -> String {
    // JSON's strings are TOML's basic strings for every path that a person would choose.
    let quoted = |path: PathBuf| format!("{:?}", path.to_string_lossy());
    format!(
        r#"# Written by c8s up.
version = 2
root = {root}
state = {state}
# CRI is served by the runtime-shim; the others are for disks that a cluster of one machine does not have.
disabled_plugins = [
  "io.containerd.grpc.v1.cri",
  "io.containerd.internal.v1.opt",
  "io.containerd.internal.v1.tracing",
  "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]

[grpc]
address = {socket}

[ttrpc]
address = {ttrpc}

[debug]
level = "warn"
"#,
        root = quoted(layout.containerd_data()),
        state = quoted(layout.containerd_run().join("state")),
        socket = quoted(layout.containerd_socket()),
        ttrpc = quoted(layout.containerd_run().join("containerd.sock.ttrpc")),
    )
}

fn config_path(layout: &Layout) -> PathBuf {
    layout.containerd_run().join("config.toml")
}

fn pid_path(layout: &Layout) -> PathBuf {
    layout.containerd_run().join("containerd.pid")
}

fn last_line(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.lines().next_back().unwrap_or("it wrote nothing").to_owned()
}
