//! How the kubelet marks what is its own: Kubernetes' labels, and a few of ours.

pub const POD_NAME: &str = "io.kubernetes.pod.name";
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub const POD_UID: &str = "io.kubernetes.pod.uid";
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";

/// On every sandbox and container of ours. One that lacks it belongs to another program and is never touched.
pub const MANAGED: &str = "clone8s.io/managed";
/// On a sandbox and on a container: what of the spec it was made from (annotation).
pub const SPEC_HASH: &str = "clone8s.io/spec-hash";
/// On a container: how many runs came before it (annotation).
pub const RESTART_COUNT: &str = "clone8s.io/restart-count";
/// On a container: how many runs in a row before it ended early (annotation).
pub const BACKOFF_STEP: &str = "clone8s.io/backoff-step";
/// On a container: the limits that it was made with (annotation).
pub const ALLOCATION: &str = "clone8s.io/allocation";
/// On a container: the image as asked for (annotation).
pub const IMAGE: &str = "clone8s.io/image";
/// On a container: that it is a sidecar, and which of the pod's init containers, from 0 (annotation).
pub const SIDECAR: &str = "clone8s.io/sidecar";
/// On a container: what is done before it is stopped, as JSON, for when its pod's spec is gone (annotation).
pub const PRE_STOP: &str = "clone8s.io/pre-stop";
/// On a sandbox: seconds that its containers have to stop, for when nothing else remembers (annotation).
pub const GRACE_PERIOD: &str = "clone8s.io/termination-grace-period-seconds";
/// On a sandbox: the fixed address that its pod asks for (annotation).
pub const POD_IP: &str = "clone8s.io/pod-ip";
