//! CreateContainer.

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering},
};

use clone8s::cri;
use containerd_client::{services::v1 as api, types::Mount};

use super::{Container, check::is_privileged, state::State, volumes::Volumes};
use crate::{
    cdi,
    containerd::{NewSnapshot, already_gone},
    devices,
    error::{Error, Result},
    host,
    ids::ContainerId,
    images::{Image, NamedImage},
    logs::Fifos,
    oci::{self, GrantedDevice, Inputs, ResolvedUser, SandboxFiles},
    pins::{IdMappings, SandboxDir},
    record::{self, ContainerDetail, ContainerRecord},
    sandbox::{Sandbox, user_mappings},
    shim::Shim,
    staging::{self, Stage},
    steps::timed,
    table::lock,
    time::now_nanos,
};

impl Shim {
    pub(crate) async fn create_container(
        self: Arc<Self>,
        sandbox_id: String,
        config: cri::ContainerConfig,
    ) -> Result<ContainerId> {
        let metadata = config
            .metadata
            .clone()
            .ok_or_else(|| Error::invalid("config.metadata", "missing"))?;
        if sandbox_id.is_empty() {
            return Err(Error::invalid("pod_sandbox_id", "missing"));
        }
        let sandbox = self.table.sandbox(&sandbox_id)?;
        super::check::check(&config, &sandbox.config)?;
        if !sandbox.is_ready() {
            return Err(Error::WrongState {
                kind: "sandbox",
                id: sandbox.id.to_string(),
                state: "not ready",
                next_step: "remove it and run a new one",
            });
        }
        let name = format!(
            "{} attempt {} in sandbox {}",
            metadata.name, metadata.attempt, sandbox.id
        );
        let _claim = self.table.claim("container", name.clone())?;
        let others = self.table.containers_of(&sandbox.id);
        if let Some(other) = others
            .iter()
            .find(|other| other.config.metadata.as_ref() == Some(&metadata))
        {
            let is_unknown = !other.answered.load(Ordering::Relaxed);
            if is_unknown && other.state() == State::Created && other.config == config {
                return Ok(other.id.clone());
            }
            return Err(Error::Exists {
                kind: "container",
                name,
                id: other.id.to_string(),
            });
        }
        let reference = config
            .image
            .as_ref()
            .map(|image| image.image.clone())
            .unwrap_or_default();
        let image = timed("image", self.images.find(&reference))
            .await?
            .ok_or_else(|| Error::NotFound {
                kind: "image",
                id: format!("{reference:?} (pull it first)"),
            })?;
        let user = timed("users", self.resolve_user(&config, &image.image)).await?;
        self.create(&sandbox, config, &image, user).await
    }

