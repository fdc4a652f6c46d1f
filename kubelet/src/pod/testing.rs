//! Pods for tests.

use std::sync::Arc;

use clone8s::v1::{Container, ObjectMeta, Pod, PodSpec};

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
