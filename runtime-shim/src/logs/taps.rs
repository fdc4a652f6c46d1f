//! Those who follow a container's output while it is written to its log.

use std::sync::{
    Arc, Mutex, Weak,
    atomic::{AtomicBool, Ordering},
};

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

use super::Stream;
use crate::table::lock;

/// What waits for one follower. One that lags behind by more is let go of: neither the container nor its log wait for
/// it, and a gap in what it sees would look like the container's output.
const MOST: usize = 4 << 20;

/// The writer's end.
#[derive(Debug, Default)]
pub(super) struct Taps {
    /// Spares the lock where nobody follows, which is nearly always.
    any: AtomicBool,
    all: Mutex<All>,
}

#[derive(Debug, Default)]
struct All {
    taps: Vec<Weak<Waiting>>,
    ended: bool,
}

/// One follower's end, from its making on.
#[derive(Debug)]
pub(crate) struct Tap(Arc<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    bytes: Mutex<Held>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Held {
    stdout: BytesMut,
    stderr: BytesMut,
    ended: bool,
    lagged: bool,
}

/// What a follower gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Tapped {
    Output(Stream, Bytes),
    /// The container writes no more.
    Ended,
    /// It was too slow.
    Lagged,
}

impl Taps {
    pub(super) fn tap(&self) -> Tap {
        let waiting = Arc::new(Waiting::default());
        let mut all = lock(&self.all);
        lock(&waiting.bytes).ended = all.ended;
        all.taps.push(Arc::downgrade(&waiting));
        self.any.store(true, Ordering::Release);
        Tap(waiting)
    }

    /// Never waits.
    pub(super) fn send(&self, stream: Stream, bytes: &[u8]) {
        if bytes.is_empty() || !self.any.load(Ordering::Acquire) {
            return;
        }
        let mut all = lock(&self.all);
        all.taps.retain(|tap| {
            let Some(tap) = tap.upgrade() else { return false };
            let is_kept = lock(&tap.bytes).push(stream, bytes);
            tap.news.notify_one();
            is_kept
        });
        if all.taps.is_empty() {
            self.any.store(false, Ordering::Release);
        }
    }

    /// Nothing follows.
    pub(super) fn end(&self) {
        let mut all = lock(&self.all);
        all.ended = true;
        for tap in all.taps.drain(..).filter_map(|tap| tap.upgrade()) {
            lock(&tap.bytes).ended = true;
            tap.news.notify_one();
        }
    }
}

impl Held {
    /// False when it lags behind.
    fn push(&mut self, stream: Stream, bytes: &[u8]) -> bool {
        if self.stdout.len() + self.stderr.len() + bytes.len() > MOST {
            self.lagged = true;
            return false;
        }
        match stream {
            Stream::Stdout => self.stdout.extend_from_slice(bytes),
            Stream::Stderr => self.stderr.extend_from_slice(bytes),
        }
        true
    }

    fn take(&mut self) -> Option<Tapped> {
        if !self.stdout.is_empty() {
            return Some(Tapped::Output(Stream::Stdout, self.stdout.split().freeze()));
        }
        if !self.stderr.is_empty() {
            return Some(Tapped::Output(Stream::Stderr, self.stderr.split().freeze()));
        }
        match (self.lagged, self.ended) {
            (true, _) => Some(Tapped::Lagged),
            (false, true) => Some(Tapped::Ended),
            (false, false) => None,
        }
    }
}

impl Tap {
    /// Waits for the next of it. Cancellation loses nothing.
    pub(crate) async fn next(&mut self) -> Tapped {
        loop {
            if let Some(tapped) = lock(&self.0.bytes).take() {
                return tapped;
            }
            self.0.news.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_follower_sees_what_comes_after_it_and_the_end() {
        let taps = Taps::default();
        taps.send(Stream::Stdout, b"before");
        let mut tap = taps.tap();
        taps.send(Stream::Stdout, b"on");
        taps.send(Stream::Stdout, b"e");
        taps.send(Stream::Stderr, b"two");
        taps.end();
        assert_eq!(tap.next().await, Tapped::Output(Stream::Stdout, "one".into()));
        assert_eq!(tap.next().await, Tapped::Output(Stream::Stderr, "two".into()));
        assert_eq!(tap.next().await, Tapped::Ended);
        assert_eq!(taps.tap().next().await, Tapped::Ended);
    }

    #[tokio::test]
    async fn a_follower_that_lags_behind_is_let_go_of_after_what_it_has_and_the_others_go_on() {
        let taps = Taps::default();
        let (mut slow, mut quick) = (taps.tap(), taps.tap());
        let chunk = vec![b'x'; MOST / 2];
        for round in 0..4 {
            taps.send(Stream::Stdout, &chunk);
            let tapped = quick.next().await;
            assert!(
                matches!(&tapped, Tapped::Output(Stream::Stdout, bytes) if bytes.len() == chunk.len()),
                "round {round}"
            );
        }
        let Tapped::Output(_, bytes) = slow.next().await else {
            panic!("nothing of the start");
        };
        assert_eq!(bytes.len(), MOST);
        assert_eq!(slow.next().await, Tapped::Lagged);
        assert_eq!(lock(&taps.all).taps.len(), 1);
    }

    #[test]
    fn followers_that_have_gone_cost_nothing() {
        let taps = Taps::default();
        drop(taps.tap());
        taps.send(Stream::Stdout, b"x");
        assert!(!taps.any.load(Ordering::Relaxed));
    }
}
