//! The kernel calls behind a sandbox's namespaces.

use std::{io, path::Path};

use rustix::thread::UnshareFlags;

/// `NSFS_MAGIC` of linux/magic.h: the file system of pinned namespaces.
const NSFS: i64 = 0x6e73_6673;

/// Moves the calling thread into new namespaces. The thread must not do anything else afterwards.
pub(super) fn enter_new(net_and_uts: bool, ipc: bool) -> io::Result<()> {
    let mut flags = UnshareFlags::empty();
    if net_and_uts {
        flags |= UnshareFlags::NEWNET | UnshareFlags::NEWUTS;
    }
    if ipc {
        flags |= UnshareFlags::NEWIPC;
    }
    crate::kernel::unshare(flags)
}

/// Whether a path is a pinned namespace and not the empty file below it.
pub(crate) fn is_namespace(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|found| found.f_type == NSFS)
}
