//! Clients that write and read objects of several kinds at random through all apiservers, and keep a record of what they were told.
//!
//! What a client's nth call is comes from the seed alone; only what it has seen by then depends on the run.

use std::{collections::HashMap, time::Duration};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt as _;

use super::{
    Clock,
    history::{Kind, Outcome, Read, Refusal, Revision, Selector, Shown, Span, Write, WriteKind},
    objects,
};

/// Of each kind. Few, so that clients meet.
const NAMES: usize = 3;
pub(super) const COLORS: [&str; 3] = ["red", "green", "blue"];

/// Shorter than the apiserver's patience with its store, so that some calls end before they are answered.
const PATIENCE: Duration = Duration::from_secs(4);
/// How often a call with a request_id is sent.
const TRIES: usize = 4;
const PAGE: usize = 2;

/// One client.
pub(super) struct Client {
    pub(super) number: usize,
    pub(super) seed: u64,
    pub(super) channels: Vec<Channel>,
    pub(super) clock: Clock,
    /// The last revision that it has seen of each object.
    seen: HashMap<String, Revision>,
    record: Record,
}

/// What a client did.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) writes: Vec<Write>,
    pub(super) reads: Vec<Read>,
}

impl Client {
    pub(super) fn new(number: usize, seed: u64, channels: Vec<Channel>, clock: Clock) -> Self {
        Self {
            number,
            seed,
            channels,
            clock,
            seen: HashMap::new(),
            record: Record::default(),
        }
    }

    /// One call after another until a moment.
    pub(super) async fn run(mut self, until: Instant) -> Record {
        let mut count = 0;
        while Instant::now() < until {
            let mut rng = rng(self.seed, self.number, count);
            sleep(Duration::from_millis(rng.random_range(0..60))).await;
            match rng.random_range(0..100) {
                0..65 => self.write(&mut rng, count).await,
                65..85 => self.get(&mut rng).await,
                _ => self.list(&mut rng).await,
            }
            count += 1;
        }
        self.record
    }

    async fn write(&mut self, rng: &mut StdRng, count: u64) {
        let kinds = [
            WriteKind::Create,
            WriteKind::Create,
            WriteKind::Update,
            WriteKind::Update,
            WriteKind::Apply,
            WriteKind::Delete,
            WriteKind::UpdateStatus,
        ];
        let of = kind(rng);
        let name = name(rng, of);
        // The last is for pods alone.
        let possible = kinds.len() - usize::from(of != Kind::Pod);
        let kind = kinds[rng.random_range(0..possible)];
        let careful = rng.random_bool(0.5) && kind != WriteKind::Create;
        let writes_color = matches!(kind, WriteKind::Create | WriteKind::Update | WriteKind::Apply);
        let color = COLORS[rng.random_range(0..COLORS.len())];
        let mut write = Write {
            of,
            kind,
            token: format!("{}-{count}", self.number),
            color: if writes_color { color } else { "" }.to_owned(),
            seen: self.seen.get(&name).copied().filter(|_| careful),
            span: self.clock.instant(),
            named: rng.random_bool(0.4),
            outcome: Outcome::Unknown,
            name,
        };
        let tries = if write.named { TRIES } else { 1 };
        for number in 0..tries {
            let channel = self.channel(rng);
            let answer = timeout(PATIENCE, objects::send(&write, channel)).await;
            write.outcome = match answer.map(|answer| answer.map_err(|status| refusal(&status))) {
                Ok(Ok(version)) => {
                    let revision = version.revision;
                    self.seen.insert(write.name.clone(), revision);
                    // A repetition is answered with the object as it is by then.
                    if number == 0 {
                        Outcome::Done(revision)
                    } else {
                        Outcome::DoneSometime
                    }
                }
                // What was sent before may be on its way still.
                Ok(Err(Some(_))) if number > 0 => break,
                Ok(Err(Some(refusal))) => Outcome::Refused(refusal),
                Ok(Err(None)) | Err(_) => Outcome::Unknown,
            };
            if write.outcome != Outcome::Unknown {
                break;
            }
            sleep(Duration::from_millis(rng.random_range(50..400))).await;
        }
        write.span.ended = self.clock.now();
        self.record.writes.push(write);
    }

