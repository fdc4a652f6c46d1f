//! A sandbox's namespaces, kept alive without a process by bind mounts of `/proc/thread-self/ns/*`.
//!
//! ```text
//! <state_dir>/sandboxes/<id>/ns/{net,ipc,uts}   pins
//!                            shm                /dev/shm of the sandbox's containers
//!                            hostname, hosts, resolv.conf
//! ```

mod kernel;

pub(crate) use self::kernel::is_namespace;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use clone8s::cri::NamespaceMode;
use rustix::mount::{MountFlags, UnmountFlags};

use crate::{
    error::{Error, Result},
    ids::SandboxId,
};

/// `/dev/shm` of a sandbox, as large as docker's and containerd's.
const SHM_OPTIONS: &std::ffi::CStr = c"mode=1777,size=67108864";

/// Which namespaces a sandbox has of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Network and, with it, the host name.
    pub(crate) net: bool,
    pub(crate) ipc: bool,
}

impl Wanted {
    /// Decides from CRI's options; modes that the shim cannot serve are refused.
    pub(crate) fn from_options(options: &clone8s::cri::NamespaceOption) -> Result<Self> {
        let own = |field, mode| match mode {
            NamespaceMode::Pod => Ok(true),
            NamespaceMode::Node => Ok(false),
            NamespaceMode::Container | NamespaceMode::Target => {
                Err(Error::invalid(field, "must be POD or NODE for a sandbox"))
            }
        };
        if options.pid() == NamespaceMode::Pod {
            return Err(Error::invalid(
                "namespace_options.pid",
                "a process namespace that containers share is not implemented; use CONTAINER or NODE",
            ));
        }
        let user = options.userns_options.as_ref();
        if user.is_some_and(|user| user.mode() == NamespaceMode::Pod) {
            return Err(Error::invalid(
                "namespace_options.userns_options",
                "user namespaces are not implemented",
            ));
        }
        Ok(Self {
            net: own("namespace_options.network", options.network())?,
            ipc: own("namespace_options.ipc", options.ipc())?,
        })
    }
}

/// Where one sandbox's pins and files are.
#[derive(Debug, Clone)]
pub(crate) struct SandboxDir {
    path: PathBuf,
}

impl SandboxDir {
    pub(crate) fn new(state_dir: &Path, id: &SandboxId) -> Self {
        Self {
            path: all(state_dir).join(id.as_str()),
        }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// What undoes a network that plugins have begun to make.
    pub(crate) fn network_journal(&self) -> PathBuf {
        self.path.join("network.json")
    }

    pub(crate) fn net(&self) -> PathBuf {
        self.path.join("ns/net")
    }

    pub(crate) fn ipc(&self) -> PathBuf {
        self.path.join("ns/ipc")
    }

    pub(crate) fn uts(&self) -> PathBuf {
        self.path.join("ns/uts")
    }

    pub(crate) fn shm(&self) -> PathBuf {
        self.path.join("shm")
    }

    /// Makes the folder and, in a thread of its own, the namespaces.
    pub(crate) async fn make(
        &self,
        wanted: Wanted,
        hostname: &str,
        sysctls: &BTreeMap<String, String>,
    ) -> Result<()> {
        let files = sysctls
            .iter()
            .map(|(name, value)| Ok((sysctl_file(name, wanted)?, value.clone())))
            .collect::<Result<Vec<_>>>()?;
        let dir = self.clone();
        let hostname = hostname.to_owned();
        // Not on a thread of the async runtime: a thread that has entered another namespace must end there.
        let (reply, done) = tokio::sync::oneshot::channel();
        std::thread::Builder::new()
            .name("make-namespaces".into())
            .spawn(move || {
                let _ = reply.send(dir.make_here(wanted, &hostname, &files));
            })
            .map_err(Error::file("start a thread to make", &self.path))?;
        done.await
            .unwrap_or_else(|_| Err(io::Error::other("the thread died")))
            .map_err(Error::file("make namespaces in", &self.path))
    }

    fn make_here(&self, wanted: Wanted, hostname: &str, sysctls: &[(PathBuf, String)]) -> io::Result<()> {
        fs::create_dir_all(self.path.join("ns"))?;
        kernel::enter_new(wanted.net, wanted.ipc)?;
        if wanted.net {
            kernel::set_loopback_up()?;
            rustix::system::sethostname(hostname.as_bytes())?;
            pin("net", &self.net())?;
            pin("uts", &self.uts())?;
        }
        if wanted.ipc {
            pin("ipc", &self.ipc())?;
            fs::create_dir(self.shm())?;
            let safe = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            rustix::mount::mount("shm", self.shm(), "tmpfs", safe, SHM_OPTIONS)?;
        }
        for (path, value) in sysctls {
            fs::write(path, value).map_err(|error| {
                io::Error::new(
                    error.kind(),
                    format!("write {value:?} to {}: {error}", path.display()),
                )
            })?;
        }
        Ok(())
    }

    /// Whether every wanted pin is there: a reboot loses them.
    pub(crate) fn is_whole(&self, wanted: Wanted) -> bool {
        let pinned = |path: &Path| kernel::is_namespace(path);
        self.path.exists()
            && (!wanted.net || pinned(&self.net()) && pinned(&self.uts()))
            && (!wanted.ipc || pinned(&self.ipc()))
    }

    /// Whether namespaces may be there, and with them the network's part outside of them.
    pub(crate) fn is_pinned(&self) -> bool {
        self.file("ns").exists()
    }

    /// Whether everything has been given back. A folder that is gone, as after a reboot, does not say so: what
    /// outlives a reboot, such as the leases of CNI plugins, is still held.
    pub(crate) fn is_released(&self) -> bool {
        self.path.exists() && !self.is_pinned()
    }

    /// Lets go of the namespaces and notes it. Repeatable.
    pub(crate) fn release(&self) -> Result<()> {
        self.unpin()?;
        match fs::remove_dir_all(self.file("ns")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::file("remove folder", self.file("ns"))(error));
            }
            _ => {}
        }
        fs::create_dir_all(&self.path).map_err(Error::file("make folder", &self.path))
    }

    /// Lets go of the namespaces; the kernel ends them when the last process in them ends. Repeatable.
    pub(crate) fn unpin(&self) -> Result<()> {
        for path in [self.net(), self.uts(), self.ipc(), self.shm()] {
            match rustix::mount::unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
                // Not a mount, or not there.
                Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
                Err(error) => return Err(Error::file("unmount", path)(error.into())),
            }
        }
        Ok(())
    }

    /// Removes everything. Repeatable.
    pub(crate) fn remove(&self) -> Result<()> {
        self.unpin()?;
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::file("remove folder", &self.path)(error))
            }
            _ => Ok(()),
        }
    }
}

