//! Which files are being written right now: pure, from the kernel's events and the time.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use notify::{
    Event, EventKind,
    event::{AccessKind, AccessMode, ModifyKind, RenameMode},
};
use tokio::time::Instant;

use super::FileName;

/// After the last event where something went away, or is being written: it may be back in a moment, as in an editor's dance.
pub(crate) const QUIET: Duration = Duration::from_millis(50);
/// After the last event where all that happened is that files came whole, so that a copy of many is a few scans.
const WHOLE: Duration = Duration::from_millis(2);
/// A burst without an end must not keep the folder from being read.
const LONGEST_BURST: Duration = Duration::from_secs(1);
/// How long after its last write a file that nobody closed is taken as it is.
pub(super) const WRITER_GONE: Duration = Duration::from_secs(1);

/// Files that are being written.
pub(super) type Unsettled = BTreeSet<FileName>;

/// The files that were touched since they were last read.
#[derive(Debug, Default)]
pub(super) struct Touches {
    open: BTreeMap<FileName, Instant>,
    /// Not only did files come whole.
    unsure: bool,
    first: Option<Instant>,
    last: Option<Instant>,
}

impl Touches {
    pub(super) fn record(&mut self, event: &Event, now: Instant) {
        let writing = match event.kind {
            EventKind::Create(_) | EventKind::Modify(ModifyKind::Data(_)) => Some(true),
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Name(_))
            | EventKind::Remove(_) => Some(false),
            // Reading changes nothing; our own scans read.
            EventKind::Access(_) => return,
            EventKind::Modify(_) | EventKind::Other | EventKind::Any => None,
        };
        let came_whole = matches!(
            event.kind,
            EventKind::Create(_)
                | EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Name(RenameMode::To))
                | EventKind::Access(_)
        );
        self.unsure |= !came_whole;
        self.first.get_or_insert(now);
        self.last = Some(now);
        for name in event.paths.iter().filter_map(|path| path.file_name()?.to_str()) {
            match writing {
                Some(true) => drop(self.open.insert(name.to_owned(), now)),
                Some(false) => drop(self.open.remove(name)),
                None => {}
            }
        }
    }

    /// When to scan: None when nothing happened since the last scan began.
    pub(super) fn due(&self) -> Option<Instant> {
        let pause = if self.unsure || !self.open.is_empty() {
            QUIET
        } else {
            WHOLE
        };
        let quiet = self.last.map(|last| last + pause);
        let long_enough = self.first.map(|first| first + LONGEST_BURST);
        let quiet = quiet.min(long_enough);
        let writer_gone = self.open.values().min().map(|last| *last + WRITER_GONE);
        quiet.into_iter().chain(writer_gone).min()
    }

    /// A scan sees everything that happened before it. Returns the files that a program is in the middle of writing.
    pub(super) fn scan_begins(&mut self, now: Instant) -> Unsettled {
        self.first = None;
        self.last = None;
        self.unsure = false;
        self.open.retain(|_, last| now < *last + WRITER_GONE);
        self.open.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, DataChange, RemoveKind};

    use super::*;

    fn event(kind: EventKind, file: &str) -> Event {
        Event::new(kind).add_path(format!("/manifests/{file}").into())
    }
    const WRITTEN: EventKind = EventKind::Modify(ModifyKind::Data(DataChange::Any));
    const CLOSED: EventKind = EventKind::Access(AccessKind::Close(AccessMode::Write));

    fn unsettled(touches: &mut Touches, now: Instant) -> Vec<String> {
        touches.scan_begins(now).into_iter().collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_is_unsettled_from_its_creation_to_its_close() {
        let mut touches = Touches::default();
        let now = Instant::now();
        touches.record(&event(EventKind::Create(CreateKind::File), "a.yaml"), now);
        assert_eq!(unsettled(&mut touches, now), ["a.yaml"]);
        touches.record(&event(WRITTEN, "a.yaml"), now);
        touches.record(&event(CLOSED, "b.yaml"), now);
        assert_eq!(unsettled(&mut touches, now), ["a.yaml"]);
        touches.record(&event(CLOSED, "a.yaml"), now);
        assert_eq!(touches.due(), Some(now + WHOLE));
        assert!(unsettled(&mut touches, now).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_went_away_or_is_being_written_is_waited_for() {
        let renamed = |mode| EventKind::Modify(ModifyKind::Name(mode));
        let now = Instant::now();
        for (kinds, pause) in [
            (vec![EventKind::Create(CreateKind::File), WRITTEN, CLOSED], WHOLE),
            (vec![renamed(RenameMode::To)], WHOLE),
            (vec![EventKind::Create(CreateKind::File), WRITTEN], QUIET),
            (vec![renamed(RenameMode::From), renamed(RenameMode::To)], QUIET),
            (vec![EventKind::Remove(RemoveKind::File), WRITTEN, CLOSED], QUIET),
        ] {
            let mut touches = Touches::default();
            for kind in &kinds {
                touches.record(&event(*kind, "a.yaml"), now);
            }
            assert_eq!(touches.due(), Some(now + pause), "{kinds:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_writer_that_never_closes_holds_its_file_back_for_a_second_only() {
        let mut touches = Touches::default();
        let start = Instant::now();
        touches.record(&event(WRITTEN, "a.yaml"), start);
        assert_eq!(unsettled(&mut touches, start + QUIET), ["a.yaml"]);
        assert_eq!(touches.due(), Some(start + WRITER_GONE));
        assert!(unsettled(&mut touches, start + WRITER_GONE).is_empty());
        assert_eq!(touches.due(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_without_an_end_is_scanned_all_the_same() {
        let mut touches = Touches::default();
        let start = Instant::now();
        for ms in (0..2000).step_by(10) {
            touches.record(&event(CLOSED, "a.yaml"), start + Duration::from_millis(ms));
        }
        assert_eq!(touches.due(), Some(start + LONGEST_BURST));
    }

    #[tokio::test(start_paused = true)]
    async fn a_rename_settles_a_file_and_reading_is_no_event() {
        let mut touches = Touches::default();
        let now = Instant::now();
        touches.record(&event(WRITTEN, "a.yaml"), now);
        let renamed = EventKind::Modify(ModifyKind::Name(RenameMode::To));
        touches.record(&event(renamed, "a.yaml"), now);
        assert!(unsettled(&mut touches, now).is_empty());
        let read = EventKind::Access(AccessKind::Close(AccessMode::Read));
        touches.record(&event(read, "a.yaml"), now);
        assert_eq!(touches.due(), None);
    }
}
