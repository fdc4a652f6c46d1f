//! The kinds that a run is about, behind one face: what clients ask for of any of them, and what they are told.

use std::collections::BTreeMap;

use bytes::Bytes;
use clone8s::{
    object::{OBJECTS_PREFIX, Object},
    v1::{ConfigMap, ObjectMeta, Pod, PodStatus, PriorityClass, Secret, WatchEventType},
    wire,
};
use futures::{StreamExt as _, stream::BoxStream};
use prost::Message;
use tonic::{Request, Status, client::Grpc, codegen::http::uri::PathAndQuery, transport::Channel};
use tonic_prost::ProstCodec;

use super::history::{
    COLOR, Change, Kind, Revision, Selector, Start, State, TOKEN, Told, Verb, Version, Write, WriteKind,
};
use crate::pods;

/// The namespace of all objects that have one.
const NAMESPACE: &str = "default";

/// A kind whose objects say which write made them what they are.
pub trait Played: Object {
    /// An object that a write asks for, but for its metadata.
    fn desired(write: &Write) -> Self;

    /// Of the last write to the status, or "".
    fn status_token(&self) -> String {
        String::new()
    }
}

impl Played for Pod {
    fn desired(write: &Write) -> Self {
        let mut pod = pods::pod("", &[("main", "registry.invalid/none:1")]);
        if write.kind == WriteKind::UpdateStatus {
            pod.status = Some(PodStatus {
                phase: "Pending".to_owned(),
                message: write.token.clone(),
                ..PodStatus::default()
            });
        }
        pod
    }

    fn status_token(&self) -> String {
        self.status
            .as_ref()
            .map_or_else(String::new, |status| status.message.clone())
    }
}

impl Played for ConfigMap {
    fn desired(write: &Write) -> Self {
        Self {
            data: BTreeMap::from([("write".to_owned(), write.token.clone())]),
            ..Self::default()
        }
    }
}

impl Played for Secret {
    fn desired(write: &Write) -> Self {
        Self {
            data: BTreeMap::from([("write".to_owned(), Bytes::from(write.token.clone()))]),
            ..Self::default()
        }
    }
}

impl Played for PriorityClass {
    fn desired(_: &Write) -> Self {
        Self {
            value: 1_000,
            ..Self::default()
        }
    }
}

/// Evaluates something with `$object` as the messages' type of a kind.
macro_rules! with_kind {
    ($kind:expr, $object:ident => $something:expr) => {
        match $kind {
            Kind::Pod => {
                type $object = Pod;
                $something
            }
            Kind::ConfigMap => {
                type $object = ConfigMap;
                $something
            }
            Kind::Secret => {
                type $object = Secret;
                $something
            }
            Kind::PriorityClass => {
                type $object = PriorityClass;
                $something
            }
        }
    };
}

impl Kind {
    /// What the names of its objects begin with: `pods/default/`.
    pub fn prefix(self) -> String {
        with_kind!(self, Object => prefix::<Object>())
    }

    /// The kind of the object with a name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| name.starts_with(&kind.prefix()))
    }

    /// The kind of a message by its full name, such as `clone8s.v1.Pod`.
    pub fn of_message(full_name: &str) -> Option<Self> {
        let kind = full_name.strip_prefix("clone8s.v1.")?;
        let is_it = |it: &Self| with_kind!(*it, Object => Object::KIND) == kind;
        Self::ALL.into_iter().find(is_it)
    }

    /// The name and the version of an object in its protobuf form.
    pub fn decode(self, bytes: &[u8]) -> Result<(String, Version), prost::DecodeError> {
        with_kind!(self, Object => Object::decode(bytes).map(|object| named_version(&object)))
    }
}

impl Change {
    /// A write as the store took it; None where it is not about an object of a run. Of a deletion, the value is the last one.
    pub fn of(
        key: &str,
        revision: Revision,
        verb: Verb,
        value: &[u8],
    ) -> Result<Option<Self>, prost::DecodeError> {
        let Some(name) = key.strip_prefix(OBJECTS_PREFIX) else {
            return Ok(None);
        };
        let Some(kind) = Kind::of(name) else {
            return Ok(None);
        };
        Ok(Some(Self {
            revision,
            name: name.to_owned(),
            verb,
            state: kind.decode(value)?.1.state,
        }))
    }
}

