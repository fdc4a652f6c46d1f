//! The door: what comes from a manifest folder or a queue passes the same reading, defaults and rules as what comes
//! through the apiserver.

use clone8s::{
    manifest::{self, Document, ManifestErrors},
    mirror::{MIRROR, is_mirror},
    names::{self, NameError},
    object::{AnyObject, Object as _},
    rules::{Rules as _, Violation},
    v1::Pod,
};
use serde_yaml::Value;

/// The pods of one manifest, for this node; else every reason why not, each with its place.
pub(super) fn manifest_pods(file: &str, bytes: &[u8], node: &str) -> Result<Vec<Pod>, String> {
    let documents = manifest::parse_bytes(file, bytes).map_err(|errors| lines(&errors))?;
    if documents.is_empty() {
        return Err(format!(
            "{file}: holds no document; remove the file to stop its pods"
        ));
    }
    // The text was read as UTF-8 just now.
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let mut pods: Vec<Pod> = Vec::new();
    let mut reasons = Vec::new();
    for document in documents {
        let violations = match for_node(&document, node) {
            Ok(pod) if pods.iter().any(|other| same_name(other, &pod)) => {
                vec![violation(
                    "metadata.name",
                    "is the name of an earlier pod in this file",
                )]
            }
            Ok(pod) => {
                pods.push(pod);
                continue;
            }
            Err(violations) => violations,
        };
        reasons.push(lines(&document.explain(file, text, &violations)));
    }
    if reasons.is_empty() {
        Ok(pods)
    } else {
        Err(reasons.join("\n"))
    }
}

/// The pod of a message, in either form of a manifest.
pub(super) fn message_pod(value: Value, node: &str) -> Result<Pod, String> {
    let pod = manifest::pod_from_value(value).map_err(|errors| lines(&errors))?;
    fit_own(pod, node).map_err(|violations| sentences(&violations))
}

/// A stored pod of the queue: this node's, and as valid as the apiserver said.
pub(super) fn stored_pod(pod: Pod, node: &str) -> Result<Pod, String> {
    check_identity(&pod, node)?;
    fit(pod, node).map_err(|violations| sentences(&violations))
}

/// Whether a stored pod can be kept here at all: bound to this node, and with names that files, folders and cgroups
/// can have. What else is wrong with it is told in its status, by admission.
pub(super) fn check_identity(pod: &Pod, node: &str) -> Result<(), String> {
    let told = |field: &str, outcome: Result<(), NameError>| {
        outcome.map_err(|error| format!("metadata.{field}: {error}"))
    };
    told("name", names::check_dns_subdomain(pod.name()))?;
    told("namespace", names::check_dns_label(pod.namespace()))?;
    told("uid", names::check_uid(pod.uid()))?;
    let bound_to = pod.spec.as_ref().map_or("", |spec| &spec.node_name);
    if bound_to != node {
        return Err(format!(
            "spec.nodeName: is {bound_to:?}, but this is node {node:?}"
        ));
    }
    Ok(())
}

fn for_node(document: &Document, node: &str) -> Result<Pod, Vec<Violation>> {
    match &document.object {
        AnyObject::Pod(pod) => fit_own(pod.clone(), node),
        other => {
            let kind = other.kind();
            let words = format!("is {kind}, but a node runs pods alone; give it to the apiserver");
            Err(vec![violation("kind", &words)])
        }
    }
}

/// The same for a pod that no apiserver has, to which nobody could add anything.
fn fit_own(pod: Pod, node: &str) -> Result<Pod, Vec<Violation>> {
    let ephemeral = pod
        .spec
        .as_ref()
        .map_or(0, |spec| spec.ephemeral_containers.len());
    let fitted = fit(pod, node);
    if ephemeral == 0 {
        return fitted;
    }
    let words = "cannot be in a pod of the node's own: they are added to pods of the API alone";
    let mut violations = fitted.err().unwrap_or_default();
    violations.push(violation("spec.ephemeralContainers", words));
    Err(violations)
}

