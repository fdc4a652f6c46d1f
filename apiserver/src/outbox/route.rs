//! Which messages a change becomes: pure.

use std::collections::BTreeMap;

use bytes::Bytes;
use clone8s::{
    mirror::is_mirror,
    object::{AnyObject, OBJECTS_PREFIX, store_prefix},
    v1::Node,
};
use clone8s_bus::{EVENTS_EXCHANGE, Message, NODES_EXCHANGE, QUEUE_CONDITION};
use prost::Message as _;

use crate::store::{Change, KeyValue, Revision};

/// AMQP carries no longer routing key.
const ROUTING_KEY_BYTES: usize = 255;
/// Stands for the namespace of a kind that has none, so that each word of a routing key has one meaning.
const NO_NAMESPACE: &str = "-";
/// The routing key of the message that says that changes were lost.
const GAP_KEY: &str = "outbox.gap.-.-";

/// A message and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Publication {
    pub(super) exchange: &'static str,
    pub(super) routing_key: String,
    pub(super) message: Message,
}

/// An object that this program cannot read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("{key}: not the key of an object of a known kind")]
    Key { key: String },
    #[error("{key} at revision {revision}: not a readable object")]
    Value {
        key: String,
        revision: Revision,
        #[source]
        cause: prost::DecodeError,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Added,
    Modified,
    Deleted,
}

impl Verb {
    fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Modified => "modified",
            Self::Deleted => "deleted",
        }
    }
}

/// The messages of a change: one for everybody and, for a pod, one for each node that it concerns.
pub(super) fn route(change: &Change) -> Result<Vec<Publication>, Unreadable> {
    let now = change
        .value
        .as_ref()
        .map(|value| decode(&change.key, value, change.revision))
        .transpose()?;
    let before = change
        .previous
        .as_ref()
        .map(|previous| decode(&change.key, &previous.value, change.revision))
        .transpose()?;
    let (verb, object) = match (&now, &before) {
        (Some(now), None) => (Verb::Added, now),
        (Some(now), Some(_)) => (Verb::Modified, now),
        (None, Some(last)) => (Verb::Deleted, last),
        // A store tells what a delete deleted.
        (None, None) => return Ok(Vec::new()),
    };
    let mut publications = for_nodes(now.as_ref(), before.as_ref(), change.revision);
    publications.push(for_everybody(verb, object, change.revision));
    Ok(publications)
}

/// The node that a change is of, where it takes pods from a queue and says that it does not get at it: the queue may not
/// be there, and the node may not be allowed to make it.
pub(super) fn queue_missed_by(change: &Change) -> Option<String> {
    let name = change.key.strip_prefix(&store_prefix::<Node>(""))?;
    let status = Node::decode(change.value.clone()?).ok()?.status?;
    let mut conditions = status.conditions.iter();
    let told = conditions.find(|condition| condition.r#type == QUEUE_CONDITION)?;
    (told.status != "True").then(|| name.to_owned())
}

/// The messages that tell an object as it is, to whoever may have missed how it became so.
pub(super) fn restate(item: &KeyValue) -> Result<Vec<Publication>, Unreadable> {
    let object = decode(&item.key, &item.value, item.revision)?;
    let mut publications = for_nodes(Some(&object), Some(&object), item.revision);
    publications.push(for_everybody(Verb::Modified, &object, item.revision));
    Ok(publications)
}

/// Says to everybody that the changes between two revisions cannot be told any more.
pub(super) fn gap(after: Revision, until: Revision) -> Publication {
    let headers = [("verb", "gap".to_owned()), ("revision", until.to_string())];
    Publication {
        exchange: EVENTS_EXCHANGE,
        routing_key: GAP_KEY.to_owned(),
        message: Message {
            message_id: format!("gap/{after}/{until}"),
            content_type: "application/json".to_owned(),
            kind: String::new(),
            headers: headers.map(|(name, value)| (name.to_owned(), value)).into(),
            body: format!(r#"{{"after":{after},"until":{until}}}"#).into(),
        },
    }
}

fn for_everybody(verb: Verb, object: &AnyObject, revision: Revision) -> Publication {
    let namespace = match object.namespace() {
        "" => NO_NAMESPACE,
        namespace => namespace,
    };
    let mut routing_key = format!(
        "{}.{}.{namespace}.{}",
        object.plural(),
        verb.as_str(),
        object.name()
    );
    // The body has the whole name. Keys are ASCII, so this is no cut inside a character.
    routing_key.truncate(ROUTING_KEY_BYTES);
    Publication {
        exchange: EVENTS_EXCHANGE,
        routing_key,
        message: message(verb, object, revision),
    }
}

/// A pod's change as its node sees it: a pod that comes to a node is new there, and one that goes elsewhere is
/// deleted there, in its last state on that node.
fn for_nodes(now: Option<&AnyObject>, before: Option<&AnyObject>, revision: Revision) -> Vec<Publication> {
    let to = |node: &str, verb, object| Publication {
        exchange: NODES_EXCHANGE,
        routing_key: node.to_owned(),
        message: message(verb, object, revision),
    };
    let here = |object| Some((node_of(object)?, object));
    match (now.and_then(here), before.and_then(here)) {
        (Some((node, now)), Some((last_node, _))) if node == last_node => vec![to(node, Verb::Modified, now)],
        (now, before) => {
            let left = before.map(|(node, last)| to(node, Verb::Deleted, last));
            let came = now.map(|(node, now)| to(node, Verb::Added, now));
            left.into_iter().chain(came).collect()
        }
    }
}

/// A mirror comes from its node, which is to run nothing for it.
fn node_of(object: &AnyObject) -> Option<&str> {
    let AnyObject::Pod(pod) = object else {
        return None;
    };
    let node = pod.spec.as_ref()?.node_name.as_str();
    Some(node).filter(|node| !node.is_empty() && !is_mirror(pod))
}

fn message(verb: Verb, object: &AnyObject, revision: Revision) -> Message {
    let headers = [
        ("kind", object.kind().to_owned()),
        ("verb", verb.as_str().to_owned()),
        ("revision", revision.to_string()),
    ];
    Message {
        message_id: format!("{}/{revision}", object.uid()),
        content_type: "application/x-protobuf".to_owned(),
        kind: format!("clone8s.v1.{}", object.kind()),
        headers: headers
            .map(|(name, value)| (name.to_owned(), value))
            .into_iter()
            .collect::<BTreeMap<_, _>>(),
        body: object.encode_to_vec().into(),
    }
}

/// The object as it may be published, at the revision of the change that it is published for.
fn decode(key: &str, value: &Bytes, revision: Revision) -> Result<AnyObject, Unreadable> {
    let plural = key
        .strip_prefix(OBJECTS_PREFIX)
        .and_then(|path| path.split('/').next())
        .unwrap_or_default();
    let mut object = AnyObject::decode(plural, value.clone())
        .ok_or_else(|| Unreadable::Key { key: key.to_owned() })?
        .map_err(|cause| Unreadable::Value {
            key: key.to_owned(),
            revision,
            cause,
        })?;
    object.metadata_mut().resource_version = revision.0;
    if let AnyObject::Secret(secret) = &mut object {
        secret.data.clear();
        secret.string_data.clear();
        // Tools keep copies of what they applied here, data and all.
        secret.metadata.get_or_insert_default().annotations.clear();
    }
    Ok(object)
}

#[cfg(test)]
mod tests;
