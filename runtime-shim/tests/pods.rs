//! Pods with a network of their own, on a real containerd.

#![allow(clippy::large_futures, reason = "a test holds whole CRI messages")]

#[path = "rig/mod.rs"]
mod rig;

use std::{
    io::{Read as _, Write as _},
    net::{TcpStream, ToSocketAddrs as _},
    time::Duration,
};

use anyhow::ensure;
use clone8s::cri::{self, PodSandboxState};
use clone8s_integration::{process::free_port, wait};
use tonic::Code;

use self::rig::{Rig, script};

/// What a web server answers.
fn fetch(address: &str) -> anyhow::Result<String> {
    let address = address
        .to_socket_addrs()?
        .next()
        .ok_or_else(|| anyhow::anyhow!("no address"))?;
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

async fn answers(address: String, word: &str) {
    wait::until(&format!("{address} answers {word:?}"), || async {
        let asked = address.clone();
        let answer = tokio::task::spawn_blocking(move || fetch(&asked)).await??;
        ensure!(answer.contains(word), "{answer}");
        Ok(())
    })
    .await;
}

/// Serves its host name on port 80.
fn web() -> cri::ContainerConfig {
    script(
        "web",
        "mkdir /tmp/www; hostname > /tmp/www/index.html; exec busybox httpd -f -p 80 -h /tmp/www",
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_has_an_address_that_the_host_and_other_pods_reach() {
    let rig = Rig::start().await;
    let pod = rig.run_sandbox(rig.pod("web-1")).await.unwrap();
    rig.run(&pod, web()).await;
    let status = rig.sandbox_status(&pod).await.unwrap();
    let ip = status.network.unwrap().ip;
    answers(format!("{ip}:80"), "web-1").await;

    let other = rig.run_sandbox(rig.pod("client")).await.unwrap();
    let fetch = script(
        "fetch",
        &format!("wget -q -O - http://{ip}/; hostname; cat /etc/hosts /etc/resolv.conf"),
    );
    let id = rig.run(&other, fetch).await;
    assert_eq!(rig.exited(&id).await.exit_code, 0);
    let log = rig.log("fetch.log");
    assert_eq!(&log[..2], ["stdout F web-1", "stdout F client"]);
    let own = rig.sandbox_status(&other).await.unwrap().network.unwrap().ip;
    assert!(
        log.iter().any(|line| line == &format!("stdout F {own}\tclient")),
        "{log:?}"
    );
    assert_ne!(own, ip);
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_of_the_host_leads_to_its_pod() {
    let rig = Rig::start().await;
    let port = free_port();
    let mut config = rig.pod("mapped");
    config.port_mappings = vec![cri::PortMapping {
        container_port: 80,
        host_port: i32::from(port),
        ..Default::default()
    }];
    let pod = rig.run_sandbox(config).await.unwrap();
    rig.run(&pod, web()).await;
    answers(format!("127.0.0.1:{port}"), "mapped").await;
    rig.stop_sandbox(&pod).await.unwrap();
    fetch(&format!("127.0.0.1:{port}")).unwrap_err();
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fixed_address_is_given_once_and_given_back() {
    let rig = Rig::start().await;
    let address = rig.address(77);
    let fixed = |name: &str, address: &str| {
        let mut config = rig.pod(name);
        config
            .annotations
            .insert("clone8s.io/pod-ip".into(), address.to_owned());
        config
    };
    let first = rig.run_sandbox(fixed("first", &address)).await.unwrap();
    assert_eq!(
        rig.sandbox_status(&first).await.unwrap().network.unwrap().ip,
        address
    );
    let taken = rig.run_sandbox(fixed("second", &address)).await.unwrap_err();
    assert!(taken.message().contains(&address), "{taken:?}");
    let outside = rig.run_sandbox(fixed("second", "192.0.2.1")).await.unwrap_err();
    assert!(outside.message().contains("192.0.2.1"), "{outside:?}");
    assert_eq!(rig.list_sandboxes().await.len(), 1, "what failed is not visible");
    rig.remove_sandbox(&first).await.unwrap();
    let second = rig.run_sandbox(fixed("second", &address)).await.unwrap();
    assert_eq!(
        rig.sandbox_status(&second).await.unwrap().network.unwrap().ip,
        address
    );
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_and_removing_are_repeatable_and_a_stopped_pod_takes_no_container() {
    let rig = Rig::start().await;
    let pod = rig.run_sandbox(rig.pod("web")).await.unwrap();
    let id = rig.run(&pod, script("main", "exec sleep 1000")).await;
    rig.stop_sandbox(&pod).await.unwrap();
    rig.stop_sandbox(&pod).await.unwrap();
    assert_eq!(
        rig.sandbox_status(&pod).await.unwrap().state(),
        PodSandboxState::SandboxNotready
    );
    assert_eq!(rig.status(&id).await.unwrap().exit_code, 137);
    let refused = rig.create(&pod, script("late", "true")).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    rig.remove_sandbox(&pod).await.unwrap();
    rig.remove_sandbox(&pod).await.unwrap();
    assert_eq!(rig.sandbox_status(&pod).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(rig.status(&id).await.unwrap_err().code(), Code::NotFound);
    rig.finish().await;
}
