//! containerd over its socket.

mod containers;
mod content;
mod images;
mod snapshots;
mod tasks;

use std::{fmt, future::Future, path::PathBuf, time::Duration};

use clone8s_daemon::{
    channel::{self, Channel},
    unix,
};
use containerd_client::{
    events::TaskExit,
    services::v1::{
        self as api, containers_client::ContainersClient, content_client::ContentClient,
        events_client::EventsClient, images_client::ImagesClient, introspection_client::IntrospectionClient,
        leases_client::LeasesClient, namespaces_client::NamespacesClient,
        snapshots::snapshots_client::SnapshotsClient, tasks_client::TasksClient,
        version_client::VersionClient,
    },
    types::Envelope,
};
use futures::{StreamExt as _, stream::BoxStream};
use prost::Name as _;
use prost_types::Any;
use tokio::time::timeout;
use tonic::{
    Code, Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
};

use super::{Containerd, ContainerdError, ErrorKind, Event, Plugin, ProcessExit, Result};
use crate::{ids::LeaseId, time};

/// Lists of many containers with their specs outgrow gRPC's usual 4 MiB.
const MAX_MESSAGE: usize = 64 << 20;
/// Published by the shim to learn that its subscription is in force; nobody else looks at it.
const SUBSCRIBED_TOPIC: &str = "/clone8s/subscribed";

/// One containerd, in one of its namespaces, connected on first use and again after every break.
#[derive(Clone)]
pub(crate) struct Grpc {
    service: Service,
    namespace: String,
}

type Service = InterceptedService<Channel, AddNamespace>;

#[derive(Clone)]
struct AddNamespace(MetadataValue<Ascii>);

impl Interceptor for AddNamespace {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request
            .metadata_mut()
            .insert("containerd-namespace", self.0.clone());
        Ok(request)
    }
}

impl fmt::Debug for Grpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grpc")
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

macro_rules! client {
    ($name:ident, $client:ident) => {
        fn $name(&self) -> $client<Service> {
            $client::new(self.service.clone()).max_decoding_message_size(MAX_MESSAGE)
        }
    };
}

impl Grpc {
    /// The namespace must be a containerd identifier: letters, digits, `-`, `_` and `.`.
    pub(crate) fn new(socket: impl Into<PathBuf>, namespace: &str) -> Result<Self> {
        let value = namespace.parse().map_err(|_| ContainerdError {
            call: "use namespace",
            what: format!("{namespace:?}"),
            kind: ErrorKind::Other,
            message: "not a containerd namespace; use letters, digits and dashes".into(),
        })?;
        Ok(Self {
            service: InterceptedService::new(unix::channel(socket).into(), AddNamespace(value)),
            namespace: namespace.to_owned(),
        })
    }

    client!(containers, ContainersClient);
    client!(tasks, TasksClient);
    client!(snapshots, SnapshotsClient);
    client!(content, ContentClient);
    client!(images, ImagesClient);

    fn leases(&self) -> LeasesClient<Service> {
        LeasesClient::new(self.service.clone())
    }

    fn namespaces(&self) -> NamespacesClient<Service> {
        NamespacesClient::new(self.service.clone())
    }
}

