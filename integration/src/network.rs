//! Places of a test's own on a network of its own: each a network namespace, all at one bridge in another.
//!
//! ```text
//! etcd-1 ──┐
//! etcd-2 ──┼── bridge (a namespace of its own, which threads of the test can enter)
//! broker ──┘
//! ```
//! A namespace lives as long as the process that holds it, and its links with it, so nothing is left on the machine.

use std::{
    fs::File,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    os::fd::AsFd as _,
    process::Command,
    sync::{
        LazyLock,
        atomic::{AtomicU16, Ordering},
    },
};

use anyhow::{Context as _, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{Process, Sandbox, command, wait};

/// The bridge, and how many places are at it.
#[derive(Debug)]
pub struct Network {
    bridge: Process,
    places: u8,
    sandbox: Sandbox,
}

/// One namespace with an address on the network.
#[derive(Debug)]
pub struct Place {
    holder: Process,
    address: String,
    sandbox: Sandbox,
}

impl Network {
    pub async fn new(sandbox: &Sandbox) -> Self {
        let bridge = namespace(sandbox, "bridge").await;
        let setup =
            "link set lo up\nlink add br0 type bridge\nlink set br0 up\naddr add 192.0.2.254/24 dev br0\n";
        ip(sandbox, &bridge, setup);
        Self {
            bridge,
            places: 0,
            sandbox: sandbox.clone(),
        }
    }

    pub async fn place(&mut self, name: &str) -> Place {
        self.places += 1;
        let number = self.places;
        assert!(number < 254, "the network has no more addresses");
        let holder = namespace(&self.sandbox, name).await;
        let cable = format!(
            "link add port{number} type veth peer name eth0 netns {}\nlink set port{number} master br0 up\n",
            holder.pid()
        );
        ip(&self.sandbox, &self.bridge, &cable);
        let address = format!("192.0.2.{number}");
        let setup = format!("link set lo up\naddr add {address}/24 dev eth0\nlink set eth0 up\n");
        ip(&self.sandbox, &holder, &setup);
        Place {
            holder,
            address,
            sandbox: self.sandbox.clone(),
        }
    }

    /// Moves the calling thread, and the threads that it makes from now on, to where all places can be reached.
    pub fn enter(&self) -> anyhow::Result<()> {
        let namespace = File::open(path(&self.bridge)).context("the bridge's namespace")?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
            .context("enter the bridge's namespace")
    }
}

impl Place {
    /// Its address on the network.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// [`Sandbox::process`], at this place.
    pub fn process(&self, name: &str, program: impl Into<std::ffi::OsString>) -> Process {
        let process = self.sandbox.process(name, "nsenter");
        process
            .arg(format!("--net={}", path(&self.holder)))
            .arg("--")
            .arg(program)
    }

    /// Drops all that goes between this place and others: nobody is told.
    pub fn cut_off(&self) -> anyhow::Result<()> {
        let chain = |hook: &str| {
            format!("add chain inet cut {hook} {{ type filter hook {hook} priority 0; policy drop; }}")
        };
        let rules = format!(
            "add table inet cut; {}; {}; add rule inet cut input iif lo accept; add rule inet cut output oif lo accept",
            chain("input"),
            chain("output")
        );
        self.nft(&rules)
    }

    /// Ends [`Self::cut_off`].
    pub fn reconnect(&self) -> anyhow::Result<()> {
        self.nft("delete table inet cut")
    }

    fn nft(&self, rules: &str) -> anyhow::Result<()> {
        command::run(inside(&self.holder, "nft").arg(rules)).map(drop)
    }
}

/// The first three parts of 256 addresses for pods, which no other test of this process has, and hardly one of another.
pub fn pod_subnet() -> String {
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| {
        let [high, low, ..] = RandomState::new().build_hasher().finish().to_be_bytes();
        AtomicU16::new(u16::from_be_bytes([high, low]))
    });
    let [block, part] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    format!("10.{}.{part}", 128 | block)
}

/// A process that holds a new namespace.
async fn namespace(sandbox: &Sandbox, name: &str) -> Process {
    let holder = sandbox
        .process(&format!("net-{name}"), "unshare")
        .args(["--net", "sleep", "infinity"])
        .started();
    let own = std::fs::read_link("/proc/thread-self/ns/net").expect("a namespace");
    let pid = holder.pid();
    wait::until("the namespace is there", || async {
        let namespace = std::fs::read_link(format!("/proc/{pid}/ns/net"))?;
        let program = std::fs::read_to_string(format!("/proc/{pid}/comm"))?;
        ensure!(
            namespace != own && program == "sleep\n",
            "{program} in {}",
            namespace.display()
        );
        Ok(())
    })
    .await;
    holder
}

fn path(holder: &Process) -> String {
    format!("/proc/{}/ns/net", holder.pid())
}

fn inside(holder: &Process, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net={}", path(holder)))
        .args(["--", program]);
    command
}

/// Does these lines of `ip -batch` in a namespace.
fn ip(sandbox: &Sandbox, holder: &Process, lines: &str) {
    let file = sandbox.dir().join(format!("{}.ip", holder.name()));
    std::fs::write(&file, lines).expect("a file of the test");
    command::run(inside(holder, "ip").arg("-batch").arg(&file)).expect("the network is set up");
}
