//! The programs' way to gRPC servers: tonic's channel, whose calls are spans where there is a collector for them.

use std::task::{Context, Poll};

use futures::future::{BoxFuture, Either};
use http::{Request, Response};
use tonic::{
    Code,
    body::Body,
    transport::{self, channel::ResponseFuture},
};
use tower::Service;

use crate::traces::rpc::Call;

/// Clones are cheap and share the connection.
#[derive(Debug, Clone)]
pub struct Channel(transport::Channel);

impl From<transport::Channel> for Channel {
    fn from(channel: transport::Channel) -> Self {
        Self(channel)
    }
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = transport::Error;
    /// tonic's own where the call is no span: then nothing is paid for it.
    type Future = Either<ResponseFuture, BoxFuture<'static, Result<Self::Response, Self::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let call = Call::made(&mut request);
        let answer = self.0.call(request);
        let Some(mut call) = call else {
            return Either::Left(answer);
        };
        Either::Right(Box::pin(async move {
            match answer.await {
                Ok(response) => Ok(call.followed(response)),
                Err(error) => {
                    // As tonic tells its caller.
                    call.ends_with(Code::Unavailable);
                    Err(error)
                }
            }
        }))
    }
}
