//! What a process is given: its standard input and the size of its terminal.

use std::{io, path::Path, time::Duration};

use bytes::Bytes;
use tokio::{
    io::AsyncWriteExt as _,
    net::unix::pipe,
    sync::{mpsc, watch},
    time::{Instant, sleep},
};

use crate::{containerd::Containerd, streams::Size};

/// How long containerd's shim process may take to open what it reads from.
const OPENING: Duration = Duration::from_secs(10);

/// Writes the caller's input into a process's FIFO until the input ends. What the process takes no more is dropped, so
/// that its caller need not wait for it.
pub(crate) async fn feed(fifo: &Path, mut stdin: mpsc::Receiver<Bytes>) {
    match open(fifo).await {
        Ok(mut pipe) => {
            while let Some(bytes) = stdin.recv().await {
                if pipe.write_all(&bytes).await.is_err() {
                    break;
                }
            }
        }
        Err(error) => tracing::debug!(fifo = %fifo.display(), %error, "nobody reads a standard input"),
    }
    while stdin.recv().await.is_some() {}
}

/// containerd's shim process opens a FIFO a moment after it has answered; before that the kernel refuses its writers.
async fn open(fifo: &Path) -> io::Result<pipe::Sender> {
    let deadline = Instant::now() + OPENING;
    loop {
        match pipe::OpenOptions::new().open_sender(fifo) {
            Err(error)
                if error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error())
                    && Instant::now() < deadline =>
            {
                sleep(Duration::from_millis(2)).await;
            }
            outcome => return outcome,
        }
    }
}

/// Gives a process's terminal the caller's sizes, the latest first, for as long as the caller is there.
pub(crate) async fn follow_size(
    containerd: &dyn Containerd,
    container: &str,
    exec: Option<&str>,
    mut sizes: watch::Receiver<Option<Size>>,
) {
    loop {
        let size = *sizes.borrow_and_update();
        if let Some(size) = size
            && let Err(error) = containerd
                .resize(container, exec, size.width.into(), size.height.into())
                .await
        {
            // It ends, most likely.
            tracing::debug!(container, %error, "terminal not resized");
        }
        if sizes.changed().await.is_err() {
            return;
        }
    }
}
