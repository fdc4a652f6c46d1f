//! What the shim tells containerd's runc shim besides the spec.

use containerd_client::services::v1::container::Runtime;
use prost::Message as _;
use prost_types::Any;

use crate::config::RuntimeHandler;

/// The part of containerd's `containerd.runc.v1.Options` that the shim uses.
#[derive(Clone, PartialEq, prost::Message)]
struct RuncOptions {
    /// The OCI runtime's program.
    #[prost(string, tag = "6")]
    binary_name: String,
    /// Our own shim's: the process starts with the task's creation.
    #[prost(bool, tag = "1001")]
    start_at_once: bool,
}

/// A handler as containerd takes it.
pub(crate) fn runtime(handler: &RuntimeHandler) -> Runtime {
    Runtime {
        name: handler.runtime.clone(),
        options: options(handler),
    }
}

/// The options of a handler's runtime, for `Runtime` and again for the task.
pub(crate) fn options(handler: &RuntimeHandler) -> Option<Any> {
    let binary_name = handler.binary.clone()?;
    Some(Any {
        type_url: "containerd.runc.v1.Options".into(),
        value: RuncOptions {
            binary_name,
            start_at_once: handler.is_own(),
        }
        .encode_to_vec(),
    })
}

/// The part of containerd's `containerd.runc.v1.CheckpointOptions` that the shim uses.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct CheckpointOptions {
    /// The folder for CRIU's images.
    #[prost(string, tag = "8")]
    pub(crate) image_path: String,
    /// The folder for CRIU's log.
    #[prost(string, tag = "9")]
    pub(crate) work_path: String,
}

impl From<CheckpointOptions> for Any {
    fn from(options: CheckpointOptions) -> Self {
        Self {
            type_url: "containerd.runc.v1.CheckpointOptions".into(),
            value: options.encode_to_vec(),
        }
    }
}
