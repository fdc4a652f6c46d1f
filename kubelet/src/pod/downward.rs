//! What a pod can learn of itself: its fields, and its containers' resources. Pure.

use clone8s::{
    quantity::Quantity,
    rules::subscript,
    v1::{Container, ObjectMeta, ResourceFieldSelector},
};

use crate::{
    desired::DesiredPod,
    objects::{Entries, Missing, ObjectKind, ObjectRef, Objects},
};

/// What variables and files are made from.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    pub pod: &'a DesiredPod,
    pub objects: &'a Objects,
    pub node: &'a Surroundings,
}

impl<'a> Inputs<'a> {
    /// The data of an object that the pod refers to; None for an optional one that is not there. What nobody has
    /// spoken of yet may be there.
    pub fn object(
        self,
        kind: ObjectKind,
        name: &str,
        optional: bool,
    ) -> Result<Option<(ObjectRef, &'a Entries)>, Missing> {
        let object = ObjectRef {
            kind,
            namespace: self.pod.key().namespace,
            name: name.to_owned(),
        };
        match self.objects.get(self.pod.source, &object) {
            Ok(entries) => Ok(Some((object, entries))),
            Err(Missing::Absent(_) | Missing::NoFolder(_)) if optional => Ok(None),
            Err(missing) => Err(missing),
        }
    }
}

/// The node as the pod sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The node's own address.
    pub host_ip: String,
    /// The pod's address; empty while it is not known.
    pub pod_ip: String,
    /// Thousandths of a core: the limit of a container that has none.
    pub milli_cpu: i64,
    /// Bytes, likewise.
    pub memory: i64,
    /// What full names of pods end in.
    pub cluster_domain: String,
}

/// The value of a field such as "metadata.name", `metadata.labels['app']` or "status.podIP".
pub fn field(pod: &DesiredPod, node: &Surroundings, path: &str) -> Result<String, String> {
    let none = ObjectMeta::default();
    let metadata = pod.pod.metadata.as_ref().unwrap_or(&none);
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.labels" => &metadata.labels,
            "metadata.annotations" => &metadata.annotations,
            _ => return Err(format!("the pod has no field {path:?}")),
        };
        return Ok(map.get(key).cloned().unwrap_or_default());
    }
    match path {
        "metadata.name" => Ok(metadata.name.clone()),
        "metadata.namespace" => Ok(pod.key().namespace),
        "metadata.uid" => Ok(metadata.uid.clone()),
        "metadata.labels" => Ok(lines(&metadata.labels)),
        "metadata.annotations" => Ok(lines(&metadata.annotations)),
        "spec.nodeName" => Ok(pod.spec().node_name.clone()),
        "status.hostIP" | "status.hostIPs" => Ok(node.host_ip.clone()),
        "status.podIP" | "status.podIPs" => Ok(node.pod_ip.clone()),
        _ => Err(format!("the pod has no field {path:?}")),
    }
}

/// One `key="value"` a line, as Kubernetes writes maps into files.
fn lines(map: &std::collections::BTreeMap<String, String>) -> String {
    let lines: Vec<_> = map
        .iter()
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    lines.join("\n")
}

/// A container's limit or request in units of the divisor, rounded up. One without a limit has the node's.
pub fn resource(
    pod: &DesiredPod,
    node: &Surroundings,
    container: &str,
    selector: &ResourceFieldSelector,
) -> Result<String, String> {
    let spec = pod.spec().container(container);
    let container = spec.ok_or_else(|| format!("the pod has no container {container:?}"))?;
    let amount = amount(&container, node, &selector.resource)?;
    let divisor = match selector.divisor.as_str() {
        "" | "0" => Quantity::from_count(1),
        text => text.parse().map_err(|error| format!("divisor: {error}"))?,
    };
    Ok(amount.divided_up(divisor).to_string())
}

fn amount(container: &Container, node: &Surroundings, resource: &str) -> Result<Quantity, String> {
    let unknown = || format!("a container has no resource {resource:?}");
    let (list, name) = resource.split_once('.').ok_or_else(unknown)?;
    let resources = container.resources.clone().unwrap_or_default();
    let (given, otherwise) = match (list, name) {
        ("limits", "cpu") => (resources.limits.get(name), Quantity::from_milli(node.milli_cpu)),
        ("limits", "memory") => (resources.limits.get(name), Quantity::from_bytes(node.memory)),
        ("limits", "ephemeral-storage") => (resources.limits.get(name), Quantity::ZERO),
        ("requests", "cpu" | "memory" | "ephemeral-storage") => {
            (resources.requests.get(name), Quantity::ZERO)
        }
        _ => return Err(unknown()),
    };
    match given {
        Some(text) => text.parse().map_err(|error| format!("{resource}: {error}")),
        None => Ok(otherwise),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use clone8s::v1::ResourceRequirements;
    use rstest::rstest;

    use super::*;
    use crate::pod::testing::{container, pod};

    fn node() -> Surroundings {
        Surroundings {
            host_ip: "192.0.2.1".into(),
            pod_ip: "10.88.0.2".into(),
            milli_cpu: 2_000,
            memory: 4 << 30,
            ..Surroundings::default()
        }
    }

    fn subject() -> DesiredPod {
        let mut web = container("web", "web:1");
        let amounts = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs
                .iter()
                .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
                .collect()
        };
        web.resources = Some(ResourceRequirements {
            limits: amounts(&[("cpu", "1500m")]),
            requests: amounts(&[("memory", "65Mi")]),
        });
        let mut subject = pod("p", vec![web]);
        let metadata = Arc::make_mut(&mut subject.pod).metadata.as_mut().unwrap();
        metadata.labels = amounts(&[("app", "we\"b"), ("tier", "front")]);
        subject
    }

    #[rstest]
    #[case("metadata.name", "p")]
    #[case("metadata.namespace", "default")]
    #[case("metadata.uid", "p-uid")]
    #[case("metadata.labels['tier']", "front")]
    #[case("metadata.labels['other']", "")]
    #[case("metadata.labels", "app=\"we\\\"b\"\ntier=\"front\"")]
    #[case("status.podIP", "10.88.0.2")]
    #[case("status.hostIP", "192.0.2.1")]
    fn a_pod_knows_its_fields(#[case] path: &str, #[case] expected: &str) {
        assert_eq!(field(&subject(), &node(), path).unwrap(), expected);
    }

    #[rstest]
    #[case("limits.cpu", "", "2")]
    #[case("limits.cpu", "1m", "1500")]
    #[case("limits.memory", "1Gi", "4")]
    #[case("requests.memory", "", "68157440")]
    #[case("requests.memory", "1Mi", "65")]
    #[case("requests.memory", "1Gi", "1")]
    #[case("requests.cpu", "1m", "0")]
    fn resources_are_in_units_of_the_divisor(
        #[case] name: &str,
        #[case] divisor: &str,
        #[case] expected: &str,
    ) {
        let selector = ResourceFieldSelector {
            resource: name.into(),
            divisor: divisor.into(),
            ..Default::default()
        };
        assert_eq!(resource(&subject(), &node(), "web", &selector).unwrap(), expected);
    }

    #[test]
    fn what_a_pod_has_not_is_an_error() {
        assert!(
            field(&subject(), &node(), "spec.color")
                .unwrap_err()
                .contains("spec.color")
        );
        assert!(field(&subject(), &node(), "spec.x['y']").is_err());
        let selector = ResourceFieldSelector {
            resource: "limits.gpu".into(),
            ..Default::default()
        };
        assert!(resource(&subject(), &node(), "web", &selector).is_err());
        assert!(resource(&subject(), &node(), "other", &selector).is_err());
    }
}
