//! The shim's program in its other roles: what the kernel lets only a process do, and no thread of one.
//!
//! ```text
//! shim ──exec──► clone8s-namespaces: a user namespace and those that it owns, held until they are pinned
//! shim ──exec──► clone8s-namespaces ──exec in a new PID namespace──► clone8s-pod-init, which stays
//! ```
//!
//! A user namespace can be entered only by a process of one thread, and a PID namespace lives as long as its first
//! process. The roles are told by the program's name, `argv[0]`, before anything else of `main` has run.

mod holder;
mod init;

use std::{
    env,
    ffi::OsStr,
    io,
    os::unix::process::CommandExt as _,
    process::{Command, ExitCode},
    sync::atomic::{AtomicBool, Ordering},
};

pub(crate) use self::{
    holder::{Held, PID_FILE, start_init},
    init::{ROOT_FOLDER, is_init_of},
};

const NAMESPACES: &str = "clone8s-namespaces";
const POD_INIT: &str = "clone8s-pod-init";

/// The shim's own program, also when its file has been replaced since.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// Whether this program's `main` takes up the roles.
static TAKEN_UP: AtomicBool = AtomicBool::new(false);

/// Plays the role that this process was started for, if any. To be called first in the `main` of a program that serves
/// CRI: without it there are neither user namespaces nor shared PID namespaces.
pub fn run_if_asked() -> Option<ExitCode> {
    TAKEN_UP.store(true, Ordering::Relaxed);
    // containerd may know no other program of ours: see `RuntimeHandler::own`.
    if clone8s_task_shim::is_called() {
        return Some(clone8s_task_shim::main());
    }
    let name = env::args_os().next()?;
    let outcome = if name == OsStr::new(NAMESPACES) {
        holder::run()
    } else if name == OsStr::new(POD_INIT) {
        init::run()
    } else {
        return None;
    };
    Some(match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The shim reads it.
            println!("error: {error}");
            ExitCode::FAILURE
        }
    })
}

/// A command that runs this program in a role.
fn command(role: &str) -> io::Result<Command> {
    if !TAKEN_UP.load(Ordering::Relaxed) {
        return Err(io::Error::other(
            "the program that embeds the shim does not call run_if_asked first in its main",
        ));
    }
    let mut command = Command::new(OWN_PROGRAM);
    command.arg0(role).env_clear();
    Ok(command)
}
