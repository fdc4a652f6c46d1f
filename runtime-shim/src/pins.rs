//! A sandbox's namespaces, kept alive without a process by bind mounts of `/proc/thread-self/ns/*`.
//!
//! ```text
//! <state_dir>/sandboxes/<id>/ns/{user,net,ipc,uts}   pins
//!                            ns/pid, ns/init.pid     a shared PID namespace and its first process, once one is wanted
//!                            shm                     /dev/shm of the sandbox's containers
//!                            hostname, hosts, resolv.conf
//! ```

mod init;
mod kernel;
mod mappings;

pub(crate) use self::{
    init::PodInit,
    kernel::is_namespace,
    mappings::{IdMappings, IdRange},
};

use std::{
    collections::BTreeMap,
    ffi::CString,
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

use clone8s::cri::NamespaceMode;
use rustix::mount::{MountFlags, UnmountFlags};
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    ids::SandboxId,
    network,
    roles::Held,
};

/// `/dev/shm` of a sandbox, as large as docker's and containerd's.
const SHM_OPTIONS: &str = "mode=1777,size=67108864";

/// Which namespaces a sandbox has of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Network and, with it, the host name.
    pub(crate) net: bool,
    pub(crate) ipc: bool,
    /// Users, and with them everything that a user namespace owns.
    pub(crate) user: bool,
}

impl Wanted {
    /// Decides from CRI's options; modes that make no sense for a sandbox are refused.
    pub(crate) fn from_options(options: &clone8s::cri::NamespaceOption) -> Result<Self> {
        let path = |field: &str| format!("config.linux.security_context.namespace_options.{field}");
        let own = |field, mode| match mode {
            NamespaceMode::Pod => Ok(true),
            NamespaceMode::Node => Ok(false),
            NamespaceMode::Container | NamespaceMode::Target => {
                Err(Error::invalid(path(field), "must be POD or NODE for a sandbox"))
            }
        };
        if options.pid() == NamespaceMode::Target {
            return Err(Error::invalid(path("pid"), "TARGET is for containers alone"));
        }
        let wanted = Self {
            net: own("network", options.network())?,
            ipc: own("ipc", options.ipc())?,
            user: IdMappings::of_sandbox(options)?.is_some(),
        };
        // The kernel lets a user namespace mount only what belongs to it.
        if wanted.user && !(wanted.net && wanted.ipc && options.pid() != NamespaceMode::Node) {
            return Err(Error::invalid(
                path("userns_options"),
                "a pod with users of its own cannot share the host's network, IPC or processes",
            ));
        }
        Ok(wanted)
    }
}

/// What is set up in new namespaces from within.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(crate) net: bool,
    pub(crate) ipc: bool,
    pub(crate) hostname: String,
    /// Files of kernel parameters and their values.
    pub(crate) sysctls: Vec<(PathBuf, String)>,
}

