//! `c8s up` and `c8s down`, as scripts/up and scripts/down use them: a cluster in one process, and no trace of it.

use std::{fs, path::Path, process::Command};

use clone8s_integration::{Sandbox, command, leak, process::MARK, programs::program, wait};

/// One cluster of `c8s up`. Dropping it takes it down, whatever the test has done.
struct Up<'a> {
    sandbox: &'a Sandbox,
    bridge: String,
}

impl Up<'_> {
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
        command::run(c8s.args(args))
    }

    fn up(&self, archive: &str) {
        let id = u16::from_str_radix(&self.sandbox.id()[..4], 16).unwrap();
        let cidr = format!("10.{}.{}.0/24", 128 + (id >> 8) % 128, id & 0xff);
        let flags = ["up", "--detach", "--node-name", "up", "--image-archive", archive];
        let network = ["--bridge", &self.bridge, "--pod-cidr", &cidr];
        self.c8s(&[&flags[..], &network[..]].concat()).unwrap();
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
    let archive = sandbox.dir().join("hello.tar").display().to_string();
    let up = Up {
        sandbox: &sandbox,
        bridge: format!("c8u{}", sandbox.id()),
    };
    up.c8s(&[
        "image",
        "pack",
        "--name",
        "clone8s.local/hello:1",
        "--output",
        &archive,
        "--file",
        "/bin/busybox:/bin/busybox",
        "--file",
        "examples/hello:/www",
        "--",
        "/bin/busybox",
        "httpd",
        "-f",
        "-v",
        "-p",
        "8080",
        "-h",
        "/www",
    ])
    .unwrap();

    up.up(&archive);
    up.c8s(&["apply", "-f", "examples/hello.yaml"]).unwrap();
    let page = wait::until("the pod's page", || async {
        let pod: serde_json::Value = serde_json::from_str(&up.c8s(&["get", "pod", "hello", "-o", "json"])?)?;
        let pod = pod["items"].get(0).cloned().unwrap_or(pod);
        let address = pod["status"]["podIP"].as_str().unwrap_or_default().to_owned();
        anyhow::ensure!(!address.is_empty(), "{pod}");
        command::run(Command::new("curl").args([
            "-fsS",
            "--max-time",
            "2",
            &format!("http://{address}:8080/"),
        ]))
    })
    .await;
    assert_eq!(
        page,
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/hello/index.html"))
            .unwrap()
    );

    // Again: it is up already, and says the same.
    let before = up.c8s(&["get", "pods", "-o", "name"]).unwrap();
    up.up(&archive);
    assert_eq!(up.c8s(&["get", "pods", "-o", "name"]).unwrap(), before);
    assert!(leak::links().contains(&up.bridge));

    up.c8s(&["down", "--purge"]).unwrap();
    assert!(!leak::links().contains(&up.bridge), "the bridge stays");
    for folder in ["run", "data"] {
        assert!(!sandbox.dir().join(folder).exists(), "the {folder} folder stays");
    }
    let rules = command::run(&mut Command::new("iptables-save")).unwrap();
    assert!(!rules.contains(&up.bridge), "{rules}");
    sandbox.assert_nothing_left().await;
}
