//! One typed client for every kind: what `PodServiceClient`, `NodeServiceClient` and the others have in common.
//!
//! ```no_run
//! # async fn example(channel: tonic::transport::Channel) -> Result<(), tonic::Status> {
//! use clone8s::{client::{Query, Resource as _}, v1::Pod};
//!
//! let (pods, revision) = Pod::list_all(&channel, &Query::default()).await?;
//! let changes = Pod::watch(&channel, &Query::default(), clone8s::client::From::Revision(revision)).await?;
//! # Ok(()) }
//! ```

use std::future::Future;

use tonic::{Status, Streaming, transport::Channel};

use crate::{object::Object, v1};

/// Which objects a list or a watch is about; empty fields mean all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// Ignored for kinds without namespaces.
    pub namespace: String,
    /// Such as "app=web,tier in (a,b)".
    pub label_selector: String,
    /// Such as "spec.nodeName=n1".
    pub field_selector: String,
}

/// What must hold for a delete to happen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Only this revision; 0 means any.
    pub resource_version: i64,
    /// Only the object with this uid; empty means any.
    pub uid: String,
    /// Seconds, for pods; None means the pod's own.
    pub grace_period_seconds: Option<i32>,
}

/// Where a watch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// With the present state as `ADDED`, then `SYNCED`.
    InitialState,
    /// With what happened after a revision.
    Revision(i64),
}

/// One message of a watch.
#[derive(Debug, Clone, PartialEq)]
pub struct WatchEvent<O> {
    pub kind: v1::WatchEventType,
    /// None for `BOOKMARK` and `SYNCED`.
    pub object: Option<O>,
    pub revision: i64,
}

/// The open stream of a watch.
#[derive(Debug)]
pub struct Watch<O: Resource> {
    stream: Streaming<O::WatchResponse>,
}

impl<O: Resource> Watch<O> {
    /// The next event; None when the server ended the stream. Cancellation-safe.
    pub async fn next(&mut self) -> Result<Option<WatchEvent<O>>, Status> {
        Ok(self.stream.message().await?.map(O::watch_event))
    }
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct List<O> {
    pub items: Vec<O>,
    /// Empty on the last page.
    pub next_page_token: String,
    /// The revision that the list shows: where a watch goes on.
    pub revision: i64,
}

/// A kind with its service.
pub trait Resource: Object {
    /// The generated message of the kind's watch.
    type WatchResponse: Send + 'static;

    fn watch_event(response: Self::WatchResponse) -> WatchEvent<Self>;

