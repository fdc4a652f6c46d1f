//! What a run saw: the writes, reads, watches and messages of all its clients, and the order that the store gave.
//!
//! Every write carries a token of its own into the object, so that each state tells which call has made it.

use std::time::Duration;

/// The store's revision.
pub type Revision = i64;

/// The kinds of a run's objects: one with a status, two that are read by those who may, and one that is in no namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Pod,
    ConfigMap,
    Secret,
    PriorityClass,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Pod, Self::ConfigMap, Self::Secret, Self::PriorityClass];
}

/// The label that says which write made the object what it is. No annotation: messages tell none of a secret.
pub const TOKEN: &str = "robustness/write";
/// The label that selectors choose by.
pub const COLOR: &str = "color";

/// What tells one state of an object from another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    pub uid: String,
    /// Of the last write to metadata or spec.
    pub token: String,
    /// Of the last write to the status, or "".
    pub status_token: String,
    pub color: String,
}

/// A state and the revision that made it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Version {
    pub revision: Revision,
    pub state: State,
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
    /// With its kind and its namespace, as in its key: `pods/default/o-1`.
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
    /// Of a pod.
    UpdateStatus,
    /// By force.
    Apply,
    Delete,
}

/// A call that changes an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    pub of: Kind,
    pub kind: WriteKind,
    /// As in [`Change::name`].
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
    /// Of a watch or of a list's later page: what it is to show is forgotten.
    Compacted,
    /// What no call of a run should be told.
    Other(String),
}

/// Which objects of its kind a list or a watch chooses.
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

/// A call that shows objects.
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
        kind: Kind,
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
    pub kind: Kind,
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
    /// What comes after this revision is forgotten in part: the watcher begins again with the present state.
    Compacted(Revision),
    /// An end that is no outage.
    Failed(String),
}

impl Told {
    /// What a watcher has been told all up to, by this.
    pub fn revision(&self) -> Option<Revision> {
        match self {
            Self::Event(change) => Some(change.revision),
            Self::Synced(revision) | Self::Bookmark(revision) => Some(*revision),
            Self::Opened(_) | Self::Compacted(_) | Self::Failed(_) => None,
        }
    }
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
    /// What comes after this revision was never forgotten.
    pub compacted: Revision,
    /// In the order of their arrival.
    pub messages: Vec<Message>,
    /// What went wrong beside all that.
    pub failures: Vec<String>,
}
