use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use clone8s_bus::{BusError, EVENTS_EXCHANGE, EventBus, Message, Queue, Receipt, Subscription};
use futures::FutureExt as _;
use proptest::prelude::*;
use tokio::sync::{oneshot, watch};

use super::{super::route::Publication, *};

/// A bus that confirms what it is told to.
#[derive(Debug, Default)]
struct Gate {
    /// What was sent and is not confirmed, in the order in which it was sent.
    sent: Mutex<Vec<(String, oneshot::Sender<()>)>>,
}

impl Gate {
    fn sent(&self) -> Vec<String> {
        let sent = self.sent.lock().unwrap();
        sent.iter().map(|(message, _)| message.clone()).collect()
    }

    fn confirm(&self, message: &str) {
        let mut sent = self.sent.lock().unwrap();
        let at = sent.iter().position(|(sent, _)| sent == message).unwrap();
        sent.remove(at).1.send(()).unwrap();
    }
}

#[async_trait]
impl EventBus for Gate {
    async fn publish(&self, _: &str, _: &str, message: Message) -> Result<Receipt, BusError> {
        let (confirm, confirmed) = oneshot::channel();
        self.sent.lock().unwrap().push((message.message_id, confirm));
        confirmed.await.map_err(|_| BusError::Closed)?;
        Ok(Receipt::Taken)
    }

    async fn declare_node(&self, _: &str) -> Result<(), BusError> {
        Ok(())
    }

    async fn subscribe(&self, _: Queue, _: u16) -> Result<Box<dyn Subscription>, BusError> {
        Err(BusError::Closed)
    }
}

fn publisher(gate: &Arc<Gate>) -> Publisher {
    Publisher::new(Arc::clone(gate) as Arc<dyn EventBus>, watch::Sender::new(true))
}

/// The change of an object at a revision, told as `<object>/<revision>`.
#[allow(clippy::unnecessary_wraps, reason = "as the window takes it")]
fn change(object: &str, revision: i64) -> Option<Routed> {
    Some(Routed {
        key: object.to_owned(),
        queue_of: None,
        publications: vec![Publication {
            exchange: EVENTS_EXCHANGE,
            routing_key: String::new(),
            message: Message {
                message_id: format!("{object}/{revision}"),
                ..Message::default()
            },
        }],
    })
}

/// Takes in every confirm that is there, and sends what waited for it.
fn settle(window: &mut Window<'_>) {
    while !window.is_empty() && window.confirm().now_or_never().is_some() {}
}

#[test]
fn changes_of_one_object_wait_for_each_other_and_those_of_others_pass_by() {
    let gate = Arc::new(Gate::default());
    let publisher = publisher(&gate);
    let mut window = Window::new(&publisher, Revision(1));
    for (object, revision) in [("a", 2), ("a", 3), ("b", 4), ("a", 5), ("c", 6)] {
        window.take(Revision(revision), change(object, revision));
    }
    settle(&mut window);
    assert_eq!(gate.sent(), ["a/2", "b/4", "c/6"]);
    gate.confirm("c/6");
    gate.confirm("b/4");
    settle(&mut window);
    assert_eq!(
        (gate.sent(), window.cursor()),
        (vec!["a/2".to_owned()], Revision(1)),
        "the cursor stays before what is not confirmed"
    );
    gate.confirm("a/2");
    settle(&mut window);
    assert_eq!(
        (gate.sent(), window.cursor()),
        (vec!["a/3".to_owned()], Revision(2))
    );
    gate.confirm("a/3");
    settle(&mut window);
    assert_eq!(
        (gate.sent(), window.cursor()),
        (vec!["a/5".to_owned()], Revision(4))
    );
    gate.confirm("a/5");
    settle(&mut window);
    assert_eq!(window.cursor(), Revision(6));
    assert!(window.is_empty());
}

#[test]
fn news_without_a_change_moves_the_cursor_once_all_before_it_is_confirmed() {
    let gate = Arc::new(Gate::default());
    let publisher = publisher(&gate);
    let mut window = Window::new(&publisher, Revision(1));
    window.take(Revision(7), None);
    assert_eq!((window.cursor(), window.told()), (Revision(7), Revision(1)));
    window.take(Revision(8), change("a", 8));
    window.take(Revision(20), None);
    settle(&mut window);
    assert_eq!(window.cursor(), Revision(7));
    gate.confirm("a/8");
    settle(&mut window);
    assert_eq!((window.cursor(), window.told()), (Revision(20), Revision(8)));
}

#[test]
fn a_window_that_is_full_takes_more_only_when_the_oldest_is_confirmed() {
    let gate = Arc::new(Gate::default());
    let publisher = publisher(&gate);
    let mut window = Window::new(&publisher, Revision(0));
    for revision in 1..=256 {
        assert!(window.has_room());
        window.take(Revision(revision), change(&format!("o{revision}"), revision));
    }
    settle(&mut window);
    gate.confirm("o2/2");
    settle(&mut window);
    assert!(!window.has_room());
    gate.confirm("o1/1");
    settle(&mut window);
    assert!(window.has_room());
    assert_eq!(window.cursor(), Revision(2));
}

proptest! {
    /// Whatever is confirmed when, an object's changes go out in order, one at a time, and the cursor has passed exactly
    /// what is confirmed with all before it.
    #[test]
    fn the_cursor_follows_the_confirms(
        objects in prop::collection::vec("[a-d]", 1..40),
        choices in prop::collection::vec(any::<prop::sample::Index>(), 40),
    ) {
        let gate = Arc::new(Gate::default());
        let publisher = publisher(&gate);
        let mut window = Window::new(&publisher, Revision(0));
        for (revision, object) in (1..).zip(&objects) {
            window.take(Revision(revision), change(object, revision));
        }
        let mut confirmed = Vec::new();
        let mut choices = choices.iter();
        while !window.is_empty() {
            settle(&mut window);
            let sent = gate.sent();
            prop_assert!(!sent.is_empty());
            let next = choices.next().unwrap().get(&sent);
            let (object, revision) = next.split_once('/').unwrap();
            let revision: usize = revision.parse().unwrap();
            let earlier = (1..revision).filter(|earlier| objects[earlier - 1] == object);
            prop_assert!(earlier.into_iter().all(|earlier| confirmed.contains(&earlier)));
            gate.confirm(next);
            confirmed.push(revision);
            settle(&mut window);
            let prefix = (1..=objects.len()).take_while(|revision| confirmed.contains(revision)).count();
            prop_assert_eq!(window.cursor(), Revision(i64::try_from(prefix).unwrap()));
        }
        prop_assert_eq!(confirmed.len(), objects.len());
    }
}
