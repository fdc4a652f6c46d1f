//! An EventBus inside one process, for `c8s up` and for tests.
//!
//! It keeps what the AMQP bus keeps, for as long as the process lives: node queues outlive their subscribers, what
//! was not acknowledged comes back in its old place, and dead letters stay to be looked at. Nothing is copied to
//! disk: the store is the truth, and a node that starts again lists its pods.

mod queue;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;

use self::queue::{QueueState, Token};
use crate::{
    BusError, DEAD_QUEUE_MESSAGES, Delivery, EVENTS_EXCHANGE, EventBus, METRICS_EXCHANGE, Message,
    NODE_QUEUE_BYTES, NODE_QUEUE_MESSAGES, NODES_EXCHANGE, Queue, Receipt, Subscription, dead_letter, topic,
};

/// The bus. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct LocalBus {
    shared: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    queues: HashMap<QueueId, QueueState>,
    temporary: Vec<Binding>,
    next_subscriber: u64,
    closed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum QueueId {
    Node(String),
    Temporary(u64),
    Dead,
}

#[derive(Debug)]
struct Binding {
    exchange: &'static str,
    pattern: String,
    queue: u64,
}

impl Default for State {
    fn default() -> Self {
        let dead = QueueState::new(DEAD_QUEUE_MESSAGES, NODE_QUEUE_BYTES);
        Self {
            queues: HashMap::from([(QueueId::Dead, dead)]),
            temporary: Vec::new(),
            next_subscriber: 0,
            closed: false,
        }
    }
}

impl LocalBus {
    pub fn new() -> Self {
        Self::default()
    }

    /// The rejected messages that are still kept, oldest first, each with its reason in [`crate::REASON_HEADER`].
    pub fn dead_letters(&self) -> Vec<Message> {
        let state = self.lock();
        state
            .queues
            .get(&QueueId::Dead)
            .map_or_else(Vec::new, QueueState::snapshot)
    }

    /// Ends every subscription and refuses what comes after, as a broker that went away for good.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        for queue in state.queues.values() {
            queue.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is whole between any two statements that can panic.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl EventBus for LocalBus {
    async fn publish(
        &self,
        exchange: &str,
        routing_key: &str,
        message: Message,
    ) -> Result<Receipt, BusError> {
        let mut state = self.lock();
        if state.closed {
            return Err(BusError::Closed);
        }
        let mut targets = state.bound_to(exchange, routing_key);
        match exchange {
            EVENTS_EXCHANGE | METRICS_EXCHANGE => {}
            NODES_EXCHANGE => targets.push(QueueId::Node(routing_key.to_owned())),
            unknown => return Err(BusError::Refused(format!("there is no exchange {unknown}"))),
        }
        let mut taken = false;
        for target in targets {
            if let Some(queue) = state.queues.get_mut(&target) {
                queue.push(message.clone());
                taken = true;
            }
        }
        Ok(if taken || exchange != NODES_EXCHANGE {
            Receipt::Taken
        } else {
            Receipt::Unroutable
        })
    }

    async fn declare_node(&self, _: &str) -> Result<(), BusError> {
        // Who subscribes makes the queue. One that nobody can subscribe to would fill memory.
        Ok(())
    }

    async fn subscribe(&self, queue: Queue, prefetch: u16) -> Result<Box<dyn Subscription>, BusError> {
        let mut state = self.lock();
        if state.closed {
            return Err(BusError::Closed);
        }
        state.next_subscriber += 1;
        let subscriber = state.next_subscriber;
        let name = queue.to_string();
        let id = match queue {
            Queue::Node(node) => QueueId::Node(node),
            Queue::Dead => QueueId::Dead,
            Queue::Temporary { exchange, pattern } => {
                state.temporary.push(Binding {
                    exchange,
                    pattern,
                    queue: subscriber,
                });
                QueueId::Temporary(subscriber)
            }
        };
        state
            .queues
            .entry(id.clone())
            .or_insert_with(|| QueueState::new(NODE_QUEUE_MESSAGES, NODE_QUEUE_BYTES));
        drop(state);
        Ok(Box::new(LocalSubscription {
            bus: self.clone(),
            id,
            name,
            subscriber,
            prefetch: usize::from(prefetch.max(1)),
        }))
    }
}

impl State {
    fn bound_to(&self, exchange: &str, routing_key: &str) -> Vec<QueueId> {
        let wants = |binding: &&Binding| {
            binding.exchange == exchange
                && if exchange == NODES_EXCHANGE {
                    binding.pattern == routing_key
                } else {
                    topic::matches(&binding.pattern, routing_key)
                }
        };
        let bound = self.temporary.iter().filter(wants);
        bound.map(|binding| QueueId::Temporary(binding.queue)).collect()
    }
}

#[derive(Debug)]
struct LocalSubscription {
    bus: LocalBus,
    id: QueueId,
    name: String,
    subscriber: u64,
    prefetch: usize,
}

#[async_trait]
impl Subscription for LocalSubscription {
    async fn next(&mut self) -> Result<Box<dyn Delivery>, BusError> {
        loop {
            let woken = {
                let mut state = self.bus.lock();
                if state.closed {
                    return Err(BusError::Closed);
                }
                let queue = state.queues.get_mut(&self.id).ok_or(BusError::Closed)?;
                if let Some((token, message, redelivered)) = queue.take(self.subscriber, self.prefetch) {
                    return Ok(Box::new(LocalDelivery {
                        bus: self.bus.clone(),
                        queue: self.id.clone(),
                        origin: self.name.clone(),
                        token,
                        message,
                        redelivered,
                    }));
                }
                // Registered under the lock, so that no wake-up can fall between the look and the wait.
                queue.woken()
            };
            woken.await;
        }
    }
}

impl Drop for LocalSubscription {
    fn drop(&mut self) {
        let mut state = self.bus.lock();
        if let QueueId::Temporary(queue) = self.id {
            state.temporary.retain(|binding| binding.queue != queue);
            state.queues.remove(&self.id);
        } else if let Some(queue) = state.queues.get_mut(&self.id) {
            queue.give_back(self.subscriber);
        }
    }
}

#[derive(Debug)]
struct LocalDelivery {
    bus: LocalBus,
    queue: QueueId,
    origin: String,
    token: Token,
    message: Message,
    redelivered: bool,
}

#[async_trait]
impl Delivery for LocalDelivery {
    fn message(&self) -> &Message {
        &self.message
    }

    fn redelivered(&self) -> bool {
        self.redelivered
    }

    async fn ack(self: Box<Self>) -> Result<(), BusError> {
        self.settle().map(drop)
    }

    async fn reject(self: Box<Self>, reason: &str) -> Result<(), BusError> {
        let message = dead_letter(self.settle()?, reason, &self.origin);
        if let Some(dead) = self.bus.lock().queues.get_mut(&QueueId::Dead) {
            dead.push(message);
        }
        Ok(())
    }
}

impl LocalDelivery {
    /// Takes the message out of its queue for good, unless its subscription has ended and it is back already.
    fn settle(&self) -> Result<Message, BusError> {
        let mut state = self.bus.lock();
        let queue = state.queues.get_mut(&self.queue).ok_or(BusError::Closed)?;
        queue.settle(self.token).ok_or(BusError::Closed)
    }
}
