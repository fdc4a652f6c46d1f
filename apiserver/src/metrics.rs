//! What the API counts of itself, in Prometheus' text form on an address of its own.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::{Arc, atomic::AtomicU64},
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response, StatusCode, header::CONTENT_TYPE};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};
use tokio::time::Instant;
use tonic::{Code, body::Body, service::Routes};
use tower::Service;

use crate::store::Size;

/// From half a millisecond to 16 seconds.
fn latency() -> Histogram {
    Histogram::new(exponential_buckets(0.0005, 2.0, 16))
}

/// A call of the API; one that it does not have is "unknown", so that callers cannot make up names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    grpc_service: &'static str,
    grpc_method: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
#[allow(clippy::struct_field_names, reason = "the labels' usual names")]
struct Outcome {
    grpc_service: &'static str,
    grpc_method: &'static str,
    /// As gRPC spells it: "NotFound".
    grpc_code: String,
}

/// What an apiserver needs of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Needed {
    part: &'static str,
}

/// The counts of one server.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    open: Family<Call, Gauge>,
    handled: Family<Outcome, Counter>,
    seconds: Family<Call, Histogram, fn() -> Histogram>,
    ready: Family<Needed, Gauge>,
    store_bytes: Gauge<u64, AtomicU64>,
    store_revision: Gauge,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        let open = Family::<Call, Gauge>::default();
        let handled = Family::<Outcome, Counter>::default();
        let seconds = Family::<Call, Histogram, fn() -> Histogram>::new_with_constructor(latency);
        registry.register(
            "grpc_server_open_calls",
            "Calls that have not ended yet",
            open.clone(),
        );
        registry.register("grpc_server_handled", "Calls that have ended", handled.clone());
        registry.register(
            "grpc_server_handling_seconds",
            "From a call's arrival to its end, for streams too",
            seconds.clone(),
        );
        let ready = Family::<Needed, Gauge>::default();
        registry.register(
            "clone8s_apiserver_ready",
            "1 while what the apiserver needs is there, otherwise 0",
            ready.clone(),
        );
        let store_bytes = Gauge::<u64, AtomicU64>::default();
        registry.register_with_unit(
            "clone8s_store_size",
            "The store on disk, of one copy",
            Unit::Bytes,
            store_bytes.clone(),
        );
        let store_revision = Gauge::default();
        registry.register(
            "clone8s_store_revision",
            "The store's newest revision; on etcd a hundred times etcd's own",
            store_revision.clone(),
        );
        Self {
            registry,
            open,
            handled,
            seconds,
            ready,
            store_bytes,
            store_revision,
        }
    }

    /// Whether a part that is needed is there.
    pub(crate) fn ready(&self, part: &'static str, is_there: bool) {
        self.ready.get_or_create(&Needed { part }).set(is_there.into());
    }

    pub(crate) fn store(&self, size: Size) {
        self.store_bytes.set(size.bytes);
        self.store_revision.set(size.revision.0);
    }

    /// Counts a call from now until the answer is dropped; `path` is None for a call that the API does not have.
    pub(crate) fn begin(self: &Arc<Self>, path: Option<&'static str>) -> OpenCall {
        let (grpc_service, grpc_method) = path
            .and_then(|path| path.strip_prefix('/')?.split_once('/'))
            .unwrap_or(("unknown", "unknown"));
        let call = Call {
            grpc_service,
            grpc_method,
        };
        self.open.get_or_create(&call).inc();
        OpenCall {
            metrics: Arc::clone(self),
            call,
            began: Instant::now(),
            code: Code::Cancelled,
        }
    }

    fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// A call until it ends. One that is dropped before it has a code was cancelled.
#[derive(Debug)]
pub(crate) struct OpenCall {
    metrics: Arc<Metrics>,
    call: Call,
    began: Instant,
    code: Code,
}

impl OpenCall {
    pub(crate) fn ends_with(&mut self, code: Code) {
        self.code = code;
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        let took: Duration = self.began.elapsed();
        let outcome = Outcome {
            grpc_service: self.call.grpc_service,
            grpc_method: self.call.grpc_method,
            grpc_code: format!("{:?}", self.code),
        };
        self.metrics.open.get_or_create(&self.call).dec();
        self.metrics.handled.get_or_create(&outcome).inc();
        self.metrics
            .seconds
            .get_or_create(&self.call)
            .observe(took.as_secs_f64());
        tracing::debug!(code = ?self.code, ?took, "call ended");
    }
}

/// `GET /metrics`.
pub(crate) fn routes(metrics: Arc<Metrics>) -> Routes {
    let mut routes = Routes::default();
    let router = std::mem::take(routes.axum_router_mut());
    *routes.axum_router_mut() = router.route_service("/metrics", Exposition { metrics });
    routes
}

#[derive(Debug, Clone)]
struct Exposition {
    metrics: Arc<Metrics>,
}

impl<B> Service<Request<B>> for Exposition {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _request: Request<B>) -> Self::Future {
        let mut response = Response::new(Body::empty());
        match self.metrics.text() {
            Ok(text) => {
                *response.body_mut() = Body::new(http_body_util::Full::from(text));
                response.headers_mut().insert(
                    CONTENT_TYPE,
                    http::HeaderValue::from_static(
                        "application/openmetrics-text; version=1.0.0; charset=utf-8",
                    ),
                );
            }
            Err(error) => {
                tracing::error!(%error, "cannot write the metrics");
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            }
        }
        ready(Ok(response))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(metrics: &Metrics, name: &str) -> Vec<String> {
        let text = metrics.text().unwrap();
        text.lines()
            .filter(|line| line.starts_with(name))
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn a_call_is_open_until_it_ends_and_counted_by_its_code() {
        let metrics = Arc::new(Metrics::new());
        let mut call = metrics.begin(Some("/clone8s.v1.PodService/GetPod"));
        let labels = r#"grpc_service="clone8s.v1.PodService",grpc_method="GetPod""#;
        assert_eq!(
            lines(&metrics, "grpc_server_open_calls"),
            [format!("grpc_server_open_calls{{{labels}}} 1")]
        );
        call.ends_with(Code::NotFound);
        drop(call);
        assert_eq!(
            lines(&metrics, "grpc_server_open_calls"),
            [format!("grpc_server_open_calls{{{labels}}} 0")]
        );
        assert_eq!(
            lines(&metrics, "grpc_server_handled"),
            [format!(
                r#"grpc_server_handled_total{{{labels},grpc_code="NotFound"}} 1"#
            )]
        );
    }

    #[test]
    fn a_call_that_is_dropped_was_cancelled() {
        let metrics = Arc::new(Metrics::new());
        drop(metrics.begin(Some("/clone8s.v1.PodService/WatchPods")));
        assert!(lines(&metrics, "grpc_server_handled")[0].contains("Cancelled"));
    }

    #[test]
    fn made_up_names_are_one_label() {
        let metrics = Arc::new(Metrics::new());
        drop(metrics.begin(None));
        drop(metrics.begin(None));
        assert_eq!(lines(&metrics, "grpc_server_open_calls").len(), 1);
    }
}
