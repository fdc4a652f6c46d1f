//! `runtime.v1.RuntimeService`.

use std::{collections::BTreeMap, sync::Arc};

use clone8s::cri::{self, runtime_service_server::RuntimeService};
use futures::StreamExt as _;
use tokio_stream::wrappers::{BroadcastStream, errors::BroadcastStreamRecvError};
use tonic::{Request, Status};

use super::{Cri, Parts, Reply, answer, lists::in_parts};
use crate::{checkpoint, error::Error, stats, time::now_nanos};

/// The API version that this server speaks (CRI, VersionResponse).
const API_VERSION: &str = "v1";

#[tonic::async_trait]
impl RuntimeService for Cri {
    async fn version(&self, _: Request<cri::VersionRequest>) -> Reply<cri::VersionResponse> {
        answer("Version", "", async {
            Ok(cri::VersionResponse {
                // The version of the kubelet's side of the interface, not of this program.
                version: "0.1.0".into(),
                runtime_name: "clone8s".into(),
                runtime_version: env!("CARGO_PKG_VERSION").into(),
                runtime_api_version: API_VERSION.into(),
            })
        })
        .await
    }

    async fn status(&self, request: Request<cri::StatusRequest>) -> Reply<cri::StatusResponse> {
        let verbose = request.into_inner().verbose;
        answer("Status", "", async { Ok(self.shim.status(verbose).await) }).await
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<cri::RunPodSandboxRequest>,
    ) -> Reply<cri::RunPodSandboxResponse> {
        let request = request.into_inner();
        let metadata = request
            .config
            .as_ref()
            .and_then(|config| config.metadata.as_ref());
        let name = metadata
            .map(|pod| format!("{}/{}", pod.namespace, pod.name))
            .unwrap_or_default();
        answer("RunPodSandbox", &name, async {
            let config = request
                .config
                .ok_or_else(|| Error::invalid("config", "missing"))?;
            let run = Arc::clone(&self.shim).run_sandbox(config, request.runtime_handler);
            let id = self.shim.complete(run).await?;
            if let Ok(sandbox) = self.shim.table.sandbox(id.as_str()) {
                sandbox.set_answered();
            }
            Ok(cri::RunPodSandboxResponse {
                pod_sandbox_id: id.to_string(),
            })
        })
        .await
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<cri::StopPodSandboxRequest>,
    ) -> Reply<cri::StopPodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        answer("StopPodSandbox", &id, async {
            named("pod_sandbox_id", &id)?;
            self.shim
                .complete(Arc::clone(&self.shim).stop_sandbox(id.clone()))
                .await?;
            Ok(cri::StopPodSandboxResponse {})
        })
        .await
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<cri::RemovePodSandboxRequest>,
    ) -> Reply<cri::RemovePodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        answer("RemovePodSandbox", &id, async {
            named("pod_sandbox_id", &id)?;
            self.shim
                .complete(Arc::clone(&self.shim).remove_sandbox(id.clone()))
                .await?;
            Ok(cri::RemovePodSandboxResponse {})
        })
        .await
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<cri::PodSandboxStatusRequest>,
    ) -> Reply<cri::PodSandboxStatusResponse> {
        let request = request.into_inner();
        let id = request.pod_sandbox_id;
        answer("PodSandboxStatus", &id, async {
            named("pod_sandbox_id", &id)?;
            self.shim.known()?;
            let sandbox = self.shim.table.sandbox(&id)?;
            let containers = self.shim.table.containers_of(&sandbox.id);
            let info = if request.verbose {
                self.shim.sandbox_info(&sandbox).await
            } else {
                BTreeMap::new()
            };
            Ok(cri::PodSandboxStatusResponse {
                status: Some(sandbox.status()),
                info,
                containers_statuses: containers.iter().map(|container| container.status()).collect(),
                timestamp: now_nanos(),
            })
        })
        .await
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<cri::ListPodSandboxRequest>,
    ) -> Reply<cri::ListPodSandboxResponse> {
        answer("ListPodSandbox", "", async {
            Ok(cri::ListPodSandboxResponse {
                items: self.sandboxes(request.into_inner().filter)?,
            })
        })
        .await
    }

    async fn stream_pod_sandboxes(
        &self,
        request: Request<cri::StreamPodSandboxesRequest>,
    ) -> Reply<Parts<cri::StreamPodSandboxesResponse>> {
        answer("StreamPodSandboxes", "", async {
            let all = self.sandboxes(request.into_inner().filter)?;
            Ok(in_parts(all, |pod_sandboxes| cri::StreamPodSandboxesResponse {
                pod_sandboxes,
            }))
        })
        .await
    }

    async fn create_container(
        &self,
        request: Request<cri::CreateContainerRequest>,
    ) -> Reply<cri::CreateContainerResponse> {
        let request = request.into_inner();
        let sandbox = request.pod_sandbox_id;
        answer("CreateContainer", &sandbox, async {
            let config = request
                .config
                .ok_or_else(|| Error::invalid("config", "missing"))?;
            let create = Arc::clone(&self.shim).create_container(sandbox.clone(), config);
            let id = self.shim.complete(create).await?;
            if let Ok(container) = self.shim.table.container(id.as_str()) {
                container.set_answered();
            }
            Ok(cri::CreateContainerResponse {
                container_id: id.to_string(),
            })
        })
        .await
    }

    async fn start_container(
        &self,
        request: Request<cri::StartContainerRequest>,
    ) -> Reply<cri::StartContainerResponse> {
        let id = request.into_inner().container_id;
        answer("StartContainer", &id, async {
            named("container_id", &id)?;
            self.shim
                .complete(Arc::clone(&self.shim).start_container(id.clone()))
                .await?;
            if let Ok(container) = self.shim.table.container(&id) {
                container.set_start_answered();
            }
            Ok(cri::StartContainerResponse {})
        })
        .await
    }

    async fn stop_container(
        &self,
        request: Request<cri::StopContainerRequest>,
    ) -> Reply<cri::StopContainerResponse> {
        let cri::StopContainerRequest {
            container_id,
            timeout,
        } = request.into_inner();
        answer("StopContainer", &container_id, async {
            named("container_id", &container_id)?;
            let stop = Arc::clone(&self.shim).stop_container(container_id.clone(), timeout);
            self.shim.complete(stop).await?;
            Ok(cri::StopContainerResponse {})
        })
        .await
    }

    async fn remove_container(
        &self,
        request: Request<cri::RemoveContainerRequest>,
    ) -> Reply<cri::RemoveContainerResponse> {
        let id = request.into_inner().container_id;
        answer("RemoveContainer", &id, async {
            named("container_id", &id)?;
            self.shim
                .complete(Arc::clone(&self.shim).remove_container(id.clone()))
                .await?;
            Ok(cri::RemoveContainerResponse {})
        })
        .await
    }

    async fn list_containers(
        &self,
        request: Request<cri::ListContainersRequest>,
    ) -> Reply<cri::ListContainersResponse> {
        answer("ListContainers", "", async {
            Ok(cri::ListContainersResponse {
                containers: self.containers(request.into_inner().filter)?,
            })
        })
        .await
    }

    async fn stream_containers(
        &self,
        request: Request<cri::StreamContainersRequest>,
    ) -> Reply<Parts<cri::StreamContainersResponse>> {
        answer("StreamContainers", "", async {
            let all = self.containers(request.into_inner().filter)?;
            Ok(in_parts(all, |containers| cri::StreamContainersResponse {
                containers,
            }))
        })
        .await
    }

    async fn container_status(
        &self,
        request: Request<cri::ContainerStatusRequest>,
    ) -> Reply<cri::ContainerStatusResponse> {
        let request = request.into_inner();
        let id = request.container_id;
        answer("ContainerStatus", &id, async {
            named("container_id", &id)?;
            self.shim.known()?;
            let container = self.shim.table.container(&id)?;
            let info = if request.verbose {
                container.info()
            } else {
                BTreeMap::new()
            };
            Ok(cri::ContainerStatusResponse {
                status: Some(container.status()),
                info,
            })
        })
        .await
    }

    async fn update_container_resources(
        &self,
        request: Request<cri::UpdateContainerResourcesRequest>,
    ) -> Reply<cri::UpdateContainerResourcesResponse> {
        let request = request.into_inner();
        let id = request.container_id;
        answer("UpdateContainerResources", &id, async {
            named("container_id", &id)?;
            let change = request.linux.ok_or_else(|| Error::invalid("linux", "missing"))?;
            let update = Arc::clone(&self.shim).update_container_resources(id.clone(), change);
            self.shim.complete(update).await?;
            Ok(cri::UpdateContainerResourcesResponse {})
        })
        .await
    }

    async fn reopen_container_log(
        &self,
        request: Request<cri::ReopenContainerLogRequest>,
    ) -> Reply<cri::ReopenContainerLogResponse> {
        let id = request.into_inner().container_id;
        answer("ReopenContainerLog", &id, async {
            named("container_id", &id)?;
            self.shim.reopen_log(&id).await?;
            Ok(cri::ReopenContainerLogResponse {})
        })
        .await
    }

    async fn exec_sync(&self, request: Request<cri::ExecSyncRequest>) -> Reply<cri::ExecSyncResponse> {
        let cri::ExecSyncRequest {
            container_id,
            cmd,
            timeout,
        } = request.into_inner();
        answer("ExecSync", &container_id, async {
            named("container_id", &container_id)?;
            let exec = Arc::clone(&self.shim).exec_sync(container_id.clone(), cmd, timeout);
            let outcome = self.shim.complete(exec).await?;
            Ok(cri::ExecSyncResponse {
                stdout: outcome.stdout,
                stderr: outcome.stderr,
                exit_code: outcome.code,
            })
        })
        .await
    }

    async fn exec(&self, request: Request<cri::ExecRequest>) -> Reply<cri::ExecResponse> {
        let request = request.into_inner();
        let id = request.container_id.clone();
        answer("Exec", &id, async {
            let url = self.streaming.exec_url(request)?;
            Ok(cri::ExecResponse { url })
        })
        .await
    }

    async fn attach(&self, request: Request<cri::AttachRequest>) -> Reply<cri::AttachResponse> {
        let request = request.into_inner();
        answer("Attach", &request.container_id, async {
            let url = self.streaming.attach_url(&request)?;
            Ok(cri::AttachResponse { url })
        })
        .await
    }

    async fn port_forward(
        &self,
        request: Request<cri::PortForwardRequest>,
    ) -> Reply<cri::PortForwardResponse> {
        let request = request.into_inner();
        answer("PortForward", &request.pod_sandbox_id, async {
            let url = self.streaming.port_forward_url(&request)?;
            Ok(cri::PortForwardResponse { url })
        })
        .await
    }

    async fn container_stats(
        &self,
        request: Request<cri::ContainerStatsRequest>,
    ) -> Reply<cri::ContainerStatsResponse> {
        let id = request.into_inner().container_id;
        answer("ContainerStats", &id, async {
            named("container_id", &id)?;
            self.shim.known()?;
            let container = self.shim.table.container(&id)?;
            let stats = self.shim.container_stats(container).await?;
            Ok(cri::ContainerStatsResponse { stats: Some(stats) })
        })
        .await
    }

    async fn list_container_stats(
        &self,
        request: Request<cri::ListContainerStatsRequest>,
    ) -> Reply<cri::ListContainerStatsResponse> {
        answer("ListContainerStats", "", async {
            Ok(cri::ListContainerStatsResponse {
                stats: self.all_container_stats(request.into_inner().filter).await?,
            })
        })
        .await
    }

    async fn stream_container_stats(
        &self,
        request: Request<cri::StreamContainerStatsRequest>,
    ) -> Reply<Parts<cri::StreamContainerStatsResponse>> {
        answer("StreamContainerStats", "", async {
            let all = self.all_container_stats(request.into_inner().filter).await?;
            Ok(in_parts(all, |container_stats| {
                cri::StreamContainerStatsResponse { container_stats }
            }))
        })
        .await
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<cri::PodSandboxStatsRequest>,
    ) -> Reply<cri::PodSandboxStatsResponse> {
        let id = request.into_inner().pod_sandbox_id;
        answer("PodSandboxStats", &id, async {
            named("pod_sandbox_id", &id)?;
            self.shim.known()?;
            let sandbox = self.shim.table.sandbox(&id)?;
            let stats = self.shim.sandbox_stats_of(vec![sandbox]).await;
            Ok(cri::PodSandboxStatsResponse {
                stats: stats.into_iter().next(),
            })
        })
        .await
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<cri::ListPodSandboxStatsRequest>,
    ) -> Reply<cri::ListPodSandboxStatsResponse> {
        answer("ListPodSandboxStats", "", async {
            let stats = self.all_sandbox_stats(request.into_inner().filter).await?;
            Ok(cri::ListPodSandboxStatsResponse { stats })
        })
        .await
    }

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<cri::StreamPodSandboxStatsRequest>,
    ) -> Reply<Parts<cri::StreamPodSandboxStatsResponse>> {
        answer("StreamPodSandboxStats", "", async {
            let all = self.all_sandbox_stats(request.into_inner().filter).await?;
            Ok(in_parts(all, |pod_sandbox_stats| {
                cri::StreamPodSandboxStatsResponse { pod_sandbox_stats }
            }))
        })
        .await
    }

    async fn update_runtime_config(
        &self,
        request: Request<cri::UpdateRuntimeConfigRequest>,
    ) -> Reply<cri::UpdateRuntimeConfigResponse> {
        let network = request
            .into_inner()
            .runtime_config
            .and_then(|config| config.network_config);
        answer("UpdateRuntimeConfig", "", async {
            if let Some(network) = network {
                self.shim.network.set_pod_cidr(&network.pod_cidr)?;
            }
            Ok(cri::UpdateRuntimeConfigResponse {})
        })
        .await
    }

    async fn checkpoint_container(
        &self,
        request: Request<cri::CheckpointContainerRequest>,
    ) -> Reply<cri::CheckpointContainerResponse> {
        let cri::CheckpointContainerRequest {
            container_id,
            location,
            timeout,
        } = request.into_inner();
        answer("CheckpointContainer", &container_id, async {
            let checkpoint =
                Arc::clone(&self.shim).checkpoint_container(container_id.clone(), location, timeout);
            self.shim.complete(checkpoint).await?;
            Ok(cri::CheckpointContainerResponse {})
        })
        .await
    }

    async fn checkpoint_pod(
        &self,
        request: Request<cri::CheckpointPodRequest>,
    ) -> Reply<cri::CheckpointPodResponse> {
        let request = request.into_inner();
        let id = request.pod_sandbox_id;
        answer("CheckpointPod", &id, async {
            let (output, containers) = (request.output_path, request.container_ids);
            let checkpoint = Arc::clone(&self.shim).checkpoint_pod(id.clone(), output, containers);
            self.shim.complete(checkpoint).await?;
            Ok(cri::CheckpointPodResponse {})
        })
        .await
    }

    async fn restore_pod(&self, request: Request<cri::RestorePodRequest>) -> Reply<cri::RestorePodResponse> {
        let path = request.into_inner().checkpoint_path;
        answer("RestorePod", &path, async {
            self.shim.ready()?;
            checkpoint::restore_pod(&path)
        })
        .await
    }

    async fn get_container_events(
        &self,
        _: Request<cri::GetEventsRequest>,
    ) -> Reply<Parts<cri::ContainerEventResponse>> {
        answer("GetContainerEvents", "", async {
            let events = BroadcastStream::new(self.shim.events.subscribe()).map(|happened| match happened {
                Ok(happened) => Ok(Arc::unwrap_or_clone(happened)),
                Err(BroadcastStreamRecvError::Lagged(missed)) => Err(Status::out_of_range(format!(
                    "{missed} events were missed by reading too slowly; list containers and subscribe again"
                ))),
            });
            // An open stream would keep the server from stopping.
            Ok(events.take_until(self.shutdown.clone().cancelled_owned()).boxed())
        })
        .await
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<cri::ListMetricDescriptorsRequest>,
    ) -> Reply<cri::ListMetricDescriptorsResponse> {
        answer("ListMetricDescriptors", "", async {
            Ok(cri::ListMetricDescriptorsResponse {
                descriptors: stats::descriptors(),
            })
        })
        .await
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<cri::ListPodSandboxMetricsRequest>,
    ) -> Reply<cri::ListPodSandboxMetricsResponse> {
        answer("ListPodSandboxMetrics", "", async {
            Ok(cri::ListPodSandboxMetricsResponse {
                pod_metrics: self.all_metrics().await?,
            })
        })
        .await
    }

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<cri::StreamPodSandboxMetricsRequest>,
    ) -> Reply<Parts<cri::StreamPodSandboxMetricsResponse>> {
        answer("StreamPodSandboxMetrics", "", async {
            let all = self.all_metrics().await?;
            Ok(in_parts(all, |pod_sandbox_metrics| {
                cri::StreamPodSandboxMetricsResponse { pod_sandbox_metrics }
            }))
        })
        .await
    }

    async fn runtime_config(
        &self,
        _: Request<cri::RuntimeConfigRequest>,
    ) -> Reply<cri::RuntimeConfigResponse> {
        answer("RuntimeConfig", "", async {
            let linux = cri::LinuxRuntimeConfiguration {
                cgroup_driver: cri::CgroupDriver::Cgroupfs.into(),
            };
            Ok(cri::RuntimeConfigResponse { linux: Some(linux) })
        })
        .await
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<cri::UpdatePodSandboxResourcesRequest>,
    ) -> Reply<cri::UpdatePodSandboxResourcesResponse> {
        let request = request.into_inner();
        let id = request.pod_sandbox_id.clone();
        answer("UpdatePodSandboxResources", &id, async {
            named("pod_sandbox_id", &id)?;
            let update = Arc::clone(&self.shim).update_sandbox_resources(request);
            self.shim.complete(update).await?;
            Ok(cri::UpdatePodSandboxResourcesResponse {})
        })
        .await
    }
}

/// An id must be there, whatever it then means that nobody has it.
fn named(field: &'static str, id: &str) -> Result<(), Error> {
    if id.is_empty() {
        Err(Error::invalid(field, "missing"))
    } else {
        Ok(())
    }
}
