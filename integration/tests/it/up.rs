//! `c8s up` and `c8s down`, as scripts/up and scripts/down use them: a cluster in one process, and no trace of it.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::Context as _;
use clone8s::v1::Pod;
use clone8s_bus::{
    EVENTS_EXCHANGE, EventBus as _, Queue, Subscription,
    amqp::{AmqpBus, AmqpConfig},
};
use clone8s_daemon::cgroups::Cgroups;
use clone8s_integration::{
    Sandbox, command,
    etcd::Etcd,
    leak,
    network::pod_subnet,
    process::{MARK, alive},
    programs::program,
    rabbitmq::RabbitMq,
    wait,
};
use prost::Message as _;

/// One cluster of `c8s up`. Dropping it takes it down, whatever the test has done.
struct Up<'a> {
    sandbox: &'a Sandbox,
    bridge: String,
    pod_cidr: String,
    /// Flags of `c8s up`, beside those of every test.
    flags: Vec<String>,
    /// CLONE8S_AMQP, whose password is not for a command line.
    amqp: Option<String>,
}

impl<'a> Up<'a> {
    fn new(sandbox: &'a Sandbox) -> Self {
        Self {
            sandbox,
            bridge: format!("c8u{}", sandbox.id()),
            pod_cidr: format!("{}.0/24", pod_subnet()),
            flags: Vec::new(),
            amqp: None,
        }
    }

    /// Runs c8s on this cluster and gives what it writes.
    fn c8s(&self, args: &[&str]) -> anyhow::Result<String> {
        let dir = self.sandbox.dir();
        let mut c8s = Command::new(program("c8s"));
        c8s.env(MARK, self.sandbox.id())
            .env("CLONE8S_RUN_DIR", dir.join("run"))
            .env("CLONE8S_DATA_DIR", dir.join("data"))
            .env(
                "CLONE8S_SERVER",
                format!("unix://{}/run/apiserver.sock", dir.display()),
            )
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
        c8s.envs(self.amqp.iter().map(|url| ("CLONE8S_AMQP", url)));
        command::run(c8s.args(args))
    }

    fn up(&self, further: &[&str]) {
        let mut args = vec!["up", "--detach", "--node-name", "up"];
        args.extend(["--bridge", &self.bridge, "--pod-cidr", &self.pod_cidr]);
        args.extend(self.flags.iter().map(String::as_str));
        args.extend(further);
        self.c8s(&args).unwrap();
    }

    /// Makes the image of examples/hello.yaml, and gives its archive.
    fn pack(&self) -> String {
        let archive = self.sandbox.dir().join("hello.tar").display().to_string();
        let files = ["/bin/busybox:/bin/busybox", "examples/hello:/www"].map(|file| ["--file", file]);
        let command = [
            "--",
            "/bin/busybox",
            "httpd",
            "-f",
            "-v",
            "-p",
            "8080",
            "-h",
            "/www",
        ];
        let name = [
            "image",
            "pack",
            "--name",
            "clone8s.local/hello:1",
            "--output",
            &archive,
        ];
        self.c8s(&[&name[..], files.as_flattened(), &command].concat())
            .unwrap();
        archive
    }

    /// The pod `hello`, once it serves its page.
    async fn serving(&self) -> serde_json::Value {
        let (pod, page) = wait::until("the pod's page", || async {
            let pod = self.hello()?;
            let address = pod["status"]["podIP"].as_str().unwrap_or_default().to_owned();
            anyhow::ensure!(!address.is_empty(), "{pod}");
            let url = format!("http://{address}:8080/");
            let page = command::run(Command::new("curl").args(["-fsS", "--max-time", "2", &url]))?;
            Ok((pod, page))
        })
        .await;
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/hello/index.html");
        assert_eq!(page, fs::read_to_string(file).unwrap());
        pod
    }

    fn hello(&self) -> anyhow::Result<serde_json::Value> {
        let pod: serde_json::Value =
            serde_json::from_str(&self.c8s(&["get", "pod", "hello", "-o", "json"])?)?;
        Ok(pod["items"].get(0).cloned().unwrap_or(pod))
    }

    /// Ends the cluster's process, and not its pods.
    async fn terminate(&self) {
        let file = self.sandbox.dir().join("run/up.pid");
        let pid = fs::read_to_string(file).unwrap().trim().to_owned();
        command::run(Command::new("kill").args(["-TERM", &pid])).unwrap();
        let pid = pid.parse().unwrap();
        wait::until("c8s up ends", || async {
            anyhow::ensure!(!alive(pid), "process {pid} runs on");
            Ok(())
        })
        .await;
    }

    fn assert_gone(&self) {
        assert!(!leak::links().contains(&self.bridge), "the bridge stays");
        assert!(!self.sandbox.dir().join("run").exists(), "the run folder stays");
        let rules = command::run(&mut Command::new("iptables-save")).unwrap();
        assert!(!rules.contains(&self.bridge), "{rules}");
    }
}

impl Drop for Up<'_> {
    fn drop(&mut self) {
        if self.sandbox.dir().join("run").exists()
            && let Err(error) = self.c8s(&["down", "--purge"])
        {
            eprintln!("the cluster stays: {error:#}");
        }
    }
}

