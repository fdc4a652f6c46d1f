//! Pods for tests.

use std::sync::Arc;

use clone8s::v1::{
    Container, EphemeralContainer, ExecAction, Lifecycle, LifecycleHandler, ObjectMeta, Pod, PodSpec,
    lifecycle_handler::Handler,
};

use crate::desired::{DesiredPod, Source};

/// A pod in the namespace "default" with the uid `<name>-uid`.
pub(crate) fn pod(name: &str, containers: Vec<Container>) -> DesiredPod {
    DesiredPod {
        pod: Arc::new(Pod {
            metadata: Some(ObjectMeta {
                name: name.to_owned(),
                namespace: "default".to_owned(),
                uid: format!("{name}-uid"),
                generation: 1,
                ..Default::default()
            }),
            spec: Some(PodSpec {
                containers,
                restart_policy: "Always".to_owned(),
                termination_grace_period_seconds: Some(30),
                dns_policy: "ClusterFirst".to_owned(),
                ..Default::default()
            }),
            status: None,
        }),
        source: Source::Api,
    }
}

pub(crate) fn container(name: &str, image: &str) -> Container {
    Container {
        name: name.to_owned(),
        image: image.to_owned(),
        image_pull_policy: "IfNotPresent".to_owned(),
        ..Default::default()
    }
}

pub(crate) fn sidecar(name: &str, image: &str) -> Container {
    Container {
        restart_policy: "Always".to_owned(),
        ..container(name, image)
    }
}

/// The same pod with these init containers.
pub(crate) fn with_init(of: &DesiredPod, init_containers: Vec<Container>) -> DesiredPod {
    let mut pod = of.clone();
    let spec = Arc::make_mut(&mut pod.pod).spec.get_or_insert_default();
    spec.init_containers = init_containers;
    pod
}

/// The same pod with an ephemeral container of the image "look:1".
pub(crate) fn with_ephemeral(of: &DesiredPod, name: &str, target: &str) -> DesiredPod {
    let mut pod = of.clone();
    let spec = Arc::make_mut(&mut pod.pod).spec.get_or_insert_default();
    spec.ephemeral_containers.push(EphemeralContainer {
        name: name.to_owned(),
        image: "look:1".to_owned(),
        image_pull_policy: "IfNotPresent".to_owned(),
        target_container_name: target.to_owned(),
        ..Default::default()
    });
    pod
}

/// A hook that runs one word.
pub(crate) fn runs(word: &str) -> LifecycleHandler {
    LifecycleHandler {
        handler: Some(Handler::Exec(ExecAction {
            command: vec![word.to_owned()],
        })),
    }
}

/// The same container with the hooks "opens" and "closes".
pub(crate) fn with_hooks(of: Container) -> Container {
    Container {
        lifecycle: Some(Lifecycle {
            post_start: Some(runs("opens")),
            pre_stop: Some(runs("closes")),
        }),
        ..of
    }
}
