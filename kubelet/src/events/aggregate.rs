//! Counts what happens again instead of telling it anew, in its latest words. Pure.

use std::{collections::BTreeMap, time::SystemTime};

use clone8s::{
    object::Object as _,
    v1::{Event, EventSource, ObjectMeta, ObjectReference},
};

use super::Happening;
use crate::clock::to_timestamp;

/// Beyond this many different events the one that was heard longest ago is forgotten, and would be told anew.
const REMEMBERED: usize = 1_024;

/// The most bytes that the API takes for an event's message.
const LONGEST_MESSAGE: usize = 1_024;

/// What is to be written for one happening.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Write {
    Create(Event),
    Update(Event),
}

impl Write {
    pub(super) fn event(&self) -> &Event {
        match self {
            Self::Create(event) | Self::Update(event) => event,
        }
    }
}

/// The pod's uid, the reason and the subject.
type Identity = (String, &'static str, String);

#[derive(Debug)]
pub(super) struct Aggregator {
    node: String,
    known: BTreeMap<Identity, Event>,
    /// Makes the names of events differ.
    serial: u64,
}

impl Aggregator {
    pub(super) fn new(node: String) -> Self {
        Self {
            node,
            known: BTreeMap::new(),
            serial: 0,
        }
    }

    /// The event that tells of a happening: new, or one more of a known kind.
    pub(super) fn add(&mut self, happening: Happening, now: SystemTime) -> Write {
        let identity = (happening.uid.clone(), happening.reason, happening.subject.clone());
        if let Some(known) = self.known.get_mut(&identity) {
            within(&happening.message, LONGEST_MESSAGE).clone_into(&mut known.message);
            known.count = known.count.saturating_add(1);
            known.last_timestamp = Some(to_timestamp(now));
            return Write::Update(known.clone());
        }
        self.make_room();
        let event = self.first(happening, now);
        self.known.insert(identity, event.clone());
        Write::Create(event)
    }

    /// Takes over the uid that the apiserver gave an event, so that it can be updated.
    pub(super) fn stored(&mut self, event: &Event) {
        if let Some(known) = self.find(event) {
            let count = known.count;
            *known = event.clone();
            known.count = count;
            // Counting is not worth a conflict.
            known.metadata_mut().resource_version = 0;
        }
    }

    /// The event was not written: when it happens again it is told anew.
    pub(super) fn forget(&mut self, event: &Event) {
        self.known.retain(|_, known| known.name() != event.name());
    }

    fn find(&mut self, event: &Event) -> Option<&mut Event> {
        self.known.values_mut().find(|known| known.name() == event.name())
    }

    fn make_room(&mut self) {
        if self.known.len() < REMEMBERED {
            return;
        }
        let heard = |event: &Event| event.last_timestamp.map(|time| (time.seconds, time.nanos));
        let oldest = self
            .known
            .iter()
            .min_by_key(|(_, event)| heard(event))
            .map(|(identity, _)| identity.clone());
        if let Some(identity) = oldest {
            self.known.remove(&identity);
        }
    }

    fn first(&mut self, happening: Happening, now: SystemTime) -> Event {
        self.serial += 1;
        let time = to_timestamp(now);
        // Unique among the events of this node, also over restarts, and a valid name for every pod's name.
        let stem = within(&happening.name, 200).trim_end_matches(['-', '.']);
        let name = format!(
            "{stem}.{:x}{:08x}{:04x}",
            time.seconds,
            time.nanos,
            self.serial & 0xffff
        );
        Event {
            metadata: Some(ObjectMeta {
                name,
                namespace: happening.namespace.clone(),
                ..Default::default()
            }),
            involved_object: Some(ObjectReference {
                kind: "Pod".to_owned(),
                namespace: happening.namespace,
                name: happening.name,
                uid: happening.uid,
            }),
            reason: happening.reason.to_owned(),
            message: within(&happening.message, LONGEST_MESSAGE).to_owned(),
            r#type: happening.kind.name().to_owned(),
            count: 1,
            first_timestamp: Some(time),
            last_timestamp: Some(time),
            source: Some(EventSource {
                component: "kubelet".to_owned(),
                host: self.node.clone(),
            }),
        }
    }
}

/// As much of the text as fits into this many bytes.
fn within(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::events::EventType;

    fn happening(message: &str) -> Happening {
        Happening {
            namespace: "default".into(),
            name: "p".into(),
            uid: "u".into(),
            kind: EventType::Warning,
            reason: "BackOff",
            subject: message.into(),
            message: message.into(),
        }
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn what_happens_again_is_counted() {
        let mut aggregator = Aggregator::new("n1".into());
        let first = aggregator.add(happening("a"), at(1));
        assert!(matches!(&first, Write::Create(event) if event.count == 1));
        let mut stored = first.event().clone();
        stored.metadata_mut().uid = "event-uid".into();
        stored.metadata_mut().resource_version = 7;
        aggregator.stored(&stored);
        let second = aggregator.add(happening("a"), at(5));
        let Write::Update(event) = second else {
            panic!("{second:?}")
        };
        assert_eq!(event.count, 2);
        assert_eq!(event.uid(), "event-uid");
        assert_eq!(event.resource_version(), 0);
        assert_eq!(event.first_timestamp.unwrap().seconds, 1);
        assert_eq!(event.last_timestamp.unwrap().seconds, 5);
    }

    #[test]
    fn another_message_is_another_event() {
        let mut aggregator = Aggregator::new("n1".into());
        let one = aggregator.add(happening("a"), at(1));
        let other = aggregator.add(happening("b"), at(1));
        assert!(matches!(other, Write::Create(_)));
        assert_ne!(one.event().name(), other.event().name());
    }

    #[test]
    fn what_is_told_anew_of_one_subject_is_one_event_in_its_latest_words() {
        let mut aggregator = Aggregator::new("n1".into());
        let of = |message: &str| Happening {
            subject: "app:1".into(),
            ..happening(message)
        };
        let first = aggregator.add(of("10 of 100 bytes"), at(1));
        let Write::Update(event) = aggregator.add(of("90 of 100 bytes"), at(11)) else {
            panic!("another event")
        };
        assert_eq!(event.name(), first.event().name());
        assert_eq!((event.message.as_str(), event.count), ("90 of 100 bytes", 2));
    }

    #[test]
    fn every_event_keeps_the_rules_of_the_api() {
        use clone8s::rules::Rules as _;
        let mut aggregator = Aggregator::new("n1".into());
        let mut long = happening(&"ü".repeat(2_000));
        // A dot stands where the name is cut.
        long.name = ["a".repeat(49).as_str(); 5].join(".");
        let write = aggregator.add(long, at(1));
        assert_eq!(write.event().validate(), []);
    }

    #[test]
    fn memory_is_bounded_and_keeps_the_latest() {
        let mut aggregator = Aggregator::new("n1".into());
        for number in 0..(REMEMBERED as u64 + 10) {
            aggregator.add(happening(&number.to_string()), at(number + 1));
        }
        assert_eq!(aggregator.known.len(), REMEMBERED);
        assert!(matches!(
            aggregator.add(happening("0"), at(9_999)),
            Write::Create(_)
        ));
        let last = (REMEMBERED + 9).to_string();
        assert!(matches!(
            aggregator.add(happening(&last), at(9_999)),
            Write::Update(_)
        ));
    }

    #[test]
    fn an_event_that_was_not_written_is_told_anew() {
        let mut aggregator = Aggregator::new("n1".into());
        let lost = aggregator.add(happening("a"), at(1));
        aggregator.forget(lost.event());
        assert!(matches!(aggregator.add(happening("a"), at(2)), Write::Create(_)));
    }
}