    async fn create(
        self: &Arc<Self>,
        sandbox: &Arc<Sandbox>,
        config: cri::ContainerConfig,
        image: &NamedImage,
        user: ResolvedUser,
    ) -> Result<ContainerId> {
        let processes = oci::processes(&sandbox.config, &config);
        self.target_of(sandbox, &config)?;
        let id = ContainerId::random();
        let _making = self.table.making(id.as_str());
        let cgroup = format!("{}/{id}", sandbox.cgroup_parent());
        let dir = SandboxDir::new(&self.config.state_dir, &sandbox.id);
        let mut devices: Vec<GrantedDevice> = if is_privileged(&config) {
            let all = devices::all().into_iter();
            all.map(|device| GrantedDevice {
                path: device.path.clone(),
                device,
                access: "rwm".into(),
            })
            .collect()
        } else {
            Vec::new()
        };
        devices.extend(devices::granted(&config)?);
        let volumes = timed("volumes", self.volumes(sandbox, &id, &config)).await?;
        let mappings = user_mappings(&sandbox.config)?;
        let spec = oci::spec(&Inputs {
            sandbox_id: sandbox.id.as_str(),
            sandbox: &sandbox.config,
            container: &config,
            image: &image.image.run,
            user: user.clone(),
            wanted: sandbox.wanted,
            hostname: sandbox.hostname(),
            mappings: mappings.clone(),
            target: (processes == cri::NamespaceMode::Target)
                .then(|| Stage::new(&self.config.state_dir, &id).pid()),
            sources: volumes.sources.clone(),
            devices,
            edits: cdi::resolve(&self.config.cdi_dirs, &cdi::requested(&config))?,
            apparmor_profiles: host::apparmor_profiles(&self.host),
            files: SandboxFiles {
                net: dir.net(),
                ipc: dir.ipc(),
                uts: dir.uts(),
                pid: dir.pid(),
                user: dir.user(),
                shm: dir.shm(),
                hosts: dir.file("hosts"),
                hostname: dir.file("hostname"),
                resolv_conf: dir.file("resolv.conf"),
            },
            cgroup: cgroup.clone(),
            host: &self.host,
        })?;
        if processes == cri::NamespaceMode::Pod {
            self.share_processes(sandbox).await?;
        }
        volumes.make_missing()?;
        let record = ContainerRecord {
            detail: ContainerDetail {
                sandbox: sandbox.id.to_string(),
                created_at: now_nanos(),
                image_id: image.image.id.clone(),
                image_ref: image.reference(),
                log_path: log_path(&sandbox.config.log_directory, &config.log_path),
                stop_signal: super::stop::stop_signal(&config, &image.image.run.stop_signal)?,
                cgroup,
                uid: user.uid,
                gid: user.gid,
                supplemental_gids: user.supplemental_gids,
            },
            id: id.clone(),
            config,
            resources: None,
            started_at: None,
            exit: None,
        };
        let mut object = api::Container {
            image: image.tags.first().cloned().unwrap_or_else(|| image.reference()),
            runtime: Some(self.runtime(sandbox.handler())?),
            snapshotter: self.config.snapshotter.clone(),
            snapshot_key: id.to_string(),
            // A spec is maps with text keys, which always have a JSON form.
            spec: Some(record::spec(serde_json::to_vec(&spec).unwrap_or_default())),
            ..Default::default()
        };
        record.write(&mut object);
        object
            .labels
            .extend(volumes.labels(&self.config.snapshotter, &id));
        let made = self
            .make_container(record, object, &image.image.top(), &volumes, mappings.as_ref())
            .await;
        match made {
            Ok(container) => {
                let container = Arc::new(container);
                self.table.insert_container(Arc::clone(&container));
                self.events.created(&container);
                Ok(id)
            }
            Err(error) => {
                for key in volumes.snapshots(&id) {
                    // What stays is nobody's, and containerd collects it.
                    let _ = self
                        .containerd
                        .remove_snapshot(&self.config.snapshotter, &key)
                        .await;
                }
                self.discard_container(&id).await;
                Err(error)
            }
        }
    }

    async fn make_container(
        &self,
        record: ContainerRecord,
        object: api::Container,
        parent: &str,
        volumes: &Volumes,
        mappings: Option<&IdMappings>,
    ) -> Result<Container> {
        // The object first: it refers to the snapshot's key, and so keeps the snapshot from being collected.
        timed("object", self.containerd.create_container(object)).await?;
        let snapshot = NewSnapshot {
            snapshotter: &self.config.snapshotter,
            key: record.id.as_str(),
            parent,
            lease: None,
        };
        let mounts = timed("snapshot", self.prepare(&record, snapshot, volumes)).await?;
        if let Some(mappings) = mappings {
            staging::own_root(&mounts, mappings).map_err(|error| {
                Error::unmet(
                    "config.linux.security_context.namespace_options.userns_options",
                    format!("the root of the container cannot be given to the pod's users: {error}"),
                )
            })?;
        }
        let container = Container::from_record(record, State::Created);
        self.fifos(&container).make()?;
        *lock(&container.rootfs) = Some(mounts);
        Ok(container)
    }

