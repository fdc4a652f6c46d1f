//! The layer that every RPC comes through: who calls, whether they may, and what is counted and said about it.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use clone8s_daemon::outcome;
use http::{Request, Response};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};
use tracing::Instrument as _;

use crate::{
    access::{self, Identity},
    metrics::{Metrics, OpenCall},
};

/// Puts a [`Door`] in front of the services.
#[derive(Debug, Clone)]
pub(crate) struct DoorLayer {
    metrics: Arc<Metrics>,
}

impl DoorLayer {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics }
    }
}

impl<S> Layer<S> for DoorLayer {
    type Service = Door<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Door {
            inner,
            metrics: Arc::clone(&self.metrics),
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Door<S> {
    inner: S,
    metrics: Arc<Metrics>,
}

impl<S> Service<Request<Body>> for Door<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let identity = Identity::of(request.extensions());
        let path = request.uri().path();
        let span = tracing::info_span!("rpc", method = %path.trim_start_matches('/'), caller = %identity);
        let call = self.metrics.begin(access::known(path));
        match access::authorize(&identity, path) {
            Ok(scope) => {
                request.extensions_mut().insert(scope);
                let answer = self.inner.call(request);
                let ends_in = span.clone();
                Box::pin(
                    async move {
                        let response = answer.await?;
                        Ok(followed(response, call, ends_in))
                    }
                    .instrument(span),
                )
            }
            Err(error) => {
                let response = followed(Status::from(error).into_http(), call, span);
                Box::pin(async move { Ok(response) })
            }
        }
    }
}

/// A call ends as its answer says.
fn followed(response: Response<Body>, call: OpenCall, span: tracing::Span) -> Response<Body> {
    let mut open = Ending {
        call: Some(call),
        span,
    };
    outcome::followed(response, move |code| open.ends_with(code))
}

/// Ends its call in the call's span, with the trailers or, where none come, when the body is dropped.
struct Ending {
    call: Option<OpenCall>,
    span: tracing::Span,
}

impl Ending {
    fn ends_with(&mut self, code: Code) {
        if let Some(call) = &mut self.call {
            call.ends_with(code);
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let call = self.call.take();
        self.span.in_scope(|| drop(call));
    }
}
