"""The life of a pod, as a program sees it: applied, watched until it runs, changed, looked into, and deleted."""

import argparse
import os
import sys
from collections.abc import Iterator

import grpc
from google.protobuf.field_mask_pb2 import FieldMask
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status

from clone8s.v1 import meta_pb2, pod_pb2, pod_service_pb2, pod_service_pb2_grpc, pod_streams_pb2

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


def error_info(error: grpc.RpcError) -> ErrorInfo:
    """What the error is about, for programs; the code alone says how to go on."""
    info = ErrorInfo()
    status = rpc_status.from_call(error)
    for detail in status.details if status else []:
        detail.Unpack(info)
    return info


def apply(pods: pod_service_pb2_grpc.PodServiceStub, pod: pod_pb2.Pod, manager: str) -> pod_pb2.Pod:
    """Makes the pod have these fields, and takes over those that are another manager's."""
    request = pod_service_pb2.ApplyPodRequest(pod=pod, field_manager=manager)
    try:
        return pods.ApplyPod(request).pod
    except grpc.RpcError as error:
        conflict = error_info(error)
        if conflict.reason != "FIELD_CONFLICT":
            raise
        print(f"conflict {conflict.metadata['field']} {conflict.metadata['manager']}", flush=True)
    # The other choice is to leave the field out, and so to the other manager.
    request.force = True
    return pods.ApplyPod(request).pod


def watch(
    pods: pod_service_pb2_grpc.PodServiceStub, meta: meta_pb2.ObjectMeta, revision: int
) -> Iterator[pod_service_pb2.WatchPodsResponse]:
    """Changes of a pod after a revision; where the API no longer has them all, the pod as it is, and changes from there."""
    request = pod_service_pb2.WatchPodsRequest(
        namespace=meta.namespace, field_selector=f"metadata.name={meta.name}", resource_version=revision
    )
    try:
        yield from pods.WatchPods(request, timeout=PATIENCE)
    except grpc.RpcError as error:
        if error.code() != grpc.StatusCode.OUT_OF_RANGE:
            raise
        print("watching anew", flush=True)
        request.resource_version = 0
        request.send_initial_state = True
        yield from pods.WatchPods(request, timeout=PATIENCE)


def run_in(pods: pod_service_pb2_grpc.PodServiceStub, meta: meta_pb2.ObjectMeta, *command: str) -> str:
    """What a command in the pod's container prints."""
    start = pod_streams_pb2.ExecPodStart(namespace=meta.namespace, name=meta.name, command=command)
    answers = pods.ExecPod(iter([pod_streams_pb2.ExecPodRequest(start=start)]), timeout=PATIENCE)
    return b"".join(answer.stdout for answer in answers).decode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="hello-python")
    parser.add_argument("--image", default="clone8s.local/hello:1")
    parser.add_argument("--since", type=int, help="watch from this revision [default: that of the pod's creation]")
    args = parser.parse_args()

    pods = pod_service_pb2_grpc.PodServiceStub(connect())
    container = pod_pb2.Container(
        name="main",
        image=args.image,
        command=["/bin/busybox", "sh", "-c", "echo hello from python; exec /bin/busybox sleep 1000"],
    )
    meta = meta_pb2.ObjectMeta(name=args.name, labels={"stage": "test"})
    spec = pod_pb2.PodSpec(containers=[container], termination_grace_period_seconds=1)
    created = apply(pods, pod_pb2.Pod(metadata=meta, spec=spec), "example").metadata
    print(f"created {created.namespace}/{created.name}", flush=True)

    # Another program that has its say about the same pod, and about nothing else of it.
    promoted = pod_pb2.Pod(metadata=meta_pb2.ObjectMeta(name=args.name, labels={"stage": "production"}))
    stage = apply(pods, promoted, "promoter").metadata.labels["stage"]
    print(f"stage {stage}", flush=True)

    # Only what the mask names changes, whatever else others do to the pod meanwhile.
    noted = pod_pb2.Pod(metadata=meta_pb2.ObjectMeta(name=args.name, annotations={"note": "from python"}))
    mask = FieldMask(paths=["metadata.annotations"])
    updated = pods.UpdatePod(pod_service_pb2.UpdatePodRequest(pod=noted, update_mask=mask)).pod.metadata
    print(f"note {updated.annotations['note']}, stage {updated.labels['stage']}", flush=True)

    # From the revision that it was created at: nothing is missed in between.
    events = watch(pods, created, args.since or created.resource_version)
    for event in events:
        if event.pod.status.phase:
            print(f"phase {event.pod.status.phase}", flush=True)
            if event.pod.status.phase == "Running":
                break

    logs = pods.GetPodLogs(
        pod_service_pb2.GetPodLogsRequest(namespace=created.namespace, name=created.name, follow=True),
        timeout=PATIENCE,
    )
    print("log", next(logs).data.decode().splitlines()[0], flush=True)
    logs.cancel()
    print("exec", run_in(pods, created, "/bin/busybox", "echo", "hello from inside").strip(), flush=True)

    pods.DeletePod(
        pod_service_pb2.DeletePodRequest(namespace=created.namespace, name=created.name, uid=created.uid)
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
