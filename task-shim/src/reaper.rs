//! Waits for every child: the OCI runtime's runs, and the containers' processes that they leave behind.
//!
//! A container's process becomes a child of this one when its runtime's run ends, and may have ended by then, before
//! anyone has read its pid. While a run is under way, the ends of children that nobody asks for are therefore kept.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    future::Future,
};

use rustix::process::{WaitOptions, WaitStatus, wait};
use tokio::sync::oneshot;

#[derive(Debug, Default)]
pub(crate) struct Reaper {
    asked: RefCell<HashMap<u32, oneshot::Sender<u32>>>,
    unasked: RefCell<HashMap<u32, u32>>,
    runs: Cell<usize>,
}

/// While it lives, ends that nobody asks for are kept.
#[derive(Debug)]
pub(crate) struct Run<'a>(&'a Reaper);

impl Reaper {
    /// Takes note of every child that has ended.
    pub(crate) fn reap(&self) {
        // An error says that there are no children.
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            self.ended(pid.as_raw_nonzero().get().unsigned_abs(), code(status));
        }
    }

    fn ended(&self, pid: u32, code: u32) {
        if let Some(asked) = self.asked.borrow_mut().remove(&pid) {
            let _ = asked.send(code);
        } else if self.runs.get() > 0 {
            self.unasked.borrow_mut().insert(pid, code);
        }
    }

    /// The end of a child: 0 to 255, or 128 and the signal.
    pub(crate) fn expect(&self, pid: u32) -> impl Future<Output = u32> + use<> {
        let (tell, told) = oneshot::channel();
        match self.unasked.borrow_mut().remove(&pid) {
            Some(code) => drop(tell.send(code)),
            None => drop(self.asked.borrow_mut().insert(pid, tell)),
        }
        async move { told.await.unwrap_or(255) }
    }

    pub(crate) fn run(&self) -> Run<'_> {
        self.runs.set(self.runs.get() + 1);
        Run(self)
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        let left = self.0.runs.get() - 1;
        self.0.runs.set(left);
        if left == 0 {
            self.0.unasked.borrow_mut().clear();
        }
    }
}

fn code(status: WaitStatus) -> u32 {
    let code = status
        .exit_status()
        .or_else(|| status.terminating_signal().map(|signal| 128 + signal));
    code.unwrap_or(255).unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_end_before_anyone_asks_is_kept_while_a_run_is_under_way() {
        let reaper = Reaper::default();
        let run = reaper.run();
        reaper.ended(7, 3);
        assert_eq!(reaper.expect(7).await, 3);
        let later = reaper.expect(8);
        reaper.ended(8, 137);
        assert_eq!(later.await, 137);
        reaper.ended(9, 1);
        drop(run);
        assert!(
            reaper.unasked.borrow().is_empty(),
            "a pid comes again: its old end must not"
        );
        reaper.ended(10, 1);
        assert!(reaper.unasked.borrow().is_empty());
    }
}
