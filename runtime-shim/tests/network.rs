//! The pod network of a real shim: the built-in bridge, and CNI plugins, real ones and scripts.

#![allow(clippy::large_futures, reason = "a test holds whole CRI messages")]

#[path = "rig/mod.rs"]
mod rig;

use std::{
    collections::HashSet,
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd as _,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::ensure;
use clone8s::cri;
use clone8s_integration::{
    command,
    process::{self, free_port},
    wait,
};
use futures::future::join_all;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tonic::Code;

use self::rig::Rig;

/// Runs something in a pod's network. What is opened there stays there.
fn inside<T: Send + 'static>(rig: &Rig, pod: &str, job: impl FnOnce() -> T + Send + 'static) -> T {
    let netns = rig.dir.dir().join(format!("state/sandboxes/{pod}/ns/net"));
    thread::spawn(move || {
        let namespace = fs::File::open(netns).expect("a pinned namespace");
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
            .expect("a network namespace");
        job()
    })
    .join()
    .expect("the job ends")
}

/// A server in a pod that answers each connection with a word.
fn serve(rig: &Rig, pod: &str, word: &'static str) {
    let listener = inside(rig, pod, || TcpListener::bind("0.0.0.0:80").expect("a port"));
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.write_all(word.as_bytes());
        }
    });
}

