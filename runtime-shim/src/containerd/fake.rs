//! A containerd in memory: its records, its garbage collection and processes that run until they are signalled.
//!
//! Its calls can be made to go wrong, one at a time and before or after they have taken effect: see [`Fault`].
//! What it holds outlives the shim that it serves, as a real one's does.

mod containers;
mod content;
mod garbage;
mod images;
mod snapshots;
mod state;
mod tasks;

use std::sync::{Arc, Mutex};

use futures::{StreamExt as _, stream::BoxStream};
use tokio::sync::{broadcast, watch};
use tokio_stream::wrappers::BroadcastStream;

pub(crate) use self::state::State;
use super::{Containerd, ContainerdError, ErrorKind, Event, Plugin, ProcessExit, Result};
use crate::table::lock;

/// What goes wrong with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It fails and has done nothing.
    Refused,
    /// It is done, and its answer is lost with the connection.
    AnswerLost,
    /// It never answers and has done nothing: containerd hangs, or its caller dies.
    Silent,
    /// It is done and never answers.
    DoneAndSilent,
}

#[derive(Debug)]
pub(crate) struct Fake {
    state: Mutex<State>,
    plan: Mutex<Plan>,
    events: broadcast::Sender<Event>,
    /// Changes with every end of a process.
    ended: watch::Sender<u64>,
    /// True once a fault has struck.
    struck: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Plan {
    /// Which call from now on, the first being 1, and what becomes of it.
    fault: Option<(usize, Fault)>,
    struck_at: Option<&'static str>,
}

impl Fake {
    pub(crate) fn new(state: State) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(state),
            plan: Mutex::default(),
            events: broadcast::Sender::new(1024),
            ended: watch::Sender::default(),
            struck: watch::Sender::default(),
        })
    }

    /// Lets the `nth` call from now on go wrong.
    pub(crate) fn arm(&self, nth: usize, fault: Fault) {
        *lock(&self.plan) = Plan {
            fault: Some((nth, fault)),
            struck_at: None,
        };
        self.struck.send_replace(false);
    }

    /// Calls are well again; the call that went wrong, if one did.
    pub(crate) fn heal(&self) -> Option<&'static str> {
        let mut plan = lock(&self.plan);
        plan.fault = None;
        plan.struck_at.take()
    }

    /// Waits until a fault has struck.
    pub(crate) async fn struck(&self) {
        // The sender is this value's own.
        let _ = self.struck.subscribe().wait_for(|struck| *struck).await;
    }

    /// What it holds now.
    pub(crate) fn state(&self) -> State {
        lock(&self.state).clone()
    }

    fn fault(&self, call: &'static str) -> Option<Fault> {
        let mut plan = lock(&self.plan);
        let (nth, fault) = plan.fault.as_mut()?;
        *nth -= 1;
        if *nth > 0 {
            return None;
        }
        let fault = *fault;
        plan.fault = None;
        plan.struck_at = Some(call);
        self.struck.send_replace(true);
        Some(fault)
    }

    /// One call: what it does, under the plan.
    async fn call<T>(
        &self,
        call: &'static str,
        what: &str,
        act: impl FnOnce(&mut State) -> Result<T, ErrorKind>,
    ) -> Result<T> {
        let fault = self.fault(call);
        let failed = |kind| ContainerdError {
            call,
            what: what.to_owned(),
            kind,
            message: format!("{kind:?}"),
        };
        let outcome = match fault {
            Some(Fault::Refused) => Err(ErrorKind::Unavailable),
            Some(Fault::Silent) => return std::future::pending().await,
            None | Some(Fault::AnswerLost | Fault::DoneAndSilent) => act(&mut lock(&self.state)),
        };
        match fault {
            Some(Fault::AnswerLost) => Err(failed(ErrorKind::Unavailable)),
            Some(Fault::DoneAndSilent) => std::future::pending().await,
            _ => outcome.map_err(failed),
        }
    }

    /// Ends a process as a signal does.
    fn end(&self, state: &mut State, container: &str, signal: u32) -> Result<(), ErrorKind> {
        let task = state.tasks.get_mut(container).ok_or(ErrorKind::NotFound)?;
        if task.exit.is_some() {
            return Err(ErrorKind::NotFound);
        }
        let exit = ProcessExit {
            code: 128 + signal,
            at: clone8s_daemon::clock::now(),
        };
        task.end(exit);
        self.ended.send_modify(|count| *count += 1);
        // Without a listener there is nobody to tell.
        let _ = self.events.send(Event::Exit {
            container: container.to_owned(),
            exit,
        });
        Ok(())
    }
}

#[async_trait::async_trait]
impl Containerd for Fake {
    async fn version(&self) -> Result<String> {
        // Asked beside the calls that are tested, and so not one of them.
        Ok("1.6.0-fake".into())
    }

    async fn list_plugins(&self) -> Result<Vec<Plugin>> {
        Ok(Vec::new())
    }

    async fn ensure_namespace(&self) -> Result<()> {
        Ok(())
    }

    async fn delete_namespace(&self) -> Result<()> {
        Ok(())
    }

    async fn events(&self) -> Result<BoxStream<'static, Result<Event>>> {
        let events = BroadcastStream::new(self.events.subscribe());
        Ok(events.filter_map(|event| async { event.ok().map(Ok) }).boxed())
    }
}
