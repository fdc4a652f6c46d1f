//! The service of every kind: the calls that all kinds have, on messages that all kinds share (`clone8s::wire`).
//!
//! What is read goes out as the bytes that the registry has; only what is written is decoded.

mod batch;

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use clone8s::wire::{
    ApplyRequest, ApplyResponse, CreateRequest, DeleteManyRequest, DeleteManyResponse, DeleteRequest,
    Encoded, GetRequest, ListRequest, ListResponse, ObjectResponse, UpdateRequest, UpdateStatusRequest,
    WatchRequest,
};
use futures::StreamExt as _;
use prost::Message;
use tonic::{
    Request, Response, Status,
    body::Body,
    codec::CompressionEncoding,
    codegen::BoxStream,
    server::{Grpc, NamedService},
};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn, util::BoxCloneSyncService};

use super::{Backend, LARGEST_REQUEST};
use crate::{
    access::{self, Scope},
    cache::Entry,
    error::ApiError,
    fields::{Mask, Operation},
    kind::Kind,
    references,
    registry::{Conflicts, DeleteOptions, Key, Propagation, Registry, Seen, WatchEvent, WriteOptions},
};

/// A service for what a kind has beside the calls of all kinds.
pub(crate) type MoreCalls = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Infallible>;

type Answered = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

/// The service of a kind.
pub(super) struct ObjectService<K> {
    backend: Arc<Backend>,
    more: Option<MoreCalls>,
    kind: PhantomData<fn() -> K>,
}

impl<K: Kind> ObjectService<K> {
    pub(super) fn new(backend: &Arc<Backend>) -> Self {
        Self {
            backend: Arc::clone(backend),
            more: K::more_calls(backend),
            kind: PhantomData,
        }
    }
}

// By hand, because a derive would ask the same of the kind.
impl<K> Clone for ObjectService<K> {
    fn clone(&self) -> Self {
        Self {
            backend: Arc::clone(&self.backend),
            more: self.more.clone(),
            kind: PhantomData,
        }
    }
}

impl<K: Kind> fmt::Debug for ObjectService<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectService({})", K::SERVICE)
    }
}

impl<K: Kind> NamedService for ObjectService<K> {
    const NAME: &'static str = K::SERVICE;
}

impl<K: Kind> Service<http::Request<Body>> for ObjectService<K> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answered;

    /// Always: so is every service that tonic generates.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Answered {
        let backend = Arc::clone(&self.backend);
        let calls = K::CALLS;
        match request.uri().path() {
            path if path == calls.create => unary(backend, request, create::<K>),
            path if path == calls.get => unary(backend, request, get::<K>),
            path if path == calls.list => unary(backend, request, list::<K>),
            path if path == calls.update => unary(backend, request, update::<K>),
            path if path == calls.delete => unary(backend, request, delete::<K>),
            path if path == calls.delete_many => unary(backend, request, delete_many::<K>),
            path if path == calls.apply => unary(backend, request, apply::<K>),
            path if path == calls.batch => unary(backend, request, batch::write::<K>),
            path if path == calls.watch => watch::<K>(backend, request),
            path if path == calls.update_status && K::WRITES_STATUS => {
                unary(backend, request, update_status::<K>)
            }
            _ => {
                if let Some(more) = &mut self.more {
                    return Box::pin(more.call(request));
                }
                let unknown = Status::unimplemented("there is no such call").into_http();
                Box::pin(async { Ok(unknown) })
            }
        }
    }
}

async fn create<K: Kind>(
    registry: Registry,
    scope: Scope,
    request: CreateRequest<K>,
) -> Result<ObjectResponse<K>, ApiError> {
    let options = WriteOptions::parse("Create", request.validate_only, &request.request_id)?
        .by(&request.field_manager, Operation::Update)?;
    Ok(one(registry.create(&scope, request.object, &options).await?))
}

async fn get<K: Kind>(
    registry: Registry,
    scope: Scope,
    request: GetRequest,
) -> Result<ObjectResponse<Encoded>, ApiError> {
    let key = Key::<K>::parse(&request.namespace, &request.name)?;
    let scope = references::for_get(&registry, scope, &key).await?;
    Ok(ObjectResponse {
        object: Some(registry.get(&scope, &key).await?),
    })
}

async fn list<K: Kind>(
    registry: Registry,
    scope: Scope,
    request: ListRequest,
) -> Result<ListResponse<Encoded>, ApiError> {
    let page = registry.list::<K>(&scope, &request).await?;
    let objects = page.items.iter().map(Entry::encoded::<K>);
    Ok(ListResponse {
        objects: objects.collect::<Result<_, _>>()?,
        next_page_token: page.next_page_token,
        resource_version: page.revision.0,
    })
}

