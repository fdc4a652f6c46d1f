//! Hosts, pods and what they say to each other, in network namespaces of a test's own.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use rustix::thread::{UnshareFlags, gettid};

use super::super::{
    Bandwidth, Bridge, BridgeError, Cable, PortMapping, Protocol, SandboxId, Socket, Wish, rules::Rules,
    set_loopback_up,
};

pub(super) const BRIDGE: &str = "c8s-test0";

/// A network namespace, for as long as it lives.
pub(super) struct Namespace {
    pub(super) path: PathBuf,
    work: Option<mpsc::SyncSender<Box<dyn FnOnce() + Send>>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Namespace {
    #[expect(
        unsafe_code,
        reason = "unshare is unsafe for the sake of flags that are not used here"
    )]
    pub(super) fn new() -> Self {
        let (work, jobs) = mpsc::sync_channel::<Box<dyn FnOnce() + Send>>(1);
        let (ready, begun) = mpsc::sync_channel(1);
        let thread = thread::spawn(move || {
            // SAFETY: the flag does not touch the table of descriptors.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
            set_loopback_up().unwrap();
            let id = gettid().as_raw_nonzero();
            ready
                .send(PathBuf::from(format!(
                    "/proc/{}/task/{id}/ns/net",
                    std::process::id()
                )))
                .unwrap();
            for job in jobs {
                job();
            }
        });
        Self {
            path: begun.recv().unwrap(),
            work: Some(work),
            thread: Some(thread),
        }
    }

    /// Runs something in it. What is opened there stays there.
    pub(super) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (reply, done) = mpsc::sync_channel(1);
        let job = Box::new(move || reply.send(job()).unwrap());
        self.work.as_ref().unwrap().send(job).unwrap();
        done.recv().expect("the job ends")
    }

    pub(super) fn ip(&self, args: &str) -> String {
        let args: Vec<_> = args.split(' ').map(str::to_owned).collect();
        self.run(move || {
            let output = Command::new("ip").args(&args).output().unwrap();
            assert!(output.status.success(), "{args:?}: {output:?}");
            String::from_utf8(output.stdout).unwrap()
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.work = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A host with the bridge.
pub(super) struct Host {
    pub(super) namespace: Namespace,
    pub(super) bridge: Arc<Bridge>,
}

pub(super) struct Pod {
    pub(super) id: SandboxId,
    pub(super) namespace: Namespace,
    pub(super) cable: Cable,
}

impl Pod {
    pub(super) fn address(&self) -> IpAddr {
        self.cable.addresses[0].addr()
    }
}

impl Host {
    pub(super) fn new(ranges: &str) -> Self {
        Self {
            namespace: Namespace::new(),
            bridge: Arc::new(Bridge::new(BRIDGE, ranges.parse().unwrap())),
        }
    }

    /// Runs a future in the host's namespace; the bridge's threads inherit it.
    pub(super) fn wait<F, T>(&self, future: impl FnOnce(Arc<Bridge>) -> F + Send + 'static) -> T
    where
        F: Future<Output = T>,
        T: Send + 'static,
    {
        let bridge = Arc::clone(&self.bridge);
        self.namespace.run(move || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(future(bridge))
        })
    }

    pub(super) fn try_attach(
        &self,
        id: &str,
        namespace: &Namespace,
        ports: &[PortMapping],
    ) -> Result<Cable, BridgeError> {
        let wish = Wish {
            ports: ports.to_vec(),
            ..wish(id, &namespace.path)
        };
        self.wait(move |bridge| async move { bridge.attach(&wish).await })
    }

    pub(super) fn attach(&self, id: &str, ports: &[PortMapping]) -> Pod {
        let namespace = Namespace::new();
        let cable = self.try_attach(id, &namespace, ports).unwrap();
        Pod {
            id: SandboxId::from(id),
            namespace,
            cable,
        }
    }

    pub(super) fn detach(&self, pod: &Pod) {
        let (id, cable) = (pod.id.clone(), pod.cable.clone());
        self.wait(move |bridge| async move { bridge.detach(&id, &cable).await })
            .unwrap();
    }

    /// A process that comes after one that was killed.
    pub(super) fn restart(&mut self, ranges: &str, pods: &[&Pod]) {
        self.bridge = Arc::new(Bridge::new(BRIDGE, ranges.parse().unwrap()));
        for pod in pods {
            let addresses: Vec<_> = pod.cable.addresses().collect();
            self.bridge
                .restore(&pod.id, &addresses, pod.cable.ports(), Some(&pod.cable));
        }
        self.wait(|bridge| async move { bridge.reconcile().await })
            .unwrap();
    }

    pub(super) fn table_is_there(&self) -> bool {
        self.namespace.run(|| {
            Rules::new(BRIDGE)
                .is_there(&Socket::netfilter().unwrap())
                .unwrap()
        })
    }

    pub(super) fn links(&self) -> String {
        self.namespace.ip("-o link")
    }

    /// Another host, at the end of a cable from this one: 192.0.2.1 here and 192.0.2.2 there, and fd00:2:: alike.
    pub(super) fn neighbour(&self) -> Namespace {
        let outside = Namespace::new();
        let thread = outside.path.iter().nth(4).unwrap().to_str().unwrap();
        self.namespace
            .ip(&format!("link add out type veth peer name in netns {thread}"));
        for (namespace, end, number) in [(&self.namespace, "out", 1), (&outside, "in", 2)] {
            namespace.ip(&format!("addr add 192.0.2.{number}/24 dev {end}"));
            namespace.ip(&format!("addr add fd00:2::{number}/64 dev {end} nodad"));
            namespace.ip(&format!("link set {end} up"));
        }
        outside
    }
}

/// Nothing but to be attached.
pub(super) fn wish(id: &str, netns: &Path) -> Wish {
    Wish {
        sandbox: SandboxId::from(id),
        netns: netns.to_owned(),
        ports: Vec::new(),
        fixed_address: None,
        bandwidth: Bandwidth::default(),
    }
}

pub(super) fn port(
    protocol: Protocol,
    host_ip: Option<&str>,
    host_port: u16,
    container_port: u16,
) -> PortMapping {
    PortMapping {
        protocol,
        host_ip: host_ip.map(|ip| ip.parse().unwrap()),
        host_port,
        container_port,
    }
}

/// Answers each connection with a word and the address that it came from.
pub(super) fn serve(namespace: &Namespace, address: &str, word: &'static str) {
    let address = address.to_owned();
    let listener = namespace.run(move || TcpListener::bind(address).unwrap());
    thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            let _ = write!(stream, "{word} {}", peer.ip());
        }
    });
}

