//! The members of the etcd cluster: calls go to one of them for as long as it serves, then to the next.
//!
//! etcd-client would spread calls over all members, and with them the failures of one that is gone.

use std::{
    error::Error as _,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use etcd_client::{Client, ConnectOptions};
use tonic::{ConnectError, Status};

#[derive(Clone)]
pub(super) struct Members {
    inner: Arc<Inner>,
}

struct Inner {
    clients: Vec<Client>,
    serving: AtomicUsize,
}

/// One member, for as long as a call takes.
pub(super) struct Member<'m> {
    inner: &'m Inner,
    index: usize,
}

impl Members {
    /// One client for each endpoint; nothing is sent yet.
    pub(super) async fn new(
        endpoints: &[String],
        options: &ConnectOptions,
    ) -> Result<Self, (String, etcd_client::Error)> {
        let mut clients = Vec::with_capacity(endpoints.len());
        for endpoint in endpoints {
            let client = Client::connect([endpoint], Some(options.clone()))
                .await
                .map_err(|error| (endpoint.clone(), error))?;
            clients.push(client);
        }
        Ok(Self {
            inner: Arc::new(Inner {
                clients,
                serving: AtomicUsize::new(0),
            }),
        })
    }

    /// The member that calls go to.
    pub(super) fn serving(&self) -> Member<'_> {
        Member {
            inner: &self.inner,
            index: self.inner.serving.load(Ordering::Relaxed),
        }
    }

    /// Makes the call on the member that serves. Where that member certainly did nothing with it, on the next, until
    /// each has been asked. None when there was no answer in time.
    pub(super) async fn call<T, Call>(
        &self,
        timeout: Duration,
        call: impl Fn(Client) -> Call,
    ) -> Option<Result<T, etcd_client::Error>>
    where
        Call: Future<Output = Result<T, etcd_client::Error>>,
    {
        let mut others = self.inner.clients.len() - 1;
        loop {
            let member = self.serving();
            match tokio::time::timeout(timeout, call(member.client())).await {
                Ok(Err(error)) if not_served(&error) => {
                    member.avoid();
                    if others == 0 {
                        return Some(Err(error));
                    }
                    others -= 1;
                }
                Ok(outcome) => return Some(outcome),
                Err(_) => {
                    // It may have done it, so that asking another is the caller's to decide.
                    member.avoid();
                    return None;
                }
            }
        }
    }
}

impl Member<'_> {
    pub(super) fn client(&self) -> Client {
        self.inner.clients[self.index].clone()
    }

    /// Makes the next member the one that calls go to, unless another call has done so already.
    pub(super) fn avoid(&self) {
        let next = (self.index + 1) % self.inner.clients.len();
        let _ = self
            .inner
            .serving
            .compare_exchange(self.index, next, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// True when the member cannot have done anything: it was not reached, or it is cut off from the others.
fn not_served(error: &etcd_client::Error) -> bool {
    let etcd_client::Error::GRpcStatus(status) = error else {
        return false;
    };
    // The words of etcd's ErrNoLeader (etcd, api/v3rpc/rpctypes/error.go).
    not_reached(status) || status.message() == "etcdserver: no leader"
}

fn not_reached(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}
