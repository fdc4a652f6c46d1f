//! Logs of pods that are gone: kept for a while and up to an amount, for whoever comes to look why.
//!
//! ```text
//! in use ──(the pod is gone: a mark in its folder)──► kept ──(the time or the room is over)──► removed
//!    ▲                                                  │
//!    └──(a pod of the same uid: the folder anew)────────┘
//! ```
//! Only pods of the manifest folder and of the queue have the same uid again.

use std::{
    fs, io,
    path::Path,
    time::{Duration, SystemTime},
};

use crate::stats::disk_use;

/// Made when the pod goes; its time is the folder's end.
const MARK: &str = ".gone";

/// The folder of a pod that is about to run.
pub(crate) fn take_into_use(dir: &Path) -> io::Result<()> {
    if dir.join(MARK).exists() {
        fs::remove_dir_all(dir)?;
    }
    fs::create_dir_all(dir)
}

/// The pod is gone. One that has never run has no folder.
pub(crate) fn keep(dir: &Path) -> io::Result<()> {
    match fs::File::create_new(dir.join(MARK)) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists
            ) =>
        {
            Ok(())
        }
        made => made.map(drop),
    }
}

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub struct KeptLogs {
    /// Since the pod went.
    pub time: Duration,
    /// Bytes on the disk of all pods that are gone together; those that went first go first.
    pub room: u64,
}

/// Removes what has been kept for as long, and what is too much. Blocks.
pub(super) fn remove_old(root: &Path, kept: KeptLogs, now: SystemTime) -> io::Result<()> {
    let mut left = Vec::new();
    for entry in fs::read_dir(root)? {
        let dir = entry?.path();
        // In use where there is no mark.
        let Ok(gone_at) = fs::metadata(dir.join(MARK)).and_then(|mark| mark.modified()) else {
            continue;
        };
        // A mark of a time to come is of a clock that was wrong.
        if now.duration_since(gone_at).is_ok_and(|age| age >= kept.time) {
            fs::remove_dir_all(dir)?;
        } else {
            left.push((gone_at, dir));
        }
    }
    left.sort_unstable();
    let mut sum: u64 = 0;
    for (_, dir) in left.into_iter().rev() {
        sum = sum.saturating_add(disk_use(&dir));
        if sum > kept.room {
            fs::remove_dir_all(dir)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clone8s_daemon::clock;

    use super::*;

    const KEPT: KeptLogs = KeptLogs {
        time: Duration::from_mins(5),
        room: u64::MAX,
    };

    #[test]
    fn logs_outlive_their_pod_for_a_while() {
        let root = tempfile::tempdir().unwrap();
        let (gone, runs) = (root.path().join("gone"), root.path().join("runs"));
        for dir in [&gone, &runs] {
            take_into_use(dir).unwrap();
            fs::write(dir.join("0.log"), "words").unwrap();
        }
        keep(&gone).unwrap();
        keep(&gone).unwrap();
        let now = clock::now();
        remove_old(root.path(), KEPT, now).unwrap();
        assert!(gone.join("0.log").exists());
        remove_old(root.path(), KEPT, now + 2 * KEPT.time).unwrap();
        assert!(!gone.exists() && runs.join("0.log").exists());
    }

    #[test]
    fn a_pod_that_comes_again_has_logs_of_its_own() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("own");
        take_into_use(&dir).unwrap();
        fs::write(dir.join("0.log"), "of the first").unwrap();
        // Another sandbox of the same pod goes on in the same folder.
        take_into_use(&dir).unwrap();
        assert!(dir.join("0.log").exists());
        keep(&dir).unwrap();
        take_into_use(&dir).unwrap();
        assert!(!dir.join("0.log").exists());
        let nothing = KeptLogs {
            time: Duration::ZERO,
            room: 0,
        };
        remove_old(root.path(), nothing, clock::now()).unwrap();
        assert!(dir.exists());
    }

    #[test]
    fn what_is_too_much_goes_the_first_that_went_first_and_never_of_a_pod_that_runs() {
        const SIZE: usize = 64 << 10;
        let root = tempfile::tempdir().unwrap();
        let now = clock::now();
        let dirs = ["first", "second", "third", "runs"].map(|name| root.path().join(name));
        for (dir, age) in dirs.iter().zip([30, 20, 10, 0]) {
            take_into_use(dir).unwrap();
            fs::write(dir.join("0.log"), vec![b'x'; SIZE]).unwrap();
            if age > 0 {
                keep(dir).unwrap();
                let mark = fs::File::options().write(true).open(dir.join(MARK)).unwrap();
                mark.set_modified(now - Duration::from_secs(age)).unwrap();
            }
        }
        let there = || dirs.clone().map(|dir| dir.exists());
        let up_to = |room: usize| KeptLogs {
            room: u64::try_from(room).unwrap(),
            ..KEPT
        };
        remove_old(root.path(), up_to(4 * SIZE), now).unwrap();
        assert_eq!(there(), [true, true, true, true]);
        remove_old(root.path(), up_to(2 * SIZE + SIZE / 2), now).unwrap();
        assert_eq!(there(), [false, true, true, true]);
        remove_old(root.path(), up_to(0), now).unwrap();
        assert_eq!(there(), [false, false, false, true]);
    }

    #[test]
    fn a_pod_that_never_ran_has_nothing_to_keep() {
        let root = tempfile::tempdir().unwrap();
        keep(&root.path().join("absent")).unwrap();
        assert!(!root.path().join("absent").exists());
    }
}
