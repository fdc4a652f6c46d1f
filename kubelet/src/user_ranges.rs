//! The node's user and group ids that are those of pods with users of their own.
//!
//! ```text
//! <data>/pods/<uid>/users   the first id of the pod's range, until the pod's folders go
//! ```
//!
//! Everything here blocks, and all of it may be repeated.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use clone8s::cri::IdMapping;

use crate::desired::PodUid;

/// Ids of a pod: 0 to 65535, as of a whole machine.
const LENGTH: u32 = 1 << 16;
/// Below it are the node's own. The last id of all is no id (the kernel's -1), and so the last range is none.
const RANGES: std::ops::Range<u32> = 1..(u32::MAX / LENGTH);
const FILE: &str = "users";

/// A pod's ids on the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct UserRange {
    first: u32,
}

impl UserRange {
    pub(crate) const fn nth(number: u32) -> Self {
        Self {
            first: number * LENGTH,
        }
    }

    /// From the pod's ids to the node's.
    pub fn mappings(self) -> Vec<IdMapping> {
        vec![IdMapping {
            container_id: 0,
            host_id: self.first,
            length: LENGTH,
        }]
    }

    /// None of what this program has not written.
    fn parse(text: &str) -> Option<Self> {
        let first: u32 = text.trim().parse().ok()?;
        (first.is_multiple_of(LENGTH) && RANGES.contains(&(first / LENGTH))).then_some(Self { first })
    }
}

/// Which pod has which range.
#[derive(Debug, Clone)]
pub struct UserRanges {
    pods: PathBuf,
    /// Held while a free range is looked for and taken.
    taking: Arc<Mutex<()>>,
}

impl UserRanges {
    pub fn new(data_dir: &Path) -> Self {
        Self {
            pods: data_dir.join("pods"),
            taking: Arc::default(),
        }
    }

    /// The pod's range, which it has from the first call on until its folders are removed.
    pub fn of(&self, uid: &PodUid) -> io::Result<UserRange> {
        let _taking = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = self.pods.join(uid.as_str());
        if let Some(range) = read(&dir)? {
            return Ok(range);
        }
        let taken = self.taken()?;
        let free = RANGES.map(UserRange::nth).find(|range| !taken.contains(range));
        let range = free.ok_or_else(|| io::Error::other("no user ids are left on this node; remove pods"))?;
        fs::create_dir_all(&dir)?;
        // In one step: half a number would be another one.
        let draft = dir.join(format!("{FILE}.new"));
        fs::write(&draft, range.first.to_string())?;
        fs::rename(draft, dir.join(FILE))?;
        Ok(range)
    }

    fn taken(&self) -> io::Result<BTreeSet<UserRange>> {
        let entries = match fs::read_dir(&self.pods) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
            entries => entries?,
        };
        let mut taken = BTreeSet::new();
        for entry in entries {
            taken.extend(read(&entry?.path())?);
        }
        Ok(taken)
    }
}

/// The range of the pod whose folder this is.
fn read(dir: &Path) -> io::Result<Option<UserRange>> {
    match fs::read_to_string(dir.join(FILE)) {
        Ok(text) => Ok(UserRange::parse(&text)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid(name: &str) -> PodUid {
        PodUid::new(name)
    }

    #[test]
    fn every_pod_has_its_own_range_through_restarts_and_a_gone_pods_is_free_again() {
        let dir = tempfile::tempdir().unwrap();
        let ranges = UserRanges::new(dir.path());
        let first = ranges.of(&uid("a")).unwrap();
        assert_eq!(first, UserRange::nth(1));
        assert_eq!(ranges.of(&uid("b")).unwrap(), UserRange::nth(2));
        assert_eq!(UserRanges::new(dir.path()).of(&uid("a")).unwrap(), first);
        fs::remove_dir_all(dir.path().join("pods/a")).unwrap();
        assert_eq!(ranges.of(&uid("c")).unwrap(), UserRange::nth(1));
        assert_eq!(ranges.of(&uid("a")).unwrap(), UserRange::nth(3));
    }

    #[test]
    fn pods_that_come_at_one_time_get_different_ranges() {
        let dir = tempfile::tempdir().unwrap();
        let ranges = UserRanges::new(dir.path());
        let threads: Vec<_> = (0..20)
            .map(|number| {
                let ranges = ranges.clone();
                std::thread::spawn(move || ranges.of(&uid(&format!("pod-{number}"))).unwrap())
            })
            .collect();
        let given: BTreeSet<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert_eq!(given.len(), 20);
    }

    #[test]
    fn a_range_is_above_the_nodes_own_ids_and_below_the_one_that_is_none() {
        for (text, good) in [
            ("65536", true),
            ("65536\n", true),
            ("0", false),
            ("65537", false),
            ("4294836224", true),
            ("4294901760", false),
            ("-1", false),
            ("", false),
        ] {
            assert_eq!(UserRange::parse(text).is_some(), good, "{text:?}");
        }
        let [last] = &*UserRange::nth(RANGES.end - 1).mappings() else {
            panic!("one mapping");
        };
        assert!(last.host_id.checked_add(last.length).is_some());
    }
}
