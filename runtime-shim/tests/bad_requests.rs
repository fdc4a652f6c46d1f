//! Requests that cannot be met: the code, the text that names what is wrong, and that nothing has changed.

#![allow(clippy::large_futures, reason = "a test holds whole CRI messages")]
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

#[path = "rig/mod.rs"]
mod rig;

use std::{collections::BTreeSet, fs, future::Future, pin::Pin};

use clone8s::cri;
use tonic::{Code, Status};

use self::rig::{BUSYBOX, Rig, script, security};

/// Everything that a call could change, by name.
async fn everything(rig: &Rig) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for sandbox in rig.list_sandboxes().await {
        all.insert(format!("sandbox {} {:?}", sandbox.id, sandbox.state()));
    }
    let containers = rig
        .runtime()
        .list_containers(cri::ListContainersRequest { filter: None })
        .await
        .unwrap()
        .into_inner()
        .containers;
    for container in containers {
        let status = rig.status(&container.id).await.unwrap();
        all.insert(format!("container {} {status:?}", container.id));
    }
    let images = rig
        .images()
        .list_images(cri::ListImagesRequest { filter: None })
        .await
        .unwrap()
        .into_inner()
        .images;
    all.extend(images.iter().map(|image| format!("image {}", image.id)));
    for list in [
        ["containers", "list"],
        ["snapshots", "list"],
        ["tasks", "list"],
        ["leases", "list"],
    ] {
        let text = rig.containerd.ctr("clone8s", &list).expect("ctr works");
        all.extend(text.lines().map(|line| format!("{}: {line}", list[0])));
    }
    let mut folders = vec![rig.dir.dir().join("state"), rig.dir.dir().join("volumes")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            all.insert(format!("file {}", entry.path().display()));
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            }
        }
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let own = rig.dir.dir().display().to_string();
    all.extend(
        mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(4))
            .filter(|point| point.starts_with(&own))
            .map(|point| format!("mount {point}")),
    );
    all
}

type Call<'a> = Pin<Box<dyn Future<Output = Result<(), Status>> + 'a>>;

struct Bad<'a> {
    name: String,
    call: Call<'a>,
    code: Code,
    text: String,
}

fn bad<'a>(
    name: &str,
    code: Code,
    text: &str,
    call: impl Future<Output = Result<(), Status>> + 'a,
) -> Bad<'a> {
    Bad {
        name: name.to_owned(),
        call: Box::pin(call),
        code,
        text: text.to_owned(),
    }
}

