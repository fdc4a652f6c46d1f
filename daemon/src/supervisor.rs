//! Owns the long-lived tasks of a process.
//!
//! ```text
//! running ──(a task fails, panics or ends early | shutdown)──► stopping ──(all ended | grace over)──► stopped
//! ```

use std::{collections::HashMap, future::Future, time::Duration};

use tokio::{
    task::{Id, JoinError, JoinSet},
    time::{Instant, timeout_at},
};

use crate::Shutdown;

/// Why a supervisor stopped other than by being asked to.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    #[error("task {task} failed: {}", chain(.cause.as_ref()))]
    Failed {
        task: &'static str,
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("task {task} panicked")]
    Panicked { task: &'static str },
    #[error("task {task} ended although nothing asked it to")]
    EndedEarly { task: &'static str },
    #[error("still running after the grace period: {}", tasks.join(", "))]
    Late { tasks: Vec<&'static str> },
}

/// An error and what caused it, on one line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        // Many libraries repeat their source's words in their own.
        if !line.ends_with(&words) {
            line = format!("{line}: {words}");
        }
        source = cause.source();
    }
    line
}

type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// Every task of a process, each with a name. When one fails, or ends while the process is to go on, the others
/// are asked to stop and the process ends with the reason.
#[derive(Debug)]
pub struct Supervisor {
    shutdown: Shutdown,
    tasks: JoinSet<Outcome>,
    names: HashMap<Id, &'static str>,
}

impl Supervisor {
    pub fn new(shutdown: Shutdown) -> Self {
        Self {
            shutdown,
            tasks: JoinSet::new(),
            names: HashMap::new(),
        }
    }

    /// The token that tells this supervisor's tasks to stop.
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// Starts a task that must live as long as the process.
    pub fn spawn<E>(&mut self, name: &'static str, task: impl Future<Output = Result<(), E>> + Send + 'static)
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    {
        let handle = self.tasks.spawn(async move { task.await.map_err(Into::into) });
        self.names.insert(handle.id(), name);
    }

    /// Waits until shutdown is asked for or a task ends, then gives the others `grace` to end.
    pub async fn run(mut self, grace: Duration) -> Result<(), SupervisorError> {
        let first = tokio::select! {
            // First: a task that ends because shutdown was asked for has not ended early.
            biased;
            () = self.shutdown.cancelled() => None,
            ended = self.tasks.join_next_with_id() => ended,
        };
        let stopped_by_request = first.is_none();
        let mut verdict = first.map_or(Ok(()), |ended| self.judge(ended, true));
        self.shutdown.cancel();

        let deadline = Instant::now() + grace;
        while !self.tasks.is_empty() {
            match timeout_at(deadline, self.tasks.join_next_with_id()).await {
                Ok(Some(ended)) => {
                    let outcome = self.judge(ended, false);
                    if stopped_by_request && verdict.is_ok() {
                        verdict = outcome;
                    }
                }
                Ok(None) => break,
                Err(_) => {
                    let mut late: Vec<_> = self.names.values().copied().collect();
                    late.sort_unstable();
                    tracing::warn!(tasks = ?late, "tasks outlived the grace period");
                    return verdict.and(Err(SupervisorError::Late { tasks: late }));
                }
            }
        }
        verdict
    }

    fn judge(
        &mut self,
        ended: Result<(Id, Outcome), JoinError>,
        must_go_on: bool,
    ) -> Result<(), SupervisorError> {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let task = self.names.remove(&id).unwrap_or("unnamed");
        match ended {
            Ok((_, Ok(()))) if must_go_on => Err(SupervisorError::EndedEarly { task }),
            Ok((_, Err(cause))) => Err(SupervisorError::Failed { task, cause }),
            Err(error) if error.is_panic() => Err(SupervisorError::Panicked { task }),
            Ok((_, Ok(()))) | Err(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    async fn until_cancelled(shutdown: Shutdown) -> io::Result<()> {
        shutdown.cancelled().await;
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn a_failing_task_stops_the_others_and_is_named() {
        let mut supervisor = Supervisor::new(Shutdown::new());
        supervisor.spawn("patient", until_cancelled(supervisor.shutdown().clone()));
        supervisor.spawn("broken", async { Err::<(), _>(io::Error::other("no disk")) });
        let error = supervisor.run(GRACE).await.unwrap_err();
        assert_eq!(error.to_string(), "task broken failed: no disk");
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ends_early_stops_the_process() {
        let mut supervisor = Supervisor::new(Shutdown::new());
        supervisor.spawn("short", async { Ok::<(), io::Error>(()) });
        let error = supervisor.run(GRACE).await.unwrap_err();
        assert!(
            matches!(error, SupervisorError::EndedEarly { task: "short" }),
            "{error}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ends_at_once_on_shutdown_has_not_ended_early() {
        for _ in 0..64 {
            let shutdown = Shutdown::new();
            let mut supervisor = Supervisor::new(shutdown.clone());
            supervisor.spawn("quick", until_cancelled(shutdown.clone()));
            let ends = async {
                shutdown.cancel();
                // Both the shutdown and the end are there when the supervisor looks.
                tokio::task::yield_now().await;
            };
            ends.await;
            supervisor.run(GRACE).await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_ends_every_task_without_an_error() {
        let shutdown = Shutdown::new();
        let mut supervisor = Supervisor::new(shutdown.clone());
        supervisor.spawn("patient", until_cancelled(shutdown.clone()));
        shutdown.cancel();
        supervisor.run(GRACE).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_outlives_the_grace_period_is_named() {
        let shutdown = Shutdown::new();
        let mut supervisor = Supervisor::new(shutdown.clone());
        supervisor.spawn("stubborn", std::future::pending::<io::Result<()>>());
        shutdown.cancel();
        let error = supervisor.run(GRACE).await.unwrap_err();
        assert!(error.to_string().contains("stubborn"), "{error}");
    }
}