    async fn get(&mut self, rng: &mut StdRng) {
        let kind = kind(rng);
        let name = name(rng, kind);
        let begun = self.clock.now();
        let channel = self.channel(rng);
        let Ok(answer) = timeout(PATIENCE, objects::get(&name, kind, channel)).await else {
            return;
        };
        let shown = match answer {
            Ok(version) => {
                let revision = version.as_ref().map_or(0, |version| version.revision);
                self.seen.insert(name.clone(), revision);
                Shown::Object { name, version }
            }
            Err(status) => match refusal(&status) {
                Some(Refusal::NotFound) => Shown::Object { name, version: None },
                Some(other) => Shown::Failed(format!("{other:?}")),
                None => return,
            },
        };
        self.shown(begun, shown);
    }

    /// All pages, each from whatever apiserver.
    async fn list(&mut self, rng: &mut StdRng) {
        let kind = kind(rng);
        let selector = selector(rng, kind);
        let begun = self.clock.now();
        let mut token = String::new();
        let mut revision = None;
        let mut items = Vec::new();
        loop {
            let page_size = i32::try_from(PAGE).unwrap_or(i32::MAX);
            let page = objects::list(kind, &selector, page_size, token, self.channel(rng));
            let Ok(answer) = timeout(PATIENCE, page).await else {
                return;
            };
            let page = match answer.map_err(|status| refusal(&status)) {
                Ok(page) => page,
                // A page of a state that is forgotten by now says so.
                Err(Some(Refusal::Compacted)) if revision.is_some() => return,
                Err(Some(other)) => return self.shown(begun, Shown::Failed(format!("{other:?}"))),
                Err(None) => return,
            };
            let first = *revision.get_or_insert(page.revision);
            if page.revision != first || page.items.len() > PAGE {
                let wrong = format!(
                    "a page of {} objects at {}, not {first}",
                    page.items.len(),
                    page.revision
                );
                return self.shown(begun, Shown::Failed(wrong));
            }
            items.extend(page.items);
            token = page.next;
            if token.is_empty() {
                let shown = Shown::List {
                    kind,
                    selector,
                    revision: first,
                    items,
                };
                return self.shown(begun, shown);
            }
        }
    }

    fn shown(&mut self, begun: Duration, shown: Shown) {
        let ended = self.clock.now();
        self.record.reads.push(Read {
            span: Span { begun, ended },
            shown,
        });
    }

    fn channel(&self, rng: &mut StdRng) -> Channel {
        self.channels[rng.random_range(0..self.channels.len())].clone()
    }
}

pub(super) fn selector(rng: &mut StdRng, kind: Kind) -> Selector {
    let color = COLORS[rng.random_range(0..COLORS.len())];
    match rng.random_range(0..4) {
        0 => Selector::All,
        1 => Selector::Color(color),
        2 => Selector::NotColor(color),
        _ => Selector::Name(name(rng, kind)),
    }
}

/// The choices of one client's nth step: how often others had to be repeated does not change them.
pub(super) fn rng(seed: u64, client: usize, count: u64) -> StdRng {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..16].copy_from_slice(&(client as u64).to_le_bytes());
    bytes[16..24].copy_from_slice(&count.to_le_bytes());
    StdRng::from_seed(bytes)
}

fn kind(rng: &mut StdRng) -> Kind {
    Kind::ALL[rng.random_range(0..Kind::ALL.len())]
}

fn name(rng: &mut StdRng, kind: Kind) -> String {
    format!("{}o-{}", kind.prefix(), rng.random_range(0..NAMES))
}

/// None where nobody can say whether the call was done.
pub(super) fn refusal(status: &Status) -> Option<Refusal> {
    let reason = status.get_details_error_info().map(|info| info.reason);
    match status.code() {
        Code::AlreadyExists => Some(Refusal::Exists),
        Code::NotFound => Some(Refusal::NotFound),
        Code::Aborted => Some(Refusal::Stale),
        Code::OutOfRange if reason.as_deref() == Some("REVISION_COMPACTED") => Some(Refusal::Compacted),
        Code::Unavailable | Code::DeadlineExceeded => None,
        // Without details it is the connection's end, as the library tells it.
        Code::Cancelled | Code::Unknown | Code::Internal if reason.is_none() => None,
        code => Some(Refusal::Other(format!(
            "{code:?} {reason:?}: {}",
            status.message()
        ))),
    }
}
