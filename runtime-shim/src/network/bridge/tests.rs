//! The bridge on the kernel, in network namespaces of the tests' own.

mod rig;

use std::{
    collections::HashSet,
    fs,
    net::UdpSocket,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use futures::future::join_all;

use self::rig::{BRIDGE, Host, Namespace, ask_udp, expect, expect_nothing, port, serve, serve_udp, wish};
use super::*;

const V4: &str = "10.77.0.0/24";
const BOTH: &str = "10.77.0.0/24,fd00:77::/64";

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
    let outside = host.neighbour();

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
    let outside = host.neighbour();
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
        .map(|(number, namespace)| {
            let id = format!("{number:032}").chars().rev().collect::<String>();
            let host_port = 9000 + u16::try_from(number).unwrap();
            Wish {
                ports: vec![port(Protocol::Tcp, None, host_port, 80)],
                ..wish(&id, &namespace.path)
            }
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
        ports: vec![port(Protocol::Tcp, None, 8080, 80)],
        ..wish("a", Path::new("/nonexistent/netns"))
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
        bandwidth: Bandwidth {
            ingress: Some(20_000_000),
            egress: Some(10_000_000),
        },
        ..wish("a", &namespace.path)
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
