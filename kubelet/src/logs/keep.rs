//! Logs of pods that are gone: kept for a while, for whoever comes to look why.
//!
//! ```text
//! in use ──(the pod is gone: a mark in its folder)──► kept ──(the time is over)──► removed
//!    ▲                                                  │
//!    └──(a pod of the same uid: the folder anew)────────┘
//! ```
//! Only pods of the manifest folder and of the queue have the same uid again.

use std::{
    fs, io,
    path::Path,
    time::{Duration, SystemTime},
};

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

/// Removes what has been kept for as long.
pub(super) fn remove_old(root: &Path, retention: Duration, now: SystemTime) -> io::Result<()> {
    for entry in fs::read_dir(root)? {
        let dir = entry?.path();
        let gone_at = fs::metadata(dir.join(MARK)).and_then(|mark| mark.modified());
        // In use where there is no mark; a mark of a time to come is of a clock that was wrong.
        if gone_at.is_ok_and(|at| now.duration_since(at).is_ok_and(|age| age >= retention)) {
            fs::remove_dir_all(dir)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clone8s_daemon::clock;

    use super::*;

    const RETENTION: Duration = Duration::from_mins(5);

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
        remove_old(root.path(), RETENTION, now).unwrap();
        assert!(gone.join("0.log").exists());
        remove_old(root.path(), RETENTION, now + 2 * RETENTION).unwrap();
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
        remove_old(root.path(), Duration::ZERO, clock::now()).unwrap();
        assert!(dir.exists());
    }

    #[test]
    fn a_pod_that_never_ran_has_nothing_to_keep() {
        let root = tempfile::tempdir().unwrap();
        keep(&root.path().join("absent")).unwrap();
        assert!(!root.path().join("absent").exists());
    }
}
