//! A short-lived process that makes namespaces, and the shim's side of talking to it.

use std::{
    env,
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Write as _},
    os::{
        fd::AsFd as _,
        unix::{fs::OpenOptionsExt as _, process::CommandExt as _},
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use rustix::{
    fs::CWD,
    mount::{MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, move_mount, open_tree},
    process::{Gid, Uid},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space},
};
use serde::{Deserialize, Serialize};

use super::{NAMESPACES, OWN_PROGRAM, POD_INIT, init::ROOT_FOLDER};
use crate::{
    kernel::{self, MountChange},
    pins::{IdMappings, Setup},
};

/// The file beside the pins with the pid of the pod's first process.
pub(crate) const PID_FILE: &str = "init.pid";

/// What the process is to do; its first argument, as JSON.
#[derive(Debug, Serialize, Deserialize)]
enum Task {
    /// A new user namespace and, with a setup, further ones that it owns; until the input ends.
    Hold { setup: Option<Setup> },
    /// A pod's first process in a new PID namespace, within the namespaces pinned in the folder.
    StartInit { pins: PathBuf },
}

/// A process that holds a user namespace, and those that it owns, until this is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    child: Child,
    input: Option<ChildStdin>,
}

impl Held {
    /// Blocks until everything is made.
    pub(crate) fn make(mappings: &IdMappings, setup: Option<&Setup>) -> io::Result<Self> {
        let setup = setup.cloned();
        let (mut held, mut output) = spawn(&Task::Hold { setup })?;
        expect(&mut output, "unshared")?;
        let proc = PathBuf::from(format!("/proc/{}", held.child.id()));
        for (file, lines) in [
            ("uid_map", mappings.uid_lines()),
            ("gid_map", mappings.gid_lines()),
        ] {
            write_once(&proc.join(file), &lines)?;
        }
        if let Some(input) = &mut held.input {
            input.write_all(b"mapped\n")?;
        }
        expect(&mut output, "ready")?;
        Ok(held)
    }

    /// One of its namespaces, such as `net`.
    pub(crate) fn namespace(&self, kind: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/{kind}", self.child.id()))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.input.take());
        // Nothing can be done about a child that cannot be waited for.
        let _ = self.child.wait();
    }
}

/// Starts a pod's first process within the namespaces pinned in the folder. Blocks until it is ready.
pub(crate) fn start_init(pins: &Path) -> io::Result<()> {
    let pins = pins.to_owned();
    let (_held, mut output) = spawn(&Task::StartInit { pins })?;
    expect(&mut output, "started").map(drop)
}

fn spawn(task: &Task) -> io::Result<(Held, BufReader<ChildStdout>)> {
    let argument = serde_json::to_string(task)?;
    let mut child = super::command(NAMESPACES)?
        .arg(argument)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let input = child.stdin.take();
    let output = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    Ok((Held { child, input }, BufReader::new(output)))
}

/// The rest of a line that must begin so.
fn expect(output: &mut impl io::BufRead, start: &str) -> io::Result<String> {
    let mut line = String::new();
    output.read_line(&mut line)?;
    let line = line.trim_end();
    match line.strip_prefix(start) {
        Some(rest) => Ok(rest.to_owned()),
        None if line.is_empty() => Err(io::Error::other("the process that makes namespaces died")),
        None => Err(io::Error::other(line.trim_start_matches("error: ").to_owned())),
    }
}

/// The kernel takes a map in one write only.
fn write_once(path: &Path, text: &str) -> io::Result<()> {
    let with_path = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let mut file = fs::OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_CLOEXEC)
        .open(path)
        .map_err(with_path)?;
    file.write_all(text.as_bytes()).map_err(with_path)
}

/// The process itself.
pub(super) fn run() -> io::Result<()> {
    let argument = env::args().nth(1).ok_or(io::ErrorKind::InvalidInput)?;
    match serde_json::from_str(&argument)? {
        Task::Hold { setup } => hold(setup.as_ref()),
        Task::StartInit { pins } => run_init(&pins),
    }
}

fn hold(setup: Option<&Setup>) -> io::Result<()> {
    let mut input = io::stdin().lock();
    let mut line = String::new();
    kernel::unshare(UnshareFlags::NEWUSER)?;
    println!("unshared");
    input.read_line(&mut line)?;
    if line.trim_end() != "mapped" {
        return Ok(());
    }
    // What is made from now on belongs to the namespace's root.
    become_root()?;
    if let Some(setup) = setup {
        setup.enter()?;
    }
    println!("ready");
    // Until the shim lets go, or is gone.
    line.clear();
    input.read_line(&mut line)?;
    Ok(())
}

fn run_init(pins: &Path) -> io::Result<()> {
    let open = |name: &str| match File::open(pins.join(name)) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    // What can be had only as the host's root comes first: the file for the pid, a way to the folder, and the program.
    // That is under a mount of its own, and read-only: a pod that is let near it cannot change the host's.
    let mut pid_file = File::create(pins.join(PID_FILE))?;
    rustix::process::chdir(pins.join(ROOT_FOLDER))?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let program = during("copy the program's mount", open_tree(CWD, OWN_PROGRAM, flags))?;
    kernel::change_mount(program.as_fd(), Path::new(""), MountChange::ReadOnly)?;

    // The user namespace first: the others are its, and so is the right to enter them.
    for (name, kind) in [
        ("user", LinkNameSpaceType::User),
        ("net", LinkNameSpaceType::Network),
        ("uts", LinkNameSpaceType::HostNameAndNISDomainName),
        ("ipc", LinkNameSpaceType::InterProcessCommunication),
    ] {
        if let Some(namespace) = open(name)? {
            during(name, move_into_link_name_space(namespace.as_fd(), Some(kind)))?;
            if name == "user" {
                become_root()?;
            }
        }
    }
    kernel::unshare(UnshareFlags::NEWNS)?;
    let propagation = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    during(
        "part from the host's mounts",
        rustix::mount::mount_change("/", propagation),
    )?;
    let safe = MountFlags::NOSUID | MountFlags::NODEV;
    let options = c"mode=555,size=4k,nr_inodes=4";
    during(
        "mount a root",
        rustix::mount::mount("init", ".", "tmpfs", safe, options),
    )?;
    // Into what has just been mounted here.
    rustix::process::chdir(Path::new("..").join(ROOT_FOLDER))?;
    // By the role's name, which is what tools show of a process.
    File::create(POD_INIT)?;
    let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    during(
        "mount the program",
        move_mount(&program, "", CWD, POD_INIT, empty),
    )?;

    kernel::unshare(UnshareFlags::NEWPID)?;
    let mut init = Command::new(Path::new(".").join(POD_INIT));
    init.arg0(POD_INIT)
        .arg(pins)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = init.spawn()?;
    // By this process, and at once: should the shim have been killed, the next one finds the process by it.
    write!(pid_file, "{}", child.id())?;
    let output = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    expect(&mut BufReader::new(output), "ready")?;
    println!("started");
    Ok(())
}

/// In a user namespace that the process has entered.
fn become_root() -> io::Result<()> {
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    Ok(rustix::thread::set_thread_res_uid(
        Uid::ROOT,
        Uid::ROOT,
        Uid::ROOT,
    )?)
}

pub(super) fn during<T>(step: &str, outcome: rustix::io::Result<T>) -> io::Result<T> {
    outcome.map_err(|error| {
        let error = io::Error::from(error);
        io::Error::new(error.kind(), format!("{step}: {error}"))
    })
}
