//! The layer that every RPC comes through: who calls, whether they may, and what is said about it.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderMap, Request, Response};
use tokio::time::Instant;
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};
use tracing::Instrument as _;

use crate::access::{self, Identity};

/// Puts a [`Door`] in front of the services.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DoorLayer;

impl<S> Layer<S> for DoorLayer {
    type Service = Door<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Door { inner }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Door<S> {
    inner: S,
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
        let path = request.uri().path().to_owned();
        let span = tracing::info_span!("rpc", method = %path.trim_start_matches('/'), caller = %identity);
        let started = Instant::now();
        match access::authorize(&identity, &path) {
            Ok(scope) => {
                request.extensions_mut().insert(scope);
                let answer = self.inner.call(request);
                Box::pin(
                    async move {
                        let response = answer.await?;
                        tell(response.headers(), started.elapsed());
                        Ok(response)
                    }
                    .instrument(span),
                )
            }
            Err(error) => {
                let response = Status::from(error).into_http();
                span.in_scope(|| tell(response.headers(), started.elapsed()));
                Box::pin(async move { Ok(response) })
            }
        }
    }
}

/// An error comes with the headers, before any message; what a stream ends with comes later and is its own to tell.
fn tell(headers: &HeaderMap, took: Duration) {
    let code = Status::from_header_map(headers).map_or(Code::Ok, |status| status.code());
    tracing::debug!(?code, ?took, "answered");
}
