//! The contracts of Clone8s: generated types and clients, manifests, names, selectors, quantities.

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use prost::Message as _;
use prost_reflect::{
    DescriptorPool,
    prost_types::{FileDescriptorProto, FileDescriptorSet},
};

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
pub mod devices;
pub mod huge_pages;
pub mod manifest;
pub mod mirror;
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
    static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| pool(|_| true));
    &POOL
}

/// What objects are made of, to look things up in: a fraction of all contracts, kept until it is forgotten.
pub fn object_descriptors() -> DescriptorPool {
    held_objects()
        .get_or_insert_with(|| {
            pool(|file| {
                let is_service = !file.service.is_empty();
                !is_service && ["clone8s.v1", "google.protobuf"].contains(&file.package())
            })
        })
        .clone()
}

/// Gives back a megabyte, for a process that stays and reads a manifest now and then: the next one makes it anew, in a few
/// milliseconds.
pub fn forget_object_descriptors() {
    *held_objects() = None;
}

fn held_objects() -> MutexGuard<'static, Option<DescriptorPool>> {
    static HELD: Mutex<Option<DescriptorPool>> = Mutex::new(None);
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Without the comments, which nobody looks up.
fn pool(keep: impl Fn(&FileDescriptorProto) -> bool) -> DescriptorPool {
    const WHOLE: &str = "the build wrote a whole descriptor set";
    let mut set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect(WHOLE);
    set.file.retain(keep);
    for file in &mut set.file {
        file.source_code_info = None;
    }
    DescriptorPool::from_file_descriptor_set(set).expect(WHOLE)
}
