//! Descriptors that tokio has no type for.

use std::{io, os::fd::OwnedFd};

use tokio::io::unix::AsyncFd;

/// Waits for a descriptor's readiness by the runtime. It must not block (`O_NONBLOCK`).
#[expect(
    unsafe_code,
    reason = "registering is unsafe for the sake of types that may change or close their descriptor"
)]
pub fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd gives the same descriptor each time and keeps it open until it is dropped, which AsyncFd
    // does after the registration's end; nobody here gets mutable access to replace it.
    let registered = unsafe { AsyncFd::register(descriptor) };
    Ok(registered?)
}
