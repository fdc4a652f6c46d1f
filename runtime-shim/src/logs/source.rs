//! One stream of a container's output, from its FIFO into its log without a moment at which a crash loses a byte.
//!
//! ```text
//! look (tee: the FIFO keeps everything) ─► mark ─► write entries ─► consume from the FIFO ─► unmark
//! ```
//!
//! The mark is a small file beside the FIFO: where in which log the entries begin. A process that finds one looks
//! whether the entries are there and whether the FIFO still begins with them; then they are consumed, not written
//! again. The start of a line stays in the FIFO until its end comes or it is written as a part.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    },
    path::Path,
    sync::Arc,
};

use clone8s_daemon::clock;
use clone8s_task_shim::readiness;
use rustix::{
    fs::OFlags,
    io::Errno,
    pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, tee},
};
use tokio::io::unix::AsyncFd;

use super::{
    format::{Entries, Stream, Take},
    pump::Log,
    taps::Taps,
};

/// As much as a FIFO holds: more means fewer turns between the container and its log.
const CAPACITY: usize = 256 << 10;
/// How often the FIFO is looked at in one turn, so that a busy container does not keep the thread.
const TURN: usize = 8;

pub(super) struct Source {
    fifo: AsyncFd<OwnedFd>,
    /// What is looked at is copied into this pipe, and leaves it at once.
    look: (OwnedFd, OwnedFd),
    stream: Stream,
    taps: Arc<Taps>,
    /// How much of the head those who follow the output have got.
    shown: usize,
    entries: Entries,
    /// What the FIFO begins with, as of the last look.
    head: Vec<u8>,
    text: Vec<u8>,
    mark: Mark,
    /// The FIFO was not empty when its turn was over.
    has_more: bool,
    /// Nobody writes to the FIFO any more.
    closed: bool,
    ended: bool,
}

impl Source {
    /// Opens a FIFO and goes on where an earlier process stopped.
    pub(super) fn open(stream: Stream, path: &Path, log: &str, taps: Arc<Taps>) -> io::Result<Self> {
        let fifo = OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(path)?;
        let look = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        for pipe in [fifo.as_fd(), look.1.as_fd()] {
            // Where the kernel allows no more, the usual size does too.
            let _ = fcntl_setpipe_size(pipe, CAPACITY);
        }
        let mut source = Self {
            fifo: readiness::watch(fifo.into())?,
            look,
            stream,
            taps,
            shown: 0,
            entries: Entries::new(stream),
            head: Vec::new(),
            text: Vec::new(),
            mark: Mark::open(&path.with_extension("mark"))?,
            has_more: true,
            closed: false,
            ended: false,
        };
        source.recover(Path::new(log))?;
        Ok(source)
    }

    /// Consumes what was written to the log and is in the FIFO still.
    fn recover(&mut self, log: &Path) -> io::Result<()> {
        let Some(offset) = self.mark.read(log)? else {
            return self.mark.clear();
        };
        let mut file = File::open(log)?;
        file.seek(SeekFrom::Start(offset))?;
        let mut text = Vec::new();
        // The entries of one look, and at most as many of the other stream.
        file.take(8 * CAPACITY as u64).read_to_end(&mut text)?;
        let written = self.entries.joined(&text);
        if matches!(self.see(), Ok(1..)) && !written.is_empty() && self.head.starts_with(&written) {
            self.consume(written.len())?;
        }
        self.mark.clear()
    }

    /// Waits until there is something to take; for ever where there is nothing to wait for. Nothing is taken yet, so
    /// a cancelled wait loses nothing.
    pub(super) async fn next(source: Option<&mut Self>) -> Option<()> {
        let source = source.filter(|source| !source.ended)?;
        if source.has_more {
            tokio::task::yield_now().await;
            return Some(());
        }
        match source.fifo.readable().await {
            // Before the look: what comes after it wakes again.
            Ok(mut ready) => {
                source.closed = ready.ready().is_read_closed();
                ready.clear_ready();
            }
            Err(_) => source.ended = true,
        }
        Some(())
    }

