//! The bridge on the kernel, in network namespaces of the test's own.

use std::{
    collections::HashSet,
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use futures::future::join_all;
use rustix::thread::{UnshareFlags, gettid};

use super::*;
use crate::network::netlink::{CREATE, Message};

const BRIDGE: &str = "c8s-test0";
const V4: &str = "10.77.0.0/24";
const BOTH: &str = "10.77.0.0/24,fd00:77::/64";

/// A network namespace, for as long as it lives.
struct Namespace {
    path: PathBuf,
    work: Option<mpsc::SyncSender<Box<dyn FnOnce() + Send>>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Namespace {
    #[expect(
        unsafe_code,
        reason = "unshare is unsafe for the sake of flags that are not used here"
    )]
    fn new() -> Self {
        let (work, jobs) = mpsc::sync_channel::<Box<dyn FnOnce() + Send>>(1);
        let (ready, begun) = mpsc::sync_channel(1);
        let thread = thread::spawn(move || {
            // SAFETY: the flag does not touch the table of descriptors.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
            let up = Message::new(16, CREATE, &{
                let mut header = [0; 16];
                header[4] = 1;
                header[8] = 1;
                header[12] = 1;
                header
            });
            Socket::route().unwrap().ask([up]).unwrap();
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
    fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (reply, done) = mpsc::sync_channel(1);
        let job = Box::new(move || reply.send(job()).unwrap());
        self.work.as_ref().unwrap().send(job).unwrap();
        done.recv().expect("the job ends")
    }

    fn ip(&self, args: &str) -> String {
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
struct Host {
    namespace: Namespace,
    bridge: Arc<Bridge>,
}

struct Pod {
    id: SandboxId,
    namespace: Namespace,
    cable: Cable,
}

impl Pod {
    fn address(&self) -> IpAddr {
        self.cable.addresses[0].addr()
    }
}

impl Host {
    fn new(ranges: &str) -> Self {
        Self {
            namespace: Namespace::new(),
            bridge: Arc::new(Bridge::new(BRIDGE, ranges.parse().unwrap())),
        }
    }

    /// Runs a future in the host's namespace; the bridge's threads inherit it.
    fn wait<F, T>(&self, future: impl FnOnce(Arc<Bridge>) -> F + Send + 'static) -> T
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

    fn try_attach(
        &self,
        id: &str,
        namespace: &Namespace,
        ports: &[PortMapping],
    ) -> Result<Cable, BridgeError> {
        let wish = Wish {
            sandbox: SandboxId::from(id),
            netns: namespace.path.clone(),
            ports: ports.to_vec(),
            fixed_address: None,
            bandwidth: Bandwidth::default(),
        };
        self.wait(move |bridge| async move { bridge.attach(&wish).await })
    }

    fn attach(&self, id: &str, ports: &[PortMapping]) -> Pod {
        let namespace = Namespace::new();
        let cable = self.try_attach(id, &namespace, ports).unwrap();
        Pod {
            id: SandboxId::from(id),
            namespace,
            cable,
        }
    }

    fn detach(&self, pod: &Pod) {
        let (id, cable) = (pod.id.clone(), pod.cable.clone());
        self.wait(move |bridge| async move { bridge.detach(&id, &cable).await })
            .unwrap();
    }

    /// A process that comes after one that was killed.
    fn restart(&mut self, ranges: &str, pods: &[&Pod]) {
        self.bridge = Arc::new(Bridge::new(BRIDGE, ranges.parse().unwrap()));
        for pod in pods {
            let addresses: Vec<_> = pod.cable.addresses().collect();
            self.bridge
                .restore(&pod.id, &addresses, &pod.cable.ports, Some(&pod.cable));
        }
        self.wait(|bridge| async move { bridge.reconcile().await })
            .unwrap();
    }

    fn table_is_there(&self) -> bool {
        self.namespace.run(|| {
            Rules::new(BRIDGE)
                .is_there(&Socket::netfilter().unwrap())
                .unwrap()
        })
    }

    fn links(&self) -> String {
        self.namespace.ip("-o link")
    }
}

fn port(protocol: Protocol, host_ip: Option<&str>, host_port: u16, container_port: u16) -> PortMapping {
    PortMapping {
        protocol,
        host_ip: host_ip.map(|ip| ip.parse().unwrap()),
        host_port,
        container_port,
    }
}

/// Answers each connection with a word and the address that it came from.
fn serve(namespace: &Namespace, address: &str, word: &'static str) {
    let address = address.to_owned();
    let listener = namespace.run(move || TcpListener::bind(address).unwrap());
    thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            let _ = write!(stream, "{word} {}", peer.ip());
        }
    });
}

/// The same by UDP.
fn serve_udp(namespace: &Namespace, address: &str, word: &'static str) {
    let address = address.to_owned();
    let socket = namespace.run(move || UdpSocket::bind(address).unwrap());
    thread::spawn(move || {
        let mut packet = [0; 64];
        while let Ok((_, peer)) = socket.recv_from(&mut packet) {
            let _ = socket.send_to(word.as_bytes(), peer);
        }
    });
}

fn fetch(namespace: &Namespace, address: &str) -> io::Result<String> {
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
fn expect(namespace: &Namespace, address: &str, answer: &str) {
    assert_eq!(fetch(namespace, address).unwrap(), answer, "from {address}");
}

#[track_caller]
fn expect_nothing(namespace: &Namespace, address: &str) {
    let answer = fetch(namespace, address);
    assert!(answer.is_err(), "{address} answers {answer:?}");
}

fn ask_udp(socket: &UdpSocket, address: &str) -> io::Result<String> {
    socket.set_read_timeout(Some(Duration::from_millis(1500)))?;
    socket.send_to(b"?", address)?;
    let mut packet = [0; 64];
    let length = socket.recv(&mut packet)?;
    Ok(String::from_utf8_lossy(&packet[..length]).into_owned())
}

#[test]
fn pods_reach_each_other_and_the_host_and_are_reached_by_it() {
    let host = Host::new(BOTH);
    let (a, b) = (host.attach("a", &[]), host.attach("b", &[]));
    assert_eq!(
        a.cable.addresses().map(|ip| ip.to_string()).collect::<Vec<_>>(),
        ["10.77.0.2", "fd00:77::2"]
    );
    serve(&a.namespace, "0.0.0.0:80", "a");
    serve(&a.namespace, "[fd00:77::2]:80", "a");
    serve(&host.namespace, "10.77.0.1:90", "host");
    expect(&b.namespace, "10.77.0.2:80", "a 10.77.0.3");
    expect(&b.namespace, "[fd00:77::2]:80", "a fd00:77::3");
    expect(&host.namespace, "10.77.0.2:80", "a 10.77.0.1");
    expect(&host.namespace, "[fd00:77::2]:80", "a fd00:77::1");
    expect(&b.namespace, "10.77.0.1:90", "host 10.77.0.3");
}

#[test]
fn a_port_of_the_host_leads_to_its_pod_from_everywhere_until_it_is_detached() {
    let host = Host::new(V4);
    let outside = Namespace::new();
    let tid = outside.path.display().to_string();
    let tid = tid.split('/').nth(4).unwrap().to_owned();
    host.namespace
        .ip(&format!("link add out type veth peer name in netns {tid}"));
    host.namespace.ip("addr add 192.0.2.1/24 dev out");
    host.namespace.ip("link set out up");
    outside.ip("addr add 192.0.2.2/24 dev in");
    outside.ip("link set in up");

    let mappings = [
        port(Protocol::Tcp, None, 8080, 80),
        port(Protocol::Tcp, Some("127.0.0.1"), 8081, 80),
        port(Protocol::Tcp, Some("192.0.2.1"), 8082, 80),
    ];
    let pod = host.attach("a", &mappings);
    let other = host.attach("b", &[]);
    serve(&pod.namespace, "0.0.0.0:80", "a");

    expect(&outside, "192.0.2.1:8080", "a 192.0.2.2");
    expect(&host.namespace, "127.0.0.1:8080", "a 10.77.0.1");
    expect(&host.namespace, "192.0.2.1:8080", "a 192.0.2.1");
    expect(&host.namespace, "10.77.0.1:8080", "a 10.77.0.1");
    // An answer would else go straight to who asked, who has not asked the pod.
    expect(&other.namespace, "192.0.2.1:8080", "a 10.77.0.1");
    expect(&other.namespace, "10.77.0.1:8080", "a 10.77.0.1");
    expect(&pod.namespace, "192.0.2.1:8080", "a 10.77.0.1");

    expect(&host.namespace, "127.0.0.1:8081", "a 10.77.0.1");
    expect_nothing(&outside, "192.0.2.1:8081");
    expect_nothing(&host.namespace, "192.0.2.1:8081");
    expect(&outside, "192.0.2.1:8082", "a 192.0.2.2");
    expect_nothing(&host.namespace, "127.0.0.1:8082");

    host.detach(&pod);
    for (from, address) in [
        (&outside, "192.0.2.1:8080"),
        (&host.namespace, "127.0.0.1:8080"),
        (&host.namespace, "10.77.0.2:80"),
        (&other.namespace, "10.77.0.2:80"),
    ] {
        expect_nothing(from, address);
    }
}

#[test]
fn what_a_pod_sends_to_the_world_comes_from_the_host() {
    let host = Host::new(BOTH);
    let outside = Namespace::new();
    let tid = outside.path.display().to_string();
    let tid = tid.split('/').nth(4).unwrap().to_owned();
    host.namespace
        .ip(&format!("link add out type veth peer name in netns {tid}"));
    for (namespace, end, v4, v6) in [
        (&host.namespace, "out", "192.0.2.1/24", "fd00:2::1/64"),
        (&outside, "in", "192.0.2.2/24", "fd00:2::2/64"),
    ] {
        namespace.ip(&format!("addr add {v4} dev {end}"));
        namespace.ip(&format!("addr add {v6} dev {end} nodad"));
        namespace.ip(&format!("link set {end} up"));
    }
    let pod = host.attach("a", &[]);
    serve(&outside, "192.0.2.2:80", "world");
    serve(&outside, "[fd00:2::2]:80", "world");
    expect(&pod.namespace, "192.0.2.2:80", "world 192.0.2.1");
    expect(&pod.namespace, "[fd00:2::2]:80", "world fd00:2::1");
}

#[test]
fn udp_follows_a_port_to_the_pod_that_has_it_now() {
    let host = Host::new(V4);
    let client = host.namespace.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    let mapping = [port(Protocol::Udp, None, 5353, 53)];
    // Before there is a pod: the kernel remembers where that went.
    assert!(ask_udp(&client, "127.0.0.1:5353").is_err());
    let first = host.attach("a", &mapping);
    serve_udp(&first.namespace, "0.0.0.0:53", "first");
    assert_eq!(ask_udp(&client, "127.0.0.1:5353").unwrap(), "first");
    host.detach(&first);
    let second = host.attach("b", &mapping);
    serve_udp(&second.namespace, "0.0.0.0:53", "second");
    assert_eq!(ask_udp(&client, "127.0.0.1:5353").unwrap(), "second");
    expect_nothing(&host.namespace, "127.0.0.1:5353");
}

#[test]
fn a_pod_cannot_reach_what_listens_on_the_hosts_loopback() {
    let host = Host::new(V4);
    let pod = host.attach("a", &[]);
    serve(&host.namespace, "127.0.0.1:90", "secret");
    expect(&host.namespace, "127.0.0.1:90", "secret 127.0.0.1");
    // Routed to the host as a forger would.
    pod.namespace.ip("addr del 127.0.0.1/8 dev lo");
    pod.namespace.ip("route add 127.0.0.0/8 via 10.77.0.1 dev eth0");
    pod.namespace.run(|| {
        fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1").unwrap();
    });
    expect_nothing(&pod.namespace, "127.0.0.1:90");
    // It is the guard that kept the pod from it.
    host.namespace
        .run(|| Rules::new(BRIDGE).delete(&Socket::netfilter().unwrap()).unwrap());
    expect(&pod.namespace, "127.0.0.1:90", "secret 10.77.0.2");
}

#[test]
fn many_at_once_get_addresses_of_their_own() {
    let host = Host::new(V4);
    let namespaces: Vec<_> = (0..20).map(|_| Namespace::new()).collect();
    let wishes: Vec<_> = namespaces
        .iter()
        .enumerate()
        .map(|(number, namespace)| Wish {
            sandbox: SandboxId::from(format!("{number:032}").chars().rev().collect::<String>()),
            netns: namespace.path.clone(),
            ports: vec![port(
                Protocol::Tcp,
                None,
                9000 + u16::try_from(number).unwrap(),
                80,
            )],
            fixed_address: None,
            bandwidth: Bandwidth::default(),
        })
        .collect();
    let cables = host.wait(move |bridge| async move {
        let all = wishes.iter().map(|wish| bridge.attach(wish));
        join_all(all).await.into_iter().collect::<Result<Vec<_>, _>>()
    });
    let addresses: HashSet<_> = cables
        .unwrap()
        .iter()
        .flat_map(|cable| cable.addresses.clone())
        .collect();
    assert_eq!(addresses.len(), 20);
    for (number, namespace) in namespaces.iter().enumerate() {
        serve(namespace, "0.0.0.0:80", "pod");
        expect(
            &host.namespace,
            &format!("127.0.0.1:{}", 9000 + number),
            "pod 10.77.0.1",
        );
    }
}

#[test]
fn a_restart_keeps_what_pods_have_and_clears_away_what_none_has() {
    let mut host = Host::new(V4);
    let kept = host.attach("0123456789abcdef", &[port(Protocol::Tcp, None, 8080, 80)]);
    let lost = host.attach("fedcba9876543210", &[port(Protocol::Tcp, None, 8081, 80)]);
    serve(&kept.namespace, "0.0.0.0:80", "kept");
    assert!(host.links().contains(&lost.cable.interface));
    host.restart(V4, &[&kept]);
    assert!(!host.links().contains(&lost.cable.interface));
    expect(&host.namespace, "127.0.0.1:8080", "kept 10.77.0.1");
    expect_nothing(&host.namespace, "127.0.0.1:8081");
    let taken = host.try_attach("b", &Namespace::new(), &[port(Protocol::Tcp, None, 8080, 80)]);
    assert!(matches!(taken, Err(BridgeError::PortTaken { .. })), "{taken:?}");
    let next = host.attach("c", &[port(Protocol::Tcp, None, 8081, 80)]);
    assert_ne!(next.address(), kept.address());
}

#[test]
fn new_ranges_are_for_new_pods_and_the_old_ones_stay_in_touch() {
    let mut host = Host::new(V4);
    let old = host.attach("a", &[]);
    serve(&old.namespace, "0.0.0.0:80", "old");
    host.bridge.set_ranges("10.78.0.0/24".parse().unwrap());
    let new = host.attach("b", &[]);
    assert_eq!(new.address().to_string(), "10.78.0.2");
    expect(&new.namespace, "10.77.0.2:80", "old 10.78.0.2");
    expect(&host.namespace, "10.77.0.2:80", "old 10.77.0.1");
    host.detach(&old);
    host.restart("10.78.0.0/24", &[&new]);
    let addresses = host.namespace.ip(&format!("-o addr show dev {BRIDGE}"));
    assert!(
        addresses.contains("10.78.0.1/24") && !addresses.contains("10.77.0.1"),
        "{addresses}"
    );
}

#[test]
fn what_somebody_has_removed_is_made_again() {
    let host = Host::new(V4);
    let pod = host.attach("a", &[port(Protocol::Tcp, None, 8080, 80)]);
    serve(&pod.namespace, "0.0.0.0:80", "a");
    // As `nft flush ruleset` does.
    host.namespace.run(|| {
        Rules::new(BRIDGE).delete(&Socket::netfilter().unwrap()).unwrap();
    });
    expect_nothing(&host.namespace, "127.0.0.1:8080");
    host.wait(|bridge| async move { bridge.ensure().await }).unwrap();
    expect(&host.namespace, "127.0.0.1:8080", "a 10.77.0.1");
    host.namespace.ip(&format!("link del {BRIDGE}"));
    let next = host.attach("b", &[]);
    serve(&next.namespace, "0.0.0.0:80", "b");
    expect(&host.namespace, &format!("{}:80", next.address()), "b 10.77.0.1");
}

#[test]
fn a_failed_attach_leaves_nothing_and_its_address_is_free() {
    let host = Host::new("10.77.0.0/30");
    let nowhere = Wish {
        sandbox: SandboxId::from("a"),
        netns: "/nonexistent/netns".into(),
        ports: vec![port(Protocol::Tcp, None, 8080, 80)],
        fixed_address: None,
        bandwidth: Bandwidth::default(),
    };
    let error = host.wait(move |bridge| async move { bridge.attach(&nowhere).await });
    let error = error.unwrap_err().to_string();
    assert!(error.contains("/nonexistent/netns"), "{error}");
    // A namespace that has the interface already.
    let busy = Namespace::new();
    busy.ip("link add eth0 type veth peer name other");
    host.try_attach("0123456789abcdef", &busy, &[]).unwrap_err();
    assert!(!host.links().contains("c8s0123456789ab"), "{}", host.links());
    let only = host.attach("b", &[port(Protocol::Tcp, None, 8080, 80)]);
    assert_eq!(only.address().to_string(), "10.77.0.2");
    let full = host.try_attach("c", &Namespace::new(), &[]).unwrap_err();
    assert!(matches!(full, BridgeError::Exhausted { .. }), "{full}");
}

#[test]
fn a_pods_bandwidth_is_limited_in_each_direction_as_it_asks() {
    let host = Host::new(V4);
    let namespace = Namespace::new();
    let wish = Wish {
        sandbox: SandboxId::from("a"),
        netns: namespace.path.clone(),
        ports: Vec::new(),
        fixed_address: None,
        bandwidth: Bandwidth {
            ingress: Some(20_000_000),
            egress: Some(10_000_000),
        },
    };
    let cable = host
        .wait(move |bridge| async move { bridge.attach(&wish).await })
        .unwrap();
    let limits = |namespace: &Namespace, interface: &str| {
        let interface = interface.to_owned();
        namespace.run(move || {
            let output = Command::new("tc")
                .args(["qdisc", "show", "dev", &interface])
                .output()
                .unwrap();
            String::from_utf8(output.stdout).unwrap()
        })
    };
    let ingress = limits(&host.namespace, &cable.interface);
    assert!(
        ingress.contains("tbf") && ingress.contains("rate 20Mbit"),
        "{ingress}"
    );
    let egress = limits(&namespace, "eth0");
    assert!(
        egress.contains("tbf") && egress.contains("rate 10Mbit"),
        "{egress}"
    );
}

#[test]
fn detaching_is_repeatable_and_taking_down_leaves_nothing() {
    let host = Host::new(BOTH);
    let before = host.links();
    let mut pod = host.attach("0123456789abcdef", &[port(Protocol::Tcp, None, 8080, 80)]);
    assert!(host.table_is_there());
    host.bridge.check(&pod.cable).unwrap_err();
    let cable = pod.cable.clone();
    host.wait(move |bridge| async move { bridge.check(&cable) })
        .unwrap();
    host.detach(&pod);
    host.detach(&pod);
    // The cable goes with the pod's namespace, soon.
    pod.namespace = Namespace::new();
    let began = Instant::now();
    while host.links().contains(&pod.cable.interface) {
        assert!(began.elapsed() < Duration::from_secs(20), "{}", host.links());
        thread::sleep(Duration::from_millis(50));
    }
    host.detach(&pod);
    for _ in 0..2 {
        host.wait(|bridge| async move { bridge.tear_down().await })
            .unwrap();
        assert_eq!(host.links(), before);
        assert!(!host.table_is_there());
    }
}

#[test]
#[ignore = "a measurement: cargo test --release -p clone8s-runtime-shim --lib how_long -- --ignored --nocapture"]
fn how_long_attaching_and_detaching_take() {
    let host = Host::new("10.77.0.0/16");
    let mut times = (Vec::new(), Vec::new());
    for number in 0..200 {
        let namespace = Namespace::new();
        let id = format!("{number:032}").chars().rev().collect::<String>();
        let wish = Wish {
            sandbox: SandboxId::from(id),
            netns: namespace.path.clone(),
            ports: Vec::new(),
            fixed_address: None,
            bandwidth: Bandwidth::default(),
        };
        let (attached, detached) = host.wait(move |bridge| async move {
            let began = Instant::now();
            let cable = bridge.attach(&wish).await.unwrap();
            let attached = began.elapsed();
            let began = Instant::now();
            bridge.detach(&wish.sandbox, &cable).await.unwrap();
            (attached, began.elapsed())
        });
        times.0.push(attached);
        times.1.push(detached);
    }
    for (what, mut times) in [("attach", times.0), ("detach", times.1)] {
        times.sort();
        println!(
            "{what}: median {:?}, p95 {:?}, longest {:?}",
            times[times.len() / 2],
            times[times.len() * 95 / 100],
            times[times.len() - 1]
        );
    }
}
