//! ContainerStatus, UpdateContainerResources and ReopenContainerLog.

use std::{collections::BTreeMap, sync::Arc};

use clone8s::cri;
use serde_json::json;

use super::{Container, state::State};
use crate::{
    error::{Error, Result},
    oci, record,
    shim::Shim,
    table::lock,
};

impl Container {
    pub(crate) fn status(&self) -> cri::ContainerStatus {
        let state = self.state();
        let (started_at, exit) = match &state {
            State::Created => (0, None),
            State::Running { started_at, .. } => (*started_at, None),
            State::Exited(exit) => (exit.started_at, Some(exit)),
        };
        let user = cri::LinuxContainerUser {
            uid: self.detail.uid.into(),
            gid: self.detail.gid.into(),
            supplemental_groups: self
                .detail
                .supplemental_gids
                .iter()
                .map(|&gid| gid.into())
                .collect(),
        };
        cri::ContainerStatus {
            id: self.id.to_string(),
            metadata: self.config.metadata.clone(),
            state: state.as_cri().into(),
            created_at: self.detail.created_at,
            started_at,
            finished_at: exit.map_or(0, |exit| exit.finished_at),
            exit_code: exit.map_or(0, |exit| exit.code),
            image: self.config.image.clone(),
            image_ref: self.detail.image_ref.clone(),
            reason: exit.map(|exit| exit.reason.clone()).unwrap_or_default(),
            message: exit.map(|exit| exit.message.clone()).unwrap_or_default(),
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            mounts: self.config.mounts.clone(),
            log_path: self.detail.log_path.clone(),
            resources: Some(cri::ContainerResources {
                linux: Some(self.resources()),
                windows: None,
            }),
            image_id: self.detail.image_id.clone(),
            user: Some(cri::ContainerUser { linux: Some(user) }),
            stop_signal: self.config.stop_signal,
        }
    }

    /// For people (CRI, ContainerStatus with verbose).
    pub(crate) fn info(&self) -> BTreeMap<String, String> {
        let pid = match self.state() {
            State::Running { pid, .. } => pid,
            State::Created | State::Exited(_) => 0,
        };
        let info = json!({
            "sandboxID": self.sandbox.as_str(),
            "pid": pid,
            "cgroup": self.detail.cgroup,
            "snapshotKey": self.id.as_str(),
            "stopSignal": self.detail.stop_signal,
        });
        BTreeMap::from([("info".to_owned(), info.to_string())])
    }
}

impl From<&Container> for cri::Container {
    fn from(container: &Container) -> Self {
        Self {
            id: container.id.to_string(),
            pod_sandbox_id: container.sandbox.to_string(),
            metadata: container.config.metadata.clone(),
            image: container.config.image.clone(),
            image_ref: container.detail.image_ref.clone(),
            state: container.state().as_cri().into(),
            created_at: container.detail.created_at,
            labels: container.config.labels.clone(),
            annotations: container.config.annotations.clone(),
            image_id: container.detail.image_id.clone(),
        }
    }
}

impl Shim {
    pub(crate) async fn update_container_resources(
        self: Arc<Self>,
        id: String,
        change: cri::LinuxContainerResources,
    ) -> Result<()> {
        let container = self.table.container(&id)?;
        let _changing = container.changing.lock().await;
        let limits = merged(container.resources(), change);
        let resources = oci::resources("linux", &limits, &self.host)?;
        match container.state() {
            State::Running { pid, .. } => {
                let held = self.cgroups.memory_held(&container.detail.cgroup);
                check_memory(&limits, &container.resources(), held)?;
                let any = prost_types::Any {
                    type_url: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources".into(),
                    value: serde_json::to_vec(&resources).unwrap_or_default(),
                };
                self.containerd.update_task(container.id.as_str(), any).await?;
                if limits.oom_score_adj != container.resources().oom_score_adj {
                    let score = oci::clamp_oom_score_adj(limits.oom_score_adj, self.host.oom_score_adj_floor);
                    let path = format!("/proc/{pid}/oom_score_adj");
                    std::fs::write(&path, score.to_string()).map_err(Error::file("write", path))?;
                }
            }
            // They take effect with the start.
            State::Created => self.rewrite_spec(&container, &resources).await?,
            State::Exited(_) => {
                return Err(Error::WrongState {
                    kind: "container",
                    id: container.id.to_string(),
                    state: "exited",
                    next_step: "only a created or running container has limits to change",
                });
            }
        }
        let (object, path) = record::container_resources(&container.id, &limits);
        self.containerd.update_container(object, &[path.as_str()]).await?;
        *lock(&container.resources) = Some(limits);
        Ok(())
    }

