//! RunPodSandbox.

use std::sync::{Arc, atomic::Ordering};

use clone8s::cri;
use containerd_client::services::v1::{self as api, container::Runtime};

use super::{PodLimits, Sandbox, config, files, namespace_options};
use crate::{
    containerd::already_gone,
    error::{Error, Result},
    ids::SandboxId,
    network::{self, Bandwidth},
    pins::{SandboxDir, Wanted},
    record::{SandboxDetail, SandboxRecord},
    shim::Shim,
    steps::timed,
    time::now_nanos,
};

impl Shim {
    pub(crate) async fn run_sandbox(
        self: Arc<Self>,
        config: cri::PodSandboxConfig,
        handler: String,
    ) -> Result<SandboxId> {
        let metadata = config
            .metadata
            .clone()
            .ok_or_else(|| Error::invalid("config.metadata", "missing"))?;
        config::check(&config)?;
        let limits = PodLimits::of_config(&config);
        limits.check(&self.host)?;
        let runtime = self.runtime(&handler)?;
        let wanted = Wanted::from_options(&namespace_options(&config))?;
        let ports = config::port_mappings(&config)?;
        let address = config::fixed_address(&config)?;
        config::check_dns(&config)?;
        let bandwidth = Bandwidth::from_annotations(&config.annotations)?;
        let name = config::name(&metadata);
        let _claim = self.table.claim("sandbox", name.clone())?;
        if let Some(made) = self.made_before(&config, &handler, &name).await? {
            return Ok(made);
        }

        let id = SandboxId::random();
        let _making = self.table.making(id.as_str());
        let dir = SandboxDir::new(&self.config.state_dir, &id);
        let request = network::Request {
            sandbox: id.clone(),
            netns: dir.net(),
            journal: dir.network_journal(),
            pod: metadata,
            annotations: config.annotations.clone(),
            dns: config.dns_config.clone(),
            cgroup: config::cgroup_parent(&config, &id),
            ports,
            fixed_address: address,
            bandwidth,
        };
        let made = self
            .make_sandbox(&dir, wanted, config, handler, runtime, &request)
            .await;
        match made {
            Ok(sandbox) => {
                let sandbox = Arc::new(sandbox);
                self.table.insert_sandbox(Arc::clone(&sandbox));
                self.events.sandbox_made(&sandbox);
                Ok(id)
            }
            Err(error) => {
                self.discard_sandbox(&id).await;
                Err(error)
            }
        }
    }

    /// The sandbox of an earlier call for the same that was cut off before its caller learned of it; an error for one
    /// that is someone's.
    async fn made_before(
        self: &Arc<Self>,
        config: &cri::PodSandboxConfig,
        handler: &str,
        name: &str,
    ) -> Result<Option<SandboxId>> {
        let sandboxes = self.table.sandboxes();
        let same_name = sandboxes
            .iter()
            .find(|other| other.config.metadata == config.metadata);
        let Some(other) = same_name else {
            return Ok(None);
        };
        let is_same = other.config == *config && other.detail.handler == handler;
        let is_unknown = is_same && !other.answered.load(Ordering::Relaxed);
        if is_unknown && other.is_ready() {
            return Ok(Some(other.id.clone()));
        }
        if is_unknown && self.table.containers_of(&other.id).is_empty() {
            // Half undone, and nothing was ever in it.
            Arc::clone(self).remove_sandbox(other.id.to_string()).await?;
            return Ok(None);
        }
        Err(Error::Exists {
            kind: "sandbox",
            name: name.to_owned(),
            id: other.id.to_string(),
        })
    }

    async fn make_sandbox(
        &self,
        dir: &SandboxDir,
        wanted: Wanted,
        config: cri::PodSandboxConfig,
        handler: String,
        runtime: Runtime,
        request: &network::Request,
    ) -> Result<Sandbox> {
        let hostname = config::hostname(&config);
        let sysctls = config
            .linux
            .as_ref()
            .map(|linux| linux.sysctls.clone())
            .unwrap_or_default();
        let mappings = config::user_mappings(&config)?;
        timed("namespaces", dir.make(wanted, mappings, &hostname, &sysctls)).await?;
        let attachment = if wanted.net {
            Some(timed("network", self.network.attach(request)).await?)
        } else {
            None
        };
        let detail = SandboxDetail {
            served_by: self.handler(&handler)?.0.to_owned(),
            handler,
            created_at: now_nanos(),
            attachment,
        };
        files::write(dir, wanted, &config, &detail)?;
        let record = SandboxRecord {
            id: request.sandbox.clone(),
            config,
            detail,
            stopped: false,
            limits: None,
        };
        let mut object = api::Container {
            runtime: Some(runtime),
            ..Default::default()
        };
        record.write(&mut object);
        PodLimits::of_config(&record.config).apply(&self.cgroups, &record.config, &record.id)?;
        timed("object", self.containerd.create_container(object)).await?;
        Sandbox::from_record(record, cri::PodSandboxState::SandboxReady)
    }

    /// Undoes a sandbox that never became visible. What fails here is tried again when containerd's state is read the
    /// next time.
    pub(crate) async fn discard_sandbox(&self, id: &SandboxId) {
        // Its maker may not have heard that it was made.
        if let Err(error) = already_gone(self.containerd.delete_container(id.as_str()).await) {
            tracing::warn!(sandbox = %id, %error, "object of an unfinished sandbox not removed");
            self.unsettled.notify_one();
            self.unsettled.notify_one();
        }
        let dir = SandboxDir::new(&self.config.state_dir, id);
        let (netns, journal) = (dir.net(), dir.network_journal());
        if let Err(error) = self.network.detach_unfinished(id, &netns, &journal).await {
            tracing::warn!(sandbox = %id, %error, "network of an unfinished sandbox not given back");
            self.unsettled.notify_one();
        }
        if let Err(error) = dir.end_init().await {
            tracing::warn!(sandbox = %id, %error, "first process of an unfinished sandbox not ended");
        }
        if let Err(error) = dir.remove() {
            tracing::warn!(sandbox = %id, %error, "unfinished sandbox not removed");
        }
        self.cgroups.remove_empty(&config::own_cgroup_parent(id));
    }
}
