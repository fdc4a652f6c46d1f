//! Traces of the programs, as an OpenTelemetry collector gets them.
//!
//! The collector and the tests' connections go on while a test waits for a process to end: on other threads.

use std::{fs, net::TcpListener, path::PathBuf, time::Instant};

use anyhow::ensure;
use clone8s::{
    client::{Query, Resource as _},
    v1::{ConfigMap, ObjectMeta},
};
use clone8s_daemon::unix;
use clone8s_integration::{
    ControlPlane, Node, Process, Registry, Sandbox, command,
    otlp::{self, Collector, SpanKind},
    pods,
    process::free_port,
    programs::program,
    wait,
};
use rstest::rstest;

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_leads_from_a_command_to_the_store_and_from_a_pods_reconcile_to_containerd() {
    const APPLY: &str = "clone8s.v1.PodService/ApplyPod";
    const RUN: &str = "runtime.v1.RuntimeService/RunPodSandbox";
    let collector = Collector::start().await;
    let sandbox = Sandbox::with_environment(otlp::environment(collector.url()));
    let registry = Registry::shared().await;
    let plane = ControlPlane::start(&sandbox, None).await;
    let mut node = Node::start(&sandbox, "n1").await;
    node.join(&plane, None).await;
    plane.node_ready("n1").await;
    let manifest = sandbox.dir().join("web.yaml");
    let image = registry.image("busybox:1");
    fs::write(&manifest, pods::flat_yaml("web", &[("main", &image)])).unwrap();
    c8s(&plane, &collector, &["apply", "-f", manifest.to_str().unwrap()]);
    let pod = plane.running("web").await;

    wait::until("the command's trace is there", || async {
        let command = collector.find("c8s", "c8s", |span| span.parent.is_empty())?;
        let asked = collector.child(&command, "c8s", APPLY)?;
        let answered = collector.child(&asked, "apiserver", APPLY)?;
        let stored = collector.child(&answered, "apiserver", "store put")?;
        ensure!(asked.kind == SpanKind::Client && answered.kind == SpanKind::Server);
        for span in [&asked, &answered] {
            ensure!(span.attribute("rpc.system") == "grpc", "{span:?}");
            ensure!(
                span.attribute("rpc.service") == "clone8s.v1.PodService",
                "{span:?}"
            );
            ensure!(span.attribute("rpc.method") == "ApplyPod", "{span:?}");
            ensure!(span.attribute("rpc.grpc.status_code") == "0", "{span:?}");
            ensure!(!span.is_error, "{span:?}");
        }
        ensure!(
            stored.attribute("store.key") == "/clone8s/objects/pods/default/web",
            "{stored:?}"
        );
        Ok(())
    })
    .await;
    wait::until("the reconcile's trace is there", || async {
        let asked = collector.find("kubelet", RUN, |_| true)?;
        let reconcile = collector.find("kubelet", "pod", |span| asked.is_child_of(span))?;
        let answered = collector.child(&asked, "runtime-shim", RUN)?;
        let operation = collector.child(&answered, "runtime-shim", "operation")?;
        collector.find(
            "runtime-shim",
            "containerd.services.containers.v1.Containers/Create",
            |span| span.is_child_of(&operation),
        )?;
        ensure!(reconcile.attribute("namespace") == "default", "{reconcile:?}");
        ensure!(reconcile.attribute("name") == "web", "{reconcile:?}");
        let uid = &pod.metadata.as_ref().unwrap().uid;
        ensure!(reconcile.attribute("uid") == uid, "{reconcile:?}");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_fails_is_an_error_to_its_caller_and_no_span_tells_a_secret() {
    const GET: &str = "clone8s.v1.SecretService/GetSecret";
    const VALUE: &str = "correct-horse";
    let collector = Collector::start().await;
    let sandbox = Sandbox::with_environment(otlp::environment(collector.url()));
    let plane = ControlPlane::start(&sandbox, None).await;
    let absent = c8s(&plane, &collector, &["get", "secret", "absent"]);
    assert!(!absent.success, "{absent:?}");
    let manifest = sandbox.dir().join("secret.yaml");
    let secret =
        format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: key}}\nstringData: {{word: {VALUE}}}\n");
    fs::write(&manifest, secret).unwrap();
    let applied = c8s(&plane, &collector, &["apply", "-f", manifest.to_str().unwrap()]);
    assert!(applied.success, "{applied:?}");
    let token = plane.join_token("n1", 600).await;
    let kept_secret = token.split('.').nth(1).unwrap();

    wait::until("the failed call is there, and the secret's write", || async {
        let asked = collector.find("c8s", GET, |_| true)?;
        let answered = collector.child(&asked, "apiserver", GET)?;
        // NOT_FOUND, for which the server is not to blame.
        ensure!(asked.attribute("rpc.grpc.status_code") == "5" && asked.is_error);
        ensure!(answered.attribute("rpc.grpc.status_code") == "5" && !answered.is_error);
        for written in [
            "/clone8s/objects/secrets/default/key",
            "/clone8s/system/join-tokens/",
        ] {
            collector.find("apiserver", "store put", |span| {
                span.attribute("store.key").starts_with(written)
            })?;
        }
        Ok(())
    })
    .await;
    for span in collector.spans() {
        let told = format!("{span:?}");
        assert!(!told.contains(VALUE) && !told.contains(kept_secret), "{told}");
    }
}

#[tokio::test]
async fn without_a_collector_a_process_has_no_thread_that_exports() {
    let collector = Collector::start().await;
    let with = Sandbox::with_environment(otlp::environment(collector.url()));
    let without = Sandbox::new();
    for (sandbox, exporters) in [(&without, 0), (&with, 1)] {
        let mut apiserver = serving(sandbox).await;
        assert_eq!(
            threads_of_exporter(apiserver.pid()),
            exporters,
            "{}",
            apiserver.log()
        );
        apiserver.stop().unwrap();
    }
}

/// What a collector that takes no spans does with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dead {
    /// Nobody listens.
    Gone,
    /// The connection is made, and nobody ever reads it.
    Silent,
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_collector_costs_one_warning_and_no_call(#[values(Dead::Gone, Dead::Silent)] how: Dead) {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = match how {
        Dead::Gone => free_port(),
        Dead::Silent => silent.local_addr().unwrap().port(),
    };
    let environment = otlp::environment(&format!("http://127.0.0.1:{port}"));
    // A batch fails after so many milliseconds and others follow it, and there is room for fewer spans than the calls make.
    let few = [
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "200"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "64"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let sandbox = Sandbox::with_environment(environment.into_iter().chain(few));
    let mut apiserver = serving(&sandbox).await;
    let channel = unix::channel(socket(&sandbox));
    for number in 0..300 {
        let map = ConfigMap {
            metadata: Some(ObjectMeta {
                namespace: "default".to_owned(),
                name: format!("map-{number}"),
                ..ObjectMeta::default()
            }),
            ..ConfigMap::default()
        };
        ConfigMap::create(&channel, map).await.unwrap();
    }
    wait::until("the apiserver says that spans are lost", || async {
        let warnings = apiserver
            .log()
            .matches("spans do not reach the collector")
            .count();
        ensure!(warnings == 1, "{warnings} warnings");
        Ok(())
    })
    .await;
    let told = Instant::now();
    let status = apiserver.stop().unwrap();
    assert!(status.success(), "{status}\n{}", apiserver.log());
    assert!(
        told.elapsed().as_secs() < 10,
        "it took {:?} to stop",
        told.elapsed()
    );
    let warnings = apiserver
        .log()
        .matches("spans do not reach the collector")
        .count();
    assert_eq!(warnings, 1, "{}", apiserver.log());
}

fn c8s(plane: &ControlPlane, collector: &Collector, args: &[&str]) -> command::Output {
    let mut c8s = plane.c8s(args);
    c8s.envs(otlp::environment(collector.url()));
    command::output(&mut c8s).unwrap()
}

/// An apiserver alone, on its embedded store.
async fn serving(sandbox: &Sandbox) -> Process {
    let apiserver = sandbox
        .process("apiserver", program("apiserver"))
        .arg("--data-dir")
        .arg(sandbox.make_dir("apiserver"))
        .arg("--socket")
        .arg(socket(sandbox));
    let mut apiserver = apiserver.started();
    let channel = unix::channel(socket(sandbox));
    wait::until("the apiserver answers", || {
        let alive = apiserver.check_running();
        let channel = channel.clone();
        async move {
            alive?;
            ConfigMap::list_all(&channel, &Query::default()).await?;
            Ok(())
        }
    })
    .await;
    apiserver
}

fn socket(sandbox: &Sandbox) -> PathBuf {
    sandbox.dir().join("api.sock")
}

/// How many threads of a process have the exporter's name.
fn threads_of_exporter(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task"))
        .unwrap()
        .filter_map(|task| fs::read_to_string(task.unwrap().path().join("comm")).ok())
        .filter(|name| name.starts_with("OpenTelemetry"))
        .count()
}
