//! The programs' way to gRPC servers: tonic's channel, whose calls are spans where there is a collector for them; and
//! what a call that failed says.

use std::{
    error::Error as _,
    task::{Context, Poll},
};

use futures::future::{BoxFuture, Either};
use http::{Request, Response};
use tonic::{
    Code, Status,
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

/// What a call that failed says: the server's own words, or why there was no answer of it.
pub fn words(status: &Status) -> String {
    /// tonic's name for whatever stopped a call on its way.
    const ANY: &str = "transport error";
    let mut line = status.message().to_owned();
    if line == ANY {
        line.clear();
    }
    let mut source = status.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        // Each layer repeats words of the one below.
        if words != ANY && !line.contains(&words) {
            let between = if line.is_empty() { "" } else { ": " };
            line = format!("{line}{between}{words}");
        }
        source = cause.source();
    }
    if line.is_empty() {
        status.code().description().clone_into(&mut line);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Layer(&'static str, #[source] Option<Box<Layer>>);

    fn over(words: &'static str, cause: Option<Layer>) -> Layer {
        Layer(words, cause.map(Box::new))
    }

    #[test]
    fn each_cause_is_told_once_and_the_transports_own_word_is_not() {
        let refused = over("Connection refused", None);
        let mut status = Status::unavailable("tcp connect error");
        status.set_source(std::sync::Arc::new(over(
            "transport error",
            Some(over("tcp connect error", Some(refused))),
        )));
        assert_eq!(words(&status), "tcp connect error: Connection refused");

        let mut status = Status::unknown("transport error");
        status.set_source(std::sync::Arc::new(over(
            "transport error",
            Some(over("received fatal alert", None)),
        )));
        assert_eq!(words(&status), "received fatal alert");
    }

    #[test]
    fn what_a_server_says_is_told_as_it_is() {
        assert_eq!(words(&Status::internal("no room")), "no room");
        assert_eq!(
            words(&Status::new(Code::NotFound, "")),
            "Some requested entity was not found"
        );
    }
}
