//! What lies below every CRI server on containerd: one container by containerd's own API, and by the OCI runtime.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::Context as _;
use clone8s_integration::{Containerd, Sandbox, command};
use containerd_client::{
    services::v1::{
        self as api,
        containers_client::ContainersClient,
        snapshots::{
            ListSnapshotsRequest, PrepareSnapshotRequest, RemoveSnapshotRequest,
            snapshots_client::SnapshotsClient,
        },
        tasks_client::TasksClient,
    },
    with_namespace,
};
use serde_json::{Value, json};
use tokio::time::Instant;
use tonic::Request;

use crate::samples::Samples;

const NAMESPACE: &str = "floor";
const SNAPSHOTTER: &str = "overlayfs";

/// The floors, step by step.
#[derive(Debug, Default)]
pub(super) struct Floors {
    /// containerd: container object and snapshot; task; start.
    pub(super) object: Samples,
    pub(super) task: Samples,
    pub(super) start: Samples,
    pub(super) whole: Samples,
    pub(super) runtime_create: Samples,
    pub(super) runtime_start: Samples,
    pub(super) runtime_whole: Samples,
}

pub(super) async fn measure(containerd: &Containerd, sandbox: &Sandbox, runs: u32) -> anyhow::Result<Floors> {
    let archive = sandbox.dir().join("image.tar");
    containerd.ctr(NAMESPACE, &["images", "import", &archive.display().to_string()])?;
    let spec: Value = serde_json::from_str(&containerd.ctr(NAMESPACE, &["oci", "spec"])?)?;
    let bundle = sandbox.make_dir("bundle");
    fs::create_dir_all(bundle.join("rootfs/bin"))?;
    fs::copy("/bin/busybox", bundle.join("rootfs/bin/busybox"))?;
    std::os::unix::fs::symlink("busybox", bundle.join("rootfs/bin/sleep"))?;
    let mut floors = Floors::default();
    let parent = top_snapshot(containerd).await?;
    for number in 0..runs {
        let id = format!("floor-{}-{number}", sandbox.id());
        let spec = host_sleep(spec.clone(), &id);
        containerd_once(containerd, &id, &parent, &spec, &mut floors)
            .await
            .with_context(|| format!("container {id} by containerd's API"))?;
        fs::write(bundle.join("config.json"), spec.to_string())?;
        runtime_once(sandbox, &bundle, &format!("{id}-runc"), &mut floors)?;
    }
    Ok(floors)
}

/// The default specification, for a `sleep` on the host's network.
fn host_sleep(mut spec: Value, id: &str) -> Value {
    spec["process"]["args"] = json!(["/bin/sleep", "1000000"]);
    spec["process"]["env"] = json!(["PATH=/bin"]);
    spec["linux"]["cgroupsPath"] = json!(format!("/c8bench-floor/{id}"));
    if let Some(namespaces) = spec["linux"]["namespaces"].as_array_mut() {
        namespaces.retain(|namespace| namespace["type"] != "network");
    }
    spec
}

fn within<T>(message: T) -> Request<T> {
    let request = message;
    with_namespace!(request, NAMESPACE)
}

/// The image has one layer: its snapshot is the one without a parent.
async fn top_snapshot(containerd: &Containerd) -> anyhow::Result<String> {
    let request = ListSnapshotsRequest {
        snapshotter: SNAPSHOTTER.into(),
        ..Default::default()
    };
    let mut parts = SnapshotsClient::new(containerd.channel())
        .list(within(request))
        .await?
        .into_inner();
    while let Some(part) = parts.message().await? {
        if let Some(found) = part.info.into_iter().find(|info| info.parent.is_empty()) {
            return Ok(found.name);
        }
    }
    anyhow::bail!("the imported image has no snapshot")
}

async fn containerd_once(
    containerd: &Containerd,
    id: &str,
    parent: &str,
    spec: &Value,
    floors: &mut Floors,
) -> anyhow::Result<()> {
    let (channel, id) = (containerd.channel(), id.to_owned());
    let mut snapshots = SnapshotsClient::new(channel.clone());
    let mut containers = ContainersClient::new(channel.clone());
    let mut tasks = TasksClient::new(channel);
    // Connected before the clock runs, as every server is.
    tasks.list(within(api::ListTasksRequest::default())).await?;
    let began = Instant::now();
    let container = api::Container {
        id: id.clone(),
        runtime: Some(api::container::Runtime {
            name: "io.containerd.runc.v2".into(),
            options: None,
        }),
        snapshotter: SNAPSHOTTER.into(),
        snapshot_key: id.clone(),
        spec: Some(prost_types::Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Spec".into(),
            value: spec.to_string().into_bytes(),
        }),
        ..Default::default()
    };
    containers
        .create(within(api::CreateContainerRequest {
            container: Some(container),
        }))
        .await?;
    let prepare = PrepareSnapshotRequest {
        snapshotter: SNAPSHOTTER.into(),
        key: id.clone(),
        parent: parent.to_owned(),
        ..Default::default()
    };
    let rootfs = snapshots.prepare(within(prepare)).await?.into_inner().mounts;
    let made = Instant::now();
    let request = api::CreateTaskRequest {
        container_id: id.clone(),
        rootfs,
        ..Default::default()
    };
    tasks.create(within(request)).await?;
    let created = Instant::now();
    tasks
        .start(within(api::StartRequest {
            container_id: id.clone(),
            ..Default::default()
        }))
        .await?;
    floors.start.push(created.elapsed());
    floors.whole.push(began.elapsed());
    floors.object.push(made - began);
    floors.task.push(created - made);

    tasks
        .kill(within(api::KillRequest {
            container_id: id.clone(),
            signal: 9,
            ..Default::default()
        }))
        .await?;
    tasks
        .wait(within(api::WaitRequest {
            container_id: id.clone(),
            ..Default::default()
        }))
        .await?;
    tasks
        .delete(within(api::DeleteTaskRequest {
            container_id: id.clone(),
        }))
        .await?;
    containers
        .delete(within(api::DeleteContainerRequest { id: id.clone() }))
        .await?;
    snapshots
        .remove(within(RemoveSnapshotRequest {
            snapshotter: SNAPSHOTTER.into(),
            key: id,
        }))
        .await?;
    Ok(())
}

fn runtime_once(sandbox: &Sandbox, bundle: &Path, id: &str, floors: &mut Floors) -> anyhow::Result<()> {
    let root = sandbox.dir().join("runc-root");
    let runc = |words: &str| -> anyhow::Result<Duration> {
        // The container keeps its runtime's output, which nobody waits for.
        let line = format!(
            "exec runc --root {} {words} </dev/null >/dev/null 2>&1",
            root.display()
        );
        let began = Instant::now();
        command::run(Command::new("sh").args(["-c", &line]))?;
        Ok(began.elapsed())
    };
    let create = runc(&format!("create --bundle {} {id}", bundle.display()))?;
    let start = runc(&format!("start {id}"))?;
    floors.runtime_create.push(create);
    floors.runtime_start.push(start);
    floors.runtime_whole.push(create + start);
    runc(&format!("delete --force {id}"))?;
    Ok(())
}
