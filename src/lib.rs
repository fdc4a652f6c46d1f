//! The contracts of Clone8s: generated types and clients, manifests, names, selectors, quantities.

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

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
    static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| pool(FILE_DESCRIPTOR_SET));
    &POOL
}

/// What objects are made of, to look things up in: a fraction of all contracts, kept until it is forgotten.
pub fn object_descriptors() -> DescriptorPool {
    const OBJECTS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/objects.bin"));
    let mut held = held_objects();
    held.used = true;
    held.pool.get_or_insert_with(|| pool(OBJECTS)).clone()
}

/// Gives back a megabyte where nobody has used the descriptors since the last call, for a process that stays and reads a
/// manifest now and then: the next one makes them anew, in a millisecond.
pub fn forget_unused_object_descriptors() {
    let mut held = held_objects();
    if !std::mem::take(&mut held.used) {
        held.pool = None;
    }
}

struct HeldObjects {
    pool: Option<DescriptorPool>,
    used: bool,
}

fn held_objects() -> MutexGuard<'static, HeldObjects> {
    static HELD: Mutex<HeldObjects> = Mutex::new(HeldObjects {
        pool: None,
        used: false,
    });
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

fn pool(set: &[u8]) -> DescriptorPool {
    DescriptorPool::decode(set).expect("the build wrote a whole descriptor set")
}