    /// Undoes a container that never became visible. What fails here is tried again when containerd's state is read
    /// the next time.
    pub(crate) async fn discard_container(&self, id: &ContainerId) {
        let fifos = Fifos::new(&self.config.state_dir, id, false, false).remove();
        let object = already_gone(self.containerd.delete_container(id.as_str()).await);
        let snapshot = self
            .containerd
            .remove_snapshot(&self.config.snapshotter, id.as_str())
            .await;
        let undone = fifos
            .and(object.map_err(Error::from))
            .and(already_gone(snapshot).map_err(Error::from));
        if let Err(error) = undone {
            tracing::warn!(container = %id, %error, "unfinished container not removed");
            self.unsettled.notify_one();
        }
    }

    /// The container's own snapshot, and those of the images that it mounts.
    async fn prepare(
        &self,
        record: &ContainerRecord,
        own: NewSnapshot<'_>,
        volumes: &Volumes,
    ) -> Result<Vec<Mount>> {
        for (index, image) in &volumes.images {
            let view = NewSnapshot {
                key: &staging::image_snapshot(&record.id, *index),
                parent: &image.top(),
                ..own
            };
            let mounts = self.containerd.view_snapshot(view).await?;
            let part = Path::new(&record.config.mounts[*index].image_sub_path);
            staging::check_part(*index, part, mounts).await?;
        }
        Ok(self.containerd.prepare_snapshot(own).await?)
    }

    /// CRI: a user by number or by name, else the image's, else root; with the groups that the image lists.
    async fn resolve_user(&self, config: &cri::ContainerConfig, image: &Image) -> Result<ResolvedUser> {
        let security = config
            .linux
            .as_ref()
            .and_then(|linux| linux.security_context.clone())
            .unwrap_or_default();
        let written = match (
            &security.run_as_user,
            security.run_as_username.as_str(),
            image.run.user.as_str(),
        ) {
            (Some(uid), _, _) => uid.value.to_string(),
            (None, "", "") => "0".to_owned(),
            (None, "", user) => user.to_owned(),
            (None, name, _) => name.to_owned(),
        };
        if security.run_as_group.is_some()
            && security.run_as_user.is_none()
            && security.run_as_username.is_empty()
        {
            return Err(Error::invalid(
                "config.linux.security_context.run_as_group",
                "needs a user beside it",
            ));
        }
        let users = self.images.users(image).await?;
        let found = users
            .find(&written)
            .map_err(|problem| Error::invalid("config.linux.security_context", problem))?;
        let id = |field: &'static str, value: i64| {
            u32::try_from(value).map_err(|_| Error::invalid(field, format!("{value} is no id")))
        };
        let gid = match &security.run_as_group {
            Some(group) => id("config.linux.security_context.run_as_group", group.value)?,
            None => found.gid,
        };
        let mut groups = match security.supplemental_groups_policy() {
            cri::SupplementalGroupsPolicy::Merge => found.groups,
            cri::SupplementalGroupsPolicy::Strict => Vec::new(),
        };
        for &group in &security.supplemental_groups {
            groups.push(id("config.linux.security_context.supplemental_groups", group)?);
        }
        // Of one's own group too: whoever is denied by it must not get past that as another
        // (setgroups(2), "negative" permissions).
        groups.push(gid);
        groups.sort_unstable();
        groups.dedup();
        Ok(ResolvedUser {
            uid: found.uid,
            gid,
            supplemental_gids: groups,
            home: found.home,
        })
    }
}

/// CRI, ContainerConfig.log_path: relative to the sandbox's log directory. Empty for no log.
fn log_path(directory: &str, path: &str) -> String {
    match (directory, path) {
        ("", _) | (_, "") => String::new(),
        (directory, path) => Path::new(directory).join(path).display().to_string(),
    }
}
