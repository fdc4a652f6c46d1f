//! Stands between the shim and containerd, and tells the moment of a call: before containerd hears of it, or after it
//! has answered and before the shim hears of that. At that moment a test can kill the shim.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
};

/// What every connection begins with, before its first frame (RFC 9113, 3.4).
const PREFACE: usize = 24;
/// Length, type, flags, stream (RFC 9113, 4.1).
const FRAME_HEADER: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const END_STREAM: u8 = 1;

/// Which moment of a call it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// containerd never hears of it.
    Before,
    /// It is done, and nobody hears of it.
    After,
}

/// Dropping it breaks every connection.
pub(crate) struct Proxy {
    shared: Arc<Shared>,
    _connections: JoinSet<()>,
}

struct Shared {
    containerd: PathBuf,
    /// Which call from now on, the first being 1.
    armed: Mutex<Option<(usize, Moment)>>,
    struck: watch::Sender<bool>,
}

impl Proxy {
    /// Listens at `socket` for who would speak to `containerd`.
    pub(crate) fn start(socket: &Path, containerd: &Path) -> Self {
        let listener = UnixListener::bind(socket).expect("a socket");
        let shared = Arc::new(Shared {
            containerd: containerd.to_owned(),
            armed: Mutex::default(),
            struck: watch::Sender::default(),
        });
        let of_connections = Arc::clone(&shared);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((shim, _)) = listener.accept().await {
                let shared = Arc::clone(&of_connections);
                // One that breaks is the shim's or containerd's end, which is no fault here.
                connections.spawn(async move { drop(shared.carry(shim).await) });
            }
        });
        Self {
            shared,
            _connections: tasks,
        }
    }

    /// Strikes at the `nth` call from now on.
    pub(crate) fn arm(&self, nth: usize, moment: Moment) {
        self.shared.struck.send_replace(false);
        *self.shared.armed() = Some((nth, moment));
    }

    /// Whether the call has come that it was armed for, and its connection is lost with it: the answer to a call may
    /// still be on its way to be struck at. From now on all calls pass.
    pub(crate) fn disarm(&self) -> bool {
        self.shared.armed().take().is_none()
    }

    /// Waits until it has struck.
    pub(crate) async fn struck(&self) {
        let _ = self.shared.struck.subscribe().wait_for(|struck| *struck).await;
    }
}

impl Shared {
    fn armed(&self) -> std::sync::MutexGuard<'_, Option<(usize, Moment)>> {
        self.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The moment to strike at, if this call is the one.
    fn due(&self) -> Option<Moment> {
        let mut armed = self.armed();
        let (nth, moment) = armed.as_mut()?;
        *nth -= 1;
        if *nth > 0 {
            return None;
        }
        let moment = *moment;
        *armed = None;
        Some(moment)
    }

    /// Tells that it has struck, and carries nothing any more.
    async fn strike(&self) -> io::Result<()> {
        self.struck.send_replace(true);
        std::future::pending().await
    }

    async fn carry(&self, shim: UnixStream) -> io::Result<()> {
        let containerd = UnixStream::connect(&self.containerd).await?;
        let (from_shim, to_shim) = shim.into_split();
        let (from_containerd, to_containerd) = containerd.into_split();
        // The stream of the call whose answer is not passed on.
        let muted = watch::Sender::new(None);
        tokio::select! {
            ended = self.calls(from_shim, to_containerd, &muted) => ended,
            ended = self.answers(from_containerd, to_shim, &muted) => ended,
        }
    }

    async fn calls(
        &self,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        muted: &watch::Sender<Option<u32>>,
    ) -> io::Result<()> {
        let mut preface = [0; PREFACE];
        from.read_exact(&mut preface).await?;
        to.write_all(&preface).await?;
        loop {
            let frame = Frame::read(&mut from).await?;
            if frame.kind() == HEADERS {
                match self.due() {
                    Some(Moment::Before) => return self.strike().await,
                    Some(Moment::After) => drop(muted.send_replace(Some(frame.stream()))),
                    None => {}
                }
            }
            to.write_all(&frame.0).await?;
        }
    }

    async fn answers(
        &self,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        muted: &watch::Sender<Option<u32>>,
    ) -> io::Result<()> {
        loop {
            let frame = Frame::read(&mut from).await?;
            if *muted.borrow() == Some(frame.stream()) {
                if frame.ends_stream() {
                    return self.strike().await;
                }
                continue;
            }
            to.write_all(&frame.0).await?;
        }
    }
}

/// A whole frame of HTTP/2, with its header.
struct Frame(Vec<u8>);

impl Frame {
    async fn read(from: &mut OwnedReadHalf) -> io::Result<Self> {
        let mut bytes = vec![0; FRAME_HEADER];
        from.read_exact(&mut bytes).await?;
        let length = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
        bytes.resize(FRAME_HEADER + length, 0);
        from.read_exact(&mut bytes[FRAME_HEADER..]).await?;
        Ok(Self(bytes))
    }

    fn kind(&self) -> u8 {
        self.0[3]
    }

    fn stream(&self) -> u32 {
        u32::from_be_bytes([self.0[5], self.0[6], self.0[7], self.0[8]]) & (u32::MAX >> 1)
    }

    fn ends_stream(&self) -> bool {
        matches!(self.kind(), DATA | HEADERS) && self.0[4] & END_STREAM != 0
    }
}
