//! A bus that loses, doubles, delays and reorders what it carries for the apiserver, and that goes away. What other
//! programs tell a node it keeps, as a broker keeps what it has confirmed.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use clone8s::{object::Object as _, v1::Pod};
use clone8s_bus::{
    BusError, Delivery, EventBus, Message, NODES_EXCHANGE, Queue, Receipt, Subscription, local::LocalBus,
};
use clone8s_daemon::Shutdown;
use prost::Message as _;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::{sync::watch, time::sleep};

use crate::{
    history::{Fact, NodeName},
    journal::Journal,
    rules::is_ending,
    schedule::NODES,
};

const CONFIRM: Duration = Duration::from_secs(5);

/// Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct FlakyBus {
    bus: LocalBus,
    away: watch::Sender<bool>,
    journal: Journal,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    rng: StdRng,
    calm: bool,
    /// Messages that others overtake.
    held: Vec<(String, Message)>,
    /// Who is to end with what it next acknowledges.
    doomed: BTreeMap<NodeName, Shutdown>,
}

impl FlakyBus {
    pub(crate) fn new(seed: u64, journal: Journal) -> Self {
        Self {
            bus: LocalBus::new(),
            away: watch::Sender::new(false),
            journal,
            state: Arc::new(Mutex::new(State {
                rng: StdRng::seed_from_u64(seed),
                calm: false,
                held: Vec::new(),
                doomed: BTreeMap::new(),
            })),
        }
    }

    /// While it is away, nothing goes in or comes out.
    pub(crate) fn set_away(&self, away: bool) {
        self.away.send_replace(away);
    }

    /// From now on nothing fails, but for what is lost already.
    pub(crate) fn calm(&self) {
        self.state().calm = true;
        self.set_away(false);
    }

    /// `end` is cancelled once the node has acknowledged its next message, and it does not hear that it has.
    pub(crate) fn kill_at_ack(&self, node: NodeName, end: Shutdown) {
        self.state().doomed.insert(node, end);
    }

    pub(crate) fn spare(&self, node: NodeName) {
        self.state().doomed.remove(node);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_here(&self) -> Result<(), BusError> {
        if *self.away.borrow() {
            return Err(BusError::NotConfirmed(CONFIRM));
        }
        Ok(())
    }

    /// What goes to a node instead of one message of the apiserver.
    fn carried(&self, node: &str, message: Message) -> Vec<(String, Message)> {
        let mut state = self.state();
        let held = std::mem::take(&mut state.held);
        let one = (node.to_owned(), message);
        let fate = if state.calm {
            99
        } else {
            state.rng.random_range(0..100)
        };
        let mut carried = match fate {
            0..15 => Vec::new(),
            15..30 => vec![one.clone(), one],
            30..45 => {
                state.held.push(one);
                Vec::new()
            }
            _ => vec![one],
        };
        carried.extend(held);
        carried
    }
}

#[async_trait]
impl EventBus for FlakyBus {
    async fn publish(
        &self,
        exchange: &str,
        routing_key: &str,
        message: Message,
    ) -> Result<Receipt, BusError> {
        let (delay, unconfirmed) = {
            let mut state = self.state();
            let unconfirmed = state.rng.random_range(0..100) < 3 && !state.calm;
            (state.rng.random_range(0..30), unconfirmed)
        };
        sleep(Duration::from_millis(delay)).await;
        self.check_here()?;
        let mut receipt = Receipt::Taken;
        if exchange == NODES_EXCHANGE && message.headers.contains_key("revision") {
            for (node, message) in self.carried(routing_key, message) {
                self.bus.publish(exchange, &node, message).await?;
            }
        } else {
            receipt = self.bus.publish(exchange, routing_key, message).await?;
        }
        if unconfirmed {
            return Err(BusError::NotConfirmed(CONFIRM));
        }
        Ok(receipt)
    }

    async fn declare_node(&self, node: &str) -> Result<(), BusError> {
        self.check_here()?;
        self.bus.declare_node(node).await
    }

    async fn subscribe(&self, queue: Queue, prefetch: u16) -> Result<Box<dyn Subscription>, BusError> {
        self.check_here()?;
        let node = NODES
            .into_iter()
            .find(|name| queue == Queue::Node((*name).to_owned()));
        let subscription = self.bus.subscribe(queue, prefetch).await?;
        Ok(Box::new(FlakySubscription {
            bus: self.clone(),
            away: self.away.subscribe(),
            node,
            subscription,
        }))
    }
}

#[derive(Debug)]
struct FlakySubscription {
    bus: FlakyBus,
    away: watch::Receiver<bool>,
    /// None where it is not a node's.
    node: Option<NodeName>,
    subscription: Box<dyn Subscription>,
}

#[async_trait]
impl Subscription for FlakySubscription {
    async fn next(&mut self) -> Result<Box<dyn Delivery>, BusError> {
        let delivery = tokio::select! {
            biased;
            _ = self.away.wait_for(|away| *away) => return Err(BusError::Closed),
            delivery = self.subscription.next() => delivery?,
        };
        Ok(Box::new(FlakyDelivery {
            bus: self.bus.clone(),
            node: self.node,
            delivery,
        }))
    }
}

#[derive(Debug)]
struct FlakyDelivery {
    bus: FlakyBus,
    node: Option<NodeName>,
    delivery: Box<dyn Delivery>,
}

#[async_trait]
impl Delivery for FlakyDelivery {
    fn message(&self) -> &Message {
        self.delivery.message()
    }

    fn redelivered(&self) -> bool {
        self.delivery.redelivered()
    }

    async fn ack(self: Box<Self>) -> Result<(), BusError> {
        let ends = ends_pod(self.message());
        self.delivery.ack().await?;
        let Some(node) = self.node else { return Ok(()) };
        if let Some(uid) = ends {
            self.bus.journal.write(Fact::Told { node, uid });
        }
        let doomed = self.bus.state().doomed.remove(node);
        if let Some(end) = doomed {
            self.bus
                .journal
                .write(Fact::Step(format!("{node} has acknowledged a message, and ends")));
            end.cancel();
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    async fn reject(self: Box<Self>, reason: &str) -> Result<(), BusError> {
        self.delivery.reject(reason).await
    }
}

/// The uid of the pod that is to end by a message of the apiserver.
fn ends_pod(message: &Message) -> Option<String> {
    message.headers.get("revision")?;
    let pod = Pod::decode(message.body.clone()).ok()?;
    is_ending(&pod).then(|| pod.uid().to_owned())
}
