//! Exec, attach, port-forward and copies on real containers, of a node that listens on nothing.

mod copies;
mod debug;
mod logs;
mod ports;
mod terminal;

use std::{
    fmt::Write as _,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::{Command, Stdio},
};

use anyhow::ensure;
use clone8s_integration::{
    ControlPlane, Image, Node, Registry, Sandbox, command, node::RuntimeKind, pods, process, wait,
};
use sha2::{Digest as _, Sha256};

/// A node with one pod "box" of the containers "main" and "side".
struct Cluster {
    // In this order they end.
    node: Node,
    plane: ControlPlane,
    registry: Registry,
    sandbox: Sandbox,
}

impl Cluster {
    async fn start(manifest: impl Fn(&str) -> String) -> Self {
        Self::start_on(RuntimeKind::Shim, manifest).await
    }

    async fn start_on(kind: RuntimeKind, manifest: impl Fn(&str) -> String) -> Self {
        let sandbox = Sandbox::new();
        let registry = Registry::start(&sandbox).await;
        let mut image = Image::busybox();
        for applet in ["ln", "sha256sum", "stty", "tar"] {
            image = image.link(&format!("/bin/{applet}"), "busybox");
        }
        let image = image.push(&registry, "box:1").unwrap();
        let plane = ControlPlane::start(&sandbox, None).await;
        let mut node = Node::start_on(&sandbox, "streams", kind).await;
        node.join(&plane, None).await;
        plane.node_ready("streams").await;
        plane.create(pods::from_yaml(&manifest(&image))).await;
        plane.running("box").await;
        Self {
            node,
            plane,
            registry,
            sandbox,
        }
    }

    async fn end(self) {
        self.plane.delete("box").await;
        self.plane.gone("box").await;
        let Self {
            node,
            plane,
            registry,
            sandbox,
        } = self;
        drop((node, plane, registry));
        sandbox.assert_nothing_left().await;
    }

    fn c8s(&self, args: &[&str]) -> Command {
        self.plane.c8s(args)
    }

    fn run(&self, args: &[&str]) -> command::Output {
        command::output(&mut self.c8s(args)).unwrap()
    }
}

/// As sha256sum writes it.
fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

fn two_containers(image: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: box}}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  containers:
    - {{name: main, image: {image}}}
    - {{name: side, image: {image}}}
"
    )
}

#[tokio::test]
async fn a_command_runs_in_a_container_and_its_streams_and_exit_code_are_the_callers() {
    let cluster = Cluster::start(two_containers).await;

    let both = cluster.run(&[
        "exec",
        "box",
        "-c",
        "main",
        "--",
        "sh",
        "-c",
        "echo out; echo err >&2; exit 7",
    ]);
    assert_eq!(
        (both.code, both.stdout.as_str(), both.stderr.as_str()),
        (Some(7), "out\n", "err\n")
    );

    // Several MiB through a pipe, to the end of the input.
    let bytes: Vec<u8> = (0..5_000_000_u32).map(|n| (n % 251) as u8).collect();
    let mut cat = cluster.c8s(&["exec", "-i", "box", "-c", "side", "--", "cat"]);
    let mut cat = process::spawn(cat.stdin(Stdio::piped()).stdout(Stdio::piped())).unwrap();
    let mut stdin = cat.stdin.take().unwrap();
    let sent = bytes.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&sent));
    let mut got = Vec::new();
    cat.stdout.take().unwrap().read_to_end(&mut got).unwrap();
    writer.join().unwrap().unwrap();
    assert!(cat.wait().unwrap().success());
    assert!(got == bytes, "{} bytes came back of {}", got.len(), bytes.len());

    // The end of an input that is no terminal would not get through one.
    let script = "cat; test -t 0 || echo no terminal";
    let piped = cluster.run(&["exec", "-it", "box", "-c", "main", "--", "sh", "-c", script]);
    assert_eq!((piped.code, piped.stdout.as_str()), (Some(0), "no terminal\n"));
    assert!(
        piped.stderr.contains("no terminal for the command"),
        "{}",
        piped.stderr
    );

    for (args, expected) in [
        (&["exec", "box", "--", "ls"][..], "name one of main, side"),
        (&["exec", "box", "-c", "sied", "--", "ls"], "it has main, side"),
        (&["exec", "bax", "-c", "main", "--", "ls"], "not found"),
        (&["attach", "-it", "box", "-c", "main"], "attach without -t"),
        (&["attach", "-i", "box", "-c", "main"], "without standard input"),
        (
            &["exec", "box", "-c", "main", "--", "no-such-program"],
            "no-such-program",
        ),
    ] {
        let refused = cluster.run(args);
        assert_ne!(refused.code, Some(0), "{args:?}");
        assert!(refused.stderr.contains(expected), "{args:?}: {}", refused.stderr);
    }
    cluster.end().await;
}

#[tokio::test]
async fn a_kubelet_that_dies_ends_the_calls_that_it_answers_and_a_new_one_answers_again() {
    let mut cluster = Cluster::start(two_containers).await;
    let line = [
        "exec",
        "box",
        "-c",
        "main",
        "--",
        "sh",
        "-c",
        "echo up; sleep 1000",
    ];
    let mut open = cluster.c8s(&line);
    let mut open = process::spawn(open.stdout(Stdio::piped()).stderr(Stdio::piped())).unwrap();
    let mut said = String::new();
    let mut stdout = BufReader::new(open.stdout.take().unwrap());
    stdout.read_line(&mut said).unwrap();
    assert_eq!(said, "up\n");
    cluster.node.kubelet.kill();
    let ended = open.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1));
    assert!(told.contains("node streams was lost"), "{told}");

    cluster.node.kubelet.start().unwrap();
    wait::until("commands run again", || async {
        let output = cluster.run(&["exec", "box", "-c", "main", "--", "true"]);
        ensure!(output.success, "{}", output.stderr);
        Ok(())
    })
    .await;
    cluster.end().await;
}

#[tokio::test]
async fn on_a_runtime_that_has_urls_alone_the_error_says_so_and_logs_come_all_the_same() {
    let cluster = Cluster::start_on(RuntimeKind::CriPlugin, two_containers).await;
    let refused = cluster.run(&["exec", "box", "-c", "main", "--", "true"]);
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.stderr.contains("run the kubelet on the runtime-shim"),
        "{}",
        refused.stderr
    );
    let logs = cluster.run(&["logs", "box", "-c", "main"]);
    assert!(logs.success, "{}", logs.stderr);
    cluster.end().await;
}
