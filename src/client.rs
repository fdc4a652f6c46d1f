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

use pbjson_types::FieldMask;
use prost::Message;
use tonic::{
    Request, Status, Streaming,
    body::Body,
    client::{Grpc, GrpcService},
    codegen::{StdError, http::uri::PathAndQuery},
};
use tonic_prost::ProstCodec;

use crate::{object::Object, v1, wire};

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
    /// "Background", "Foreground" or "Orphan"; empty means "Background".
    pub propagation_policy: String,
    /// Do everything but delete.
    pub validate_only: bool,
}

/// How an object is applied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ApplyOptions {
    /// Whose fields these are. Needed.
    pub field_manager: String,
    /// Take over the fields that are another manager's.
    pub force: bool,
    /// Do everything but store.
    pub validate_only: bool,
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
    stream: Streaming<wire::WatchResponse<O>>,
}

impl<O: Resource> Watch<O> {
    /// The next event; None when the server ended the stream. Cancellation-safe.
    pub async fn next(&mut self) -> Result<Option<WatchEvent<O>>, Status> {
        Ok(self.stream.message().await?.map(|response| WatchEvent {
            kind: response.r#type(),
            revision: response.resource_version,
            object: response.object,
        }))
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

/// What calls go through: tonic's `Channel`, or a service around one.
pub trait Transport:
    GrpcService<Body, ResponseBody = Body, Error: Into<StdError> + Send, Future: Send>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<T> Transport for T where
    T: GrpcService<Body, ResponseBody = Body, Error: Into<StdError> + Send, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// A kind with its service.
pub trait Resource: Object {
    fn create(channel: &impl Transport, object: Self) -> impl Future<Output = Result<Self, Status>> + Send {
        let request = wire::CreateRequest {
            object: Some(object),
            ..Default::default()
        };
        one(channel, Self::CALLS.create, request)
    }

    fn get(
        channel: &impl Transport,
        namespace: &str,
        name: &str,
    ) -> impl Future<Output = Result<Self, Status>> + Send {
        let request = wire::GetRequest {
            namespace: scope::<Self>(namespace),
            name: name.to_owned(),
        };
        one(channel, Self::CALLS.get, request)
    }

    /// One page, after `page_token` ("" for the first).
    fn list(
        channel: &impl Transport,
        query: &Query,
        page_token: String,
    ) -> impl Future<Output = Result<List<Self>, Status>> + Send {
        let request = wire::ListRequest {
            namespace: scope::<Self>(&query.namespace),
            label_selector: query.label_selector.clone(),
            field_selector: query.field_selector.clone(),
            page_size: 0,
            page_token,
        };
        async {
            let page: wire::ListResponse<Self> = unary(channel, Self::CALLS.list, request).await?;
            Ok(List {
                items: page.objects,
                next_page_token: page.next_page_token,
                revision: page.resource_version,
            })
        }
    }

    /// Replaces metadata and spec; a `resource_version` in the metadata must be the stored one.
    fn update(channel: &impl Transport, object: Self) -> impl Future<Output = Result<Self, Status>> + Send {
        let request = wire::UpdateRequest {
            object: Some(object),
            ..Default::default()
        };
        one(channel, Self::CALLS.update, request)
    }

    /// Replaces the fields with these paths, such as "spec.unschedulable", and no others.
    fn update_fields(
        channel: &impl Transport,
        object: Self,
        paths: &[&str],
        field_manager: &str,
    ) -> impl Future<Output = Result<Self, Status>> + Send {
        let request = wire::UpdateRequest {
            object: Some(object),
            update_mask: Some(FieldMask {
                paths: paths.iter().map(ToString::to_string).collect(),
            }),
            field_manager: field_manager.to_owned(),
            ..Default::default()
        };
        one(channel, Self::CALLS.update, request)
    }

    /// Returns the object's last state.
    fn delete(
        channel: &impl Transport,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> impl Future<Output = Result<Self, Status>> + Send {
        let request = wire::DeleteRequest {
            namespace: scope::<Self>(namespace),
            name: name.to_owned(),
            resource_version: options.resource_version,
            uid: options.uid.clone(),
            grace_period_seconds: options.grace_period_seconds,
            propagation_policy: options.propagation_policy.clone(),
            validate_only: options.validate_only,
            request_id: String::new(),
        };
        one(channel, Self::CALLS.delete, request)
    }

    /// One page of what a query chooses, after `page_token` ("" for the first). A uid in the options means nothing here,
    /// and a revision leaves alone what has changed after it.
    fn delete_many(
        channel: &impl Transport,
        query: &Query,
        options: &DeleteOptions,
        page_token: String,
    ) -> impl Future<Output = Result<wire::DeleteManyResponse, Status>> + Send {
        let request = wire::DeleteManyRequest {
            namespace: scope::<Self>(&query.namespace),
            label_selector: query.label_selector.clone(),
            field_selector: query.field_selector.clone(),
            page_size: 0,
            page_token,
            // Who calls this has named what it is to be, even where that is everything.
            all: true,
            grace_period_seconds: options.grace_period_seconds,
            propagation_policy: options.propagation_policy.clone(),
            validate_only: options.validate_only,
            resource_version: options.resource_version,
            request_id: String::new(),
        };
        unary(channel, Self::CALLS.delete_many, request)
    }

    /// Makes the object have the fields that are named here, and says what that took.
    fn apply(
        channel: &impl Transport,
        object: Self,
        options: &ApplyOptions,
    ) -> impl Future<Output = Result<(Self, v1::ApplyOutcome), Status>> + Send {
        let request = wire::ApplyRequest {
            object: Some(object),
            validate_only: options.validate_only,
            request_id: String::new(),
            field_manager: options.field_manager.clone(),
            force: options.force,
        };
        async {
            let response: wire::ApplyResponse<Self> = unary(channel, Self::CALLS.apply, request).await?;
            let outcome = response.outcome();
            Ok((present(response.object)?, outcome))
        }
    }

    fn watch(
        channel: &impl Transport,
        query: &Query,
        from: From,
    ) -> impl Future<Output = Result<Watch<Self>, Status>> + Send {
        let request = wire::WatchRequest {
            namespace: scope::<Self>(&query.namespace),
            label_selector: query.label_selector.clone(),
            field_selector: query.field_selector.clone(),
            resource_version: match from {
                From::InitialState => 0,
                From::Revision(revision) => revision,
            },
            send_initial_state: from == From::InitialState,
            include_previous: false,
        };
        async {
            let mut grpc = ready(channel).await?;
            let path = PathAndQuery::from_static(Self::CALLS.watch);
            let response = grpc
                .server_streaming(Request::new(request), path, ProstCodec::default())
                .await?;
            Ok(Watch {
                stream: response.into_inner(),
            })
        }
    }

    /// Every page of a list, and the revision that all of them show.
    fn list_all(
        channel: &impl Transport,
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

impl<O: Object> Resource for O {}

/// Lists and watches may be larger than tonic's default of 4 MiB a message.
const MAX_MESSAGE_BYTES: usize = 64 * 1024 * 1024;

/// The namespace of a request: kinds without namespaces send none.
fn scope<O: Object>(namespace: &str) -> String {
    if O::NAMESPACED {
        namespace.to_owned()
    } else {
        String::new()
    }
}

/// A call that answers with an object.
async fn one<O: Object>(
    channel: &impl Transport,
    path: &'static str,
    request: impl Message + 'static,
) -> Result<O, Status> {
    let response: wire::ObjectResponse<O> = unary(channel, path, request).await?;
    present(response.object)
}

/// An answer without its object breaks the contract of every call here.
fn present<O: Object>(object: Option<O>) -> Result<O, Status> {
    object.ok_or_else(|| Status::internal(format!("the server's answer holds no {}", O::KIND)))
}

async fn unary<Answer: Message + Default + 'static>(
    channel: &impl Transport,
    path: &'static str,
    request: impl Message + 'static,
) -> Result<Answer, Status> {
    let mut grpc = ready(channel).await?;
    let path = PathAndQuery::from_static(path);
    let response = grpc
        .unary(Request::new(request), path, ProstCodec::default())
        .await?;
    Ok(response.into_inner())
}

async fn ready<T: Transport>(channel: &T) -> Result<Grpc<T>, Status> {
    let mut grpc = Grpc::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
    grpc.ready()
        .await
        .map_err(|error| Status::unavailable(format!("the connection is not ready: {}", error.into())))?;
    Ok(grpc)
}