#[tokio::test]
async fn a_cluster_in_one_process_serves_a_pods_page_and_leaves_nothing_when_taken_down() {
    let sandbox = Sandbox::new();
    let up = Up::new(&sandbox);
    let archive = up.pack();

    up.up(&["--image-archive", &archive]);
    up.c8s(&["apply", "-f", "examples/hello.yaml"]).unwrap();
    let pod = up.serving().await;
    assert!(has_cgroup(&pod), "{pod}");

    // Again: it is up already, and says the same.
    let before = up.c8s(&["get", "pods", "-o", "name"]).unwrap();
    up.up(&["--image-archive", &archive]);
    assert_eq!(up.c8s(&["get", "pods", "-o", "name"]).unwrap(), before);
    assert!(leak::links().contains(&up.bridge));

    up.c8s(&["down", "--purge"]).unwrap();
    up.assert_gone();
    assert!(!has_cgroup(&pod), "the pod's cgroup stays: {pod}");
    assert!(!sandbox.dir().join("data").exists(), "the data folder stays");
    sandbox.assert_nothing_left().await;
}

fn has_cgroup(pod: &serde_json::Value) -> bool {
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let mut classes = ["", "burstable/", "besteffort/"].into_iter();
    classes.any(|class| Cgroups::of_host().exists(&format!("/clone8s/{class}pod{uid}")))
}

#[tokio::test]
async fn on_etcd_and_rabbitmq_over_tls_each_change_is_told_and_a_new_process_finds_everything() {
    let sandbox = Sandbox::new();
    let (etcd, broker) = tokio::join!(Etcd::start(&sandbox), RabbitMq::with_tls(&sandbox));
    let (port, broker_ca) = broker.tls();
    let amqp = format!("amqps://guest:guest@localhost:{port}/test0");
    let mut up = Up::new(&sandbox);
    let file = |path: std::path::PathBuf| path.display().to_string();
    let client = etcd.client_pair().clone();
    for (flag, value) in [
        ("--etcd", etcd.endpoint().to_owned()),
        ("--etcd-ca", file(etcd.ca().certificate_file())),
        ("--etcd-cert", file(client.certificate_file)),
        ("--etcd-key", file(client.key_file)),
        ("--amqp-ca", file(broker_ca.certificate_file())),
    ] {
        up.flags.extend([flag.to_owned(), value]);
    }
    up.amqp = Some(amqp.clone());
    let archive = up.pack();
    let bus = AmqpBus::connect(&AmqpConfig {
        ca: Some(broker_ca.certificate_file()),
        ..AmqpConfig::new(amqp)
    })
    .unwrap();
    let pods = Queue::Temporary {
        exchange: EVENTS_EXCHANGE,
        pattern: "pods.#".to_owned(),
    };

    up.up(&["--image-archive", &archive]);
    let mut told = bus.subscribe(pods, 16).await.unwrap();
    up.c8s(&["apply", "-f", "examples/hello.yaml"]).unwrap();
    until_told(&mut told, "added", |pod| phase(pod) != "Running").await;
    until_told(&mut told, "modified", |pod| phase(pod) == "Running").await;
    let before = up.serving().await;
    let key = "/clone8s/objects/pods/default/hello";
    let stored = etcd.client().await.unwrap().get(key, None).await.unwrap();
    assert_eq!(stored.kvs().len(), 1, "the pod is not in etcd");
    assert!(!sandbox.dir().join("data/apiserver/store.redb").exists());

    up.terminate().await;
    up.up(&[]);
    let after = up.serving().await;
    for path in [
        "/metadata/uid",
        "/status/podIP",
        "/status/containerStatuses/0/containerID",
        "/status/containerStatuses/0/state/running/startedAt",
    ] {
        assert!(before.pointer(path).is_some(), "no {path} in {before}");
        assert_eq!(before.pointer(path), after.pointer(path), "{path}");
    }

    // Objects are in etcd and images in the data folder: the pod comes back with neither manifest nor archive.
    up.c8s(&["down"]).unwrap();
    up.assert_gone();
    up.up(&[]);
    up.serving().await;

    up.c8s(&["delete", "pod", "hello"]).unwrap();
    until_told(&mut told, "deleted", |_| true).await;
    up.c8s(&["down", "--purge"]).unwrap();
    up.assert_gone();
    drop((etcd, broker));
    sandbox.assert_nothing_left().await;
}

/// Takes messages until one tells such a change of the pod `hello`.
async fn until_told(told: &mut Box<dyn Subscription>, verb: &str, is_it: impl Fn(&Pod) -> bool) {
    let found = async {
        loop {
            let delivery = told.next().await?;
            let message = delivery.message().clone();
            delivery.ack().await?;
            let pod = Pod::decode(message.body).context("not a pod")?;
            let is_hello = pod
                .metadata
                .as_ref()
                .is_some_and(|metadata| metadata.name == "hello");
            if is_hello && message.headers["verb"] == verb && is_it(&pod) {
                return anyhow::Ok(());
            }
        }
    };
    tokio::time::timeout(Duration::from_mins(1), found)
        .await
        .unwrap_or_else(|_| panic!("RabbitMQ does not tell that the pod was {verb}"))
        .unwrap();
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().map_or("", |status| &status.phase)
}
