//! A time limit on every call, so that a containerd that hangs holds up only the calls that need it, and those not for
//! ever.

mod calls;

use std::{future::Future, sync::Arc, time::Duration};

use futures::stream::BoxStream;
use tokio::time::timeout;

use super::{Containerd, ContainerdError, ErrorKind, Event, Plugin, Result};

/// How long the kinds of calls may take. What a call has done when its limit comes is not known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// A look at or a change of containerd's own records, which wait for its disk at most.
    pub(crate) record: Duration,
    /// Processes: an OCI runtime runs, and the kernel sets up and clears away.
    pub(crate) task: Duration,
    /// Layers and blobs, of any size, and the removal of what they leave.
    pub(crate) content: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            record: Duration::from_secs(30),
            task: Duration::from_mins(2),
            content: Duration::from_mins(30),
        }
    }
}

/// A containerd whose calls end in time. Waiting for a process has no limit, and neither has listening to events.
#[derive(Debug)]
pub(crate) struct Bounded<C> {
    inner: Arc<C>,
    limits: Limits,
}

impl<C: Containerd> Bounded<C> {
    pub(crate) fn new(inner: Arc<C>, limits: Limits) -> Self {
        Self { inner, limits }
    }

    async fn record<T>(
        &self,
        call: &'static str,
        what: &str,
        reply: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        within(self.limits.record, call, what, reply).await
    }

    async fn task<T>(
        &self,
        call: &'static str,
        what: &str,
        reply: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        within(self.limits.task, call, what, reply).await
    }

    async fn content<T>(
        &self,
        call: &'static str,
        what: &str,
        reply: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        within(self.limits.content, call, what, reply).await
    }
}

async fn within<T>(
    limit: Duration,
    call: &'static str,
    what: &str,
    reply: impl Future<Output = Result<T>>,
) -> Result<T> {
    match timeout(limit, reply).await {
        Ok(outcome) => outcome,
        Err(_) => Err(ContainerdError {
            call,
            what: what.to_owned(),
            kind: ErrorKind::TimedOut,
            message: format!(
                "no answer within {} s; whether it was done shows when containerd answers again",
                limit.as_secs_f32()
            ),
        }),
    }
}

#[async_trait::async_trait]
impl<C: Containerd> Containerd for Bounded<C> {
    async fn version(&self) -> Result<String> {
        self.record("get", "version", self.inner.version()).await
    }

    async fn list_plugins(&self) -> Result<Vec<Plugin>> {
        self.record("list", "plugins", self.inner.list_plugins()).await
    }

    async fn ensure_namespace(&self) -> Result<()> {
        self.record("create", "namespace", self.inner.ensure_namespace())
            .await
    }

    async fn delete_namespace(&self) -> Result<()> {
        self.record("delete", "namespace", self.inner.delete_namespace())
            .await
    }

    async fn events(&self) -> Result<BoxStream<'static, Result<Event>>> {
        self.record("subscribe to", "events", self.inner.events()).await
    }
}
