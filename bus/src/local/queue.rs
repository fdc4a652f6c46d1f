//! One queue of the local bus.
//!
//! ```text
//! push ──► ready ──take──► unacknowledged ──settle──► gone
//!            ▲                   │
//!            └────give_back──────┘  (in the old place, marked as redelivered)
//! ```

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use tokio::sync::{Notify, futures::OwnedNotified};

use crate::Message;

/// Names one handing-out of one message: a message that came back and went out again has another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token {
    position: u64,
    subscriber: u64,
}

#[derive(Debug)]
pub(super) struct QueueState {
    ready: VecDeque<Entry>,
    unacknowledged: BTreeMap<u64, Handed>,
    next_position: u64,
    ready_bytes: usize,
    dropped: u64,
    max_messages: usize,
    max_bytes: usize,
    arrived: Arc<Notify>,
}

#[derive(Debug)]
struct Entry {
    position: u64,
    message: Message,
    redelivered: bool,
}

#[derive(Debug)]
struct Handed {
    subscriber: u64,
    message: Message,
}

impl QueueState {
    pub(super) fn new(max_messages: usize, max_bytes: usize) -> Self {
        Self {
            ready: VecDeque::new(),
            unacknowledged: BTreeMap::new(),
            next_position: 0,
            ready_bytes: 0,
            dropped: 0,
            max_messages,
            max_bytes,
            arrived: Arc::new(Notify::new()),
        }
    }

    pub(super) fn push(&mut self, message: Message) {
        self.ready_bytes += message.body.len();
        self.ready.push_back(Entry {
            position: self.next_position,
            message,
            redelivered: false,
        });
        self.next_position += 1;
        self.shed();
        self.wake();
    }

    /// The oldest message, unless the subscriber holds `prefetch` already.
    pub(super) fn take(&mut self, subscriber: u64, prefetch: usize) -> Option<(Token, Message, bool)> {
        let held = self.unacknowledged.values();
        if held.filter(|handed| handed.subscriber == subscriber).count() >= prefetch {
            return None;
        }
        let entry = self.ready.pop_front()?;
        self.ready_bytes -= entry.message.body.len();
        self.unacknowledged.insert(
            entry.position,
            Handed {
                subscriber,
                message: entry.message.clone(),
            },
        );
        let token = Token {
            position: entry.position,
            subscriber,
        };
        Some((token, entry.message, entry.redelivered))
    }

    /// Forgets a message that was handed out; None when it is no longer that subscriber's to settle.
    pub(super) fn settle(&mut self, token: Token) -> Option<Message> {
        let handed = self.unacknowledged.get(&token.position)?;
        if handed.subscriber != token.subscriber {
            return None;
        }
        let handed = self.unacknowledged.remove(&token.position)?;
        // The subscriber may have been waiting for room in its prefetch.
        self.wake();
        Some(handed.message)
    }

    /// Puts everything that a subscriber holds back where it was.
    pub(super) fn give_back(&mut self, subscriber: u64) {
        let back = self
            .unacknowledged
            .extract_if(.., |_, handed| handed.subscriber == subscriber);
        let entries = back.map(|(position, handed)| Entry {
            position,
            message: handed.message,
            redelivered: true,
        });
        self.ready.extend(entries);
        self.ready.make_contiguous().sort_by_key(|entry| entry.position);
        self.ready_bytes = self.ready.iter().map(|entry| entry.message.body.len()).sum();
        self.shed();
        self.wake();
    }

    pub(super) fn wake(&self) {
        self.arrived.notify_waiters();
    }

    /// Resolves at the first [`Self::wake`] after this call.
    pub(super) fn woken(&self) -> OwnedNotified {
        Arc::clone(&self.arrived).notified_owned()
    }

    /// What is in the queue, handed out or not.
    pub(super) fn snapshot(&self) -> Vec<Message> {
        let handed = self.unacknowledged.iter();
        let handed = handed.map(|(position, handed)| (*position, &handed.message));
        let ready = self.ready.iter().map(|entry| (entry.position, &entry.message));
        let all: BTreeMap<u64, &Message> = handed.chain(ready).collect();
        all.into_values().cloned().collect()
    }

    fn shed(&mut self) {
        while self.ready.len() > self.max_messages
            || (self.ready_bytes > self.max_bytes && self.ready.len() > 1)
        {
            let Some(entry) = self.ready.pop_front() else {
                return;
            };
            self.ready_bytes -= entry.message.body.len();
            if self.dropped.is_multiple_of(1_000) {
                tracing::warn!(
                    dropped = self.dropped + 1,
                    message = entry.message.message_id,
                    "queue is full: dropping its oldest messages"
                );
            }
            self.dropped += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn message(id: u32) -> Message {
        Message {
            message_id: id.to_string(),
            body: Bytes::from_static(b"0123456789"),
            ..Message::default()
        }
    }

    fn ids(queue: &QueueState) -> Vec<String> {
        let messages = queue.snapshot().into_iter();
        messages.map(|message| message.message_id).collect()
    }

    #[test]
    fn a_full_queue_drops_its_oldest_messages() {
        let mut queue = QueueState::new(3, 1_000);
        (1..=5).for_each(|id| queue.push(message(id)));
        assert_eq!(ids(&queue), ["3", "4", "5"]);
    }

    #[test]
    fn a_queue_over_its_bytes_drops_its_oldest_messages_but_never_the_newest() {
        let mut queue = QueueState::new(100, 25);
        (1..=5).for_each(|id| queue.push(message(id)));
        assert_eq!(ids(&queue), ["4", "5"]);
        let mut tiny = QueueState::new(100, 1);
        tiny.push(message(1));
        assert_eq!(ids(&tiny), ["1"]);
    }

    #[test]
    fn what_comes_back_takes_its_old_place_and_its_old_token_is_void() {
        let mut queue = QueueState::new(100, 1_000);
        (1..=4).for_each(|id| queue.push(message(id)));
        let (first, ..) = queue.take(1, 2).unwrap();
        let (second, ..) = queue.take(1, 2).unwrap();
        assert!(queue.take(1, 2).is_none(), "the prefetch is used up");
        queue.settle(second).unwrap();
        queue.give_back(1);
        assert_eq!(ids(&queue), ["1", "3", "4"]);
        assert_eq!(queue.settle(first), None);
        let (_, again, redelivered) = queue.take(2, 1).unwrap();
        assert_eq!((again.message_id.as_str(), redelivered), ("1", true));
        assert_eq!(queue.settle(first), None, "another subscriber holds it now");
    }
}
