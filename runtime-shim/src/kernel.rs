//! Kernel calls that no crate makes safe.

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
    os::unix::ffi::OsStrExt as _,
    path::Path,
};

use rustix::thread::UnshareFlags;
use tokio::io::unix::AsyncFd;

/// Moves the calling thread into new namespaces. The thread must end there: others still are where they were.
#[expect(
    unsafe_code,
    reason = "unshare is unsafe for the sake of a flag that is refused here"
)]
pub(crate) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    if flags.contains(UnshareFlags::FILES) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the call is unsafe for CLONE_FILES alone, with which threads lose sight of each other's descriptors.
    unsafe { rustix::thread::unshare_unsafe(flags) }?;
    Ok(())
}

/// A change of a mount (mount_setattr(2)).
#[derive(Debug, Clone, Copy)]
pub(crate) enum MountChange<'a> {
    /// Nothing can be written through it.
    ReadOnly,
    /// Owners of files are shown as a user namespace maps them.
    IdMapped(BorrowedFd<'a>),
}

/// Changes one mount, at `path` or, with an empty path, the one that `mount` is a descriptor of.
#[expect(unsafe_code, reason = "no crate has mount_setattr")]
pub(crate) fn change_mount(mount: BorrowedFd<'_>, path: &Path, change: MountChange<'_>) -> io::Result<()> {
    // libc's own struct and flags (linux/mount.h).
    let mut attributes = libc::mount_attr {
        attr_set: 0,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    match change {
        MountChange::ReadOnly => attributes.attr_set = libc::MOUNT_ATTR_RDONLY,
        MountChange::IdMapped(namespace) => {
            attributes.attr_set = libc::MOUNT_ATTR_IDMAP;
            attributes.userns_fd = u64::from(namespace.as_raw_fd().unsigned_abs());
        }
    }
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path is a C string and the attributes are a struct of the size that is told; both outlive the call,
    // which only reads them. The descriptors are borrowed, and so are open.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            path.as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A descriptor whose events can be awaited.
#[expect(
    unsafe_code,
    reason = "any AsRawFd could change its descriptor, an OwnedFd does not"
)]
pub(crate) fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is one open descriptor for as long as it lives, and the AsyncFd owns it.
    unsafe { AsyncFd::register(descriptor) }.map_err(Into::into)
}

/// Lets the kernel reap this process's children, adopted ones too.
#[expect(unsafe_code, reason = "no safe crate in use sets what a signal does")]
pub(crate) fn ignore_children() -> io::Result<()> {
    // SAFETY: SIG_IGN installs no code, so nothing can run at an unexpected moment.
    let before = unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    if before == libc::SIG_ERR {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
