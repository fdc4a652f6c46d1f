//! Pods for tests, as messages and as manifests, and what their status says.

use std::path::Path;

use anyhow::ensure;
use clone8s::v1::{Container, ContainerState, ObjectMeta, Pod, PodSpec, PodStatus, container_state::State};

/// A pod in "default" on the node's network, that nothing has placed yet.
pub fn pod(name: &str, containers: &[(&str, &str)]) -> Pod {
    let containers = containers.iter().map(|(name, image)| Container {
        name: (*name).to_owned(),
        image: (*image).to_owned(),
        ..Container::default()
    });
    Pod {
        metadata: Some(ObjectMeta {
            name: name.to_owned(),
            namespace: "default".to_owned(),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            containers: containers.collect(),
            host_network: true,
            // Nothing in these pods minds a quick end.
            termination_grace_period_seconds: Some(1),
            ..PodSpec::default()
        }),
        status: None,
    }
}

/// The pod of a manifest.
pub fn from_yaml(text: &str) -> Pod {
    let mut documents = clone8s::manifest::parse("pod.yaml", text).expect("a manifest");
    match documents.remove(0).object {
        clone8s::object::AnyObject::Pod(pod) => pod,
        other => panic!("{} is not a pod", other.kind()),
    }
}

/// The manifest of a file in `examples/`, with what is of a test in place of what is of a person's machine: whose image,
/// which folder.
pub fn example(file: &str, replaced: &[(&str, &str)]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../examples")
        .join(file);
    let mut text = std::fs::read_to_string(path).expect("an example");
    for (theirs, ours) in replaced {
        assert!(text.contains(theirs), "{file} has no {theirs:?}");
        text = text.replace(theirs, ours);
    }
    text
}

/// The flat form of the same, in YAML.
pub fn flat_yaml(name: &str, containers: &[(&str, &str)]) -> String {
    let mut yaml = format!("version: v0\nname: {name}\nnamespace: default\nhostNetwork: true\ncontainers:\n");
    for (name, image) in containers {
        yaml.push_str("  - name: ");
        yaml.push_str(name);
        yaml.push_str("\n    image: ");
        yaml.push_str(image);
        yaml.push('\n');
    }
    yaml
}

/// An error that says what is missing for the pod to run and be ready.
pub fn check_ready(pod: &Pod) -> anyhow::Result<()> {
    let status = pod.status.clone().unwrap_or_default();
    let ready = status
        .conditions
        .iter()
        .any(|it| it.r#type == "Ready" && it.status == "True");
    ensure!(
        status.phase == "Running" && ready,
        "phase {:?} ({} {}), containers {:?}, conditions {:?}",
        status.phase,
        status.reason,
        status.message,
        status.container_statuses,
        status.conditions
    );
    Ok(())
}

/// Why a container of the pod waits: reason and message, or "" when none does.
pub fn waiting(pod: &Pod) -> String {
    let statuses = pod.status.iter().flat_map(PodStatus::all_container_statuses);
    statuses
        .filter_map(|status| match &status.state {
            Some(ContainerState {
                state: Some(State::Waiting(waiting)),
            }) => Some(format!("{}: {}", waiting.reason, waiting.message)),
            _ => None,
        })
        .collect::<Vec<_>>()
        .join("; ")
}
