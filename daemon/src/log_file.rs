//! Bounds the log files of a process that runs for long.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::{MissedTickBehavior, interval};

use crate::Shutdown;

/// A program that writes as fast as it can passes the bound by what it writes in this time.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Log files, each of at most `bytes` with one older part of the same size beside it (`<name>.1`).
#[derive(Debug)]
pub struct LogFiles {
    /// The file that our own standard error, and output, goes to.
    pub own: Option<PathBuf>,
    /// Files that other programs append to. What one writes in the instant of the turn is lost.
    pub others: Vec<PathBuf>,
    pub bytes: u64,
}

impl LogFiles {
    /// Keeps them bounded until shutdown. A file that cannot be turned is told of, and grows on.
    pub async fn keep_bounded(self, shutdown: Shutdown) -> io::Result<()> {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                _ = ticks.tick() => self.look(),
            }
        }
    }

    fn look(&self) {
        let own = self.own.iter().map(|path| (path, turn_own as fn(&Path) -> _));
        let others = self.others.iter().map(|path| (path, turn as fn(&Path) -> _));
        for (path, turn) in own.chain(others) {
            let is_long = fs::metadata(path).is_ok_and(|file| file.len() > self.bytes);
            if is_long && let Err(error) = turn(path) {
                tracing::warn!(path = %path.display(), %error, "the log file cannot be turned: it grows on");
            }
        }
    }
}

/// The name of the older part.
pub fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// Sets the file aside and sends our standard streams to a new one; not a line is lost. Does nothing where they go
/// elsewhere.
fn turn_own(path: &Path) -> io::Result<()> {
    let file = fs::metadata(path)?;
    let is_file = |stream: rustix::fs::Stat| stream.st_dev == file.dev() && stream.st_ino == file.ino();
    let error_is_file = is_file(rustix::fs::fstat(rustix::stdio::stderr())?);
    let output_is_file = is_file(rustix::fs::fstat(rustix::stdio::stdout())?);
    if !error_is_file {
        return Ok(());
    }
    fs::rename(path, older(path))?;
    let new = OpenOptions::new().create(true).append(true).open(path)?;
    rustix::stdio::dup2_stderr(&new)?;
    if output_is_file {
        rustix::stdio::dup2_stdout(&new)?;
    }
    Ok(())
}

/// Copies the file aside and empties it: its writer, who must append, notices nothing.
fn turn(path: &Path) -> io::Result<()> {
    fs::copy(path, older(path))?;
    File::options().write(true).open(path)?.set_len(0)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn bounded(path: &Path) -> LogFiles {
        LogFiles {
            own: None,
            others: vec![path.to_owned()],
            bytes: 10,
        }
    }

    #[test]
    fn a_long_file_is_set_aside_and_its_writer_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        let mut writer = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        let log = bounded(&path);

        writer.write_all(b"short\n").unwrap();
        log.look();
        assert_eq!(fs::read(&path).unwrap(), b"short\n");
        assert!(!older(&path).exists());

        writer.write_all(b"and longer\n").unwrap();
        log.look();
        writer.write_all(b"new\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new\n");
        assert_eq!(fs::read(older(&path)).unwrap(), b"short\nand longer\n");
    }

    #[test]
    fn only_the_last_older_part_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        for text in ["the first of them", "the second of them"] {
            fs::write(&path, text).unwrap();
            bounded(&path).look();
        }
        assert_eq!(fs::read(older(&path)).unwrap(), b"the second of them");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_file_that_is_missing_or_not_our_stream_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        bounded(&path).look();
        fs::write(&path, "long enough to turn").unwrap();
        let log = LogFiles {
            own: Some(path.clone()),
            others: Vec::new(),
            bytes: 10,
        };
        log.look();
        assert!(!older(&path).exists());
    }
}
