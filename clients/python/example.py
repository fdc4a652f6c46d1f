"""Creates a pod, watches it until it runs, prints the first line of its log, and deletes it."""

import argparse
import os
import sys

import grpc

from clone8s.v1 import meta_pb2, pod_pb2, pod_service_pb2, pod_service_pb2_grpc

# Seconds for all that is waited for.
PATIENCE = 60


def connect() -> grpc.Channel:
    """A connection to the API that the environment names, as c8s makes it."""
    server = os.environ.get("CLONE8S_SERVER", "unix:///run/clone8s/apiserver.sock")
    if server.startswith("unix:"):
        # gRPC would take the socket's path for the name of the server, which is not a name that HTTP allows.
        return grpc.insecure_channel(server, options=[("grpc.default_authority", "localhost")])

    def read(variable: str) -> bytes:
        with open(os.environ[variable], "rb") as file:
            return file.read()

    credentials = grpc.ssl_channel_credentials(
        root_certificates=read("CLONE8S_CA"),
        private_key=read("CLONE8S_KEY"),
        certificate_chain=read("CLONE8S_CERT"),
    )
    return grpc.secure_channel(server.removeprefix("https://"), credentials)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="hello-python")
    parser.add_argument("--image", default="clone8s.local/hello:1")
    args = parser.parse_args()

    pods = pod_service_pb2_grpc.PodServiceStub(connect())
    container = pod_pb2.Container(
        name="main",
        image=args.image,
        command=["/bin/busybox", "sh", "-c", "echo hello from python; exec /bin/busybox sleep 1000"],
    )
    pod = pod_pb2.Pod(
        metadata=meta_pb2.ObjectMeta(name=args.name),
        spec=pod_pb2.PodSpec(containers=[container], termination_grace_period_seconds=1),
    )
    created = pods.CreatePod(pod_service_pb2.CreatePodRequest(pod=pod)).pod
    print(f"created {created.metadata.namespace}/{created.metadata.name}", flush=True)

    # From the revision that it was created at: nothing is missed in between.
    events = pods.WatchPods(
        pod_service_pb2.WatchPodsRequest(
            namespace=created.metadata.namespace,
            field_selector=f"metadata.name={created.metadata.name}",
            resource_version=created.metadata.resource_version,
        ),
        timeout=PATIENCE,
    )
    for event in events:
        if event.HasField("pod") and event.pod.status.phase:
            print(f"phase {event.pod.status.phase}", flush=True)
            if event.pod.status.phase == "Running":
                break

    logs = pods.GetPodLogs(
        pod_service_pb2.GetPodLogsRequest(
            namespace=created.metadata.namespace, name=created.metadata.name, follow=True
        ),
        timeout=PATIENCE,
    )
    print("log", next(logs).data.decode().splitlines()[0], flush=True)
    logs.cancel()

    pods.DeletePod(
        pod_service_pb2.DeletePodRequest(
            namespace=created.metadata.namespace, name=created.metadata.name, uid=created.metadata.uid
        )
    )
    for event in events:
        if event.type == meta_pb2.WATCH_EVENT_TYPE_DELETED:
            print("deleted", flush=True)
            return


if __name__ == "__main__":
    try:
        main()
    except grpc.RpcError as error:
        sys.exit(f"{error.code().name}: {error.details()}")
