//! The contracts of Clone8s: generated types and clients, manifests, names, selectors, quantities.

use std::sync::LazyLock;

use prost_reflect::DescriptorPool;

/// The objects and services of Clone8s (`proto/clone8s/v1`).
#[allow(
    clippy::pedantic,
    clippy::unwrap_used,
    unreachable_pub,
    missing_debug_implementations
)]
pub mod v1 {
    tonic::include_proto!("clone8s.v1");
    include!(concat!(env!("OUT_DIR"), "/clone8s.v1.serde.rs"));
}

/// What the runtime serves beside CRI (`proto/clone8s/runtime/v1`).
#[allow(
    clippy::pedantic,
    clippy::unwrap_used,
    unreachable_pub,
    missing_debug_implementations
)]
pub mod runtime {
    tonic::include_proto!("clone8s.runtime.v1");
}

/// CRI v1 (`proto/runtime/v1`).
#[allow(
    clippy::pedantic,
    clippy::unwrap_used,
    unreachable_pub,
    missing_debug_implementations,
    deprecated
)]
pub mod cri {
    tonic::include_proto!("runtime.v1");
}

pub mod client;
pub mod containers;
pub mod manifest;
pub mod names;
pub mod object;
pub mod path;
pub mod quantity;
mod redacted;
pub mod references;
pub mod rules;
pub mod selector;
pub mod wire;

/// Every contract as a serialized `google.protobuf.FileDescriptorSet`, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Every contract, to look things up in.
pub fn descriptors() -> &'static DescriptorPool {
    static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
        DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("the build wrote a whole descriptor set")
    });
    &POOL
}
