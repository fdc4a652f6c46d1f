//! What the shim keeps in containerd: labels and extensions of container objects.
//!
//! | object | kind | extensions |
//! |---|---|---|
//! | sandbox, without a task | `sandbox` | the CRI config; what was made for it; its limits if changed |
//! | container | `container` | the CRI config; what was made of it; its limits if changed; how it ended |

use std::{collections::HashMap, net::IpAddr};

use clone8s::cri;
use containerd_client::services::v1::Container as Object;
use prost::Message;
use prost_types::Any;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    ids::{ContainerId, SandboxId},
    network::Attachment,
    sandbox::PodLimits,
};

pub(crate) const KIND: &str = "clone8s.io/kind";
const KIND_SANDBOX: &str = "sandbox";
const KIND_CONTAINER: &str = "container";
/// On a sandbox: the time of its stop. On a container: the time of its start. Nanoseconds since 1970.
const STOPPED: &str = "clone8s.io/stopped-at";
const STARTED: &str = "clone8s.io/started-at";
const CONFIG: &str = "clone8s.io/config";
const DETAIL: &str = "clone8s.io/detail";
const EXIT: &str = "clone8s.io/exit";
const RESOURCES: &str = "clone8s.io/resources";

/// What was made for a sandbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SandboxDetail {
    /// The handler that the caller named; empty for the default one.
    pub(crate) handler: String,
    /// The handler that it got, whichever is the default one later. Empty where an earlier version has made it.
    #[serde(default)]
    pub(crate) served_by: String,
    /// Nanoseconds since 1970.
    pub(crate) created_at: i64,
    /// None on the host's network.
    pub(crate) attachment: Option<Attachment>,
}

impl SandboxDetail {
    pub(crate) fn addresses(&self) -> &[IpAddr] {
        self.attachment
            .as_ref()
            .map(|attachment| attachment.addresses.as_slice())
            .unwrap_or_default()
    }
}

/// What was made of a container's config.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ContainerDetail {
    pub(crate) sandbox: String,
    /// Nanoseconds since 1970.
    pub(crate) created_at: i64,
    /// The image's id: the digest of its configuration.
    pub(crate) image_id: String,
    /// A reference by digest where one is known, else the id.
    pub(crate) image_ref: String,
    /// The absolute path of the log; empty for none.
    pub(crate) log_path: String,
    /// A signal number.
    pub(crate) stop_signal: u32,
    /// Relative to the root of each cgroup hierarchy.
    pub(crate) cgroup: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) supplemental_gids: Vec<u32>,
}