    fn create(channel: &Channel, object: Self) -> impl Future<Output = Result<Self, Status>> + Send;
    fn get(
        channel: &Channel,
        namespace: &str,
        name: &str,
    ) -> impl Future<Output = Result<Self, Status>> + Send;
    /// One page, after `page_token` ("" for the first).
    fn list(
        channel: &Channel,
        query: &Query,
        page_token: String,
    ) -> impl Future<Output = Result<List<Self>, Status>> + Send;
    /// Replaces metadata and spec; a `resource_version` in the metadata must be the stored one.
    fn update(channel: &Channel, object: Self) -> impl Future<Output = Result<Self, Status>> + Send;
    /// Returns the object's last state.
    fn delete(
        channel: &Channel,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> impl Future<Output = Result<Self, Status>> + Send;
    fn watch(
        channel: &Channel,
        query: &Query,
        from: From,
    ) -> impl Future<Output = Result<Watch<Self>, Status>> + Send;

    /// Every page of a list, and the revision that all of them show.
    fn list_all(
        channel: &Channel,
        query: &Query,
    ) -> impl Future<Output = Result<(Vec<Self>, i64), Status>> + Send {
        async move {
            let mut page = Self::list(channel, query, String::new()).await?;
            let mut items = std::mem::take(&mut page.items);
            while !page.next_page_token.is_empty() {
                page = Self::list(channel, query, page.next_page_token).await?;
                items.append(&mut page.items);
            }
            Ok((items, page.revision))
        }
    }
}

/// Lists and watches may be larger than tonic's default of 4 MiB a message.
const MAX_MESSAGE_BYTES: usize = 64 * 1024 * 1024;

/// An answer without its object breaks the contract of every call here.
fn present<O: Object>(object: Option<O>) -> Result<O, Status> {
    object.ok_or_else(|| Status::internal(format!("the server's answer holds no {}", O::KIND)))
}

macro_rules! resource {
    (
        $kind:ident, $client:ident::$client_type:ident, $field:ident, $list_field:ident,
        create $create:ident $CreateRequest:ident, get $get:ident $GetRequest:ident,
        list $list:ident $ListRequest:ident, update $update:ident $UpdateRequest:ident,
        delete $delete:ident $DeleteRequest:ident { $($delete_extra:ident),* },
        watch $watch:ident $WatchRequest:ident $WatchResponse:ident,
        scope { $($namespace:ident)? }
    ) => {
        impl Resource for v1::$kind {
            type WatchResponse = v1::$WatchResponse;

            fn watch_event(response: Self::WatchResponse) -> WatchEvent<Self> {
                WatchEvent { kind: response.r#type(), revision: response.resource_version, object: response.$field }
            }

            async fn create(channel: &Channel, object: Self) -> Result<Self, Status> {
                let request = v1::$CreateRequest { $field: Some(object), validate_only: false };
                present(Self::client(channel).$create(request).await?.into_inner().$field)
            }

            async fn get(channel: &Channel, _namespace: &str, name: &str) -> Result<Self, Status> {
                let request = v1::$GetRequest { $($namespace: _namespace.to_owned(),)? name: name.to_owned() };
                present(Self::client(channel).$get(request).await?.into_inner().$field)
            }

            async fn list(channel: &Channel, query: &Query, page_token: String) -> Result<List<Self>, Status> {
                let request = v1::$ListRequest {
                    $($namespace: query.namespace.clone(),)?
                    label_selector: query.label_selector.clone(),
                    field_selector: query.field_selector.clone(),
                    page_size: 0,
                    page_token,
                };
                let page = Self::client(channel).$list(request).await?.into_inner();
                Ok(List {
                    items: page.$list_field,
                    next_page_token: page.next_page_token,
                    revision: page.resource_version,
                })
            }

            async fn update(channel: &Channel, object: Self) -> Result<Self, Status> {
                let request = v1::$UpdateRequest { $field: Some(object), validate_only: false };
                present(Self::client(channel).$update(request).await?.into_inner().$field)
            }

            async fn delete(
                channel: &Channel,
                _namespace: &str,
                name: &str,
                options: &DeleteOptions,
            ) -> Result<Self, Status> {
                let request = v1::$DeleteRequest {
                    $($namespace: _namespace.to_owned(),)?
                    name: name.to_owned(),
                    resource_version: options.resource_version,
                    uid: options.uid.clone(),
                    $($delete_extra: options.$delete_extra,)*
                };
                present(Self::client(channel).$delete(request).await?.into_inner().$field)
            }

            async fn watch(channel: &Channel, query: &Query, from: From) -> Result<Watch<Self>, Status> {
                let request = v1::$WatchRequest {
                    $($namespace: query.namespace.clone(),)?
                    label_selector: query.label_selector.clone(),
                    field_selector: query.field_selector.clone(),
                    resource_version: match from {
                        From::InitialState => 0,
                        From::Revision(revision) => revision,
                    },
                    send_initial_state: from == From::InitialState,
                };
                Ok(Watch { stream: Self::client(channel).$watch(request).await?.into_inner() })
            }
        }

        impl Client for v1::$kind {
            type Client = v1::$client::$client_type<Channel>;

            fn client(channel: &Channel) -> Self::Client {
                v1::$client::$client_type::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
            }
        }
    };
}

/// The generated client of a kind's service.
trait Client {
    type Client;
    fn client(channel: &Channel) -> Self::Client;
}

resource!(
    Pod, pod_service_client::PodServiceClient, pod, pods,
    create create_pod CreatePodRequest, get get_pod GetPodRequest, list list_pods ListPodsRequest,
    update update_pod UpdatePodRequest, delete delete_pod DeletePodRequest { grace_period_seconds },
    watch watch_pods WatchPodsRequest WatchPodsResponse, scope { namespace }
);
resource!(
    Node, node_service_client::NodeServiceClient, node, nodes,
    create create_node CreateNodeRequest, get get_node GetNodeRequest, list list_nodes ListNodesRequest,
    update update_node UpdateNodeRequest, delete delete_node DeleteNodeRequest {},
    watch watch_nodes WatchNodesRequest WatchNodesResponse, scope {}
);
resource!(
    Namespace, namespace_service_client::NamespaceServiceClient, namespace, namespaces,
    create create_namespace CreateNamespaceRequest, get get_namespace GetNamespaceRequest,
    list list_namespaces ListNamespacesRequest, update update_namespace UpdateNamespaceRequest,
    delete delete_namespace DeleteNamespaceRequest {},
    watch watch_namespaces WatchNamespacesRequest WatchNamespacesResponse, scope {}
);
resource!(
    ConfigMap, config_map_service_client::ConfigMapServiceClient, config_map, config_maps,
    create create_config_map CreateConfigMapRequest, get get_config_map GetConfigMapRequest,
    list list_config_maps ListConfigMapsRequest, update update_config_map UpdateConfigMapRequest,
    delete delete_config_map DeleteConfigMapRequest {},
    watch watch_config_maps WatchConfigMapsRequest WatchConfigMapsResponse, scope { namespace }
);
resource!(
    Secret, secret_service_client::SecretServiceClient, secret, secrets,
    create create_secret CreateSecretRequest, get get_secret GetSecretRequest, list list_secrets ListSecretsRequest,
    update update_secret UpdateSecretRequest, delete delete_secret DeleteSecretRequest {},
    watch watch_secrets WatchSecretsRequest WatchSecretsResponse, scope { namespace }
);
resource!(
    Event, event_service_client::EventServiceClient, event, events,
    create create_event CreateEventRequest, get get_event GetEventRequest, list list_events ListEventsRequest,
    update update_event UpdateEventRequest, delete delete_event DeleteEventRequest {},
    watch watch_events WatchEventsRequest WatchEventsResponse, scope { namespace }
);