impl Setup {
    /// Moves the calling thread into the namespaces. It must end there.
    pub(crate) fn enter(&self) -> io::Result<()> {
        kernel::enter_new(self.net, self.ipc)?;
        if self.net {
            network::set_loopback_up()?;
            rustix::system::sethostname(self.hostname.as_bytes())?;
        }
        for (path, value) in &self.sysctls {
            fs::write(path, value).map_err(|error| {
                io::Error::new(
                    error.kind(),
                    format!("write {value:?} to {}: {error}", path.display()),
                )
            })?;
        }
        Ok(())
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

    /// The folder of the pins.
    pub(crate) fn pins(&self) -> PathBuf {
        self.path.join("ns")
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

    pub(crate) fn user(&self) -> PathBuf {
        self.path.join("ns/user")
    }

    pub(crate) fn pid(&self) -> PathBuf {
        self.path.join("ns/pid")
    }

    pub(crate) fn shm(&self) -> PathBuf {
        self.path.join("shm")
    }

    /// Makes the folder and, in a thread of its own, the namespaces.
    pub(crate) async fn make(
        &self,
        wanted: Wanted,
        mappings: Option<IdMappings>,
        hostname: &str,
        sysctls: &BTreeMap<String, String>,
    ) -> Result<()> {
        let sysctls = sysctls
            .iter()
            .map(|(name, value)| Ok((sysctl_file(name, wanted)?, value.clone())))
            .collect::<Result<Vec<_>>>()?;
        let setup = Setup {
            net: wanted.net,
            ipc: wanted.ipc,
            hostname: hostname.to_owned(),
            sysctls,
        };
        let dir = self.clone();
        // Not on a thread of the async runtime: a thread that has entered another namespace must end there.
        let (reply, done) = tokio::sync::oneshot::channel();
        std::thread::Builder::new()
            .name("make-namespaces".into())
            .spawn(move || {
                let _ = reply.send(dir.make_here(&setup, mappings.as_ref()));
            })
            .map_err(Error::file("start a thread to make", &self.path))?;
        done.await
            .unwrap_or_else(|_| Err(io::Error::other("the thread died")))
            .map_err(Error::file("make namespaces in", &self.path))
    }

    fn make_here(&self, setup: &Setup, mappings: Option<&IdMappings>) -> io::Result<()> {
        fs::create_dir_all(self.pins())?;
        let mut names = Vec::new();
        if setup.net {
            names.extend(["net", "uts"]);
        }
        if setup.ipc {
            names.push("ipc");
            self.make_shm(mappings)?;
        }
        if let Some(mappings) = mappings {
            let held = Held::make(mappings, Some(setup))?;
            names.push("user");
            for name in names {
                pin(&held.namespace(name), &self.pins().join(name))?;
            }
            return Ok(());
        }
        setup.enter()?;
        for name in names {
            let own = PathBuf::from("/proc/thread-self/ns").join(name);
            pin(&own, &self.pins().join(name))?;
        }
        Ok(())
    }

    fn make_shm(&self, mappings: Option<&IdMappings>) -> io::Result<()> {
        let mut options = SHM_OPTIONS.to_owned();
        if let Some((uid, gid)) = mappings.and_then(IdMappings::root) {
            let _ = write!(options, ",uid={uid},gid={gid}");
        }
        fs::create_dir(self.shm())?;
        let safe = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        let options = CString::new(options)?;
        Ok(rustix::mount::mount(
            "shm",
            self.shm(),
            "tmpfs",
            safe,
            options.as_c_str(),
        )?)
    }

    /// Whether every wanted pin is there: a reboot loses them.
    pub(crate) fn is_whole(&self, wanted: Wanted) -> bool {
        let pinned = |path: &Path| kernel::is_namespace(path);
        self.path.exists()
            && (!wanted.net || pinned(&self.net()) && pinned(&self.uts()))
            && (!wanted.ipc || pinned(&self.ipc()))
            && (!wanted.user || pinned(&self.user()))
            && (!pinned(&self.pid()) || self.init().is_some())
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
        let pins = [
            self.net(),
            self.uts(),
            self.ipc(),
            self.pid(),
            self.user(),
            self.shm(),
        ];
        for path in pins {
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
    let refuse = |problem: &str| Err(Error::invalid(format!("config.linux.sysctls[{name}]"), problem));
    // sysctl(8): in the form with dots, a slash stands for a dot within a part, such as eth0/100.
    let parts: Vec<_> = name.split('.').map(|part| part.replace('/', ".")).collect();
    if parts.iter().any(|part| part.trim_matches('.').is_empty()) {
        return refuse("not the name of a kernel parameter");
    }
    let is_net = name.starts_with("net.");
    let is_ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."]
        .iter()
        .any(|start| name.starts_with(start))
        || name == "kernel.sem";
    let is_uts = name == "kernel.domainname";
    if !is_net && !is_ipc && !is_uts {
        return refuse(
            "not a parameter of the network, IPC or UTS namespace; it would change the whole host, set it there",
        );
    }
    if (is_net || is_uts) && !wanted.net || is_ipc && !wanted.ipc {
        return refuse("the sandbox shares this namespace with the host");
    }
    let path = parts
        .iter()
        .fold(PathBuf::from("/proc/sys"), |path, part| path.join(part));
    if !path.exists() && !is_net {
        return refuse("this kernel has no such parameter");
    }
    Ok(path)
}

fn pin(namespace: &Path, path: &Path) -> io::Result<()> {
    fs::File::create(path)?;
    rustix::mount::mount_bind(namespace, path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_pinned_namespace_is_not_the_hosts_and_goes_without_a_trace() {
        let state = tempfile::tempdir().unwrap();
        let dir = SandboxDir::new(state.path(), &SandboxId::from("s1"));
        let wanted = Wanted {
            net: true,
            ipc: true,
            user: false,
        };
        let sysctls = BTreeMap::from([("net.ipv4.ip_unprivileged_port_start".to_owned(), "80".to_owned())]);
        dir.make(wanted, None, "web-1", &sysctls).await.unwrap();
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
            user: false,
        };
        dir.make(wanted, None, "ignored", &BTreeMap::new()).await.unwrap();
        assert!(dir.is_whole(wanted));
        assert!(!dir.net().exists());
        dir.remove().unwrap();
    }

    #[rstest::rstest]
    #[case("net.ipv4.ip_forward", Some("/proc/sys/net/ipv4/ip_forward"))]
    #[case(
        "net.ipv4.conf.eth0/100.rp_filter",
        Some("/proc/sys/net/ipv4/conf/eth0.100/rp_filter")
    )]
    #[case("kernel.shm_rmid_forced", Some("/proc/sys/kernel/shm_rmid_forced"))]
    #[case("fs.mqueue.msg_max", Some("/proc/sys/fs/mqueue/msg_max"))]
    #[case("kernel.domainname", Some("/proc/sys/kernel/domainname"))]
    #[case::of_the_host("kernel.panic", None)]
    #[case::of_the_host_too("vm.swappiness", None)]
    #[case::unknown("kernel.shm_nonesuch", None)]
    #[case::leading_up("net.//.//.kernel.panic", None)]
    #[case::leading_nowhere("net..kernel", None)]
    #[case::a_path("net/ipv4/ip_forward", None)]
    fn a_kernel_parameter_is_one_of_the_pods_own(#[case] name: &str, #[case] expected: Option<&str>) {
        let wanted = Wanted {
            net: true,
            ipc: true,
            user: false,
        };
        assert_eq!(sysctl_file(name, wanted).ok().as_deref(), expected.map(Path::new));
        let shared = Wanted {
            net: false,
            ipc: false,
            user: false,
        };
        let error = sysctl_file(name, shared).unwrap_err().to_string();
        assert!(
            error.contains(&format!("config.linux.sysctls[{name}]")),
            "{error}"
        );
    }
}