#[cfg(test)]
impl ContainerDetail {
    pub(crate) fn for_tests(sandbox: &str) -> Self {
        Self {
            sandbox: sandbox.to_owned(),
            created_at: 0,
            image_id: String::new(),
            image_ref: String::new(),
            log_path: String::new(),
            stop_signal: 15,
            cgroup: String::new(),
            uid: 0,
            gid: 0,
            supplemental_gids: Vec::new(),
        }
    }
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ContainerExit {
    pub(crate) code: i32,
    /// Nanoseconds since 1970; 0 when it never started.
    pub(crate) started_at: i64,
    pub(crate) finished_at: i64,
    /// `Completed`, `Error`, `OOMKilled`, `StartError` or `Unknown`, as kubelets know them.
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// An object read back.
#[derive(Debug)]
pub(crate) enum Record {
    Sandbox(Box<SandboxRecord>),
    Container(Box<ContainerRecord>),
}

#[derive(Debug, Clone)]
pub(crate) struct SandboxRecord {
    pub(crate) id: SandboxId,
    pub(crate) config: cri::PodSandboxConfig,
    pub(crate) detail: SandboxDetail,
    pub(crate) stopped: bool,
    /// As of the last update.
    pub(crate) limits: Option<PodLimits>,
}

#[derive(Debug, Clone)]
pub(crate) struct ContainerRecord {
    pub(crate) id: ContainerId,
    pub(crate) config: cri::ContainerConfig,
    pub(crate) detail: ContainerDetail,
    /// As of the last update.
    pub(crate) resources: Option<cri::LinuxContainerResources>,
    /// Nanoseconds since 1970, when it was started.
    pub(crate) started_at: Option<i64>,
    pub(crate) exit: Option<ContainerExit>,
}

impl SandboxRecord {
    pub(crate) fn write(&self, object: &mut Object) {
        object.id = self.id.to_string();
        object.labels.insert(KIND.into(), KIND_SANDBOX.into());
        // containerd refuses an object without a spec; nothing is ever run from this one.
        object.spec = Some(spec(b"{}".to_vec()));
        object.extensions.insert(
            CONFIG.into(),
            message("runtime.v1.PodSandboxConfig", &self.config),
        );
        object.extensions.insert(DETAIL.into(), json(&self.detail));
    }
}

impl ContainerRecord {
    pub(crate) fn write(&self, object: &mut Object) {
        object.id = self.id.to_string();
        object.labels.insert(KIND.into(), KIND_CONTAINER.into());
        object
            .extensions
            .insert(CONFIG.into(), message("runtime.v1.ContainerConfig", &self.config));
        object.extensions.insert(DETAIL.into(), json(&self.detail));
    }
}

/// A later change of an object: the object with only the changed fields, and their paths.
pub(crate) type Update = (Object, String);

pub(crate) fn sandbox_stopped(id: &SandboxId, at: i64) -> Update {
    label(id.as_str(), STOPPED, at)
}

pub(crate) fn container_started(id: &ContainerId, at: i64) -> Update {
    label(id.as_str(), STARTED, at)
}

/// For a start that was undone.
pub(crate) fn container_not_started(id: &ContainerId) -> Update {
    let labels = HashMap::from([(STARTED.to_owned(), String::new())]);
    let object = Object {
        id: id.to_string(),
        labels,
        ..Default::default()
    };
    (object, format!("labels.{STARTED}"))
}

pub(crate) fn container_exited(id: &ContainerId, exit: &ContainerExit) -> Update {
    extension(id.as_str(), EXIT, json(exit))
}

pub(crate) fn container_resources(id: &ContainerId, resources: &cri::LinuxContainerResources) -> Update {
    extension(
        id.as_str(),
        RESOURCES,
        message("runtime.v1.LinuxContainerResources", resources),
    )
}

/// The request that changed them has a place for both.
pub(crate) fn sandbox_limits(id: &SandboxId, limits: &PodLimits) -> Update {
    let request = cri::UpdatePodSandboxResourcesRequest {
        overhead: limits.overhead.clone(),
        resources: limits.resources.clone(),
        ..Default::default()
    };
    let value = message("runtime.v1.UpdatePodSandboxResourcesRequest", &request);
    extension(id.as_str(), RESOURCES, value)
}

fn read_limits(object: &Object) -> Result<PodLimits, String> {
    let request: cri::UpdatePodSandboxResourcesRequest = read_message(object, RESOURCES)?;
    Ok(PodLimits {
        overhead: request.overhead,
        resources: request.resources,
    })
}

fn label(id: &str, key: &str, at: i64) -> Update {
    let labels = HashMap::from([(key.to_owned(), at.to_string())]);
    let object = Object {
        id: id.to_owned(),
        labels,
        ..Default::default()
    };
    (object, format!("labels.{key}"))
}

fn extension(id: &str, key: &str, value: Any) -> Update {
    let extensions = HashMap::from([(key.to_owned(), value)]);
    let object = Object {
        id: id.to_owned(),
        extensions,
        ..Default::default()
    };
    (object, format!("extensions.{key}"))
}

/// Reads an object that the shim has written; the reason when it cannot be one.
pub(crate) fn read(object: &Object) -> Result<Record, String> {
    match object.labels.get(KIND).map(String::as_str) {
        Some(KIND_SANDBOX) => Ok(Record::Sandbox(Box::new(SandboxRecord {
            id: object.id.clone().into(),
            config: read_message(object, CONFIG)?,
            detail: read_json(object, DETAIL)?,
            stopped: object.labels.contains_key(STOPPED),
            limits: object
                .extensions
                .get(RESOURCES)
                .map(|_| read_limits(object))
                .transpose()?,
        }))),
        Some(KIND_CONTAINER) => Ok(Record::Container(Box::new(ContainerRecord {
            id: object.id.clone().into(),
            config: read_message(object, CONFIG)?,
            detail: read_json(object, DETAIL)?,
            resources: object
                .extensions
                .get(RESOURCES)
                .map(|_| read_message(object, RESOURCES))
                .transpose()?,
            started_at: object.labels.get(STARTED).and_then(|at| at.parse().ok()),
            exit: object
                .extensions
                .get(EXIT)
                .map(|_| read_json(object, EXIT))
                .transpose()?,
        }))),
        Some(other) => Err(format!("unknown kind {other:?}")),
        None => Err(format!("no label {KIND}")),
    }
}

/// An OCI runtime spec, under the name that containerd's Go client gives it.
pub(crate) fn spec(value: Vec<u8>) -> Any {
    let type_url = "types.containerd.io/opencontainers/runtime-spec/1/Spec".into();
    Any { type_url, value }
}

fn message(name: &str, message: &impl Message) -> Any {
    Any {
        type_url: name.to_owned(),
        value: message.encode_to_vec(),
    }
}

fn json(value: &impl Serialize) -> Any {
    Any {
        type_url: "clone8s.io/json".into(),
        // These are structs of strings and numbers, which always have a JSON form.
        value: serde_json::to_vec(value).unwrap_or_default(),
    }
}

fn read_message<T: Message + Default>(object: &Object, key: &str) -> Result<T, String> {
    let any = object
        .extensions
        .get(key)
        .ok_or_else(|| format!("no extension {key}"))?;
    T::decode(&*any.value).map_err(|error| format!("extension {key}: {error}"))
}

fn read_json<T: DeserializeOwned>(object: &Object, key: &str) -> Result<T, String> {
    let any = object
        .extensions
        .get(key)
        .ok_or_else(|| format!("no extension {key}"))?;
    serde_json::from_slice(&any.value).map_err(|error| format!("extension {key}: {error}"))
}
