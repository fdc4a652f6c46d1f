//! A PID namespace that the containers of a pod share.
//!
//! Made for the first container that wants it, not with the sandbox: most pods have none, and so no process of their
//! own.

use std::{fs, sync::Arc};

use clone8s::cri;
use tokio_util::sync::CancellationToken;

use super::Sandbox;
use crate::{
    error::{Error, Result},
    oci,
    pins::{PodInit, SandboxDir},
    shim::Shim,
    steps::timed,
};

/// As low as kubelets and containerd set it for what a pod cannot be without.
const OOM_SCORE_ADJ: i64 = -998;

impl Shim {
    /// Sees to it that the sandbox has a PID namespace that containers can join.
    pub(crate) async fn share_processes(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<()> {
        let mut watch = sandbox.init_watch.lock().await;
        let dir = SandboxDir::new(&self.config.state_dir, &sandbox.id);
        if dir.joinable_init().is_some() {
            return Ok(());
        }
        if !sandbox.is_ready() {
            return Err(Error::WrongState {
                kind: "sandbox",
                id: sandbox.id.to_string(),
                state: "not ready",
                next_step: "remove it and run a new one",
            });
        }
        let init = timed("first process", dir.start_init()).await?;
        if let Err(error) = self.place_init(sandbox, &init) {
            // Half made is not made: whoever comes next starts anew.
            dir.end_init().await?;
            return Err(error);
        }
        *watch = Some(self.watch_init(sandbox, init));
        Ok(())
    }

    fn place_init(&self, sandbox: &Sandbox, init: &PodInit) -> Result<()> {
        let cgroup = sandbox.own_cgroup();
        self.cgroups
            .join(&cgroup, init.pid)
            .map_err(Error::file("place the first process in cgroup", cgroup))?;
        let score = oci::clamp_oom_score_adj(OOM_SCORE_ADJ, self.host.oom_score_adj_floor);
        let path = format!("/proc/{}/oom_score_adj", init.pid);
        fs::write(&path, score.to_string()).map_err(Error::file("write", path))
    }

    /// Takes up the first process of a sandbox that was there before this process.
    pub(crate) async fn adopt_init(self: &Arc<Self>, sandbox: &Arc<Sandbox>) {
        let dir = SandboxDir::new(&self.config.state_dir, &sandbox.id);
        // In place of one that was only being made, the first container that wants one makes another.
        let Some(init) = dir.joinable_init() else {
            return;
        };
        // Its maker may have been cut off before.
        if let Err(error) = self.place_init(sandbox, &init) {
            tracing::warn!(sandbox = %sandbox.id, %error, "the pod's first process is not in the pod's cgroup");
        }
        *sandbox.init_watch.lock().await = Some(self.watch_init(sandbox, init));
    }

    /// The kernel kills a PID namespace with its first process, and nothing can bring it back: the pod is over.
    fn watch_init(self: &Arc<Self>, sandbox: &Arc<Sandbox>, init: PodInit) -> tokio_util::sync::DropGuard {
        let token = CancellationToken::new();
        let unwatched = token.clone();
        let sandbox = Arc::clone(sandbox);
        self.own(async move {
            tokio::select! {
                () = unwatched.cancelled() => {}
                ended = init.ended() => match ended {
                    Ok(()) => {
                        tracing::warn!(sandbox = %sandbox.id, pid = init.pid, "the pod's first process was killed");
                        sandbox.set_state(cri::PodSandboxState::SandboxNotready);
                    }
                    Err(error) => tracing::warn!(sandbox = %sandbox.id, %error, "cannot watch the pod's first process"),
                },
            }
        });
        token.drop_guard()
    }

    pub(super) async fn end_processes(&self, sandbox: &Sandbox) -> Result<()> {
        drop(sandbox.init_watch.lock().await.take());
        let dir = SandboxDir::new(&self.config.state_dir, &sandbox.id);
        dir.end_init().await?;
        self.cgroups.remove_empty(&sandbox.own_cgroup());
        Ok(())
    }

    /// Lets go of what this process watches; it goes on by itself.
    pub(crate) async fn unwatch_inits(&self) {
        for sandbox in self.table.sandboxes() {
            drop(sandbox.init_watch.lock().await.take());
        }
    }
}
