//! Pods for the tests of the sources.

use std::sync::Arc;

use clone8s::{
    object::Object as _,
    v1::{Container, Pod},
};

pub(crate) const NODE: &str = "node-1";

/// A pod in "default" with one container of this image.
pub(crate) fn pod(name: &str, image: &str) -> Pod {
    let mut pod = Pod::default();
    pod.metadata_mut().name = name.to_owned();
    pod.metadata_mut().namespace = "default".to_owned();
    let spec = pod.spec.get_or_insert_default();
    spec.node_name = NODE.to_owned();
    spec.containers.push(Container {
        name: "main".to_owned(),
        image: image.to_owned(),
        ..Container::default()
    });
    pod
}

/// The same as the apiserver stores it at a revision.
pub(crate) fn stored(name: &str, image: &str, revision: i64) -> Pod {
    let mut pod = pod(name, image);
    pod.metadata_mut().uid = format!("uid-of-{name}");
    pod.metadata_mut().resource_version = revision;
    pod
}

pub(crate) fn image(pod: &Arc<Pod>) -> &str {
    pod.spec.as_ref().map_or("", |spec| &spec.containers[0].image)
}