    /// Writes what has come, and lets go of it.
    pub(super) fn take(&mut self, take: Take, log: &mut Log) {
        self.has_more = false;
        // After the last writer no line's end will come.
        let take = if self.closed { Take::All } else { take };
        for _ in 0..TURN {
            let before = self.head.len();
            match self.see() {
                Ok(0) => self.ended = true,
                Ok(_) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => self.ended = true,
            }
            if self.ended {
                return;
            }
            let used = self.write(take, log);
            if used == 0 && self.head.len() == before {
                // Only the start of a line, and nothing new.
                return;
            }
            if self.consume(used).and_then(|()| self.mark.clear()).is_err() {
                self.ended = true;
                return;
            }
            if used == 0 {
                return;
            }
        }
        self.has_more = true;
    }

    /// Cuts entries from the head into the log; how much of the head they hold.
    fn write(&mut self, take: Take, log: &mut Log) -> usize {
        self.taps
            .send(self.stream, &self.head[self.shown.min(self.head.len())..]);
        self.shown = self.head.len();
        self.text.clear();
        let used = self.entries.cut(&self.head, take, clock::now(), &mut self.text);
        if used > 0 {
            if let Some(file) = log.file() {
                // Without a mark a crash right now writes these entries twice, which is better than not at all.
                let _ = self.mark.set(file);
            }
            log.write(&self.text);
        }
        used
    }

    /// Looks at what the FIFO begins with; 0 is the end.
    fn see(&mut self) -> rustix::io::Result<usize> {
        let seen = tee(self.fifo.get_ref(), &self.look.1, CAPACITY, SpliceFlags::NONBLOCK)?;
        self.head.resize(seen, 0);
        let mut filled = 0;
        while filled < seen {
            filled += rustix::io::read(&self.look.0, &mut self.head[filled..])?;
        }
        Ok(seen)
    }

    /// Takes bytes that have been looked at out of the FIFO.
    fn consume(&mut self, mut length: usize) -> io::Result<()> {
        self.text.resize(self.text.len().max(length), 0);
        self.head.drain(..length);
        self.shown = self.shown.saturating_sub(length);
        while length > 0 {
            match rustix::io::read(self.fifo.get_ref(), &mut self.text[..length])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => length -= read,
            }
        }
        Ok(())
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    pub(super) fn has_more(&self) -> bool {
        self.has_more
    }

    /// Whether the start of a line waits for its end.
    pub(super) fn is_pending(&self) -> bool {
        !self.ended && !self.head.is_empty()
    }
}

/// Where a test lets a process die.
#[cfg(test)]
#[derive(Debug, Clone, Copy)]
pub(super) enum Crash {
    BeforeWriting,
    BeforeConsuming,
    AfterConsuming,
}

#[cfg(test)]
impl Source {
    pub(super) fn take_until(&mut self, crash: Crash, log: &mut Log) {
        self.see().unwrap();
        if matches!(crash, Crash::BeforeWriting) {
            self.mark.set(log.file().unwrap()).unwrap();
            return;
        }
        let used = self.write(Take::Lines, log);
        if matches!(crash, Crash::AfterConsuming) {
            self.consume(used).unwrap();
        }
    }
}

/// The file beside a FIFO that says which log was being written, and from where on.
struct Mark(File);

impl Mark {
    /// Inode and offset; an inode of zero is no mark.
    const LENGTH: usize = 16;

    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        Ok(Self(file))
    }

    fn set(&self, log: &File) -> io::Result<()> {
        let found = log.metadata()?;
        let mut bytes = [0; Self::LENGTH];
        bytes[..8].copy_from_slice(&found.ino().to_ne_bytes());
        bytes[8..].copy_from_slice(&found.len().to_ne_bytes());
        self.0.write_all_at(&bytes, 0)
    }

    fn clear(&self) -> io::Result<()> {
        self.0.write_all_at(&[0; Self::LENGTH], 0)
    }

    /// The offset, if the mark is of this log and something was written since.
    fn read(&self, log: &Path) -> io::Result<Option<u64>> {
        let mut bytes = [0; Self::LENGTH];
        if self.0.metadata()?.len() < Self::LENGTH as u64 {
            return Ok(None);
        }
        self.0.read_exact_at(&mut bytes, 0)?;
        let (inode, offset) = bytes.split_at(8);
        let number = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_ne_bytes);
        let (inode, offset) = (number(inode), number(offset));
        let is_there = log
            .metadata()
            .is_ok_and(|found| inode != 0 && found.ino() == inode && found.len() > offset);
        Ok(is_there.then_some(offset))
    }
}
