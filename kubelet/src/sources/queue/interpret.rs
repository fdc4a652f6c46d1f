//! What a message of the node's queue asks for: pure, and total over any bytes.
//!
//! Two languages are understood: the apiserver's (one `clone8s.v1.Pod` in protobuf, or in JSON where the headers say
//! so, with the headers `verb` and `revision`), and any program's own
//! `{"action": "add" | "update" | "delete", "pod": …}` in JSON or YAML, its pod in either form of a manifest.

use std::{fmt, sync::Arc};

use clone8s::{manifest, names, object::Object as _, v1::Pod};
use clone8s_bus::Message;
use prost::Message as _;
use serde_yaml::{Mapping, Value};

use crate::{
    desired::PodKey,
    sources::{
        api::{Hint, HintedChange},
        door,
    },
};

/// What a message asks for.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Command {
    /// The apiserver has stored or deleted a pod of this node.
    Stored(Hint),
    /// A program wants this pod, instead of one of the same name.
    Apply(Box<Pod>),
    /// A program wants no pod of this name any more; with a uid, only if it is that one.
    Remove { key: PodKey, uid: String },
}

/// Why a message cannot be understood: the header `x-reason` of the dead-letter queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reason(String);

impl Reason {
    /// A header must stay small, whatever the message held.
    const LONGEST: usize = 2048;

    fn new(words: impl Into<String>) -> Self {
        let mut words = words.into();
        let end = words.floor_char_boundary(Self::LONGEST);
        words.truncate(end);
        Self(words)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// More than any pod needs.
const LARGEST_BODY: usize = 1 << 20;
const POD_MESSAGE: &str = "clone8s.v1.Pod";
const ACTIONS: [&str; 3] = ["add", "update", "delete"];

pub(super) fn interpret(message: &Message, node: &str) -> Result<Command, Reason> {
    if message.body.len() > LARGEST_BODY {
        let size = message.body.len();
        return Err(Reason::new(format!(
            "the body has {size} bytes; the most is {LARGEST_BODY}"
        )));
    }
    let essence = message.content_type.split(';').next().unwrap_or_default().trim();
    match essence {
        "application/x-protobuf" | "application/protobuf" => {
            if !matches!(message.kind.as_str(), POD_MESSAGE | "") {
                let kind = &message.kind;
                return Err(Reason::new(format!(
                    "type: is {kind:?}; this queue takes {POD_MESSAGE}"
                )));
            }
            let pod = Pod::decode(message.body.clone())
                .map_err(|error| Reason::new(format!("body: is not a protobuf {POD_MESSAGE}: {error}")))?;
            stored(message, pod, node)
        }
        _ if message.headers.contains_key("verb") => {
            let pod: Pod = serde_json::from_slice(&message.body)
                .map_err(|error| Reason::new(format!("body: is not a {POD_MESSAGE} in JSON: {error}")))?;
            stored(message, pod, node)
        }
        "application/json" | "application/yaml" | "application/x-yaml" | "text/yaml" | "text/plain" | "" => {
            requested(&message.body, node)
        }
        other => Err(Reason::new(format!(
            "content-type: is {other:?}; known are application/x-protobuf, application/json and application/yaml"
        ))),
    }
}

fn stored(message: &Message, pod: Pod, node: &str) -> Result<Command, Reason> {
    let change = match message.headers.get("verb").map(String::as_str) {
        Some("added" | "modified") => HintedChange::Put,
        Some("deleted") => HintedChange::Deleted,
        Some(other) => {
            return Err(Reason::new(format!(
                "header verb: is {other:?}; known are added, modified and deleted"
            )));
        }
        None => {
            return Err(Reason::new(
                "header verb: is missing; known are added, modified and deleted",
            ));
        }
    };
    let revision = match message.headers.get("revision") {
        Some(text) => text
            .parse()
            .map_err(|_| Reason::new(format!("header revision: {text:?} is not a number")))?,
        None => pod.resource_version(),
    };
    if revision <= 0 {
        return Err(Reason::new(
            "header revision: is missing, and the pod has no metadata.resourceVersion",
        ));
    }
    if pod.uid().is_empty() {
        return Err(Reason::new("metadata.uid: is missing from a stored pod"));
    }
    let pod = door::stored_pod(pod, node).map_err(Reason::new)?;
    Ok(Command::Stored(Hint {
        pod: Arc::new(pod),
        revision,
        change,
    }))
}

fn requested(body: &[u8], node: &str) -> Result<Command, Reason> {
    manifest::check_brackets(body).map_err(|error| Reason::new(format!("body: {error}")))?;
    let request: Mapping = serde_yaml::from_slice(body).map_err(|error| {
        Reason::new(format!(
            "body: is not {{\"action\": …, \"pod\": …}} in JSON or YAML: {error}"
        ))
    })?;
    if let Some(unknown) = request.keys().find(|key| *key != "action" && *key != "pod") {
        let unknown = unknown.as_str().unwrap_or("a key that is no text");
        return Err(Reason::new(format!(
            "{unknown}: is not known; a request has action and pod"
        )));
    }
    let action = match request.get("action") {
        Some(Value::String(action)) if ACTIONS.contains(&action.as_str()) => action.as_str(),
        Some(other) => {
            let other = other.as_str().unwrap_or("not a text");
            return Err(Reason::new(format!(
                "action: is {other:?}; known are add, update and delete"
            )));
        }
        None => {
            return Err(Reason::new(
                "action: is missing; known are add, update and delete",
            ));
        }
    };
    let pod = request
        .get("pod")
        .and_then(Value::as_mapping)
        .ok_or_else(|| Reason::new("pod: is missing, or not a manifest"))?;
    if action == "delete" {
        return removal(pod);
    }
    let pod = door::message_pod(Value::Mapping(pod.clone()), node)
        .map_err(|reason| Reason::new(format!("pod: {reason}")))?;
    Ok(Command::Apply(Box::new(pod)))
}

/// A deletion needs no more of a manifest than what names the pod.
fn removal(pod: &Mapping) -> Result<Command, Reason> {
    let metadata = pod.get("metadata").and_then(Value::as_mapping);
    let text = |from: &Mapping, field| {
        from.get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let (path, name, namespace, uid) = match metadata {
        Some(meta) => (
            "pod.metadata.name",
            text(meta, "name"),
            text(meta, "namespace"),
            text(meta, "uid"),
        ),
        // The flat form makes a DNS label of any name.
        None => (
            "pod.name",
            names::slug(&text(pod, "name")),
            text(pod, "namespace"),
            String::new(),
        ),
    };
    names::check_dns_subdomain(&name).map_err(|error| Reason::new(format!("{path}: {error}")))?;
    let key = PodKey::new(namespace, name);
    names::check_dns_label(&key.namespace).map_err(|error| Reason::new(format!("pod namespace: {error}")))?;
    Ok(Command::Remove { key, uid })
}

#[cfg(test)]
mod tests;
