//! A gRPC service that its first call builds.

use std::{
    convert::Infallible,
    sync::{Arc, LazyLock},
    task::{Context, Poll},
};

use http::Request;
use tonic::{body::Body, server::NamedService};
use tower::Service;

/// For a service that holds much and that most processes are never asked for: reflection keeps every contract, with
/// its comments, decoded.
pub(crate) struct OnFirstCall<S>(Arc<LazyLock<S>>);

impl<S> OnFirstCall<S> {
    pub(crate) fn new(build: fn() -> S) -> Self {
        Self(Arc::new(LazyLock::new(build)))
    }
}

impl<S> Clone for OnFirstCall<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: NamedService> NamedService for OnFirstCall<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for OnFirstCall<S>
where
    S: Service<Request<Body>, Error = Infallible> + Clone,
{
    type Response = S::Response;
    type Error = Infallible;
    type Future = S::Future;

    /// Always: so is every service that tonic generates.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> S::Future {
        S::clone(&self.0).call(request)
    }
}
