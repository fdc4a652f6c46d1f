//! UpdatePodSandboxResources, and the limits of pods whose cgroup is the shim's own.

use std::sync::Arc;

use clone8s::cri;

use super::{Sandbox, config};
use crate::{
    cgroups::{self, Cgroups},
    error::{Error, Result},
    ids::SandboxId,
    oci::{self, Host},
    record,
    shim::Shim,
    table::lock,
};

/// What all of a pod may use, and what it takes besides its containers.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct PodLimits {
    pub(crate) overhead: Option<cri::LinuxContainerResources>,
    pub(crate) resources: Option<cri::LinuxContainerResources>,
}

impl PodLimits {
    pub(super) fn of_config(config: &cri::PodSandboxConfig) -> Self {
        let linux = config.linux.as_ref();
        Self {
            overhead: linux.and_then(|linux| linux.overhead.clone()),
            resources: linux.and_then(|linux| linux.resources.clone()),
        }
    }

    pub(super) fn check(&self, host: &Host) -> Result<()> {
        for (field, limits) in [
            ("config.linux.overhead", &self.overhead),
            ("config.linux.resources", &self.resources),
        ] {
            if let Some(limits) = limits {
                oci::resources(field, limits, host)?;
            }
        }
        Ok(())
    }

    /// Sets them where nobody else does: a caller that names a cgroup keeps it himself, as kubelets do.
    pub(super) fn apply(
        &self,
        cgroups: &Cgroups,
        config: &cri::PodSandboxConfig,
        id: &SandboxId,
    ) -> Result<()> {
        if config::has_cgroup_of_caller(config) {
            return Ok(());
        }
        let parent = config::cgroup_parent(config, id);
        let total = cgroups::total(self.resources.as_ref(), self.overhead.as_ref());
        cgroups
            .limit(&parent, &cgroups::limits(&total))
            .map_err(Error::file("limit cgroup", parent))
    }
}

impl Sandbox {
    pub(super) fn limits(&self) -> PodLimits {
        let updated = lock(&self.limits).clone();
        updated.unwrap_or_else(|| PodLimits::of_config(&self.config))
    }
}

impl Shim {
    /// CRI: told after the caller has changed the pod's own cgroup.
    pub(crate) async fn update_sandbox_resources(
        self: Arc<Self>,
        request: cri::UpdatePodSandboxResourcesRequest,
    ) -> Result<()> {
        let sandbox = self.table.sandbox(&request.pod_sandbox_id)?;
        let _changing = sandbox.changing.lock().await;
        if !sandbox.is_ready() {
            return Err(Error::WrongState {
                kind: "sandbox",
                id: sandbox.id.to_string(),
                state: "not ready",
                next_step: "only a ready one has limits to change",
            });
        }
        for (field, limits) in [("overhead", &request.overhead), ("resources", &request.resources)] {
            if let Some(limits) = limits {
                oci::resources(field, limits, &self.host)?;
            }
        }
        let before = sandbox.limits();
        let limits = PodLimits {
            overhead: request.overhead.or(before.overhead),
            resources: request.resources.or(before.resources),
        };
        limits.apply(&self.cgroups, &sandbox.config, &sandbox.id)?;
        let (object, path) = record::sandbox_limits(&sandbox.id, &limits);
        self.containerd.update_container(object, &[path.as_str()]).await?;
        *lock(&sandbox.limits) = Some(limits);
        Ok(())
    }
}
