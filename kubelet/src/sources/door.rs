//! The door: what comes from a manifest folder or a queue passes the same reading, defaults and rules as what comes
//! through the apiserver.

use std::time::SystemTime;

use clone8s::v1::Pod;
use pbjson_types::Timestamp;

/// The pods of one manifest, for this node; else every reason why not, each with its place.
pub(super) fn manifest_pods(file: &str, text: &[u8], node: &str) -> Result<Vec<Pod>, String> {
    let text = std::str::from_utf8(text).map_err(|error| format!("{file}: {error}"))?;
    let mut pods = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let mut value: serde_yaml::Value = serde::Deserialize::deserialize(document)
            .map_err(|error: serde_yaml::Error| error.to_string())?;
        if value.is_null() {
            continue;
        }
        if let Some(map) = value.as_mapping_mut() {
            map.remove("apiVersion");
            if map.remove("kind").is_none_or(|k| k != "Pod") {
                return Err(format!("{file}: kind: only a Pod can run from here"));
            }
        }
        let mut pod: Pod = serde_yaml::from_value(value).map_err(|error| error.to_string())?;
        let meta = pod.metadata.get_or_insert_default();
        if meta.namespace.is_empty() {
            meta.namespace = "default".into();
        }
        let spec = pod.spec.get_or_insert_default();
        spec.node_name = node.into();
        pods.push(pod);
    }
    if pods.is_empty() {
        return Err(format!(
            "{file}: holds no document; delete the file to stop its pods"
        ));
    }
    Ok(pods)
}

/// A stored pod as it is for this node; else the reason why not.
pub(super) fn admit(pod: Pod, node: &str) -> Result<Pod, String> {
    use clone8s::object::Object as _;
    clone8s::names::check_dns_subdomain(pod.name()).map_err(|error| format!("metadata.name: {error}"))?;
    clone8s::names::check_dns_label(pod.namespace())
        .map_err(|error| format!("metadata.namespace: {error}"))?;
    let bound_to = pod.spec.as_ref().map_or("", |spec| &spec.node_name);
    if bound_to != node {
        return Err(format!(
            "spec.nodeName: is {bound_to:?}; this is the queue of {node:?}"
        ));
    }
    Ok(pod)
}

/// A time of day as the API has it.
pub(super) fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
    }
}