async fn update<K: Kind>(
    registry: Registry,
    scope: Scope,
    request: UpdateRequest<K>,
) -> Result<ObjectResponse<K>, ApiError> {
    let options = WriteOptions::parse("Update", request.validate_only, &request.request_id)?
        .by(&request.field_manager, Operation::Update)?;
    let mask = Mask::parse(request.update_mask.as_ref())?;
    let updated = registry
        .update(&scope, request.object, mask.as_ref(), &options)
        .await?;
    Ok(one(updated))
}

async fn update_status<K: Kind>(
    registry: Registry,
    scope: Scope,
    request: UpdateStatusRequest<K>,
) -> Result<ObjectResponse<K>, ApiError> {
    let options = WriteOptions::parse("UpdateStatus", request.validate_only, &request.request_id)?;
    let types = &request.condition_types;
    let updated = registry
        .update_status(&scope, request.object, types, &options)
        .await?;
    Ok(one(updated))
}

async fn delete<K: Kind>(
    registry: Registry,
    scope: Scope,
    request: DeleteRequest,
) -> Result<ObjectResponse<K>, ApiError> {
    let key = Key::<K>::parse(&request.namespace, &request.name)?;
    let options = DeleteOptions {
        seen: Seen {
            uid: request.uid,
            resource_version: request.resource_version,
        },
        ..delete_options(
            request.grace_period_seconds,
            &request.propagation_policy,
            request.validate_only,
            &request.request_id,
        )?
    };
    Ok(one(registry.delete(&scope, &key, &options).await?))
}

async fn delete_many<K: Kind>(
    registry: Registry,
    scope: Scope,
    request: DeleteManyRequest,
) -> Result<DeleteManyResponse, ApiError> {
    let options = delete_options(
        request.grace_period_seconds,
        &request.propagation_policy,
        request.validate_only,
        &request.request_id,
    )?;
    registry.delete_many::<K>(&scope, &request, &options).await
}

/// What both deletions say about how an object is to go; which one it is to be is theirs to say.
fn delete_options(
    grace: Option<i32>,
    propagation_policy: &str,
    validate_only: bool,
    request_id: &str,
) -> Result<DeleteOptions, ApiError> {
    Ok(DeleteOptions {
        grace,
        propagation: Propagation::parse(propagation_policy)?,
        seen: Seen::default(),
        write: WriteOptions::parse("Delete", validate_only, request_id)?,
    })
}

async fn apply<K: Kind>(
    registry: Registry,
    scope: Scope,
    request: ApplyRequest<K>,
) -> Result<ApplyResponse<K>, ApiError> {
    let options = WriteOptions::parse("Apply", request.validate_only, &request.request_id)?
        .by(&request.field_manager, Operation::Apply)?;
    let conflicts = if request.force {
        Conflicts::TakeOver
    } else {
        Conflicts::Refuse
    };
    let (object, outcome) = registry
        .apply(&scope, request.object, conflicts, &options)
        .await?;
    Ok(ApplyResponse {
        object: Some(object),
        outcome: outcome.into(),
    })
}

fn one<K: Kind>(object: K) -> ObjectResponse<K> {
    ObjectResponse { object: Some(object) }
}

/// Answers a call of one request and one response.
fn unary<Question, Answer, Work>(
    backend: Arc<Backend>,
    request: http::Request<Body>,
    work: fn(Registry, Scope, Question) -> Work,
) -> Answered
where
    Question: Message + Default + 'static,
    Answer: Message + 'static,
    Work: Future<Output = Result<Answer, ApiError>> + Send + 'static,
{
    let service = service_fn(move |request: Request<Question>| {
        let registry = backend.registry.clone();
        async move {
            let scope = access::scope(&request)?;
            let answer = work(registry, scope, request.into_inner()).await?;
            Ok::<_, Status>(Response::new(answer))
        }
    });
    Box::pin(async move { Ok(grpc().unary(service, request).await) })
}

fn watch<K: Kind>(backend: Arc<Backend>, request: http::Request<Body>) -> Answered {
    let service = service_fn(move |request: Request<WatchRequest>| {
        let registry = backend.registry.clone();
        async move {
            let scope = access::scope(&request)?;
            let scope = references::for_watch::<K>(&registry, scope, request.get_ref()).await?;
            let events = registry.watch::<K>(&scope, request.get_ref()).await?;
            let responses: BoxStream<WatchEvent> = Box::pin(events.map(|event| event.map_err(Status::from)));
            Ok::<_, Status>(Response::new(responses))
        }
    });
    Box::pin(async move { Ok(grpc().server_streaming(service, request).await) })
}

fn grpc<Question, Answer>() -> Grpc<ProstCodec<Answer, Question>>
where
    Question: Message + Default + 'static,
    Answer: Message + 'static,
{
    Grpc::new(ProstCodec::default())
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Zstd)
        .send_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Zstd)
        .max_decoding_message_size(LARGEST_REQUEST)
}
