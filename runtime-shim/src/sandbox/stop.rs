//! StopPodSandbox and RemovePodSandbox.

use std::sync::{Arc, atomic::Ordering};

use clone8s::cri;
use futures::future::try_join_all;

use super::Sandbox;
use crate::{
    container::LATE_RUNTIMES,
    containerd::already_gone,
    error::{Error, Result},
    pins::SandboxDir,
    record,
    shim::Shim,
    steps::timed,
    time::now_nanos,
};

impl Shim {
    pub(crate) async fn stop_sandbox(self: Arc<Self>, id: String) -> Result<()> {
        let Ok(sandbox) = self.table.sandbox(&id) else {
            return Ok(());
        };
        let _changing = sandbox.changing.lock().await;
        self.stop_sandbox_now(&sandbox).await
    }

    async fn stop_sandbox_now(self: &Arc<Self>, sandbox: &Sandbox) -> Result<()> {
        let dir = SandboxDir::new(&self.config.state_dir, &sandbox.id);
        if sandbox.stop_noted.load(Ordering::Relaxed) && !sandbox.is_ready() && dir.is_released() {
            return Ok(());
        }
        let containers = self.table.containers_of(&sandbox.id);
        // Containers first: their exit hooks may still need the network.
        timed(
            "containers",
            try_join_all(containers.iter().map(|container| self.kill(container))),
        )
        .await?;
        let was_ready = sandbox.is_ready();
        sandbox.set_state(cri::PodSandboxState::SandboxNotready);
        self.end_processes(sandbox).await?;
        let (object, path) = record::sandbox_stopped(&sandbox.id, now_nanos());
        let paths = [path.as_str()];
        let mark = async {
            already_gone(self.containerd.update_container(object, &paths).await)?;
            sandbox.stop_noted.store(true, Ordering::Relaxed);
            Ok::<(), Error>(())
        };
        let release = async {
            if let Some(attachment) = &sandbox.detail.attachment {
                timed(
                    "network",
                    self.network.detach(&sandbox.id, &dir.net(), attachment),
                )
                .await?;
            }
            dir.release()
        };
        // Each to its end, whatever becomes of the other: a network that is half given back is nobody's.
        let (marked, released) = tokio::join!(mark, release);
        marked.and(released)?;
        if was_ready {
            self.events.sandbox_stopped(sandbox);
        }
        Ok(())
    }

    pub(crate) async fn remove_sandbox(self: Arc<Self>, id: String) -> Result<()> {
        let Ok(sandbox) = self.table.sandbox(&id) else {
            return Ok(());
        };
        let changing = sandbox.changing.lock().await;
        self.stop_sandbox_now(&sandbox).await?;
        let containers = self.table.containers_of(&sandbox.id);
        try_join_all(containers.iter().map(|container| self.remove(container))).await?;
        // Before the object goes: after a crash, nobody knows of the cgroup without it.
        self.remove_cgroup_parent(&sandbox);
        // The folder first: a folder without an object looks like an unfinished sandbox at the next start.
        SandboxDir::new(&self.config.state_dir, &sandbox.id).remove()?;
        already_gone(self.containerd.delete_container(sandbox.id.as_str()).await)?;
        self.table.remove_sandbox(&sandbox.id);
        self.events.sandbox_removed(&sandbox);
        drop(changing);
        if sandbox.is_adopted() {
            // containerd may still be at work for a process before this one, and its OCI runtime make the cgroup anew.
            let shim = Arc::clone(&self);
            self.own(async move {
                tokio::select! {
                    () = tokio::time::sleep(LATE_RUNTIMES) => {}
                    () = shim.stopping.cancelled() => {}
                }
                shim.remove_cgroup_parent(&sandbox);
            });
        }
        Ok(())
    }

    /// The pod's cgroup, once no other sandbox uses it. What is not empty stays.
    fn remove_cgroup_parent(&self, sandbox: &Sandbox) {
        let parent = sandbox.cgroup_parent();
        if self
            .table
            .sandboxes()
            .iter()
            .all(|other| other.id == sandbox.id || other.cgroup_parent() != parent)
        {
            self.cgroups.remove_empty(&parent);
            self.rates.forget(&parent);
        }
    }
}
