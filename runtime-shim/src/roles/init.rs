//! The first process of a pod's shared PID namespace.
//!
//! It lends the namespace its life and reaps what the pod's processes leave behind. Nothing in the pod can end it: the
//! kernel drops signals from within the namespace that it does not handle, SIGKILL too (pid_namespaces(7)). It gives
//! nothing away either: an empty root, no capability, no descriptor, no environment, and a program file that cannot be
//! written to.

use std::{
    fs, io,
    io::Write as _,
    os::{fd::AsFd as _, unix::ffi::OsStrExt as _},
    path::Path,
    thread,
};

use rustix::{
    mount::UnmountFlags,
    process::{DumpableBehavior, Gid, Uid},
    thread::{CapabilitySet, CapabilitySets},
};

use super::{POD_INIT, holder::during};
use crate::kernel::{self, MountChange};

/// The folder that becomes its root, below the one of the sandbox's pins.
pub(crate) const ROOT_FOLDER: &str = "init";
/// Whom the process runs as: nobody.
const NOBODY: u32 = 65_534;

/// Whether a process is the first one of the pod whose pins are in this folder.
pub(crate) fn is_init_of(pid: u32, pins: &Path) -> bool {
    let words = [POD_INIT.as_bytes(), pins.as_os_str().as_bytes(), b""];
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == words.join(&0))
}

/// Runs for ever. Its working folder becomes its root; "ready" is written when the pod may be let in.
pub(super) fn run() -> io::Result<()> {
    rustix::process::setsid()?;
    // pivot_root(2), "pivot_root(".", ".")": the old root comes to lie on the new one.
    during("change the root", rustix::process::pivot_root(".", "."))?;
    during(
        "leave the host's mounts",
        rustix::mount::unmount(".", UnmountFlags::DETACH),
    )?;
    rustix::process::chdir("/")?;
    kernel::change_mount(fs::File::open("/")?.as_fd(), Path::new(""), MountChange::ReadOnly)?;
    kernel::ignore_children()?;
    give_up_rights()?;
    println!("ready");
    io::stdout().flush()?;
    // Whoever waits for the end of the output must not wait for this process's.
    rustix::stdio::dup2_stdout(rustix::stdio::stdin())?;
    loop {
        thread::park();
    }
}

fn give_up_rights() -> io::Result<()> {
    rustix::thread::set_thread_groups(&[])?;
    // A pod's user namespace may be too small to have a nobody.
    let (gid, uid) = (Gid::from_raw(NOBODY), Uid::from_raw(NOBODY));
    let became = rustix::thread::set_thread_res_gid(gid, gid, gid)
        .and_then(|()| rustix::thread::set_thread_res_uid(uid, uid, uid));
    match became {
        Ok(()) | Err(rustix::io::Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    let none = CapabilitySet::empty();
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: none,
            permitted: none,
            inheritable: none,
        },
    )?;
    rustix::thread::set_no_new_privs(true)?;
    // Its links in /proc are then for administrators of the host alone.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}
