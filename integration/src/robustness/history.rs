//! What a run saw: the writes, reads, watches and messages of all its clients, and the order that the store gave.
//!
//! Every write carries a token of its own into the object, so that each state tells which call has made it.

use std::time::Duration;

use clone8s::v1::Pod;

/// The store's revision.
pub type Revision = i64;

/// The annotation that says which write made the object what it is.
pub const TOKEN: &str = "robustness/write";
/// The label that selectors choose by.
pub const COLOR: &str = "color";

/// What tells one state of a pod from another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    pub uid: String,
    /// Of the last write to metadata or spec.
    pub token: String,
    /// Of the last write to the status, or "".
    pub status_token: String,
    pub color: String,
}

impl State {
    pub fn of(pod: &Pod) -> Self {
        let meta = pod.metadata.clone().unwrap_or_default();
        let take = |from: &std::collections::BTreeMap<String, String>, key: &str| {
            from.get(key).cloned().unwrap_or_default()
        };
        Self {
            token: take(&meta.annotations, TOKEN),
            color: take(&meta.labels, COLOR),
            status_token: pod
                .status
                .as_ref()
                .map_or_else(String::new, |status| status.message.clone()),
            uid: meta.uid,
        }
    }
}

/// A state and the revision that made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    pub revision: Revision,
    pub state: State,
}

impl Version {
    pub fn of(pod: &Pod) -> Self {
        Self {
            revision: pod.metadata.as_ref().map_or(0, |meta| meta.resource_version),
            state: State::of(pod),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Added,
    Modified,
    Deleted,
}

/// One write as the store took it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub revision: Revision,
    pub name: String,
    pub verb: Verb,
    /// Of a deletion, the last one.
    pub state: State,
}

/// When a call began and ended, since the start of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub begun: Duration,
    pub ended: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteKind {
    Create,
    Update,
    UpdateStatus,
    /// By force.
    Apply,
    Delete,
}

/// A call that changes a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    pub kind: WriteKind,
    pub name: String,
    /// Unlike that of any other write; a deletion leaves it nowhere.
    pub token: String,
    /// Of what is written; "" where that is a status or nothing.
    pub color: String,
    /// The revision that the object had to have.
    pub seen: Option<Revision>,
    pub span: Span,
    /// Whether it carried a request_id, and was sent again until it was answered.
    pub named: bool,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// At this revision.
    Done(Revision),
    /// It was sent several times, and by the last answer it is done: at which revision, nobody said.
    DoneSometime,
    Refused(Refusal),
    /// The connection broke, the time was over or the store was away: done, or not, or later.
    Unknown,
}

/// A definite no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    Exists,
    NotFound,
    Stale,
    /// What no call of a run should be told.
    Other(String),
}

/// Which pods a list or a watch chooses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    All,
    Color(&'static str),
    NotColor(&'static str),
    Name(String),
}

impl Selector {
    pub fn admits(&self, name: &str, state: &State) -> bool {
        match self {
            Self::All => true,
            Self::Color(color) => state.color == *color,
            Self::NotColor(color) => state.color != *color,
            Self::Name(wanted) => name == wanted,
        }
    }
}

/// A call that shows pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    pub span: Span,
    pub shown: Shown,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// By a get; None for NOT_FOUND.
    Object { name: String, version: Option<Version> },
    /// By a list, over all its pages.
    List {
        selector: Selector,
        revision: Revision,
        items: Vec<(String, Version)>,
    },
    /// An error that is no outage.
    Failed(String),
}

/// Everything that one watcher was told, over all its streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watch {
    pub watcher: String,
    pub selector: Selector,
    pub told: Vec<(Duration, Told)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// A stream was asked for, with the present state first or with what comes after a revision.
    Opened(Start),
    Event(Change),
    Synced(Revision),
    Bookmark(Revision),
    /// An end that is no outage.
    Failed(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    State,
    After(Revision),
}

/// A message as it came from the broker.
pub type Message = Change;

/// One run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// Everything that the store took.
    pub order: Vec<Change>,
    pub writes: Vec<Write>,
    pub reads: Vec<Read>,
    pub watches: Vec<Watch>,
    /// In the order of their arrival.
    pub messages: Vec<Message>,
    /// What went wrong beside all that.
    pub failures: Vec<String>,
}
