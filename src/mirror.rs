//! Mirrors: what the API shows of the pods that a node has from its manifest folder or its own queue.
//!
//! A mirror can be read like any pod, and its logs, exec and the like reach the pod that it shows. It is nobody's wish:
//! no node runs it, it lets no node read what it refers to, and to delete or change it does nothing to the pod itself.
//! Its kubelet makes it, keeps its status, and removes it with the pod. The annotations are Kubernetes'.

use crate::{object::Object, v1::Pod};

/// Says that a pod is a mirror, and of what: the uid that the pod has on its node.
pub const MIRROR: &str = "kubernetes.io/config.mirror";
/// What the mirror was made from: another pod has another.
pub const HASH: &str = "kubernetes.io/config.hash";
/// Where the node has the pod from: "folder" or "queue".
pub const SOURCE: &str = "kubernetes.io/config.source";

pub fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, MIRROR).is_some()
}

pub fn annotation<'a>(object: &'a impl Object, name: &str) -> Option<&'a str> {
    Some(object.metadata()?.annotations.get(name)?.as_str())
}

/// The name of a mirror: that of its pod with the node's behind it, so that each node can have the same pod.
pub fn name(pod: &str, node: &str) -> String {
    format!("{pod}-{node}")
}

/// The name that a pod has on its node, from its mirror's.
pub fn name_on_node<'a>(mirror: &'a str, node: &str) -> Option<&'a str> {
    let pod = mirror.strip_suffix(node)?.strip_suffix('-')?;
    Some(pod).filter(|pod| !pod.is_empty())
}

/// The uid under which a node tells of an object: of a mirror that of the pod behind it.
pub fn uid_on_node(object: &impl Object) -> &str {
    annotation(object, MIRROR).unwrap_or_else(|| object.uid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_on_the_node_is_the_mirrors_without_the_nodes() {
        assert_eq!(name_on_node(&name("web", "n-1"), "n-1"), Some("web"));
        assert_eq!(name_on_node("web-n-1", "1"), Some("web-n"));
        for other in ["web", "n-1", "-n-1", "webn-1", "web-n-2"] {
            assert_eq!(name_on_node(other, "n-1"), None, "{other}");
        }
    }
}
