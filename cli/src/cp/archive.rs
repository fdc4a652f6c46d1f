//! What goes to a container, as a tar archive.

use std::{
    fs,
    io::{self, BufWriter, Write},
    path::Path,
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use tar::Builder;
use tokio::sync::mpsc;

use crate::session::ToPod;

/// Bytes of one message.
const PART: usize = 32 << 10;

/// Sends a file or folder with all that is in it, under `name`. Links stay links. It blocks while the container is slow.
pub(super) fn send(from: &Path, name: &str, to: &mpsc::Sender<ToPod>) -> Result<()> {
    let mut archive = Builder::new(BufWriter::with_capacity(PART, Sending(to.clone())));
    archive.follow_symlinks(false);
    let failed = || format!("cannot copy {}", from.display());
    if fs::metadata(from).with_context(failed)?.is_dir() {
        archive.append_dir_all(name, from).with_context(failed)?;
    } else {
        archive.append_path_with_name(from, name).with_context(failed)?;
    }
    let mut rest = archive.into_inner().with_context(failed)?;
    rest.flush().with_context(failed)?;
    to.blocking_send(ToPod::StdinEnd)
        .map_err(|_| refused())
        .with_context(failed)
}

/// Whether the other end takes no more: it knows why.
pub(super) fn is_refused(error: &anyhow::Error) -> bool {
    let causes = error.chain();
    causes
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

fn refused() -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

struct Sending(mpsc::Sender<ToPod>);

impl Write for Sending {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let part = &bytes[..bytes.len().min(PART)];
        let message = ToPod::Stdin(Bytes::copy_from_slice(part));
        self.0.blocking_send(message).map_err(|_| refused())?;
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
