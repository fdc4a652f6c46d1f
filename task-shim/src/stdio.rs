//! A process's input and output.
//!
//! ```text
//! no terminal: the process has the caller's output FIFOs themselves; nothing is copied
//!              input FIFO ─► pipe
//! terminal:    master ─► output FIFO, input FIFO ─► master
//! ```
//!
//! A FIFO forgets what is in it once nobody holds it open. So each output FIFO is held open for reading here until
//! its process is deleted: a caller that is away meanwhile reads everything later, and sees the end when the last
//! writer has closed.
//!
//! Input ends when the caller has opened its FIFO and closed it, or says so (CloseIO); before the first caller comes
//! the process waits. That is what containerd's clients expect, and why input is copied: the process itself would see
//! an end before the first caller.

mod console;
mod input;

use std::{
    fs::{File, OpenOptions},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    },
    path::Path,
    process::Stdio,
};

use rustix::fs::OFlags;

pub(crate) use self::console::{Console, Incoming};
use self::input::Input;
use crate::failure::{Failure, Result};

/// The paths that a caller gives for one process; an empty one is nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Paths {
    pub(crate) stdin: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) terminal: bool,
}

/// Who owns the FIFOs of processes whose root is another user on the host.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// What the process gets.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) stdin: Stdio,
    pub(crate) stdout: Stdio,
    pub(crate) stderr: Stdio,
}

/// What stays open here.
#[derive(Debug, Default)]
pub(crate) struct Held {
    outputs: Vec<File>,
    input: Option<Input>,
    console: Option<Console>,
}

impl Held {
    pub(crate) fn with_console(console: Console) -> Self {
        Self {
            console: Some(console),
            ..Self::default()
        }
    }

    /// The caller has written everything.
    pub(crate) fn close_input(&mut self) {
        if let Some(input) = &self.input {
            input.close();
        }
    }

    pub(crate) fn console(&self) -> Option<&Console> {
        self.console.as_ref()
    }
}

/// Opens the FIFOs of a process without a terminal.
pub(crate) fn open(paths: &Paths, owner: Owner) -> Result<(Given, Held)> {
    let mut held = Held::default();
    let stdin = match paths.stdin.as_str() {
        "" => Stdio::null(),
        path => {
            let (end, input) = Input::start(Path::new(path), owner)?;
            held.input = Some(input);
            end.into()
        }
    };
    let mut output = |path: &str| {
        let Some(path) = file(path)? else {
            return Ok(Stdio::null());
        };
        let (reader, writer) = output(path)?;
        if reader.is_some() {
            own(&writer, owner, path)?;
        }
        held.outputs.extend(reader);
        Ok(writer.into())
    };
    let (stdout, stderr) = (output(&paths.stdout)?, output(&paths.stderr)?);
    Ok((
        Given {
            stdin,
            stdout,
            stderr,
        },
        held,
    ))
}

fn own(file: impl AsFd, owner: Owner, path: impl AsRef<Path>) -> Result<()> {
    if owner.uid == 0 && owner.gid == 0 {
        return Ok(());
    }
    std::os::unix::fs::fchown(file, Some(owner.uid), Some(owner.gid))
        .map_err(Failure::file("change the owner of", path.as_ref()))
}

/// The path behind a caller's word; none for nothing.
fn file(word: &str) -> Result<Option<&Path>> {
    match word.split_once("://") {
        None if word.is_empty() => Ok(None),
        None => Ok(Some(Path::new(word))),
        Some(("file" | "fifo", path)) => Ok(Some(Path::new(path))),
        Some((scheme, _)) => Err(Failure::Invalid {
            field: "stdout",
            problem: format!("{scheme}:// is not served by this shim; give a FIFO or file://"),
        }),
    }
}

/// Both ends of a FIFO for output, or a file to append to.
fn output(path: &Path) -> Result<(Option<File>, File)> {
    let is_fifo = path.metadata().is_ok_and(|found| found.file_type().is_fifo());
    if !is_fifo {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o640)
            .open(path);
        return Ok((None, file.map_err(Failure::file("open", path))?));
    }
    let reader = reader(path)?;
    // Does not wait: there is a reader.
    let writer = OpenOptions::new()
        .write(true)
        .open(path)
        .map_err(Failure::file("open", path))?;
    Ok((Some(reader), writer))
}

/// Without waiting for a writer.
fn reader(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .map_err(Failure::file("open", path))
}

/// Sizes of a terminal are told to whoever is in it.
pub(crate) fn resize(console: &Console, width: u32, height: u32) -> Result<()> {
    let cells = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
    let size = rustix::termios::Winsize {
        ws_col: cells(width),
        ws_row: cells(height),
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let master: &OwnedFd = console.master();
    rustix::termios::tcsetwinsize(master.as_fd(), size).map_err(Failure::file("resize the terminal", "ptmx"))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn fifo(dir: &Path, name: &str) -> String {
        let path = dir.join(name);
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
        path.display().to_string()
    }

    #[test]
    fn output_of_a_process_that_is_gone_waits_for_its_reader_and_then_ends() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths {
            stdout: fifo(dir.path(), "out"),
            ..Paths::default()
        };
        let (given, held) = open(&paths, Owner::default()).unwrap();
        let mut echo = std::process::Command::new("echo");
        let status = echo.arg("last words").stdout(given.stdout).status().unwrap();
        assert!(status.success());
        // The command holds the given end until it goes.
        drop(echo);
        let mut late = reader(Path::new(&paths.stdout)).unwrap();
        let mut text = String::new();
        late.read_to_string(&mut text).unwrap();
        assert_eq!(text, "last words\n");
        drop(held);
    }

    #[test]
    fn a_file_is_appended_to_and_another_scheme_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, "old\n").unwrap();
        let paths = Paths {
            stdout: format!("file://{}", path.display()),
            ..Paths::default()
        };
        let (given, _held) = open(&paths, Owner::default()).unwrap();
        std::process::Command::new("echo")
            .arg("new")
            .stdout(given.stdout)
            .status()
            .unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old\nnew\n");
        let error = file("binary:///bin/logger").unwrap_err().to_string();
        assert!(error.contains("binary://"), "{error}");
    }
}
