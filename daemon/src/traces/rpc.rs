//! The span of a gRPC call, as OpenTelemetry's conventions for RPC have it, and its way from process to process: the
//! header `traceparent` of W3C's Trace Context.

use http::{Request, Response};
use opentelemetry::{propagation::TextMapPropagator as _, trace::TraceContextExt as _};
use opentelemetry_http::{HeaderExtractor, HeaderInjector};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tonic::{Code, body::Body};
use tracing::{Span, field::Empty};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::TARGET;
use crate::outcome;

/// Which end of a call a span is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// A call under way. Its span ends with it; where nobody says how it ended, it was given up.
#[derive(Debug)]
pub(crate) struct Call {
    span: Span,
    side: Side,
    code: Option<Code>,
}

impl Call {
    /// A call that this process serves, beneath the span that its caller names; None without a collector.
    pub(crate) fn served<B>(request: &Request<B>) -> Option<Self> {
        let call = Self::new(Side::Server, request.uri().path())?;
        let caller = TraceContextPropagator::new().extract(&HeaderExtractor(request.headers()));
        if caller.span().span_context().is_valid() {
            // An error would say that the span has begun, which it has not.
            let _ = call.span.set_parent(caller);
        }
        Some(call)
    }

    /// A call that this process makes, beneath the span that it is made in; a header names it to the server. None
    /// without a collector.
    pub(crate) fn made<B>(request: &mut Request<B>) -> Option<Self> {
        let call = Self::new(Side::Client, request.uri().path())?;
        let header = &mut HeaderInjector(request.headers_mut());
        TraceContextPropagator::new().inject_context(&call.span.context(), header);
        Some(call)
    }

    fn new(side: Side, path: &str) -> Option<Self> {
        // The fields are looked at only where the span is wanted.
        let span = tracing::trace_span!(
            target: TARGET,
            "rpc",
            otel.name = path.trim_start_matches('/'),
            otel.kind = match side {
                Side::Client => "client",
                Side::Server => "server",
            },
            otel.status_code = Empty,
            rpc.system = "grpc",
            rpc.service = names(path).0,
            rpc.method = names(path).1,
            rpc.grpc.status_code = Empty,
        );
        (!span.is_disabled()).then_some(Self {
            span,
            side,
            code: None,
        })
    }

    pub(crate) fn span(&self) -> &Span {
        &self.span
    }

    pub(crate) fn ends_with(&mut self, code: Code) {
        self.code = Some(code);
    }

    /// Ends as its answer says.
    pub(crate) fn followed(mut self, response: Response<Body>) -> Response<Body> {
        // By a method: an assignment here would be one to a copy of the field.
        outcome::followed(response, move |code| self.ends_with(code))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let code = self.code.unwrap_or(Code::Cancelled);
        self.span
            .record("rpc.grpc.status_code", i64::from(i32::from(code)));
        if self.code.is_some_and(|code| is_error(self.side, code)) {
            self.span.record("otel.status_code", "ERROR");
        }
    }
}

/// The service and the method of a path.
fn names(path: &str) -> (&str, &str) {
    let path = path.trim_start_matches('/');
    path.split_once('/').unwrap_or((path, ""))
}

/// A server is to blame for these alone; to its caller everything but OK is an error (semantic conventions for gRPC,
/// §gRPC status).
fn is_error(side: Side, code: Code) -> bool {
    match side {
        Side::Client => code != Code::Ok,
        Side::Server => matches!(
            code,
            Code::Unknown
                | Code::DeadlineExceeded
                | Code::Unimplemented
                | Code::Internal
                | Code::Unavailable
                | Code::DataLoss
        ),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::done(Code::Ok, false, false)]
    #[case::the_callers_fault(Code::NotFound, true, false)]
    #[case::refused(Code::PermissionDenied, true, false)]
    #[case::given_up_by_the_caller(Code::Cancelled, true, false)]
    #[case::a_bug(Code::Internal, true, true)]
    #[case::a_dependency_is_down(Code::Unavailable, true, true)]
    fn a_server_is_to_blame_for_its_own_failures_alone(
        #[case] code: Code,
        #[case] to_the_client: bool,
        #[case] to_the_server: bool,
    ) {
        assert_eq!(is_error(Side::Client, code), to_the_client);
        assert_eq!(is_error(Side::Server, code), to_the_server);
    }

    #[rstest]
    #[case("/clone8s.v1.PodService/GetPod", "clone8s.v1.PodService", "GetPod")]
    #[case("/favicon.ico", "favicon.ico", "")]
    #[case("/", "", "")]
    fn a_path_names_a_service_and_a_method(#[case] path: &str, #[case] service: &str, #[case] method: &str) {
        assert_eq!(names(path), (service, method));
    }

    #[test]
    fn without_a_collector_there_is_no_span_and_no_header() {
        let mut request = Request::get("/clone8s.v1.PodService/GetPod").body(()).unwrap();
        assert!(Call::made(&mut request).is_none());
        assert!(Call::served(&request).is_none());
        assert!(request.headers().is_empty(), "{:?}", request.headers());
    }
}