async fn check(rig: &Rig, requests: Vec<Bad<'_>>) {
    let before = everything(rig).await;
    let mut wrong = Vec::new();
    for request in requests {
        match request.call.await {
            Ok(()) => wrong.push(format!("{}: not refused", request.name)),
            Err(status) if status.code() != request.code || !status.message().contains(&request.text) => {
                wrong.push(format!(
                    "{}: {:?} {}",
                    request.name,
                    status.code(),
                    status.message()
                ));
            }
            Err(_) => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let after = everything(rig).await;
    let changed: Vec<_> = before.symmetric_difference(&after).collect();
    assert!(changed.is_empty(), "changed: {changed:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_that_cannot_be_is_refused_by_its_field_and_leaves_nothing() {
    use cri::NamespaceMode;
    let rig = Rig::start().await;
    let ready = rig.run_sandbox(rig.host_pod("ready")).await.unwrap();
    let changed = |change: &dyn Fn(&mut cri::PodSandboxConfig)| {
        let mut config = rig.pod("bad");
        change(&mut config);
        rig.run_sandbox(config)
    };
    let run = |field: &str, change: &dyn Fn(&mut cri::PodSandboxConfig)| {
        let call = changed(change);
        bad(field, Code::InvalidArgument, field, async move {
            call.await.map(drop)
        })
    };
    let dns = |servers: &[&str], searches: &[&str], options: &[&str]| {
        let strings = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        Some(cri::DnsConfig {
            servers: strings(servers),
            searches: strings(searches),
            options: strings(options),
        })
    };
    let users = |length: u32| {
        let range = || {
            vec![cri::IdMapping {
                host_id: 1 << 20,
                container_id: 0,
                length,
            }]
        };
        Some(cri::UserNamespace {
            mode: NamespaceMode::Pod.into(),
            uids: range(),
            gids: range(),
        })
    };
    let requests = vec![
        bad("no config", Code::InvalidArgument, "config: missing", async {
            rig.runtime()
                .run_pod_sandbox(cri::RunPodSandboxRequest::default())
                .await
                .map(drop)
        }),
        bad(
            "an unknown handler",
            Code::InvalidArgument,
            "runtime_handler",
            async {
                let request = cri::RunPodSandboxRequest {
                    config: Some(rig.pod("bad")),
                    runtime_handler: "nope".into(),
                };
                rig.runtime().run_pod_sandbox(request).await.map(drop)
            },
        ),
        bad("the same again", Code::AlreadyExists, &ready, async {
            rig.run_sandbox(rig.host_pod("ready")).await.map(drop)
        }),
        run("config.metadata", &|config| config.metadata = None),
        run("config.metadata.name", &|config| {
            config.metadata.as_mut().unwrap().name.clear();
        }),
        run("config.hostname", &|config| {
            config.hostname = "a b\n127.0.0.1 evil".into();
        }),
        run("config.log_directory", &|config| {
            config.log_directory = "logs".into();
        }),
        run("config.log_directory", &|config| {
            config.log_directory = "/logs/../etc".into();
        }),
        run("config.dns_config.servers[1]", &|config| {
            config.dns_config = dns(&["10.0.0.1", "10.0.0.2\noptions x"], &[], &[]);
        }),
        run("config.dns_config.searches[0]", &|config| {
            config.dns_config = dns(&[], &["a b"], &[]);
        }),
        run("config.dns_config.options[0]", &|config| {
            config.dns_config = dns(&[], &[], &[""]);
        }),
        run("port_mappings", &|config| {
            config.port_mappings.push(cri::PortMapping {
                host_port: 70_000,
                container_port: 80,
                ..Default::default()
            });
        }),
        run("clone8s.io/pod-ip", &|config| {
            config
                .annotations
                .insert("clone8s.io/pod-ip".into(), "ten".into());
        }),
        run("config.linux.cgroup_parent", &|config| {
            config.linux.as_mut().unwrap().cgroup_parent = "/kubepods/../../system".into();
        }),
        run("config.linux.sysctls[kernel.panic]", &|config| {
            config.linux.as_mut().unwrap().sysctls = [("kernel.panic".to_owned(), "1".to_owned())].into();
        }),
        run("config.linux.sysctls[net.../../kernel/panic]", &|config| {
            config.linux.as_mut().unwrap().sysctls =
                [("net.../../kernel/panic".to_owned(), "1".to_owned())].into();
        }),
        run("config.linux.resources.cpu_period", &|config| {
            config.linux.as_mut().unwrap().resources = Some(cri::LinuxContainerResources {
                cpu_period: 1,
                ..Default::default()
            });
        }),
        run("namespace_options.network", &|config| {
            rig::namespaces(config).network = NamespaceMode::Container.into();
        }),
        run("namespace_options.pid", &|config| {
            rig::namespaces(config).pid = NamespaceMode::Target.into();
        }),
        run("userns_options.uids", &|config| {
            rig::namespaces(config).userns_options = users(0);
        }),
        run("namespace_options.userns_options", &|config| {
            rig::namespaces(config).userns_options = users(1 << 16);
            rig::namespaces(config).pid = NamespaceMode::Node.into();
        }),
    ];
    check(&rig, requests).await;
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_cannot_be_is_refused_by_its_field_and_leaves_nothing() {
    let rig = Rig::start().await;
    let pod = rig.run_sandbox(rig.host_pod("web")).await.unwrap();
    let taken = rig.create(&pod, script("taken", "true")).await.unwrap();
    let stopped = rig.run_sandbox(rig.host_pod("stopped")).await.unwrap();
    rig.stop_sandbox(&stopped).await.unwrap();
    let volumes = rig.dir.make_dir("volumes").display().to_string();
    let create = |field: &str, change: &dyn Fn(&mut cri::ContainerConfig)| {
        let mut config = script("bad", "true");
        // What is made for a good one must not be made for a bad one.
        config.mounts.push(cri::Mount {
            container_path: "/volume".into(),
            host_path: format!("{volumes}/missing"),
            ..Default::default()
        });
        change(&mut config);
        let call = rig.create(&pod, config);
        bad(field, Code::InvalidArgument, field, async move {
            call.await.map(drop)
        })
    };
    let mount = |container_path: &str, host_path: &str| cri::Mount {
        container_path: container_path.into(),
        host_path: host_path.into(),
        ..Default::default()
    };
    let requests = vec![
        bad("no config", Code::InvalidArgument, "config: missing", async {
            let request = cri::CreateContainerRequest {
                pod_sandbox_id: pod.clone(),
                ..Default::default()
            };
            rig.runtime().create_container(request).await.map(drop)
        }),
        bad("no sandbox", Code::InvalidArgument, "pod_sandbox_id", async {
            rig.create("", script("bad", "true")).await.map(drop)
        }),
        bad("an unknown sandbox", Code::NotFound, "sandbox unknown", async {
            rig.create("unknown", script("bad", "true")).await.map(drop)
        }),
        bad(
            "a stopped sandbox",
            Code::FailedPrecondition,
            "not ready",
            async { rig.create(&stopped, script("bad", "true")).await.map(drop) },
        ),
        bad("the same again", Code::AlreadyExists, &taken, async {
            rig.create(&pod, script("taken", "true")).await.map(drop)
        }),
        bad("an unknown image", Code::NotFound, "localhost/nope:1", async {
            let mut config = script("bad", "true");
            config.image.as_mut().unwrap().image = "localhost/nope:1".into();
            rig.create(&pod, config).await.map(drop)
        }),
        create("config.metadata", &|config| config.metadata = None),
        create("config.metadata.name", &|config| {
            config.metadata.as_mut().unwrap().name.clear();
        }),
        create("config.image.image", &|config| config.image = None),
        create("config.command[0]", &|config| {
            config.command = vec!["a\0b".into()];
        }),
        create("config.args[1]", &|config| {
            config.args = vec![String::new(), "\0".into()];
        }),
        create("config.envs", &|config| {
            config.envs.push(cri::KeyValue {
                key: "A=B".into(),
                value: "c".into(),
            });
        }),
        create("config.envs[0].value", &|config| {
            config.envs.push(cri::KeyValue {
                key: "A".into(),
                value: "b\0".into(),
            });
        }),
        create("config.working_dir", &|config| {
            config.working_dir = "relative".into();
        }),
        create("config.working_dir", &|config| {
            config.working_dir = "/a/../../b".into();
        }),
        create("config.log_path", &|config| {
            config.log_path = "../../etc/cron.d/x".into();
        }),
        create("config.log_path", &|config| {
            config.log_path = "/etc/cron.d/x".into();
        }),
        create("config.mounts[1].container_path", &|config| {
            config.mounts.push(mount("data", "/srv"));
        }),
        create("config.mounts[1].container_path", &|config| {
            config.mounts.push(mount("/data/../../etc", "/srv"));
        }),
        create("config.mounts[1].host_path", &|config| {
            config.mounts.push(mount("/data", "srv"));
        }),
        create("config.mounts[1].host_path", &|config| {
            config.mounts.push(mount("/data", ""));
        }),
        create("config.mounts[1].host_path", &|config| {
            config.mounts.push(mount("/data", "/srv/../etc"));
        }),
        create("config.mounts[1].image_sub_path", &|config| {
            let image = Some(cri::ImageSpec {
                image: BUSYBOX.into(),
                ..Default::default()
            });
            config.mounts.push(cri::Mount {
                image,
                image_sub_path: "../escape".into(),
                ..mount("/data", "")
            });
        }),
        create("config.mounts[1].recursive_read_only", &|config| {
            config.mounts.push(cri::Mount {
                recursive_read_only: true,
                ..mount("/data", "/srv")
            });
        }),
        create("config.mounts[1].gids", &|config| {
            config.mounts.push(cri::Mount {
                uid_mappings: vec![cri::IdMapping {
                    host_id: 1,
                    container_id: 0,
                    length: 1,
                }],
                ..mount("/data", "/srv")
            });
        }),
        create("config.devices[0].host_path", &|config| {
            config.devices.push(cri::Device {
                container_path: "/dev/x".into(),
                host_path: "/etc/passwd".into(),
                permissions: "rwm".into(),
            });
        }),
        create("config.CDI_devices", &|config| {
            config.cdi_devices.push(cri::CdiDevice {
                name: "not a device".into(),
            });
        }),
        create("config.linux.resources.cpu_quota", &|config| {
            config.linux.get_or_insert_default().resources = Some(cri::LinuxContainerResources {
                cpu_quota: 5,
                ..Default::default()
            });
        }),
        create("config.linux.security_context.capabilities", &|config| {
            security(config).capabilities = Some(cri::Capability {
                add_capabilities: vec!["FLY".into()],
                ..Default::default()
            });
        }),
        create("config.linux.security_context.run_as_group", &|config| {
            security(config).run_as_group = Some(cri::Int64Value { value: 5 });
        }),
        create("config.linux.security_context", &|config| {
            security(config).run_as_username = "nosuchuser".into();
        }),
        create("config.linux.security_context.supplemental_groups", &|config| {
            security(config).supplemental_groups = vec![-1];
        }),
        create("config.linux.security_context.privileged", &|config| {
            security(config).privileged = true;
        }),
        create("config.linux.security_context.masked_paths[0]", &|config| {
            security(config).masked_paths = vec!["proc".into()];
        }),
        create("config.linux.security_context.seccomp.localhost_ref", &|config| {
            security(config).seccomp = Some(cri::SecurityProfile {
                profile_type: cri::security_profile::ProfileType::Localhost.into(),
                localhost_ref: "/no/such/profile.json".into(),
            });
        }),
        create("namespace_options.target_id", &|config| {
            security(config).namespace_options = Some(cri::NamespaceOption {
                pid: cri::NamespaceMode::Target.into(),
                target_id: "unknown".into(),
                ..Default::default()
            });
        }),
    ];
    check(&rig, requests).await;
    rig.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_for_what_is_not_there_or_not_in_the_right_state_say_so() {
    let rig = Rig::start().await;
    let pod = rig.run_sandbox(rig.host_pod("web")).await.unwrap();
    let created = rig.create(&pod, script("created", "true")).await.unwrap();
    let running = rig.run(&pod, script("running", "exec sleep 1000")).await;
    let ended = rig.run(&pod, script("ended", "true")).await;
    rig.exited(&ended).await;
    let limits = || {
        Some(cri::LinuxContainerResources {
            cpu_shares: 5,
            ..Default::default()
        })
    };
    let update = |id: &str| cri::UpdateContainerResourcesRequest {
        container_id: id.to_owned(),
        linux: limits(),
        ..Default::default()
    };
    let exec = |id: &str, cmd: &[&str]| cri::ExecSyncRequest {
        container_id: id.to_owned(),
        cmd: cmd.iter().map(|&word| word.to_owned()).collect(),
        timeout: 5,
    };
    let reopen = |id: &str| cri::ReopenContainerLogRequest {
        container_id: id.to_owned(),
    };
    let runtime = || rig.runtime();
    let mut requests = Vec::new();
    for (id, code, what) in [
        ("", Code::InvalidArgument, "container_id: missing"),
        ("unknown", Code::NotFound, "container unknown"),
    ] {
        requests.extend([
            bad(
                &format!("StartContainer {id:?}"),
                code,
                what,
                rig.start_container(id),
            ),
            bad(&format!("ContainerStatus {id:?}"), code, what, async move {
                rig_status(runtime(), id).await
            }),
            bad(
                &format!("UpdateContainerResources {id:?}"),
                code,
                what,
                async move { runtime().update_container_resources(update(id)).await.map(drop) },
            ),
            bad(&format!("ExecSync {id:?}"), code, what, async move {
                runtime().exec_sync(exec(id, &["true"])).await.map(drop)
            }),
            bad(&format!("ReopenContainerLog {id:?}"), code, what, async move {
                runtime().reopen_container_log(reopen(id)).await.map(drop)
            }),
            bad(&format!("ContainerStats {id:?}"), code, what, async move {
                let request = cri::ContainerStatsRequest {
                    container_id: id.to_owned(),
                };
                runtime().container_stats(request).await.map(drop)
            }),
        ]);
    }
    for (id, code, what) in [
        ("", Code::InvalidArgument, "pod_sandbox_id: missing"),
        ("unknown", Code::NotFound, "sandbox unknown"),
    ] {
        requests.extend([
            bad(&format!("PodSandboxStatus {id:?}"), code, what, async move {
                let request = cri::PodSandboxStatusRequest {
                    pod_sandbox_id: id.to_owned(),
                    verbose: false,
                };
                runtime().pod_sandbox_status(request).await.map(drop)
            }),
            bad(&format!("PodSandboxStats {id:?}"), code, what, async move {
                let request = cri::PodSandboxStatsRequest {
                    pod_sandbox_id: id.to_owned(),
                };
                runtime().pod_sandbox_stats(request).await.map(drop)
            }),
            bad(
                &format!("UpdatePodSandboxResources {id:?}"),
                code,
                what,
                async move {
                    let request = cri::UpdatePodSandboxResourcesRequest {
                        pod_sandbox_id: id.to_owned(),
                        ..Default::default()
                    };
                    runtime().update_pod_sandbox_resources(request).await.map(drop)
                },
            ),
        ]);
    }
    let wrong_state = Code::FailedPrecondition;
    requests.extend([
        bad(
            "stop without an id",
            Code::InvalidArgument,
            "container_id",
            rig.stop("", 0),
        ),
        bad(
            "remove without an id",
            Code::InvalidArgument,
            "container_id",
            rig.remove(""),
        ),
        bad(
            "stop a sandbox without an id",
            Code::InvalidArgument,
            "pod_sandbox_id",
            rig.stop_sandbox(""),
        ),
        bad(
            "remove a sandbox without an id",
            Code::InvalidArgument,
            "pod_sandbox_id",
            rig.remove_sandbox(""),
        ),
        bad(
            "start what runs",
            wrong_state,
            "is running",
            rig.start_container(&running),
        ),
        bad(
            "start what has ended",
            wrong_state,
            "is exited",
            rig.start_container(&ended),
        ),
        bad("exec in what has not started", wrong_state, "is created", async {
            runtime().exec_sync(exec(&created, &["true"])).await.map(drop)
        }),
        bad("exec in what has ended", wrong_state, "is exited", async {
            runtime().exec_sync(exec(&ended, &["true"])).await.map(drop)
        }),
        bad("exec of nothing", Code::InvalidArgument, "cmd", async {
            runtime().exec_sync(exec(&running, &[])).await.map(drop)
        }),
        bad("limits of what has ended", wrong_state, "is exited", async {
            runtime()
                .update_container_resources(update(&ended))
                .await
                .map(drop)
        }),
        bad(
            "no limits at all",
            Code::InvalidArgument,
            "linux: missing",
            async {
                let request = cri::UpdateContainerResourcesRequest {
                    linux: None,
                    ..update(&running)
                };
                runtime().update_container_resources(request).await.map(drop)
            },
        ),
        bad("the log of what has ended", wrong_state, "is exited", async {
            runtime().reopen_container_log(reopen(&ended)).await.map(drop)
        }),
    ]);
    check(&rig, requests).await;
    rig.finish().await;
}

async fn rig_status(
    mut client: cri::runtime_service_client::RuntimeServiceClient<tonic::transport::Channel>,
    id: &str,
) -> Result<(), Status> {
    let request = cri::ContainerStatusRequest {
        container_id: id.to_owned(),
        verbose: false,
    };
    client.container_status(request).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_can_be_repeated_succeed_for_what_is_gone_and_what_never_was() {
    let rig = Rig::start().await;
    let pod = rig.run_sandbox(rig.host_pod("web")).await.unwrap();
    let created = rig.create(&pod, script("created", "true")).await.unwrap();
    let before = everything(&rig).await;
    for id in ["unknown", &created] {
        // A container that has not started has nothing to stop.
        for timeout in [0, 10, -1, i64::MIN, i64::MAX] {
            rig.stop(id, timeout).await.unwrap();
        }
    }
    rig.remove("unknown").await.unwrap();
    rig.stop_sandbox("unknown").await.unwrap();
    rig.remove_sandbox("unknown").await.unwrap();
    let image = Some(cri::ImageSpec {
        image: "localhost/never:1".into(),
        ..Default::default()
    });
    rig.images()
        .remove_image(cri::RemoveImageRequest { image })
        .await
        .unwrap();
    assert_eq!(everything(&rig).await, before);

    // A long time limit does not keep a container that ends when it is asked to.
    let polite = script(
        "polite",
        "trap 'exit 0' TERM; echo up; while true; do sleep 0.1; done",
    );
    let polite = rig.run(&pod, polite).await;
    rig.log_becomes("polite.log", &["stdout F up"]).await;
    rig.stop(&polite, i64::MAX).await.unwrap();
    assert_eq!(rig.status(&polite).await.unwrap().exit_code, 0);
    // A negative one is none.
    let deaf = rig
        .run(
            &pod,
            script("deaf", "trap '' TERM; while true; do sleep 0.1; done"),
        )
        .await;
    rig.stop(&deaf, -1).await.unwrap();
    assert_eq!(rig.status(&deaf).await.unwrap().exit_code, 137);
    for _ in 0..2 {
        rig.remove(&created).await.unwrap();
        rig.stop_sandbox(&pod).await.unwrap();
        rig.remove_sandbox(&pod).await.unwrap();
    }
    rig.finish().await;
}
