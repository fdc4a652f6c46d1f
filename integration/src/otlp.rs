//! An OpenTelemetry collector that keeps the spans that it is sent.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, ensure};
pub use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span as Sent, status::StatusCode},
};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

/// A span as it came. Ids are in bytes; a span that has no parent has none in its parent's id.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// The process's name for itself.
    pub service: String,
    pub name: String,
    pub kind: SpanKind,
    pub trace: Vec<u8>,
    pub id: Vec<u8>,
    pub parent: Vec<u8>,
    pub is_error: bool,
    /// Numbers in digits.
    pub attributes: BTreeMap<String, String>,
}

impl Span {
    /// An attribute; "" where the span has none of that name.
    pub fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }

    pub fn is_child_of(&self, other: &Self) -> bool {
        self.parent == other.id && self.trace == other.trace
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} {}", self.service, self.kind, self.name)
    }
}

/// Serves OTLP over gRPC on the loopback until it is dropped.
#[derive(Debug)]
pub struct Collector {
    url: String,
    spans: Spans,
    _serving: JoinSet<()>,
}

#[derive(Debug, Clone, Default)]
struct Spans(Arc<Mutex<Vec<Span>>>);

impl Collector {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let spans = Spans::default();
        let server = Server::builder().add_service(TraceServiceServer::new(spans.clone()));
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let served = server.serve_with_incoming(TcpListenerStream::new(listener)).await;
            served.expect("the collector serves");
        });
        Self {
            url: format!("http://{address}"),
            spans,
            _serving: serving,
        }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Everything that has come, in the order of the spans' ends in each process.
    pub fn spans(&self) -> Vec<Span> {
        self.spans
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// A span of this service and name that the condition holds for; an error tells what has come instead.
    pub fn find(&self, service: &str, name: &str, is_it: impl Fn(&Span) -> bool) -> anyhow::Result<Span> {
        let all = self.spans();
        let of_name = |span: &&Span| span.service == service && span.name == name;
        let found = all.iter().filter(of_name).find(|span| is_it(span));
        found.cloned().with_context(|| {
            let such: Vec<_> = all.iter().filter(of_name).collect();
            format!(
                "no such span {name:?} of {service} among {} spans; of that name: {such:#?}",
                all.len()
            )
        })
    }

    /// The only child of this service and name that a span has.
    pub fn child(&self, parent: &Span, service: &str, name: &str) -> anyhow::Result<Span> {
        let is_it = |span: &Span| span.is_child_of(parent) && span.service == service && span.name == name;
        let children: Vec<_> = self.spans().into_iter().filter(|span| is_it(span)).collect();
        ensure!(
            children.len() == 1,
            "{} children {name:?} of {service} below {parent}",
            children.len()
        );
        Ok(children[0].clone())
    }
}

/// What makes a process send its spans to a collector at this URL, soon after their ends.
pub fn environment(url: &str) -> [(String, String); 2] {
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT".into(), url.into()),
        // Milliseconds.
        ("OTEL_BSP_SCHEDULE_DELAY".into(), "100".into()),
    ]
}

#[tonic::async_trait]
impl TraceService for Spans {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for of_process in request.into_inner().resource_spans {
            let resource = attributes(of_process.resource.unwrap_or_default().attributes);
            let service = resource.get("service.name").cloned().unwrap_or_default();
            let sent = of_process.scope_spans.into_iter().flat_map(|scope| scope.spans);
            all.extend(sent.map(|sent| span(&service, sent)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn span(service: &str, sent: Sent) -> Span {
    Span {
        service: service.to_owned(),
        kind: sent.kind(),
        is_error: sent
            .status
            .is_some_and(|status| status.code() == StatusCode::Error),
        attributes: attributes(sent.attributes),
        name: sent.name,
        trace: sent.trace_id,
        id: sent.span_id,
        parent: sent.parent_span_id,
    }
}

fn attributes(sent: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value| match value {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    };
    let value = |pair: KeyValue| Some((pair.key, text(pair.value?.value?)));
    sent.into_iter().filter_map(value).collect()
}
