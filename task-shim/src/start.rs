//! `start`: gives containerd the address of the pod's server, which it starts for the pod's first container.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::{
        fd::OwnedFd,
        unix::{
            fs::DirBuilderExt as _,
            net::{UnixListener, UnixStream},
            process::CommandExt as _,
        },
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use prost::Message as _;
use rustix::fs::{FlockOperation, Mode, flock};

use crate::{
    args::Args,
    failure::{Failure, Result},
    messages::{ContainerRequest, Options},
    service,
    spec::Spec,
    ttrpc,
};

/// Where containerd's own shims have their sockets: short, for a socket's path holds 107 bytes.
const SOCKETS: &str = "/run/containerd/s";
/// How long a server that has accepted may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// The address, in containerd's form.
pub(crate) fn start(args: &Args) -> Result<String> {
    let bundle = args.bundle.clone().unwrap_or_else(|| PathBuf::from("."));
    let spec = Spec::read(&bundle)?;
    let socket = socket(args, spec.group().unwrap_or(&args.id));
    if expect(&socket, &args.id).is_err() {
        start_server(args, &socket, spec.group().unwrap_or(&args.id))?;
    }
    let address = format!("unix://{}", socket.display());
    // containerd finds the server again by it after its own restart.
    let file = bundle.join("address");
    fs::write(&file, &address).map_err(Failure::file("write", file))?;
    Ok(address)
}

fn start_server(args: &Args, socket: &Path, group: &str) -> Result<()> {
    let folder = Path::new(SOCKETS);
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(folder)
        .map_err(Failure::file("make folder", folder))?;
    // Two containers of a pod may start at a time, and a dead server's socket is removed by one of them only.
    let lock = folder.join("clone8s.lock");
    let lock = File::create(&lock).map_err(Failure::file("open", lock))?;
    flock(&lock, FlockOperation::LockExclusive).map_err(Failure::file("lock", folder))?;
    if expect(socket, &args.id).is_ok() {
        return Ok(());
    }
    let _ = fs::remove_file(socket);
    // Root's alone from its first moment on.
    let before = rustix::process::umask(Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(socket);
    rustix::process::umask(before);
    let listener = listener.map_err(Failure::file("listen on", socket))?;
    let program = std::env::current_exe().map_err(Failure::file("find", "/proc/self/exe"))?;
    let server = Command::new(&program)
        .args([
            "-namespace",
            &args.namespace,
            "-id",
            group,
            "-address",
            &args.address,
        ])
        .arg("-socket")
        .arg(socket)
        .arg("serve")
        // It is found in lists of processes by this name, whatever the program's is.
        .arg0(crate::NAME)
        // The bundle must be free to go.
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(Failure::file("start", program))?;
    join_cgroup(server.id())
}

/// Announces a container to the pod's server, so that it does not end for having none.
fn expect(socket: &Path, id: &str) -> io::Result<()> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER))?;
    let message = ContainerRequest { id: id.to_owned() };
    ttrpc::call_blocking(&stream, service::POD, "Expect", &message).map(drop)
}

/// One for each pod of each namespace of each containerd.
pub(crate) fn socket(args: &Args, group: &str) -> PathBuf {
    let name = [&args.address, &args.namespace, group].join("\0");
    Path::new(SOCKETS).join(format!("{:016x}{:016x}", fnv(0, &name), fnv(1, &name)))
}

/// FNV-1a: names that are long become short, the same in every version of this program.
fn fnv(seed: u8, text: &str) -> u64 {
    std::iter::once(seed)
        .chain(text.bytes())
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
}

/// Moves the server to the cgroup that the runtime's options name, if they do. containerd passes them as the
/// standard input.
fn join_cgroup(server: u32) -> Result<()> {
    let mut input = Vec::new();
    // Whoever starts this by hand may leave it closed.
    let _ = io::stdin().take(1 << 20).read_to_end(&mut input);
    let options = prost_types::Any::decode(input.as_slice())
        .ok()
        .and_then(|any| Options::decode(any.value.as_slice()).ok())
        .unwrap_or_default();
    let cgroup = options.shim_cgroup.trim_matches('/');
    if cgroup.is_empty() {
        return Ok(());
    }
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = if root.join("cgroup.controllers").exists() {
        vec![root.to_owned()]
    } else {
        fs::read_dir(root)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect()
    };
    for hierarchy in hierarchies {
        let dir = hierarchy.join(cgroup);
        fs::create_dir_all(&dir).map_err(Failure::file("make cgroup", &dir))?;
        let procs = dir.join("cgroup.procs");
        fs::write(&procs, server.to_string()).map_err(Failure::file("join cgroup", procs))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_namespaces_and_containerds_have_sockets_of_their_own_that_never_change() {
        let args = |namespace: &str, address: &str| Args {
            namespace: namespace.into(),
            address: address.into(),
            ..Args::default()
        };
        let one = socket(&args("a", "/c.sock"), "pod");
        assert_eq!(one, socket(&args("a", "/c.sock"), "pod"));
        assert_ne!(one, socket(&args("a", "/c.sock"), "pod2"));
        assert_ne!(one, socket(&args("b", "/c.sock"), "pod"));
        assert_ne!(one, socket(&args("a", "/d.sock"), "pod"));
        assert_eq!(fnv(0, ""), 0xaf63_bd4c_8601_b7df);
    }
}
