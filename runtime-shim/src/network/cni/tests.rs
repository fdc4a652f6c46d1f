//! Chains of plugins that are shell scripts.

use clone8s_integration::command::write_program;

use super::*;
use crate::network::Protocol;

/// Plugins that note each of their calls; `ok` and those after it succeed, `bad` fails, `mute` says nothing.
struct Host {
    dir: tempfile::TempDir,
    cni: Cni,
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("bin");
        for folder in ["bin", "net.d", "calls"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        let note = format!(
            "conf=$(cat); echo \"$CNI_COMMAND ${{0##*/}}\" >> {log}; \
             printf %s \"$conf\" > {calls}/$CNI_COMMAND-${{0##*/}}; ",
            log = dir.path().join("log").display(),
            calls = dir.path().join("calls").display(),
        );
        let result =
            |ip: &str| format!(r#"[ $CNI_COMMAND != ADD ] || echo '{{"ips": [{{"address": "{ip}/24"}}]}}'"#);
        let old = r#"[ $CNI_COMMAND != ADD ] || echo '{"cniVersion": "0.3.1", "ips": [{"version": "4", "address": "10.9.0.4/24"}]}'"#;
        for (name, rest) in [
            ("ok", result("10.9.0.2")),
            ("also", result("10.9.0.3")),
            ("old", old.to_owned()),
            (
                "bad",
                r#"echo '{"code": 11, "msg": "try later"}'; exit 1"#.to_owned(),
            ),
            ("bad-add", "[ $CNI_COMMAND != ADD ]".to_owned()),
            ("mute", String::new()),
            ("none", r"[ $CNI_COMMAND != ADD ] || echo '{}'".to_owned()),
        ] {
            write_program(&bin.join(name), &format!("#!/bin/sh\n{note}\n{rest}\n")).unwrap();
        }
        let cni = Cni {
            plugin_dirs: vec![bin],
            conf_dir: dir.path().join("net.d"),
            time_limit: Duration::from_mins(1),
        };
        Self { dir, cni }
    }

    fn configure(&self, version: &str, plugins: &[&str]) {
        let plugins: Vec<_> = plugins
            .iter()
            .map(|name| {
                json!({"type": name, "capabilities": {"portMappings": true, "bandwidth": true, "dns": true,
                    "ipRanges": true}})
            })
            .collect();
        let list = json!({"cniVersion": version, "name": "net", "plugins": plugins});
        fs::write(self.dir.path().join("net.d/10-net.conflist"), list.to_string()).unwrap();
    }

    fn request(&self) -> Request {
        Request {
            sandbox: SandboxId::from("s1"),
            netns: self.dir.path().join("no-namespace"),
            journal: self.dir.path().join("journal"),
            pod: clone8s::cri::PodSandboxMetadata {
                name: "web".into(),
                namespace: "default".into(),
                uid: "a;b=c".into(),
                attempt: 0,
            },
            annotations: BTreeMap::new(),
            dns: Some(clone8s::cri::DnsConfig {
                servers: vec!["10.0.0.10".into()],
                ..Default::default()
            }),
            cgroup: "/pods/web".into(),
            ports: vec![PortMapping {
                host_port: 80,
                container_port: 8080,
                protocol: Protocol::Tcp,
                host_ip: None,
            }],
            fixed_address: None,
            bandwidth: Bandwidth {
                ingress: Some(1_000_000),
                egress: None,
            },
        }
    }

    async fn attach(&self) -> Result<(Chain, Vec<IpAddr>), CniError> {
        let list = self.cni.configured()?.expect("a configuration").list;
        let ranges = "10.9.0.0/24".parse().unwrap();
        self.cni.attach(list, &self.request(), &ranges).await
    }

    async fn detach(&self, chain: &Chain) -> Result<(), CniError> {
        let request = self.request();
        self.cni.detach(&request.sandbox, &request.netns, chain).await
    }

    /// What has been called since the last look.
    fn calls(&self) -> Vec<String> {
        let log = self.dir.path().join("log");
        let text = fs::read_to_string(&log).unwrap_or_default();
        let _ = fs::remove_file(log);
        text.lines().map(str::to_owned).collect()
    }

    /// What a plugin was given.
    fn given(&self, call: &str) -> Value {
        let text = fs::read_to_string(self.dir.path().join("calls").join(call)).unwrap();
        serde_json::from_str(&text).unwrap()
    }
}

#[tokio::test]
async fn a_chain_is_added_in_order_and_deleted_in_reverse_each_with_the_result_before_it() {
    let host = Host::new();
    host.configure("1.0.0", &["ok", "also"]);
    let (chain, addresses) = host.attach().await.unwrap();
    assert_eq!(addresses, ["10.9.0.3".parse::<IpAddr>().unwrap()]);
    assert_eq!(host.calls(), ["ADD ok", "ADD also"]);
    assert!(host.given("ADD-ok").get("prevResult").is_none());
    let before = json!({"cniVersion": "1.0.0", "ips": [{"address": "10.9.0.2/24"}]});
    assert_eq!(host.given("ADD-also")["prevResult"], before);
    let runtime = &host.given("ADD-ok")["runtimeConfig"];
    assert_eq!(
        runtime,
        &json!({
            "portMappings": [{"hostPort": 80, "containerPort": 8080, "protocol": "tcp"}],
            "bandwidth": {"ingressRate": 1_000_000, "ingressBurst": i32::MAX},
            "dns": {"servers": ["10.0.0.10"], "searches": [], "options": []},
            "ipRanges": [[{"subnet": "10.9.0.0/24"}]],
        })
    );
    host.detach(&chain).await.unwrap();
    assert_eq!(host.calls(), ["DEL also", "DEL ok"]);
    let last = json!({"cniVersion": "1.0.0", "ips": [{"address": "10.9.0.3/24"}]});
    assert_eq!(host.given("DEL-ok")["prevResult"], last);
    assert_eq!(host.given("DEL-ok")["runtimeConfig"], *runtime);
}

#[tokio::test]
async fn what_is_detached_is_what_was_attached_whatever_the_configuration_says_by_then() {
    let host = Host::new();
    host.configure("1.0.0", &["ok"]);
    let (chain, _) = host.attach().await.unwrap();
    host.configure("1.0.0", &["also"]);
    host.calls();
    host.detach(&chain).await.unwrap();
    assert_eq!(host.calls(), ["DEL ok"]);
    host.attach().await.unwrap();
    assert_eq!(host.calls(), ["ADD also"]);
}

#[tokio::test]
async fn a_failed_add_is_undone_in_full_and_names_its_plugin() {
    let host = Host::new();
    host.configure("1.0.0", &["ok", "bad-add", "also"]);
    let error = host.attach().await.unwrap_err().to_string();
    assert!(error.contains("bad-add ADD"), "{error}");
    assert_eq!(
        host.calls(),
        ["ADD ok", "ADD bad-add", "DEL also", "DEL bad-add", "DEL ok"]
    );
    assert!(!host.request().journal.exists());
}

#[tokio::test]
async fn one_plugin_that_cannot_undo_does_not_keep_the_others_from_it() {
    let host = Host::new();
    host.configure("1.0.0", &["ok", "bad"]);
    let error = host.attach().await.unwrap_err().to_string();
    assert!(error.contains("bad ADD: try later"), "{error}");
    assert_eq!(host.calls(), ["ADD ok", "ADD bad", "DEL bad", "DEL ok"]);
    // The next start tries again by this.
    let request = host.request();
    let unfinished = host
        .cni
        .detach_unfinished(&request.sandbox, &request.netns, &request.journal);
    unfinished.await.unwrap_err();
    assert_eq!(host.calls(), ["DEL bad", "DEL ok"]);
}

#[tokio::test]
async fn a_chain_whose_process_was_killed_is_undone_by_its_journal() {
    let host = Host::new();
    host.configure("1.0.0", &["ok"]);
    let (chain, _) = host.attach().await.unwrap();
    fs::remove_file(host.dir.path().join("net.d/10-net.conflist")).unwrap();
    host.calls();
    let request = host.request();
    for expected in [&["DEL ok"][..], &[]] {
        host.cni
            .detach_unfinished(&request.sandbox, &request.netns, &request.journal)
            .await
            .unwrap();
        assert_eq!(host.calls(), expected);
    }
    drop(chain);
}

#[tokio::test]
async fn a_result_of_no_use_is_an_error_that_names_network_and_plugin() {
    let host = Host::new();
    host.configure("1.0.0", &["mute"]);
    let error = host.attach().await.unwrap_err().to_string();
    assert!(
        error.contains("network net: plugin mute") && error.contains("nothing"),
        "{error}"
    );
    host.configure("1.0.0", &["none"]);
    let error = host.attach().await.unwrap_err().to_string();
    assert!(error.contains("no address"), "{error}");
}

#[tokio::test]
async fn results_are_translated_to_the_version_of_the_list() {
    let host = Host::new();
    host.configure("1.1.0", &["old", "ok"]);
    host.attach().await.unwrap();
    assert_eq!(
        host.given("ADD-ok")["prevResult"],
        json!({"cniVersion": "1.1.0", "ips": [{"address": "10.9.0.4/24"}]})
    );
}

#[tokio::test]
async fn calls_that_a_version_does_not_know_are_not_made() {
    let host = Host::new();
    let request = host.request();
    for (version, expected) in [
        ("0.3.1", &["ADD ok", "DEL ok"][..]),
        ("0.4.0", &["ADD ok", "CHECK ok", "DEL ok"]),
        ("1.1.0", &["STATUS ok", "GC ok", "ADD ok", "CHECK ok", "DEL ok"]),
    ] {
        host.configure(version, &["ok"]);
        let list = host.cni.configured().unwrap().unwrap().list;
        assert!(host.cni.problem(&list).await.is_none());
        host.cni.collect_garbage(&list, &[SandboxId::from("s9")]).await;
        let (chain, _) = host.attach().await.unwrap();
        host.cni
            .check(&request.sandbox, &request.netns, &chain)
            .await
            .unwrap();
        host.detach(&chain).await.unwrap();
        assert_eq!(host.calls(), expected, "{version}");
        let known = host.given("DEL-ok").get("prevResult").is_some();
        assert_eq!(known, version != "0.3.1", "{version}");
    }
    assert_eq!(
        host.given("GC-ok")["cni.dev/valid-attachments"],
        json!([{"containerID": "s9", "ifname": "eth0"}])
    );
    host.configure("1.1.0", &["bad"]);
    let list = host.cni.configured().unwrap().unwrap().list;
    let problem = host.cni.problem(&list).await.unwrap().to_string();
    assert!(problem.contains("bad STATUS: try later"), "{problem}");
}

#[test]
fn a_pods_names_are_passed_on_where_the_list_can_hold_them() {
    let args = cni_args(&Host::new().request());
    assert_eq!(
        args,
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=s1"
    );
}