/// Defaults, rules, and the node's name.
fn fit(mut pod: Pod, node: &str) -> Result<Pod, Vec<Violation>> {
    pod.set_defaults();
    let mut violations = pod.validate();
    if is_mirror(&pod) {
        let words = "must not be there: the kubelet alone says what is a mirror, and none is run";
        violations.push(violation(&format!("metadata.annotations[\"{MIRROR}\"]"), words));
    }
    let spec = pod.spec.get_or_insert_default();
    if spec.node_name.is_empty() {
        node.clone_into(&mut spec.node_name);
    } else if spec.node_name != node {
        let words = format!("is {:?}, but this is node {node:?}; leave it out", spec.node_name);
        violations.push(violation("spec.nodeName", &words));
    }
    if violations.is_empty() {
        Ok(pod)
    } else {
        Err(violations)
    }
}

fn same_name(a: &Pod, b: &Pod) -> bool {
    a.name() == b.name() && a.namespace() == b.namespace()
}

fn violation(field: &str, description: &str) -> Violation {
    Violation {
        field: field.to_owned(),
        description: description.to_owned(),
    }
}

fn sentences(violations: &[Violation]) -> String {
    let sentences: Vec<String> = violations.iter().map(Violation::to_string).collect();
    sentences.join("; ")
}

fn lines(errors: &ManifestErrors) -> String {
    errors.to_string()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::sources::fixtures::NODE;

    const GOOD: &str = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\nspec:\n  containers:\n  - name: main\n    image: one\n";

    #[test]
    fn a_pod_gets_its_defaults_and_this_nodes_name() {
        let pods = manifest_pods("web.yaml", GOOD.as_bytes(), NODE).unwrap();
        let spec = pods[0].spec.as_ref().unwrap();
        assert_eq!((pods[0].namespace(), spec.node_name.as_str()), ("default", NODE));
        assert_eq!(spec.restart_policy, "Always");
    }

    #[test]
    fn the_flat_form_is_a_manifest_too() {
        let flat = "version: v0\nname: dummy pod\nhostNetwork: true\nip: 0.0.0.0\ncontainers:\n- name: main\n  image: one\n";
        let pods = manifest_pods("flat.yaml", flat.as_bytes(), NODE).unwrap();
        assert_eq!(pods[0].name(), "dummy-pod");
        assert!(pods[0].spec.as_ref().unwrap().host_network);
    }

    #[rstest]
    #[case::syntax("kind: Pod\nspec: [", "web.yaml")]
    #[case::other_kind(
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: x\n",
        "line 2, column 7: kind: is ConfigMap"
    )]
    #[case::unknown_field(&GOOD.replace("image:", "imag:"), "imag")]
    #[case::ephemeral(
        &format!("{GOOD}  ephemeralContainers: [{{name: look, image: one}}]\n"),
        "line 9, column 24: spec.ephemeralContainers: cannot be in a pod of the node's own"
    )]
    #[case::invalid(&GOOD.replace("name: main", "name: Main_"), "line 7, column 11: spec.containers[0].name")]
    #[case::another_node(&GOOD.replace("spec:", "spec:\n  nodeName: node-2"), "node-2")]
    #[case::same_name_twice(&format!("{GOOD}---\n{GOOD}"), "earlier pod")]
    #[case::mirror(
        &GOOD.replace("name: web", "name: web\n  annotations: {kubernetes.io/config.mirror: u1}"),
        "config.mirror"
    )]
    #[case::nothing("# nothing\n", "holds no document")]
    #[case::not_text("\u{0}", "web.yaml")]
    fn a_bad_manifest_names_the_place(#[case] text: &str, #[case] expected: &str) {
        let reason = manifest_pods("web.yaml", text.as_bytes(), NODE).unwrap_err();
        assert!(reason.contains(expected), "{reason}");
    }

    #[test]
    fn every_bad_document_of_a_file_is_told() {
        let text = format!(
            "{}---\n{}",
            GOOD.replace("name: main", "name: Main_"),
            GOOD.replace("image: one", "image: ''")
        );
        let reason = manifest_pods("web.yaml", text.as_bytes(), NODE).unwrap_err();
        assert!(
            reason.contains("containers[0].name") && reason.contains("containers[0].image"),
            "{reason}"
        );
    }
}