/// The sandboxes that have a folder, known or not.
pub(crate) fn found(state_dir: &Path) -> Vec<SandboxId> {
    let entries = fs::read_dir(all(state_dir)).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| Some(entry.file_name().to_str()?.into()))
        .collect()
}

fn all(state_dir: &Path) -> PathBuf {
    state_dir.join("sandboxes")
}

/// The file of a kernel parameter that belongs to a namespace of the sandbox's own.
fn sysctl_file(name: &str, wanted: Wanted) -> Result<PathBuf> {
    let refuse = |problem: &str| {
        Err(Error::invalid(
            "config.linux.sysctls",
            format!("{name}: {problem}"),
        ))
    };
    let is_net = name.starts_with("net.");
    let is_ipc = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."]
        .iter()
        .any(|start| name.starts_with(start));
    if name.contains('/') || !is_net && !is_ipc {
        return refuse("not a parameter of the network or IPC namespace; set it on the host");
    }
    if is_net && !wanted.net || is_ipc && !wanted.ipc {
        return refuse("the sandbox shares this namespace with the host");
    }
    Ok(Path::new("/proc/sys").join(name.replace('.', "/")))
}

fn pin(namespace: &str, path: &Path) -> io::Result<()> {
    fs::File::create(path)?;
    rustix::mount::mount_bind(format!("/proc/thread-self/ns/{namespace}"), path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_pinned_namespace_is_not_the_hosts_and_goes_without_a_trace() {
        let state = tempfile::tempdir().unwrap();
        let dir = SandboxDir::new(state.path(), &SandboxId::from("s1"));
        let wanted = Wanted { net: true, ipc: true };
        let sysctls = BTreeMap::from([("net.ipv4.ip_unprivileged_port_start".to_owned(), "80".to_owned())]);
        dir.make(wanted, "web-1", &sysctls).await.unwrap();
        assert!(dir.is_whole(wanted));
        for namespace in ["net", "uts", "ipc"] {
            let own = fs::metadata(dir.file("ns").join(namespace)).unwrap();
            let host = fs::metadata(format!("/proc/self/ns/{namespace}")).unwrap();
            let inode = std::os::unix::fs::MetadataExt::ino;
            assert_ne!(inode(&own), inode(&host), "{namespace}");
        }
        assert_eq!(found(state.path()), [SandboxId::from("s1")]);
        dir.unpin().unwrap();
        assert!(!dir.is_whole(wanted));
        dir.remove().unwrap();
        dir.remove().unwrap();
        assert!(found(state.path()).is_empty());
    }

    #[tokio::test]
    async fn a_sandbox_on_the_host_network_pins_no_network() {
        let state = tempfile::tempdir().unwrap();
        let dir = SandboxDir::new(state.path(), &SandboxId::from("s1"));
        let wanted = Wanted {
            net: false,
            ipc: false,
        };
        dir.make(wanted, "ignored", &BTreeMap::new()).await.unwrap();
        assert!(dir.is_whole(wanted));
        assert!(!dir.net().exists());
        dir.remove().unwrap();
    }
}
