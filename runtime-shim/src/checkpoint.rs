//! CheckpointContainer and CheckpointPod: the state of running processes in a file, taken by CRIU through the OCI
//! runtime. The containers run on.
//!
//! An archive of a container, as other runtimes write it:
//!
//! | entry | is |
//! |---|---|
//! | `checkpoint/` | CRIU's images |
//! | `dump.log` | what CRIU said |
//! | `config.dump` | which container of which image it was, as JSON |
//! | `spec.dump` | its OCI spec, as JSON |
//! | `rootfs-diff.tar` | what it has written to its root file system, in the form of an image layer |

mod archive;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde_json::json;
use tokio::time::timeout;

use crate::{
    container::{Container, state::State},
    error::{Error, Result},
    ids::ContainerId,
    logs, programs,
    runtime_options::CheckpointOptions,
    shim::Shim,
    steps::timed,
    time::now_nanos,
};

/// What takes the checkpoints.
pub(crate) const PROGRAM: &str = "criu";
/// How long a checkpoint may take where the caller sets no limit.
const DEFAULT_LIMIT: Duration = Duration::from_mins(2);
/// How much of CRIU's log goes into an error.
const LOG_LINES: usize = 5;

impl Shim {
    /// CRI: `location` is the absolute path of the archive to write; a limit of zero seconds is the runtime's choice.
    pub(crate) async fn checkpoint_container(
        self: Arc<Self>,
        id: String,
        location: String,
        limit_seconds: i64,
    ) -> Result<()> {
        let container = self.table.container(&id)?;
        let location = absolute("location", &location)?;
        let limit = match u64::try_from(limit_seconds) {
            Ok(seconds @ 1..) => Duration::from_secs(seconds),
            _ => DEFAULT_LIMIT,
        };
        self.checkpoint(&container, &location, limit).await
    }

    /// CRI: `output` is a folder, which gets an archive for each of the containers, or for each that runs where none is
    /// named. All of them or nothing: what was written before a failure is removed.
    pub(crate) async fn checkpoint_pod(
        self: Arc<Self>,
        sandbox: String,
        output: String,
        ids: Vec<String>,
    ) -> Result<()> {
        let sandbox = self.table.sandbox(&sandbox)?;
        let output = absolute("output_path", &output)?;
        let of_pod = self.table.containers_of(&sandbox.id);
        let wanted = if ids.is_empty() {
            let running = |container: &Arc<Container>| matches!(container.state(), State::Running { .. });
            of_pod.into_iter().filter(running).collect()
        } else {
            let find = |id: &String| {
                let found = of_pod.iter().find(|container| container.id.as_str() == id);
                found.cloned().ok_or_else(|| Error::NotFound {
                    kind: "container",
                    id: format!("{id} in sandbox {}", sandbox.id),
                })
            };
            ids.iter().map(find).collect::<Result<Vec<_>>>()?
        };
        std::fs::create_dir_all(&output).map_err(Error::file("make folder", &output))?;
        let mut written = Vec::new();
        for container in wanted {
            let location = output.join(format!("{}.tar", container.name()));
            if let Err(error) = self.checkpoint(&container, &location, DEFAULT_LIMIT).await {
                for path in written {
                    let _ = std::fs::remove_file(path);
                }
                return Err(error);
            }
            written.push(location);
        }
        Ok(())
    }

    async fn checkpoint(&self, container: &Container, location: &Path, limit: Duration) -> Result<()> {
        let _changing = container.changing().await;
        let state = container.state();
        if !matches!(state, State::Running { .. }) {
            return Err(Error::WrongState {
                kind: "container",
                id: container.id.to_string(),
                state: state.name(),
                next_step: "only a running container has processes to checkpoint",
            });
        }
        require()?;
        // In a folder of its own beside the others, cleared away with them.
        let work = self
            .config
            .state_dir
            .join("checkpoints")
            .join(ContainerId::random().as_str());
        let images = work.join("checkpoint");
        std::fs::create_dir_all(&images).map_err(Error::file("make folder", &images))?;
        let taken = self.take(container, &work, &images, location, limit).await;
        if let Err(error) = std::fs::remove_dir_all(&work) {
            tracing::warn!(path = %work.display(), %error, "checkpoint's working folder not removed");
        }
        taken
    }