/// Makes a call and says what it was about if it fails.
async fn call<T>(
    call: &'static str,
    what: &str,
    reply: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T> {
    reply
        .await
        .map(Response::into_inner)
        .map_err(|status| failure(call, what, &status))
}

fn failure(call: &'static str, what: &str, status: &Status) -> ContainerdError {
    let kind = match status.code() {
        Code::NotFound => ErrorKind::NotFound,
        Code::AlreadyExists => ErrorKind::AlreadyExists,
        Code::Unavailable => ErrorKind::Unavailable,
        Code::FailedPrecondition => ErrorKind::WrongState,
        Code::OutOfRange => ErrorKind::OutOfRange,
        _ => ErrorKind::Other,
    };
    ContainerdError {
        call,
        what: what.to_owned(),
        kind,
        message: channel::words(status),
    }
}

fn leased<T>(message: T, lease: Option<&LeaseId>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(value) = lease.and_then(|lease| lease.as_str().parse().ok()) {
        request.metadata_mut().insert("containerd-lease", value);
    }
    request
}

fn exit(code: u32, at: Option<prost_types::Timestamp>) -> ProcessExit {
    ProcessExit {
        code,
        at: time::from_proto(at).unwrap_or_else(clone8s_daemon::clock::now),
    }
}

#[async_trait::async_trait]
impl Containerd for Grpc {
    async fn version(&self) -> Result<String> {
        let reply = VersionClient::new(self.service.clone()).version(()).await;
        Ok(call("get", "version", async { reply }).await?.version)
    }

    async fn list_plugins(&self) -> Result<Vec<Plugin>> {
        let mut client = IntrospectionClient::new(self.service.clone());
        let reply = call("list", "plugins", client.plugins(api::PluginsRequest::default())).await?;
        let plugins = reply.plugins.into_iter().map(|plugin| Plugin {
            kind: plugin.r#type,
            id: plugin.id,
            problem: plugin.init_err.map(|error| error.message),
        });
        Ok(plugins.collect())
    }

    async fn ensure_namespace(&self) -> Result<()> {
        let namespace = api::Namespace {
            name: self.namespace.clone(),
            ..Default::default()
        };
        let request = api::CreateNamespaceRequest {
            namespace: Some(namespace),
        };
        let reply = call(
            "create namespace",
            &self.namespace,
            self.namespaces().create(request),
        )
        .await;
        super::already_there(reply.map(drop))
    }

    async fn delete_namespace(&self) -> Result<()> {
        let request = api::DeleteNamespaceRequest {
            name: self.namespace.clone(),
        };
        super::already_gone(
            call(
                "delete namespace",
                &self.namespace,
                self.namespaces().delete(request),
            )
            .await,
        )
    }

    async fn events(&self) -> Result<BoxStream<'static, Result<Event>>> {
        let mut client = EventsClient::new(self.service.clone());
        let mut publisher = client.clone();
        let request = api::SubscribeRequest {
            filters: vec![
                format!("namespace=={},topic==\"/tasks/exit\"", self.namespace),
                format!("namespace=={},topic==\"{SUBSCRIBED_TOPIC}\"", self.namespace),
            ],
        };
        // The call returns with the first event only, so one is published until it comes through.
        let announce = async {
            loop {
                let event = Any {
                    type_url: TaskExit::full_name(),
                    value: Vec::new(),
                };
                let request = api::PublishRequest {
                    topic: SUBSCRIBED_TOPIC.into(),
                    event: Some(event),
                };
                if let Err(status) = publisher.publish(request).await {
                    return failure("publish to", SUBSCRIBED_TOPIC, &status);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let subscribed = tokio::select! {
            reply = call("subscribe to", "events", client.subscribe(request)) => reply?,
            error = announce => return Err(error),
        };
        let decoded = subscribed.filter_map(|envelope| async {
            envelope
                .map_err(|status| failure("receive", "events", &status))
                .and_then(|envelope| decode(&envelope))
                .transpose()
        });
        Ok(decoded.boxed())
    }
}

/// An event that matters to the shim, or nothing.
fn decode(envelope: &Envelope) -> Result<Option<Event>> {
    let broken = |error: prost::DecodeError| {
        failure(
            "decode event",
            &envelope.topic,
            &Status::data_loss(error.to_string()),
        )
    };
    let Some(body) = &envelope.event else {
        return Ok(None);
    };
    Ok(match envelope.topic.as_str() {
        "/tasks/exit" => {
            let event: TaskExit = prost::Message::decode(&*body.value).map_err(broken)?;
            // Additional processes exit under ids of their own.
            (event.id == event.container_id).then(|| Event::Exit {
                exit: exit(event.exit_status, event.exited_at),
                container: event.container_id,
            })
        }
        _ => None,
    })
}

/// How long [`reachable`] waits for an answer.
const PROBE: Duration = Duration::from_secs(5);

/// Asks containerd for its version, and for nothing longer than a moment.
pub(crate) async fn reachable(containerd: &dyn Containerd) -> Result<String> {
    match timeout(PROBE, containerd.version()).await {
        Ok(answer) => answer,
        Err(_) => Err(failure(
            "get",
            "version",
            &Status::unavailable("no answer in 5 s"),
        )),
    }
}
