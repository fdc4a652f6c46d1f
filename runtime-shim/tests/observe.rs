//! What the runtime tells of itself and of what it runs: statistics, metrics, events, status, and no call that it does
//! not know.

#![allow(clippy::large_futures, reason = "a test holds whole CRI messages")]

#[path = "rig/mod.rs"]
mod rig;

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::ensure;
use clone8s::cri::{self, ContainerEventType as Kind};
use clone8s_integration::{command, wait};
use tonic::{Code, Request, client::Grpc, codegen::http::uri::PathAndQuery};
use tonic_prost::ProstCodec;

use self::rig::{Rig, script};

/// The facts of CRI's interface.
const FACTS: &str = include_str!("../../proto/runtime/v1/api.tsv");

/// Uses the processor, and has written a mebibyte.
const WORK: &str = "head -c 1048576 /dev/zero >/written; while true; do :; done";

fn value(of: Option<cri::UInt64Value>) -> u64 {
    of.expect("a number").value
}

fn unified() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_of_the_interface_is_unknown() {
    let rig = Rig::start().await;
    let mut unknown = Vec::new();
    let mut called = 0;
    for line in FACTS.lines() {
        let mut words = line.split('\t');
        let (Some("rpc"), Some(service), Some(call)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let is_stream = words.nth(1).is_some_and(|output| output.starts_with("stream "));
        let path: PathAndQuery = format!("/{service}/{call}").parse().expect("a path");
        let mut client = Grpc::new(rig.channel());
        client.ready().await.expect("the shim answers");
        // Every message of CRI may be empty on the wire.
        let codec = ProstCodec::<(), ()>::default();
        let outcome = if is_stream {
            let reply = client.server_streaming(Request::new(()), path, codec).await;
            reply.map(drop)
        } else {
            client.unary(Request::new(()), path, codec).await.map(drop)
        };
        called += 1;
        if outcome.is_err_and(|status| status.code() == Code::Unimplemented) {
            unknown.push(call);
        }
    }
    assert!(called > 40, "{called} calls in the facts");
    assert_eq!(unknown, Vec::<&str>::new());
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_of_a_pod_are_those_of_the_kernel() {
    let rig = Rig::start().await;
    let pod = rig.run_sandbox(rig.pod("web")).await.unwrap();
    let id = rig.run(&pod, script("main", WORK)).await;
    let idle = rig.create(&pod, script("idle", "true")).await.unwrap();
    let stats = wait::until("the container has used the processor and the disk", || async {
        let request = cri::ContainerStatsRequest {
            container_id: id.clone(),
        };
        let reply = rig.runtime().container_stats(request).await?.into_inner();
        let stats = reply.stats.expect("statistics");
        let cpu = stats.cpu.as_ref().expect("a processor");
        ensure!(
            cpu.usage_nano_cores.as_ref().is_some_and(|rate| rate.value > 0),
            "{cpu:?}"
        );
        let layer = stats.writable_layer.clone().expect("a layer");
        // Measured again ten seconds after it was measured too early.
        ensure!(value(layer.used_bytes) >= 1 << 20, "{layer:?}");
        Ok(stats)
    })
    .await;
    let memory = stats.memory.expect("memory");
    assert!(value(memory.usage_bytes) >= value(memory.working_set_bytes));
    assert!(value(memory.working_set_bytes) > 0 && value(memory.page_faults) > 0);
    assert!(value(memory.rss_bytes) > 0);
    let pressure = unified() && Path::new("/proc/pressure/cpu").exists();
    assert_eq!(stats.cpu.unwrap().psi.is_some(), pressure);
    assert_eq!(stats.io.is_some(), pressure);
    assert!(stats.swap.is_some());

    let filter = cri::PodSandboxStatsFilter {
        label_selector: BTreeMap::from([("app".to_owned(), "web".to_owned())]),
        ..Default::default()
    };
    let request = cri::ListPodSandboxStatsRequest { filter: Some(filter) };
    let listed = rig
        .runtime()
        .list_pod_sandbox_stats(request)
        .await
        .unwrap()
        .into_inner()
        .stats;
    assert_eq!(listed.len(), 1);
    let linux = listed[0].linux.as_ref().unwrap();
    assert!(value(linux.cpu.as_ref().unwrap().usage_core_nano_seconds) > 0);
    assert!(value(linux.process.as_ref().unwrap().process_count) > 0);
    let network = linux.network.as_ref().unwrap();
    assert_eq!(network.default_interface.as_ref().unwrap().name, "eth0");
    let containers: Vec<_> = linux.containers.iter().collect();
    assert_eq!(containers.len(), 2);
    let resting = containers
        .iter()
        .find(|it| it.attributes.as_ref().unwrap().id == idle);
    assert!(
        resting.unwrap().cpu.is_none(),
        "one that does not run uses nothing"
    );

    let mut streamed = rig
        .runtime()
        .stream_container_stats(cri::StreamContainerStatsRequest { filter: None })
        .await
        .unwrap()
        .into_inner();
    let part = streamed.message().await.unwrap().unwrap();
    assert_eq!(part.container_stats.len(), 2);
    assert!(streamed.message().await.unwrap().is_none());
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_what_their_descriptors_say() {
    let rig = Rig::start().await;
    let pod = rig.run_sandbox(rig.pod("web")).await.unwrap();
    rig.run(&pod, script("main", WORK)).await;
    let described: BTreeMap<_, _> = rig
        .runtime()
        .list_metric_descriptors(cri::ListMetricDescriptorsRequest {})
        .await
        .unwrap()
        .into_inner()
        .descriptors
        .into_iter()
        .map(|metric| (metric.name, metric.label_keys))
        .collect();
    let reply = rig
        .runtime()
        .list_pod_sandbox_metrics(cri::ListPodSandboxMetricsRequest {})
        .await
        .unwrap()
        .into_inner();
    let of_pod = &reply.pod_metrics[0];
    assert_eq!(of_pod.pod_sandbox_id, pod);
    let of_container = &of_pod.container_metrics[0].metrics;
    let label = |metric: &cri::Metric, key: &str| {
        let keys = &described[&metric.name];
        let at = keys.iter().position(|it| it == key).expect("the label");
        metric.label_values[at].clone()
    };
    for metric in of_pod.metrics.iter().chain(of_container) {
        assert_eq!(
            metric.label_values.len(),
            described[&metric.name].len(),
            "{metric:?}"
        );
        assert_eq!(
            (label(metric, "pod"), label(metric, "namespace")),
            ("web".into(), "default".into())
        );
    }
    let has = |metrics: &[cri::Metric], name: &str| metrics.iter().any(|metric| metric.name == name);
    for name in [
        "container_cpu_usage_seconds_total",
        "container_memory_working_set_bytes",
        "container_start_time_seconds",
        "container_threads",
        "container_oom_events_total",
    ] {
        assert!(has(of_container, name), "{name}");
    }
    let received = "container_network_receive_bytes_total";
    let received = of_pod
        .metrics
        .iter()
        .find(|metric| metric.name == received)
        .unwrap();
    assert_eq!(label(received, "interface"), "eth0");
    assert_eq!(label(received, "container"), "");
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_tell_a_pods_life_in_its_order() {
    let rig = Rig::start().await;
    let mut events = rig
        .runtime()
        .get_container_events(cri::GetEventsRequest {})
        .await
        .unwrap()
        .into_inner();
    let pod = rig.run_sandbox(rig.host_pod("web")).await.unwrap();
    let id = rig.run(&pod, script("main", "sleep 1000")).await;
    rig.stop(&id, 0).await.unwrap();
    rig.remove(&id).await.unwrap();
    rig.stop_sandbox(&pod).await.unwrap();
    rig.remove_sandbox(&pod).await.unwrap();
    let expected = [
        (&pod, Kind::ContainerCreatedEvent),
        (&pod, Kind::ContainerStartedEvent),
        (&id, Kind::ContainerCreatedEvent),
        (&id, Kind::ContainerStartedEvent),
        (&id, Kind::ContainerStoppedEvent),
        (&id, Kind::ContainerDeletedEvent),
        (&pod, Kind::ContainerStoppedEvent),
        (&pod, Kind::ContainerDeletedEvent),
    ];
    for (whose, kind) in expected {
        let next = tokio::time::timeout(Duration::from_secs(30), events.message());
        let event = next.await.expect("an event in time").unwrap().unwrap();
        assert_eq!(
            (&event.container_id, event.container_event_type()),
            (whose, kind),
            "{event:?}"
        );
        let status = event.pod_sandbox_status.expect("the pod's status");
        assert_eq!(status.id, pod);
        // As it was then, however late it is read.
        let states: Vec<_> = event
            .containers_statuses
            .iter()
            .map(cri::ContainerStatus::state)
            .collect();
        match (whose == &id, kind) {
            (true, Kind::ContainerStartedEvent) => {
                assert_eq!(states, [cri::ContainerState::ContainerRunning]);
            }
            (true, Kind::ContainerStoppedEvent) => {
                assert_eq!(states, [cri::ContainerState::ContainerExited]);
            }
            _ => {}
        }
    }
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn info_tells_what_the_runtime_consists_of() {
    let rig = Rig::start().await;
    let pod = rig.run_sandbox(rig.host_pod("web")).await.unwrap();
    rig.create(&pod, script("main", "true")).await.unwrap();
    let reply = rig.runtime_status().await;
    let part = |name: &str| -> serde_json::Value { serde_json::from_str(&reply.info[name]).expect("JSON") };
    assert!(part("containerd")["version"].is_string());
    let plugins = part("containerd")["plugins"].clone();
    let is_overlay = |plugin: &serde_json::Value| plugin["id"] == "overlayfs" && plugin["problem"].is_null();
    assert!(plugins.as_array().unwrap().iter().any(is_overlay), "{plugins}");
    let runc = part("runtime")["handlers"]["runc"]["program"].clone();
    assert!(
        runc["version"]
            .as_str()
            .is_some_and(|version| version.contains("runc")),
        "{runc}"
    );
    let expected = if unified() { "v2" } else { "v1" };
    assert_eq!(part("host")["cgroups"], expected);
    assert_eq!(part("counts")["sandboxesReady"], 1);
    assert_eq!(part("counts")["containersCreated"], 1);
    assert_eq!(part("config")["namespace"], "clone8s");
    assert!(reply.features.unwrap().supplemental_groups_policy);
    rig.finish().await;
}

/// A program that says this of its version, and knows no features.
fn oci_runtime(path: &Path, version: &str) {
    let script = format!("#!/bin/sh\n[ \"$1\" = --version ] && echo {version}\n");
    command::write_program(path, &script).expect("a program");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_handler_is_told_with_its_reason_and_each_handler_with_its_features() {
    let programs = clone8s_integration::Sandbox::new();
    let crun = programs.dir().join("crun");
    oci_runtime(&crun, "crun version 1.9");
    let crun = format!("crun={}", crun.display());
    let handlers = ["--handler", &crun, "--handler", "absent=/nonexistent/oci"];
    for configured in [None, Some("runc")] {
        let default = configured.map(|name| ["--default-handler", name]);
        let args = [&handlers[..], default.as_ref().map_or(&[], |args| &args[..])].concat();
        let rig = Rig::start_bare(&args).await;
        let reply = rig.runtime_status().await;
        let runtime: serde_json::Value = serde_json::from_str(&reply.info["runtime"]).unwrap();
        let (name, reason) = match configured {
            Some(name) => (name, "configured"),
            None if unified() => (
                "crun",
                "crun version 1.9 is there, and the host has cgroup v2 alone",
            ),
            None => ("runc", "crun version 1.9 is there, but the host has cgroup v1"),
        };
        assert_eq!(runtime["defaultHandler"], name);
        let told = runtime["defaultHandlerReason"].as_str().unwrap();
        assert!(told.starts_with(reason), "{told}");

        let of = |name: &str| {
            let found = reply.runtime_handlers.iter().find(|handler| handler.name == name);
            let features = found
                .unwrap_or_else(|| panic!("no handler {name:?}"))
                .features
                .unwrap();
            (features.recursive_read_only_mounts, features.user_namespaces)
        };
        // The kernels that this runs on have both; runc tells it itself, crun's version tells it for crun.
        assert_eq!([of("runc"), of("crun"), of("")], [(true, true); 3]);
        assert_eq!(of("absent"), (false, false));
        // A sandbox's own is told with the sandbox.
        if configured.is_some() || !unified() {
            let pod = rig.run_sandbox(rig.host_pod("web")).await.unwrap();
            assert_eq!(rig.sandbox_info(&pod).await["runtimeHandler"], "runc");
            assert_eq!(rig.sandbox_status(&pod).await.unwrap().runtime_handler, "");
        }
        rig.finish().await;
    }
}

/// Set where a host is known to have all that a checkpoint needs.
const MUST_CHECKPOINT: &str = "CLONE8S_TEST_MUST_CHECKPOINT";

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_is_an_archive_or_tells_what_the_host_lacks() {
    let rig = Rig::start().await;
    let pod = rig.run_sandbox(rig.host_pod("web")).await.unwrap();
    let id = rig.run(&pod, script("main", "sleep 1000")).await;
    let location = rig.dir.dir().join("checkpoint.tar");
    let request = cri::CheckpointContainerRequest {
        container_id: id.clone(),
        location: location.display().to_string(),
        timeout: 60,
    };
    match rig.runtime().checkpoint_container(request.clone()).await {
        Ok(_) => {
            let mut archive = tar::Archive::new(std::fs::File::open(&location).unwrap());
            let names: Vec<_> = archive
                .entries()
                .unwrap()
                .map(|entry| entry.unwrap().path().unwrap().display().to_string())
                .collect();
            for expected in ["dump.log", "config.dump", "spec.dump", "rootfs-diff.tar"] {
                assert!(names.iter().any(|name| name == expected), "{expected}: {names:?}");
            }
            let of_processes = |name: &String| name.starts_with("checkpoint/core-");
            assert!(names.iter().any(of_processes), "{names:?}");
        }
        Err(status) => {
            assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
            let message = status.message();
            assert!(
                message.contains("CRIU") || message.contains("OCI runtime"),
                "{status:?}"
            );
            assert!(!location.exists());
            assert!(std::env::var_os(MUST_CHECKPOINT).is_none(), "{status:?}");
        }
    }
    let relative = cri::CheckpointContainerRequest {
        location: "checkpoint.tar".into(),
        ..request
    };
    let status = rig.runtime().checkpoint_container(relative).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let running = rig.status(&id).await.unwrap();
    assert_eq!(running.state(), cri::ContainerState::ContainerRunning);
    rig.finish().await;
}