    async fn rewrite_spec(&self, container: &Container, resources: &oci::LinuxResources) -> Result<()> {
        let mut object = self.containerd.get_container(container.id.as_str()).await?;
        let Some(spec) = &mut object.spec else {
            return Ok(());
        };
        let unreadable = |_| Error::invalid("container_id", "its spec in containerd is not JSON");
        let mut document: serde_json::Value = serde_json::from_slice(&spec.value).map_err(unreadable)?;
        let written = &mut document["linux"]["resources"];
        // Who may use which device is no limit, and stays.
        let devices = written["devices"].take();
        *written = serde_json::to_value(resources).map_err(unreadable)?;
        written["devices"] = devices;
        spec.value = serde_json::to_vec(&document).map_err(unreadable)?;
        Ok(self.containerd.update_container(object, &["spec"]).await?)
    }

    pub(crate) async fn reopen_log(&self, id: &str) -> Result<()> {
        let container = self.table.container(id)?;
        let Some(pump) = container.pump() else {
            return Err(Error::WrongState {
                kind: "container",
                id: container.id.to_string(),
                state: container.state().name(),
                next_step: "only a running container has a log to reopen",
            });
        };
        pump.reopen_log()
            .await
            .map_err(Error::file("reopen log", &container.detail.log_path))
    }
}

/// Refuses less memory than a container that runs has and holds on to: the kernel would not refuse it, but end a process.
fn check_memory(
    limits: &cri::LinuxContainerResources,
    before: &cri::LinuxContainerResources,
    held: Option<u64>,
) -> Result<()> {
    let (limit, had) = (limits.memory_limit_in_bytes, before.memory_limit_in_bytes);
    let is_less = limit > 0 && (had <= 0 || limit < had);
    let held = held.filter(|held| is_less && *held > limit.unsigned_abs());
    held.map_or(Ok(()), |held| {
        let problem = format!("{limit} is less than the {held} bytes that the container holds");
        Err(Error::unmet("linux.memory_limit_in_bytes", problem))
    })
}

/// CRI: what the change leaves at its zero stays as it is.
fn merged(
    mut current: cri::LinuxContainerResources,
    change: cri::LinuxContainerResources,
) -> cri::LinuxContainerResources {
    let set = |field: &mut i64, value: i64| {
        if value != 0 {
            *field = value;
        }
    };
    set(&mut current.cpu_period, change.cpu_period);
    set(&mut current.cpu_quota, change.cpu_quota);
    set(&mut current.cpu_shares, change.cpu_shares);
    set(&mut current.memory_limit_in_bytes, change.memory_limit_in_bytes);
    set(
        &mut current.memory_swap_limit_in_bytes,
        change.memory_swap_limit_in_bytes,
    );
    set(&mut current.oom_score_adj, change.oom_score_adj);
    if !change.cpuset_cpus.is_empty() {
        current.cpuset_cpus = change.cpuset_cpus;
    }
    if !change.cpuset_mems.is_empty() {
        current.cpuset_mems = change.cpuset_mems;
    }
    if !change.hugepage_limits.is_empty() {
        current.hugepage_limits = change.hugepage_limits;
    }
    current.unified.extend(change.unified);
    current
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::less_than_it_holds(64, 20, Some(21), false)]
    #[case::as_much_as_it_holds(64, 20, Some(20), true)]
    #[case::a_first_limit_below(0, 20, Some(21), false)]
    #[case::a_limit_again_below(-1, 20, Some(21), false)]
    #[case::no_more_than_it_had(20, 20, Some(21), true)]
    #[case::none(64, -1, Some(21), true)]
    #[case::the_kernel_itself_refuses(64, 20, None, true)]
    fn memory_that_a_container_holds_is_not_taken(
        #[case] had: i64,
        #[case] limit: i64,
        #[case] held: Option<u64>,
        #[case] is_fine: bool,
    ) {
        let memory = |bytes| cri::LinuxContainerResources {
            memory_limit_in_bytes: bytes,
            ..Default::default()
        };
        let checked = check_memory(&memory(limit), &memory(had), held);
        assert_eq!(checked.is_ok(), is_fine, "{checked:?}");
    }

    #[test]
    fn a_change_leaves_alone_what_it_does_not_name() {
        let current = cri::LinuxContainerResources {
            cpu_shares: 512,
            memory_limit_in_bytes: 1 << 20,
            cpuset_cpus: "0".into(),
            ..Default::default()
        };
        let change = cri::LinuxContainerResources {
            memory_limit_in_bytes: 2 << 20,
            ..Default::default()
        };
        let expected = cri::LinuxContainerResources {
            memory_limit_in_bytes: 2 << 20,
            ..current.clone()
        };
        assert_eq!(merged(current, change), expected);
    }
}
