//! Asks the runtime what is there of one pod.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use clone8s::cri::ContainerState;

use super::observed::{Details, Observed, Run, Sandbox};
use crate::{
    desired::PodKey,
    logs,
    runtime::{ContainerId, Runtime, RuntimeError, SandboxId},
};

/// Reads one pod's state. It asks for details only where a list shows that they have changed: how a run started and
/// ended, and a sandbox's address, never change again.
pub(super) struct Observer {
    runtime: Arc<dyn Runtime>,
    key: PodKey,
    /// Of those that run or are over.
    details: BTreeMap<ContainerId, Box<Details>>,
    addresses: BTreeMap<SandboxId, String>,
}

impl Observer {
    pub(super) fn new(runtime: Arc<dyn Runtime>, key: PodKey) -> Self {
        Self {
            runtime,
            key,
            details: BTreeMap::new(),
            addresses: BTreeMap::new(),
        }
    }

    pub(super) async fn observe(&mut self) -> Result<Observed, RuntimeError> {
        let (sandboxes, containers) = tokio::try_join!(
            self.runtime.list_sandboxes(Some(&self.key)),
            self.runtime.list_containers(Some(&self.key)),
        )?;
        let mut observed = Observed::default();
        for listed in &sandboxes {
            // A runtime may ignore the filter; the labels decide.
            let Some((key, mut sandbox)) = Sandbox::parse(listed) else {
                continue;
            };
            if key != self.key {
                continue;
            }
            if sandbox.ready {
                sandbox.ip = self.address(&sandbox.id).await?;
            }
            observed.sandboxes.push(sandbox);
        }
        for listed in &containers {
            let id = ContainerId::new(&listed.id);
            if Run::parse(listed, None).is_none_or(|(key, _)| key != self.key) {
                continue;
            }
            let details = match listed.state() {
                ContainerState::ContainerCreated | ContainerState::ContainerUnknown => None,
                state => match self.details(&id, state).await {
                    Ok(details) => Some(details),
                    // Removed since the list was made.
                    Err(error) if error.is_not_found() => continue,
                    Err(error) => return Err(error),
                },
            };
            observed
                .containers
                .extend(Run::parse(listed, details).map(|(_, run)| run));
        }
        self.addresses.retain(|id, _| observed.sandbox(id).is_some());
        self.details
            .retain(|id, _| observed.containers.iter().any(|run| run.id == *id));
        Ok(observed)
    }

    async fn address(&mut self, id: &SandboxId) -> Result<Option<String>, RuntimeError> {
        if let Some(known) = self.addresses.get(id) {
            return Ok(Some(known.clone()));
        }
        let status = match self.runtime.sandbox_status(id).await {
            Ok(status) => status,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        let ip = status
            .network
            .map(|network| network.ip)
            .filter(|ip| !ip.is_empty());
        if let Some(ip) = &ip {
            self.addresses.insert(id.clone(), ip.clone());
        }
        Ok(ip)
    }

    async fn details(&mut self, id: &ContainerId, state: ContainerState) -> Result<&Details, RuntimeError> {
        let is_fresh = self
            .details
            .get(id)
            .is_some_and(|details| details.state.listed() == state);
        if !is_fresh {
            let mut status = self.runtime.container_status(id).await?;
            if state == ContainerState::ContainerExited && status.exit_code != 0 && status.message.is_empty()
            {
                status.message = last_words(&status.log_path).await;
            }
            self.details.insert(id.clone(), Box::new(Details::of(&status)));
        }
        Ok(&self.details[id])
    }
}

/// What a container that failed wrote last; nobody has to look for its log.
async fn last_words(log: &str) -> String {
    let path = PathBuf::from(log);
    tokio::task::spawn_blocking(move || logs::last_words(&path))
        .await
        .unwrap_or_default()
}