fn fetch(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

async fn answers(address: String, word: &str) {
    let address: SocketAddr = address.parse().expect("an address");
    wait::until(&format!("{address} answers {word}"), || async {
        let answer = tokio::task::spawn_blocking(move || fetch(address)).await??;
        ensure!(answer == word, "{answer}");
        Ok(())
    })
    .await;
}

async fn address(rig: &Rig, pod: &str) -> String {
    let status = rig.sandbox_status(pod).await.expect("a status");
    status.network.expect("a network").ip
}

/// The host's ends of cables at the rig's bridge.
fn cables(rig: &Rig) -> Vec<String> {
    fs::read_dir(format!("/sys/class/net/{}/brif", rig.bridge()))
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect()
}

async fn cables_become(rig: &Rig, count: usize) {
    wait::until(&format!("{count} cables are at the bridge"), || async {
        let cables = cables(rig);
        ensure!(cables.len() == count, "{cables:?}");
        Ok(())
    })
    .await;
}

fn mapping(host_port: u16, protocol: cri::Protocol, host_ip: &str) -> cri::PortMapping {
    cri::PortMapping {
        protocol: protocol.into(),
        container_port: 80,
        host_port: i32::from(host_port),
        host_ip: host_ip.into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hosts_ports_lead_to_a_pod_through_restarts_of_the_shim_until_it_stops() {
    let mut rig = Rig::start().await;
    let (tcp, udp) = (free_port(), free_port());
    let mut config = rig.pod("web");
    config.port_mappings = vec![
        mapping(tcp, cri::Protocol::Tcp, ""),
        mapping(udp, cri::Protocol::Udp, "127.0.0.1"),
    ];
    let pod = rig.run_sandbox(config).await.unwrap();
    serve(&rig, &pod, "web");
    let socket = inside(&rig, &pod, || UdpSocket::bind("0.0.0.0:80").unwrap());
    thread::spawn(move || {
        let mut packet = [0; 64];
        while let Ok((_, peer)) = socket.recv_from(&mut packet) {
            let _ = socket.send_to(b"udp", peer);
        }
    });
    let before = address(&rig, &pod).await;
    for round in 0..2 {
        answers(format!("127.0.0.1:{tcp}"), "web").await;
        answers(format!("{}:{tcp}", rig.address(1)), "web").await;
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        client.send_to(b"?", format!("127.0.0.1:{udp}")).unwrap();
        let mut packet = [0; 8];
        let length = client.recv(&mut packet).unwrap();
        assert_eq!(&packet[..length], b"udp");
        if round == 0 {
            rig.kill_and_restart().await;
        }
    }
    assert_eq!(address(&rig, &pod).await, before);
    let mut other = rig.pod("other");
    other.port_mappings = vec![mapping(tcp, cri::Protocol::Tcp, "127.0.0.1")];
    let taken = rig.run_sandbox(other.clone()).await.unwrap_err();
    assert_eq!(taken.code(), Code::FailedPrecondition, "{taken:?}");
    assert!(
        taken.message().contains(&tcp.to_string()) && taken.message().contains(&pod),
        "{taken:?}"
    );
    rig.stop_sandbox(&pod).await.unwrap();
    fetch(format!("127.0.0.1:{tcp}").parse().unwrap()).unwrap_err();
    let other = rig.run_sandbox(other).await.unwrap();
    serve(&rig, &other, "other");
    answers(format!("127.0.0.1:{tcp}"), "other").await;
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_range_is_told_and_its_addresses_come_back() {
    let rig = Rig::start_on("28", &[]).await;
    let mut pods = Vec::new();
    for number in 0..13 {
        pods.push(rig.run_sandbox(rig.pod(&format!("pod-{number}"))).await.unwrap());
    }
    let full = rig.run_sandbox(rig.pod("late")).await.unwrap_err();
    assert_eq!(full.code(), Code::ResourceExhausted, "{full:?}");
    assert!(full.message().contains("/28"), "{full:?}");
    rig.stop_sandbox(&pods[4]).await.unwrap();
    let late = rig.run_sandbox(rig.pod("late")).await.unwrap();
    assert_eq!(address(&rig, &late).await, rig.address(6));
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_start_and_stop_ten_at_a_time_share_nothing_and_leave_nothing() {
    let rig = Rig::start_on("28", &[]).await;
    for round in 0..4 {
        let starts = (0..10).map(|number| rig.run_sandbox(rig.pod(&format!("pod-{round}-{number}"))));
        let pods: Vec<_> = join_all(starts).await.into_iter().map(Result::unwrap).collect();
        let addresses: HashSet<_> = join_all(pods.iter().map(|pod| address(&rig, pod)))
            .await
            .into_iter()
            .collect();
        assert_eq!(addresses.len(), 10);
        for removed in join_all(pods.iter().map(|pod| rig.remove_sandbox(pod))).await {
            removed.unwrap();
        }
    }
    cables_become(&rig, 0).await;
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_killed_while_it_attaches_leaks_no_address_port_or_interface() {
    let mut rig = Rig::start_on("28", &[]).await;
    let port = free_port();
    for (round, millis) in [3, 6, 10, 15, 20, 30, 50].into_iter().enumerate() {
        let starts = (0..6).map(|number| {
            let mut config = rig.pod(&format!("pod-{round}-{number}"));
            if number == 0 {
                config.port_mappings = vec![mapping(port, cri::Protocol::Tcp, "")];
            }
            rig.run_sandbox(config)
        });
        let _ = tokio::time::timeout(Duration::from_millis(millis), join_all(starts)).await;
        rig.kill_and_restart().await;
        let kept = rig.list_sandboxes().await;
        cables_become(&rig, kept.len()).await;
        for sandbox in kept {
            rig.remove_sandbox(&sandbox.id).await.unwrap();
        }
    }
    for number in 0..13 {
        let mut config = rig.pod(&format!("last-{number}"));
        if number == 0 {
            config.port_mappings = vec![mapping(port, cri::Protocol::Tcp, "")];
        }
        rig.run_sandbox(config).await.unwrap();
    }
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_range_is_for_new_pods_and_one_of_each_family_gives_both() {
    let rig = Rig::start().await;
    let old = rig.run_sandbox(rig.pod("old")).await.unwrap();
    let update = |ranges: &str| {
        let config = cri::RuntimeConfig {
            network_config: Some(cri::NetworkConfig {
                pod_cidr: ranges.to_owned(),
            }),
        };
        let mut runtime = rig.runtime();
        async move {
            let runtime_config = Some(config);
            runtime
                .update_runtime_config(cri::UpdateRuntimeConfigRequest { runtime_config })
                .await
        }
    };
    let bad = update("10.1.0.0/33").await.unwrap_err();
    assert_eq!(bad.code(), Code::InvalidArgument, "{bad:?}");
    // No zero at the start of the group, which the shown address would not have.
    let v6 = format!("fd00:1{}::/64", &rig.dir.id()[..3]);
    update(&format!("{}/25,{v6}", rig.address(128))).await.unwrap();
    let new = rig.run_sandbox(rig.pod("new")).await.unwrap();
    let network = rig.sandbox_status(&new).await.unwrap().network.unwrap();
    assert_eq!(network.ip, rig.address(130));
    let second = &network.additional_ips[0].ip;
    assert_eq!(*second, v6.replace("::/64", "::2"));
    assert_eq!(address(&rig, &old).await, rig.address(2));
    serve(&rig, &old, "old");
    answers(format!("{}:80", rig.address(2)), "old").await;
    let listener = inside(&rig, &new, || TcpListener::bind("[::]:81").unwrap());
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.write_all(b"new");
        }
    });
    answers(format!("[{second}]:81"), "new").await;
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_names_are_resolved_as_its_config_says() {
    let rig = Rig::start().await;
    let file = |pod: &str, name: &str| {
        fs::read_to_string(rig.dir.dir().join(format!("state/sandboxes/{pod}/{name}"))).unwrap()
    };
    let mut config = rig.pod("named");
    config.hostname = "host-1".into();
    config.dns_config = Some(cri::DnsConfig {
        servers: vec!["10.0.0.10".into()],
        searches: vec!["a.local".into(), "b.local".into()],
        options: vec!["ndots:5".into()],
    });
    let pod = rig.run_sandbox(config.clone()).await.unwrap();
    assert_eq!(
        file(&pod, "resolv.conf"),
        "search a.local b.local\nnameserver 10.0.0.10\noptions ndots:5\n"
    );
    assert_eq!(file(&pod, "hostname"), "host-1\n");
    let own = address(&rig, &pod).await;
    assert!(file(&pod, "hosts").contains(&format!("{own}\thost-1")));
    let host = rig.run_sandbox(rig.host_pod("host")).await.unwrap();
    assert_eq!(
        file(&host, "hosts"),
        fs::read_to_string("/etc/hosts").unwrap_or_default()
    );
    config.metadata.as_mut().unwrap().name = "bad".into();
    config.dns_config.as_mut().unwrap().servers = vec!["10.0.0.1\noptions x".into()];
    let bad = rig.run_sandbox(config).await.unwrap_err();
    assert_eq!(bad.code(), Code::InvalidArgument, "{bad:?}");
    rig.finish().await;
}

/// The folder of a rig's network configuration.
fn conf_dir(rig: &Rig) -> PathBuf {
    rig.dir.make_dir("net.d")
}

fn write_conf(rig: &Rig, name: &str, conf: &serde_json::Value) {
    fs::write(conf_dir(rig).join(name), conf.to_string()).expect("a file");
}

/// A bridge by the real plugin, with its leases in the rig's folder.
fn bridge_plugin(rig: &Rig) -> serde_json::Value {
    let bridge = format!("c8p{}", rig.dir.id());
    serde_json::json!({
        "type": "bridge", "bridge": bridge, "isGateway": true,
        "capabilities": {"ips": true},
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": rig.address(0) + "/24"}]],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dataDir": rig.dir.dir().join("leases"),
        },
    })
}

/// The addresses that the plugin `host-local` has given away.
fn leases(rig: &Rig) -> Vec<String> {
    let folder = rig.dir.dir().join("leases/real");
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with("10."))
        .collect()
}

/// Removes the plugin's bridge, whatever the test has done.
struct PluginBridge(String);

impl Drop for PluginBridge {
    fn drop(&mut self) {
        let mut delete = Command::new("ip");
        let _ = command::run(delete.args(["link", "delete", &self.0]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_appears_is_used_by_the_next_pod_and_undone_after_it_has_gone() {
    let rig = Rig::start().await;
    let _bridge = PluginBridge(format!("c8p{}", rig.dir.id()));
    let builtin = rig.run_sandbox(rig.pod("builtin")).await.unwrap();
    assert_eq!(cables(&rig).len(), 1);
    let info = rig.sandbox_info(&builtin).await;
    assert_eq!(info["networkCheck"], "ok", "{info}");
    // 10.x.y.2 of the same range, which the built-in network has given away, is the plugin's to give: they do not
    // know each other.
    write_conf(
        &rig,
        "10-real.conflist",
        &serde_json::json!({
            "cniVersion": "1.0.0", "name": "real",
            "plugins": [
                bridge_plugin(&rig),
                {"type": "portmap", "snat": true, "capabilities": {"portMappings": true}},
                {"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}},
                {"type": "bandwidth", "capabilities": {"bandwidth": true}},
            ],
        }),
    );
    rig.ready().await;
    let port = free_port();
    let mut config = rig.pod("plugins");
    config.port_mappings = vec![mapping(port, cri::Protocol::Tcp, "")];
    config.annotations.extend([
        ("clone8s.io/pod-ip".into(), rig.address(99)),
        ("kubernetes.io/egress-bandwidth".into(), "100M".into()),
    ]);
    let pod = rig.run_sandbox(config).await.unwrap();
    assert_eq!(address(&rig, &pod).await, rig.address(99));
    assert_eq!(leases(&rig), [rig.address(99)]);
    assert_eq!(cables(&rig).len(), 1, "the built-in bridge was used");
    let tuned = inside(&rig, &pod, || {
        fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap()
    });
    assert_eq!(tuned.trim(), "500");
    let info = rig.sandbox_info(&pod).await;
    assert_eq!(
        info["network"]["capabilities"]["bandwidth"]["egressRate"], 100_000_000,
        "{info}"
    );

    fs::remove_file(conf_dir(&rig).join("10-real.conflist")).unwrap();
    rig.remove_sandbox(&pod).await.unwrap();
    assert!(leases(&rig).is_empty(), "{:?}", leases(&rig));
    let again = rig.run_sandbox(rig.pod("builtin-again")).await.unwrap();
    assert_eq!(cables(&rig).len(), 2);
    for pod in [builtin, again] {
        rig.remove_sandbox(&pod).await.unwrap();
    }
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_files_are_named_in_the_networks_condition() {
    let rig = Rig::start().await;
    let condition = || async {
        let request = cri::StatusRequest { verbose: false };
        let status = rig.runtime().status(request).await.unwrap().into_inner().status;
        let conditions = status.unwrap().conditions;
        let network = conditions
            .into_iter()
            .find(|found| found.r#type == "NetworkReady");
        network.unwrap()
    };
    fs::write(conf_dir(&rig).join("05-broken.conflist"), "{\"name\":").unwrap();
    let broken = condition().await;
    assert!(
        !broken.status && broken.message.contains("05-broken.conflist"),
        "{broken:?}"
    );
    let refused = rig.run_sandbox(rig.pod("web")).await.unwrap_err();
    assert!(refused.message().contains("05-broken.conflist"), "{refused:?}");
    let real = serde_json::json!({"cniVersion": "1.0.0", "name": "real", "plugins": [bridge_plugin(&rig)]});
    write_conf(&rig, "10-real.conflist", &real);
    let passed_over = condition().await;
    assert!(
        passed_over.status && passed_over.message.contains("05-broken.conflist"),
        "{passed_over:?}"
    );
    fs::remove_dir_all(conf_dir(&rig)).unwrap();
    assert!(condition().await.status);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_fails_or_hangs_costs_its_own_call_and_leaves_nothing() {
    let plugins = tempfile::tempdir().unwrap();
    let dirs = plugins.path().display().to_string();
    let rig = Rig::start_with(&[
        "--cni-bin-dir",
        "/usr/lib/cni",
        "--cni-bin-dir",
        &dirs,
        "--cni-timeout",
        "8",
    ])
    .await;
    let _bridge = PluginBridge(format!("c8p{}", rig.dir.id()));
    let plugin = |name: &str, script: &str| {
        let text = format!("#!/bin/sh\n{script}\n");
        command::write_program(&plugins.path().join(name), &text).expect("a program");
    };
    let add_only = |script: &str| format!("[ $CNI_COMMAND = ADD ] || exit 0; {script}");
    plugin(
        "fails",
        &add_only(r#"echo 'broken cable' >&2; echo '{"code": 11, "msg": "no uplink"}'; exit 1"#),
    );
    plugin("hangs", &add_only("sleep 1000"));
    let with = |name: &str| {
        let chain = serde_json::json!({
            "cniVersion": "1.0.0", "name": "real", "plugins": [bridge_plugin(&rig), {"type": name}],
        });
        write_conf(&rig, "10-real.conflist", &chain);
    };

    with("fails");
    let failed = rig.run_sandbox(rig.pod("fails")).await.unwrap_err();
    assert!(
        failed.message().contains("no uplink") && failed.message().contains("broken cable"),
        "{failed:?}"
    );
    assert!(leases(&rig).is_empty(), "{:?}", leases(&rig));

    with("hangs");
    let began = Instant::now();
    let hangs = async {
        let hung = rig.run_sandbox(rig.pod("hangs")).await.unwrap_err();
        (hung, Instant::now())
    };
    let others = async {
        let pod = rig.run_sandbox(rig.host_pod("other")).await.unwrap();
        rig.remove_sandbox(&pod).await.unwrap();
        Instant::now()
    };
    let ((hung, ended), others) = tokio::join!(hangs, others);
    assert!(hung.message().contains("hangs ADD: no end in 8 s"), "{hung:?}");
    assert!(ended - began >= Duration::from_secs(8) && others < ended);
    assert!(leases(&rig).is_empty(), "{:?}", leases(&rig));

    plugin("hangs", "cat > /dev/null; sed -n p /dev/null; exit 0");
    fs::remove_file(conf_dir(&rig).join("10-real.conflist")).unwrap();
    let real = serde_json::json!({"cniVersion": "1.0.0", "name": "real", "plugins": [bridge_plugin(&rig)]});
    write_conf(&rig, "10-real.conflist", &real);
    for name in ["fails", "hangs"] {
        let pod = rig.run_sandbox(rig.pod(name)).await.unwrap();
        rig.remove_sandbox(&pod).await.unwrap();
    }
    assert!(leases(&rig).is_empty(), "{:?}", leases(&rig));
    rig.finish().await;
}

/// The processes that work on the network of a pod of the rig.
fn plugins_of(rig: &Rig) -> Vec<u32> {
    let namespaces = format!("CNI_NETNS={}/", rig.dir.dir().display());
    let is_one = |pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let mut variables = environment.split(|&byte| byte == 0);
        process::alive(*pid) && variables.any(|variable| variable.starts_with(namespaces.as_bytes()))
    };
    process::pids().filter(is_one).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_killed_within_a_plugins_add_has_it_undone_by_the_next_one() {
    let mut rig = Rig::start().await;
    let _bridge = PluginBridge(format!("c8p{}", rig.dir.id()));
    let real = serde_json::json!({"cniVersion": "1.0.0", "name": "real", "plugins": [bridge_plugin(&rig)]});
    for (round, millis) in [10, 25, 40, 60, 90].into_iter().enumerate() {
        write_conf(&rig, "10-real.conflist", &real);
        let call = rig.run_sandbox(rig.pod(&format!("pod-{round}")));
        let _ = tokio::time::timeout(Duration::from_millis(millis), call).await;
        // The configuration goes too: what is undone stands in the journal.
        rig.shim.kill();
        fs::remove_file(conf_dir(&rig).join("10-real.conflist")).unwrap();
        // A plugin lives on when its caller is killed.
        wait::until("the plugin has ended", || async {
            let plugins = plugins_of(&rig);
            ensure!(plugins.is_empty(), "{plugins:?}");
            Ok(())
        })
        .await;
        rig.shim.start().unwrap();
        rig.ready().await;
        for sandbox in rig.list_sandboxes().await {
            rig.remove_sandbox(&sandbox.id).await.unwrap();
        }
        assert!(leases(&rig).is_empty(), "{round}: {:?}", leases(&rig));
    }
    rig.finish().await;
}
