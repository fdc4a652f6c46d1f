//! Container output: from FIFOs into log files in CRI's format.
//!
//! The FIFOs are the container's own output, held open by our containerd shim until the container is deleted, so a
//! container goes on while this process is away; its output waits in the FIFOs, and then the container waits. What is
//! read leaves a FIFO only when it has been written, so a kill -9 at any moment loses nothing: see [`source`].
//!
//! Under containerd's own shim, which copies into the FIFOs, what is in them is lost when the container ends while
//! this process is away: nobody holds them open then.

mod format;
mod pump;
mod source;
mod taps;

use std::{
    fs, io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::net::unix::pipe;

pub(crate) use self::{
    format::Stream,
    pump::Pump,
    taps::{Tap, Tapped},
};
use crate::{
    error::{Error, Result},
    ids::ContainerId,
};

/// How long the start of a line waits for its end before it is written as partial.
const HOLD: Duration = Duration::from_millis(100);

/// Between a container's id and a command's, neither of which has one.
const OF_EXEC: char = '.';

/// The FIFOs of one container.
#[derive(Debug, Clone)]
pub(crate) struct Fifos {
    dir: PathBuf,
    tty: bool,
    stdin: bool,
}

/// Holds FIFOs open for writing until containerd's shim does: a reader without any writer sees their end.
#[derive(Debug)]
pub(crate) struct Keeper {
    _writers: Vec<fs::File>,
}

impl Fifos {
    pub(crate) fn new(state_dir: &Path, id: &ContainerId, tty: bool, stdin: bool) -> Self {
        Self {
            dir: all(state_dir).join(id.as_str()),
            tty,
            stdin,
        }
    }

    /// Those of a command that runs in a container; their folder's name tells both, for whoever finds it.
    pub(crate) fn of_exec(
        state_dir: &Path,
        container: &ContainerId,
        exec: &ContainerId,
        tty: bool,
        stdin: bool,
    ) -> Self {
        Self {
            dir: all(state_dir).join(format!("{container}{OF_EXEC}{exec}")),
            tty,
            stdin,
        }
    }

    pub(crate) fn stdout(&self) -> PathBuf {
        self.dir.join("stdout")
    }

    /// None for a terminal, which has one stream for both.
    pub(crate) fn stderr(&self) -> Option<PathBuf> {
        (!self.tty).then(|| self.dir.join("stderr"))
    }

    /// None for a container that reads nothing. Nobody opens it for writing before someone attaches, so that the
    /// container waits for input instead of finding its end.
    pub(crate) fn stdin(&self) -> Option<PathBuf> {
        self.stdin.then(|| self.dir.join("stdin"))
    }

    /// Makes those that are not there. Repeatable.
    pub(crate) fn make(&self) -> Result<()> {
        fs::create_dir_all(&self.dir).map_err(Error::file("make folder", &self.dir))?;
        for path in [Some(self.stdout()), self.stderr(), self.stdin()]
            .into_iter()
            .flatten()
        {
            let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
            match rustix::fs::mkfifoat(rustix::fs::CWD, &path, mode) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(Error::file("make FIFO", path)(error.into())),
            }
        }
        Ok(())
    }

    /// The reading ends of both streams.
    pub(crate) fn readers(&self) -> Result<(pipe::Receiver, Option<pipe::Receiver>)> {
        let open = |path: PathBuf| {
            pipe::OpenOptions::new()
                .open_receiver(&path)
                .map_err(Error::file("open FIFO", &path))
        };
        Ok((open(self.stdout())?, self.stderr().map(open).transpose()?))
    }

    /// The reading ends of those that can still be opened, for output that nobody wants.
    pub(crate) fn readers_of_those_there(&self) -> Vec<pipe::Receiver> {
        [Some(self.stdout()), self.stderr()]
            .into_iter()
            .flatten()
            .filter_map(|path| pipe::OpenOptions::new().open_receiver(path).ok())
            .collect()
    }

    /// Only after the readers are open.
    pub(crate) fn keeper(&self) -> Result<Keeper> {
        let open = |path: PathBuf| {
            let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
            let writer = fs::OpenOptions::new().write(true).custom_flags(flags).open(&path);
            writer.map_err(Error::file("open FIFO", &path))
        };
        let writers = [Some(self.stdout()), self.stderr()]
            .into_iter()
            .flatten()
            .map(open);
        Ok(Keeper {
            _writers: writers.collect::<Result<_>>()?,
        })
    }

    /// Repeatable.
    pub(crate) fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::file("remove folder", &self.dir)(error))
            }
            _ => Ok(()),
        }
    }
}

/// The container and the command of a name that [`found`] tells; none for a container's own.
pub(crate) fn command_of(found: &ContainerId) -> Option<(ContainerId, ContainerId)> {
    let (container, exec) = found.as_str().split_once(OF_EXEC)?;
    Some((container.into(), exec.into()))
}

/// Removes the FIFOs of a container and of every command that has run in it: one that ended while containerd was away may
/// have left its own. Repeatable.
pub(crate) fn remove_all_of(state_dir: &Path, container: &ContainerId) -> Result<()> {
    for id in found(state_dir) {
        let is_its_own = id == *container;
        if is_its_own || command_of(&id).is_some_and(|(of, _)| of == *container) {
            Fifos::new(state_dir, &id, false, false).remove()?;
        }
    }
    Ok(())
}

/// The containers and commands that have FIFOs, known or not.
pub(crate) fn found(state_dir: &Path) -> Vec<ContainerId> {
    let entries = fs::read_dir(all(state_dir)).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| Some(entry.file_name().to_str()?.into()))
        .collect()
}

/// Where the FIFOs of all containers are.
pub(crate) fn all(state_dir: &Path) -> PathBuf {
    state_dir.join("io")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_a_container_go_the_fifos_of_its_commands_too() {
        let state = tempfile::tempdir().unwrap();
        let [one, other] = [(); 2].map(|()| ContainerId::random());
        for container in [&one, &other] {
            let exec = ContainerId::random();
            Fifos::new(state.path(), container, false, true).make().unwrap();
            Fifos::of_exec(state.path(), container, &exec, false, false)
                .make()
                .unwrap();
        }
        for _ in 0..2 {
            remove_all_of(state.path(), &one).unwrap();
            let left = found(state.path());
            let of_other = left.iter().filter(|id| id.as_str().starts_with(other.as_str()));
            assert_eq!((of_other.count(), left.len()), (2, 2), "{left:?}");
        }
    }
}
