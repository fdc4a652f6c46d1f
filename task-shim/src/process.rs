//! One process of a container: its first, or an additional one (exec).
//!
//! ```text
//! created ─(start)─► running ⇄ paused
//! created | running ─(its end)─► stopped
//! ```

use std::cell::{Cell, RefCell};

use prost_types::Timestamp;
use tokio::sync::watch;

use crate::{
    messages::Status,
    stdio::{Held, Paths},
};

#[derive(Debug)]
pub(crate) struct Process {
    /// Empty for the first.
    pub(crate) exec_id: String,
    pub(crate) paths: Paths,
    /// Its `process` object of the OCI specification; for additional ones.
    pub(crate) spec: Vec<u8>,
    pub(crate) pid: Cell<u32>,
    pub(crate) status: Cell<Status>,
    /// Whether Start has been answered: its end is told only after its start.
    pub(crate) announced: Cell<bool>,
    pub(crate) held: RefCell<Held>,
    exit: watch::Sender<Option<Exit>>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Exit {
    /// 0 to 255; 128 and the signal.
    pub(crate) code: u32,
    pub(crate) at: Timestamp,
}

impl Process {
    pub(crate) fn new(exec_id: &str, paths: Paths, spec: Vec<u8>) -> Self {
        Self {
            exec_id: exec_id.to_owned(),
            paths,
            spec,
            pid: Cell::new(0),
            status: Cell::new(Status::Created),
            announced: Cell::new(false),
            held: RefCell::default(),
            exit: watch::Sender::new(None),
        }
    }

    pub(crate) fn end(&self, exit: Exit) {
        self.status.set(Status::Stopped);
        self.exit.send_replace(Some(exit));
    }

    pub(crate) fn exit(&self) -> Option<Exit> {
        *self.exit.borrow()
    }

    /// Waits for its end.
    pub(crate) async fn ended(&self) -> Exit {
        let mut exits = self.exit.subscribe();
        // The sender lives as long as this: the wait ends with a value only.
        match exits.wait_for(Option::is_some).await.map(|exit| *exit) {
            Ok(Some(exit)) => exit,
            Ok(None) | Err(_) => Exit {
                code: 255,
                at: Timestamp::default(),
            },
        }
    }

    /// For people.
    pub(crate) fn state(&self) -> &'static str {
        match self.status.get() {
            Status::Created => "created",
            Status::Running => "running",
            Status::Stopped => "stopped",
            Status::Paused | Status::Pausing => "paused",
            Status::Unknown => "unknown",
        }
    }
}