/// The same by UDP.
pub(super) fn serve_udp(namespace: &Namespace, address: &str, word: &'static str) {
    let address = address.to_owned();
    let socket = namespace.run(move || UdpSocket::bind(address).unwrap());
    thread::spawn(move || {
        let mut packet = [0; 64];
        while let Ok((_, peer)) = socket.recv_from(&mut packet) {
            let _ = socket.send_to(word.as_bytes(), peer);
        }
    });
}

pub(super) fn fetch(namespace: &Namespace, address: &str) -> io::Result<String> {
    let address: SocketAddr = address.parse().unwrap();
    namespace.run(move || {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(1500))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })
}

#[track_caller]
pub(super) fn expect(namespace: &Namespace, address: &str, answer: &str) {
    assert_eq!(fetch(namespace, address).unwrap(), answer, "from {address}");
}

#[track_caller]
pub(super) fn expect_nothing(namespace: &Namespace, address: &str) {
    let answer = fetch(namespace, address);
    assert!(answer.is_err(), "{address} answers {answer:?}");
}

pub(super) fn ask_udp(socket: &UdpSocket, address: &str) -> io::Result<String> {
    socket.set_read_timeout(Some(Duration::from_millis(1500)))?;
    socket.send_to(b"?", address)?;
    let mut packet = [0; 64];
    let length = socket.recv(&mut packet)?;
    Ok(String::from_utf8_lossy(&packet[..length]).into_owned())
}