impl State {
    fn of(object: &impl Played) -> Self {
        let meta = object.metadata().cloned().unwrap_or_default();
        let label = |key: &str| meta.labels.get(key).cloned().unwrap_or_default();
        Self {
            token: label(TOKEN),
            color: label(COLOR),
            status_token: object.status_token(),
            uid: meta.uid,
        }
    }
}

fn prefix<O: Object>() -> String {
    let namespace = if O::NAMESPACED { NAMESPACE } else { "" };
    let prefix = clone8s::object::store_prefix::<O>(namespace);
    prefix[OBJECTS_PREFIX.len()..].to_owned()
}

fn named_version(object: &impl Played) -> (String, Version) {
    let version = Version {
        revision: object.resource_version(),
        state: State::of(object),
    };
    (object.store_key()[OBJECTS_PREFIX.len()..].to_owned(), version)
}

/// The last part of a name, which is the object's own.
fn own(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

fn namespace<O: Object>() -> String {
    if O::NAMESPACED { NAMESPACE } else { "" }.to_owned()
}

/// Makes the call of a write, and gives what the object is by then.
pub(super) async fn send(write: &Write, channel: Channel) -> Result<Version, Status> {
    with_kind!(write.of, Object => send_as::<Object>(write, channel).await)
}

async fn send_as<O: Played>(write: &Write, channel: Channel) -> Result<Version, Status> {
    let request_id = if write.named {
        write.token.clone()
    } else {
        String::new()
    };
    let mut desired = O::desired(write);
    *desired.metadata_mut() = ObjectMeta {
        namespace: namespace::<O>(),
        name: own(&write.name).to_owned(),
        resource_version: write.seen.unwrap_or(0),
        labels: BTreeMap::from([
            (TOKEN.to_owned(), write.token.clone()),
            (COLOR.to_owned(), write.color.clone()),
        ]),
        ..ObjectMeta::default()
    };
    let object = Some(desired);
    let answered: Option<O> = match write.kind {
        WriteKind::Create => {
            let request = wire::CreateRequest {
                object,
                request_id,
                ..wire::CreateRequest::default()
            };
            object_of(channel, O::CALLS.create, request).await?
        }
        WriteKind::Update => {
            let request = wire::UpdateRequest {
                object,
                request_id,
                ..wire::UpdateRequest::default()
            };
            object_of(channel, O::CALLS.update, request).await?
        }
        WriteKind::UpdateStatus => {
            let request = wire::UpdateStatusRequest {
                object,
                request_id,
                ..wire::UpdateStatusRequest::default()
            };
            object_of(channel, O::CALLS.update_status, request).await?
        }
        WriteKind::Apply => {
            let request = wire::ApplyRequest {
                object,
                request_id,
                field_manager: "robustness".to_owned(),
                force: true,
                ..wire::ApplyRequest::default()
            };
            let answer: wire::ApplyResponse<O> = unary(channel, O::CALLS.apply, request).await?;
            answer.object
        }
        WriteKind::Delete => {
            let request = wire::DeleteRequest {
                namespace: namespace::<O>(),
                name: own(&write.name).to_owned(),
                resource_version: write.seen.unwrap_or(0),
                request_id,
                ..wire::DeleteRequest::default()
            };
            object_of(channel, O::CALLS.delete, request).await?
        }
    };
    let answered = answered.ok_or_else(|| Status::invalid_argument("the answer holds no object"))?;
    Ok(named_version(&answered).1)
}

pub(super) async fn get(name: &str, kind: Kind, channel: Channel) -> Result<Option<Version>, Status> {
    with_kind!(kind, Object => {
        let request = wire::GetRequest {
            namespace: namespace::<Object>(),
            name: own(name).to_owned(),
        };
        let object: Option<Object> = object_of(channel, Object::CALLS.get, request).await?;
        Ok(object.map(|object| named_version(&object).1))
    })
}

/// A part of a list.
pub(super) struct Page {
    pub(super) items: Vec<(String, Version)>,
    pub(super) revision: Revision,
    /// Of the next page, or "".
    pub(super) next: String,
}

/// At most so many objects of what a selector chooses, after a page's token.
pub(super) async fn list(
    kind: Kind,
    selector: &Selector,
    page_size: i32,
    page_token: String,
    channel: Channel,
) -> Result<Page, Status> {
    let (label_selector, field_selector) = chosen(selector);
    with_kind!(kind, Object => {
        let request = wire::ListRequest {
            namespace: namespace::<Object>(),
            label_selector,
            field_selector,
            page_size,
            page_token,
        };
        let page: wire::ListResponse<Object> = unary(channel, Object::CALLS.list, request).await?;
        Ok(Page {
            items: page.objects.iter().map(named_version).collect(),
            revision: page.resource_version,
            next: page.next_page_token,
        })
    })
}

/// What a watch is told, until its stream ends.
pub(super) type Stream = BoxStream<'static, Result<Told, Status>>;

pub(super) async fn watch(
    kind: Kind,
    selector: &Selector,
    start: Start,
    channel: Channel,
) -> Result<Stream, Status> {
    let (label_selector, field_selector) = chosen(selector);
    with_kind!(kind, Object => {
        let request = wire::WatchRequest {
            namespace: namespace::<Object>(),
            label_selector,
            field_selector,
            resource_version: match start {
                Start::State => 0,
                Start::After(revision) => revision,
            },
            send_initial_state: start == Start::State,
            include_previous: false,
        };
        let mut grpc = ready(channel).await?;
        let path = PathAndQuery::from_static(Object::CALLS.watch);
        let response = grpc.server_streaming(Request::new(request), path, ProstCodec::default()).await?;
        let told = |response: wire::WatchResponse<Object>| told(&response);
        Ok(response.into_inner().map(move |response| response.map(told)).boxed())
    })
}

fn told<O: Played>(response: &wire::WatchResponse<O>) -> Told {
    let revision = response.resource_version;
    let verb = match (response.r#type(), &response.object) {
        (WatchEventType::Bookmark, None) => return Told::Bookmark(revision),
        (WatchEventType::Synced, None) => return Told::Synced(revision),
        (WatchEventType::Added, Some(_)) => Verb::Added,
        (WatchEventType::Modified, Some(_)) => Verb::Modified,
        (WatchEventType::Deleted, Some(_)) => Verb::Deleted,
        other => return Told::Failed(format!("{other:?} makes no sense")),
    };
    let (name, version) = response.object.as_ref().map(named_version).unwrap_or_default();
    Told::Event(Change {
        revision,
        name,
        verb,
        state: version.state,
    })
}

/// The label selector and the field selector of a request.
fn chosen(selector: &Selector) -> (String, String) {
    match selector {
        Selector::All => Default::default(),
        Selector::Color(color) => (format!("{COLOR}={color}"), String::new()),
        Selector::NotColor(color) => (format!("{COLOR}!={color}"), String::new()),
        Selector::Name(name) => (String::new(), format!("metadata.name={}", own(name))),
    }
}

async fn object_of<O: Object>(
    channel: Channel,
    path: &'static str,
    request: impl Message + 'static,
) -> Result<Option<O>, Status> {
    let answer: wire::ObjectResponse<O> = unary(channel, path, request).await?;
    Ok(answer.object)
}

async fn unary<Answer: Message + Default + 'static>(
    channel: Channel,
    path: &'static str,
    request: impl Message + 'static,
) -> Result<Answer, Status> {
    let path = PathAndQuery::from_static(path);
    let mut grpc = ready(channel).await?;
    let answer = grpc
        .unary(Request::new(request), path, ProstCodec::default())
        .await?;
    Ok(answer.into_inner())
}

async fn ready(channel: Channel) -> Result<Grpc<Channel>, Status> {
    let mut grpc = Grpc::new(channel);
    grpc.ready()
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    Ok(grpc)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_known_by_its_objects_names_and_by_its_message() {
        for kind in Kind::ALL {
            assert_eq!(Kind::of(&format!("{}o-1", kind.prefix())), Some(kind));
            let message = format!("clone8s.v1.{kind:?}");
            assert_eq!(Kind::of_message(&message), Some(kind));
        }
        assert_eq!(Kind::Pod.prefix(), "pods/default/");
        assert_eq!(Kind::PriorityClass.prefix(), "priorityclasses/");
        assert_eq!(Kind::of("pods/kube-system/o-1"), None);
        assert_eq!(Kind::of_message("clone8s.v1.Node"), None);
    }
}