    async fn take(
        &self,
        container: &Container,
        work: &Path,
        images: &Path,
        location: &Path,
        limit: Duration,
    ) -> Result<()> {
        let options = CheckpointOptions {
            image_path: images.display().to_string(),
            work_path: work.display().to_string(),
        };
        let asked = self
            .containerd
            .checkpoint_task(container.id.as_str(), options.into());
        let dumped = timed("checkpoint", timeout(limit, asked)).await;
        let dumped = dumped.map_err(|_| Error::Deadline {
            what: format!("the checkpoint of container {}", container.id),
            seconds: limit.as_secs(),
        })?;
        if let Err(error) = dumped {
            // A kernel or a container that CRIU cannot take is no failure of this runtime, and CRIU says why.
            return Err(match log_end(&work.join("dump.log")) {
                Some(log) => Error::unmet("container_id", self.refusal(&log)),
                None => error.into(),
            });
        }
        let object = self.containerd.get_container(container.id.as_str()).await?;
        let mounts = self
            .containerd
            .snapshot_mounts(&self.config.snapshotter, container.id.as_str())
            .await?;
        let content = archive::Content {
            work: work.to_owned(),
            config: json!({
                "id": container.id.as_str(),
                "name": container.name(),
                "rootfsImage": container.detail.image_id,
                "rootfsImageRef": container.detail.image_ref,
                "rootfsImageName": object.image,
                "runtime": object.runtime.unwrap_or_default().name,
                "createdTime": container.detail.created_at,
                "checkpointedTime": now_nanos(),
            }),
            spec: object.spec.unwrap_or_default().value,
            written: archive::upper_dir(&mounts),
        };
        let location = location.to_owned();
        let written = tokio::task::spawn_blocking(move || {
            archive::write(&content, &location).map_err(Error::file("write checkpoint", location))
        });
        written.await.unwrap_or(Err(Error::Stopping))
    }

    /// Why CRIU did not take a container. Our containerd shim gives processes the log's own FIFO, which no mount of
    /// theirs leads to; containerd's copies what they write.
    fn refusal(&self, log: &str) -> String {
        let of_output = log.contains(&*logs::all(&self.config.state_dir).to_string_lossy());
        let next_step = if of_output {
            "; run the pod under a handler on containerd's own shim (--handler NAME=io.containerd.runc.v2:runc)"
        } else {
            ""
        };
        format!("CRIU cannot take it: {log}{next_step}")
    }
}

/// CRI, RestorePod. The archives here are for a look inside and for other tools: CRIU restores processes into the
/// namespaces that they came from, and a pod's are gone with it.
pub(crate) fn restore_pod(path: &str) -> Result<clone8s::cri::RestorePodResponse> {
    let path = absolute("checkpoint_path", path)?;
    require()?;
    Err(Error::unmet(
        "checkpoint_path",
        format!(
            "{}: needs a runtime that restores processes into new namespaces, which this one does not; run the pod anew",
            path.display()
        ),
    ))
}

/// What a checkpoint needs of the host.
pub(crate) fn require() -> Result<()> {
    match programs::find(PROGRAM) {
        Some(_) => Ok(()),
        None => Err(Error::unmet(
            "checkpoint",
            "needs CRIU, and there is no program criu in PATH; install it (Debian 12: apt-get install criu) where \
             containerd and this runtime find it",
        )),
    }
}

fn absolute(field: &'static str, path: &str) -> Result<PathBuf> {
    let path = PathBuf::from(path);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(Error::invalid(field, "must be an absolute path"))
    }
}

/// The errors at the end of CRIU's log.
fn log_end(log: &Path) -> Option<String> {
    let text = std::fs::read_to_string(log).ok()?;
    let errors: Vec<_> = text
        .lines()
        .filter_map(|line| line.split_once("Error ").map(|(_, error)| error.trim()))
        .collect();
    let end = &errors[errors.len().saturating_sub(LOG_LINES)..];
    (!end.is_empty()).then(|| end.join("; "))
}
