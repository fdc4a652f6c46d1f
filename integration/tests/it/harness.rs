//! The harness itself: each server comes up, does its work, comes back, and leaves nothing behind.

use std::{
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
};

use clone8s_integration::{
    Containerd, Etcd, Image, RabbitMq, Registry, Sandbox, containerd::CriPlugin, leak, process, rabbitmq,
    wait,
};

#[tokio::test]
async fn the_first_process_of_a_pod_is_seen_when_it_is_left_behind() {
    let (sandbox, other) = (Sandbox::new(), Sandbox::new());
    let pins = sandbox.dir().join("state/sandboxes/s1/ns");
    // As the shim starts it: a name of its own, the pod's folder, and no environment that could carry a mark.
    let mut tail = Command::new("tail");
    tail.arg0("clone8s-pod-init")
        .args(["-f", "/dev/null"])
        .arg(pins)
        .env_clear()
        .stderr(Stdio::null());
    let mut init = process::spawn(&mut tail).unwrap();
    wait::until("it is seen", || async {
        let left = leak::of(&sandbox);
        anyhow::ensure!(
            left.len() == 1 && left[0].contains("clone8s-pod-init"),
            "{left:?}"
        );
        Ok(())
    })
    .await;
    assert_eq!(leak::of(&other), [] as [String; 0]);
    init.kill().unwrap();
    init.wait().unwrap();
    sandbox.assert_nothing_left().await;
}

#[tokio::test]
async fn etcd_takes_only_clients_of_its_ca_and_keeps_its_data_over_a_crash() {
    let sandbox = Sandbox::new();
    let mut etcd = Etcd::start(&sandbox).await;
    etcd.client()
        .await
        .unwrap()
        .put("key", "value", None)
        .await
        .unwrap();
    etcd.process.kill();
    etcd.start_again().await;
    let answer = etcd.client().await.unwrap().get("key", None).await.unwrap();
    assert_eq!(answer.kvs()[0].value_str().unwrap(), "value");

    let stranger = etcd_client::Client::connect([etcd.endpoint()], None).await;
    let refused = match stranger {
        Ok(mut client) => client.status().await.is_err(),
        Err(_) => true,
    };
    assert!(refused, "etcd answered a client without a certificate");
    drop(etcd);
    sandbox.assert_nothing_left().await;
}

#[tokio::test]
async fn rabbitmq_comes_back_with_its_virtual_hosts() {
    let sandbox = Sandbox::new();
    let mut broker = RabbitMq::with_tls(&sandbox).await;
    let vhost = broker.vhost();
    rabbitmq::connect(&vhost).await.unwrap();
    broker.process.stop().unwrap();
    assert!(rabbitmq::connect(&vhost).await.is_err());
    broker.start_again().await;
    rabbitmq::connect(&vhost).await.unwrap();
    drop(broker);
    sandbox.assert_nothing_left().await;
}

#[tokio::test]
async fn containerd_runs_an_image_of_ours_and_its_end_is_the_containers_end() {
    let sandbox = Sandbox::new();
    let registry = Registry::shared().await;
    let mut containerd = Containerd::launch(&sandbox, "containerd", CriPlugin::On).await;
    let image = registry.image("busybox:1");
    containerd
        .ctr("test", &["images", "pull", "--plain-http", &image])
        .unwrap();
    let hello = format!("hello-{}", sandbox.id());
    let said = containerd
        .ctr("test", &["run", "--rm", &image, &hello, "/bin/echo", "hello"])
        .unwrap();
    assert_eq!(said, "hello\n");

    let sleeper = format!("sleeper-{}", sandbox.id());
    containerd
        .ctr("test", &["run", "--detach", &image, &sleeper])
        .unwrap();
    let listed = containerd.ctr("test", &["tasks", "list"]).unwrap();
    let pid: u32 = listed
        .lines()
        .find(|line| line.contains(&sleeper))
        .unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    containerd.process.kill();
    assert!(process::alive(pid), "a container must outlive containerd");
    containerd.start_again().await;
    drop(containerd);
    sandbox.assert_nothing_left().await;
    assert!(!process::alive(pid));
}

#[tokio::test]
async fn a_registry_with_a_password_takes_a_push_with_it_alone() {
    let sandbox = Sandbox::new();
    let registry = Registry::with_credentials(&sandbox, "user", "secret").await;
    let image = Image::empty()
        .file("/etc/motd", 0o644, "hello")
        .push(&registry, "motd:1")
        .unwrap();
    let mut inspect = std::process::Command::new("skopeo");
    inspect.args([
        "inspect",
        "--tls-verify=false",
        "--no-creds",
        &format!("docker://{image}"),
    ]);
    assert!(
        !clone8s_integration::command::output(&mut inspect)
            .unwrap()
            .success
    );
}
