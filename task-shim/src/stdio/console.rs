//! A terminal: its master end, which the OCI runtime hands over, and what is copied from and to it.

use std::{
    fs::File,
    io::{IoSliceMut, Result as IoResult},
    mem::MaybeUninit,
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest, unix::AsyncFd},
    net::unix::pipe,
    task::JoinSet,
};

use super::{Owner, Paths, own};
use crate::{
    failure::{Failure, Result},
    readiness,
};

const BUFFER: usize = 16 << 10;
/// How long the OCI runtime may take to hand over a terminal, once it says that it has.
const HAND_OVER: Duration = Duration::from_secs(10);

/// Where the OCI runtime hands over a terminal.
#[derive(Debug)]
pub(crate) struct Incoming {
    listener: UnixListener,
    path: PathBuf,
}

impl Incoming {
    /// `near` names a path that is short enough for a socket's, and nobody else's.
    pub(crate) fn listen(near: &Path, number: u64) -> Result<Self> {
        let path = near.with_extension(format!("tty{number}"));
        let listener = UnixListener::bind(&path).map_err(Failure::file("listen on", &path))?;
        Ok(Self { listener, path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the terminal. The OCI runtime must have ended well: it has sent it by then.
    pub(crate) fn take(&self) -> Result<OwnedFd> {
        let failed = || Failure::file("take the terminal from", &self.path);
        let (stream, _) = self.listener.accept().map_err(failed())?;
        stream.set_read_timeout(Some(HAND_OVER)).map_err(failed())?;
        receive(&stream).map_err(failed())
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// One message with one descriptor (unix(7), SCM_RIGHTS).
fn receive(stream: &UnixStream) -> IoResult<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rights = RecvAncillaryBuffer::new(&mut space);
    let mut name = [0; 4096];
    recvmsg(
        stream,
        &mut [IoSliceMut::new(&mut name)],
        &mut rights,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    rights
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        })
        .ok_or_else(|| std::io::Error::other("the OCI runtime has sent no terminal"))
}

/// The master end, and the copying.
#[derive(Debug)]
pub(crate) struct Console {
    master: Rc<AsyncFd<OwnedFd>>,
    /// Output FIFOs, held as long as the console: see the module above.
    kept: Vec<File>,
    // Ended with the console.
    copies: JoinSet<()>,
}

impl Console {
    pub(crate) fn start(master: OwnedFd, paths: &Paths, owner: Owner) -> Result<Self> {
        let failed = || Failure::file::<rustix::io::Errno>("use the terminal", "ptmx");
        let flags = rustix::fs::fcntl_getfl(&master).map_err(failed())?;
        rustix::fs::fcntl_setfl(&master, flags | rustix::fs::OFlags::NONBLOCK).map_err(failed())?;
        let mut console = Self {
            master: Rc::new(readiness::watch(master).map_err(Failure::file("use the terminal", "ptmx"))?),
            kept: Vec::new(),
            copies: JoinSet::new(),
        };
        if !paths.stdout.is_empty() {
            let path = Path::new(&paths.stdout);
            let reader = super::reader(path)?;
            let sender = pipe::OpenOptions::new()
                .open_sender(path)
                .map_err(Failure::file("open", path))?;
            own(&reader, owner, path)?;
            console.kept.push(reader);
            console
                .copies
                .spawn_local(copy_out(Rc::clone(&console.master), sender));
        }
        if !paths.stdin.is_empty() {
            let path = PathBuf::from(&paths.stdin);
            console
                .copies
                .spawn_local(copy_in(path, Rc::clone(&console.master)));
        }
        Ok(console)
    }

    pub(super) fn master(&self) -> &OwnedFd {
        self.master.get_ref()
    }
}

/// To the end, which a terminal reports as an error once nobody has its other end open.
async fn copy_out(master: Rc<AsyncFd<OwnedFd>>, mut sender: pipe::Sender) {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = master
            .async_io(Interest::READABLE, |master| {
                Ok(rustix::io::read(master, &mut buffer[..])?)
            })
            .await;
        match read {
            Ok(length @ 1..) => {
                if sender.write_all(&buffer[..length]).await.is_err() {
                    return;
                }
            }
            Ok(0) | Err(_) => return,
        }
    }
}

/// One caller after the other: a terminal outlives those who sit at it.
async fn copy_in(path: PathBuf, master: Rc<AsyncFd<OwnedFd>>) {
    let mut buffer = vec![0; BUFFER];
    // Opened anew after each caller: this one would see the last one's end for ever.
    while let Ok(mut receiver) = pipe::OpenOptions::new().open_receiver(&path) {
        while let Ok(length @ 1..) = receiver.read(&mut buffer).await {
            let mut rest = &buffer[..length];
            while !rest.is_empty() {
                let written = master
                    .async_io(Interest::WRITABLE, |master| Ok(rustix::io::write(master, rest)?))
                    .await;
                match written {
                    Ok(length @ 1..) => rest = &rest[length..],
                    Ok(0) | Err(_) => return,
                }
            }
        }
    }
}
