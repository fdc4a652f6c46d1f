//! A connection and the streams on it.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{
        AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader, ReadHalf, WriteHalf, split,
    },
    sync::{Notify, mpsc},
    time::timeout,
};

use super::{
    SpdyError,
    frame::{self, Frame, HEAD, Head, StreamId},
    headers::{Deflate, Headers, Inflate},
    table::{Opening, Room, Table},
};
use crate::{streams::Hangup, table::lock};

/// Parts of a stream that wait for its reader; each is at most [`PART`] bytes.
const PARTS: usize = 4;
const PART: usize = 32 << 10;
/// Frames that wait to be written; a stream that wants to send more waits.
const FRAMES: usize = 8;
/// Written at once.
const BATCH: usize = 64 << 10;
/// How long the peer may take to close after the goodbye: closing first would cut off what it has not read yet.
const LINGER: Duration = Duration::from_secs(5);

/// One connection; nothing happens before it is driven.
#[derive(Debug)]
pub(crate) struct Connection<IO> {
    reader: BufReader<ReadHalf<IO>>,
    writer: WriteHalf<IO>,
    frames: mpsc::Receiver<Frame>,
    opened: mpsc::Sender<Stream>,
    shared: Arc<Shared>,
    hangup: Hangup,
    most_streams: usize,
}

/// The streams that the peer opens.
#[derive(Debug)]
pub(crate) struct Incoming {
    opened: mpsc::Receiver<Stream>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    table: Mutex<Table>,
    /// Windows have opened, or streams have closed.
    changed: Notify,
    frames: mpsc::Sender<Frame>,
}

/// A stream that the peer has opened.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) headers: Headers,
    pub(crate) reader: StreamReader,
    pub(crate) writer: StreamWriter,
}

#[derive(Debug)]
pub(crate) struct StreamReader {
    id: StreamId,
    inbound: mpsc::Receiver<Bytes>,
    /// Read, and not told to the peer yet.
    consumed: u32,
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct StreamWriter {
    id: StreamId,
    shared: Arc<Shared>,
}

/// Nobody reads what is written.
#[derive(Debug, thiserror::Error)]
#[error("the stream is closed")]
pub(crate) struct Closed;

impl<IO: AsyncRead + AsyncWrite + Unpin> Connection<IO> {
    /// `hangup` tells of the end of a peer that is not being read from.
    pub(crate) fn new(io: IO, hangup: Hangup, most_streams: usize) -> (Self, Incoming) {
        let (reader, writer) = split(io);
        let (sender, frames) = mpsc::channel(FRAMES);
        let shared = Arc::new(Shared {
            table: Mutex::new(Table::new()),
            changed: Notify::new(),
            frames: sender,
        });
        let (opened, incoming) = mpsc::channel(most_streams);
        let connection = Self {
            reader: BufReader::with_capacity(PART, reader),
            writer,
            frames,
            opened,
            shared: Arc::clone(&shared),
            hangup,
            most_streams,
        };
        let incoming = Incoming {
            opened: incoming,
            shared,
        };
        (connection, incoming)
    }

    /// Carries bytes until either side says goodbye. Every stream is closed then.
    pub(crate) async fn drive(self) -> Result<(), SpdyError> {
        let Self {
            mut reader,
            writer,
            frames,
            opened,
            shared,
            hangup,
            most_streams,
        } = self;
        let _closing = Closing(Arc::clone(&shared));
        let reading = Reading {
            reader: &mut reader,
            shared: &shared,
            opened,
            hangup,
            most_streams,
        };
        tokio::select! {
            read = reading.run() => return read,
            written = write(writer, frames) => written?,
        }
        let _ = timeout(LINGER, tokio::io::copy(&mut reader, &mut tokio::io::sink())).await;
        Ok(())
    }
}

/// Ends every stream when the connection ends, however it does.
struct Closing(Arc<Shared>);

impl Drop for Closing {
    fn drop(&mut self) {
        lock(&self.0.table).close();
        self.0.changed.notify_waiters();
    }
}

impl Incoming {
    /// The next stream that the peer opens; none after the connection's end. Cancellation loses none.
    pub(crate) async fn next(&mut self) -> Option<Stream> {
        self.opened.recv().await
    }

    /// Ends the connection once everything that was written has been sent.
    pub(crate) async fn say_goodbye(&self) {
        let last = lock(&self.shared.table).last();
        // An error says that it has ended already.
        let _ = self.shared.frames.send(Frame::GoAway { last }).await;
    }
}

async fn write<W: AsyncWrite + Unpin>(mut writer: W, mut frames: mpsc::Receiver<Frame>) -> io::Result<()> {
    let mut deflate = Deflate::new();
    let mut batch = BytesMut::with_capacity(BATCH);
    let mut is_last = false;
    while !is_last {
        let Some(mut frame) = frames.recv().await else {
            break;
        };
        loop {
            is_last = matches!(frame, Frame::GoAway { .. });
            frame.encode(&mut deflate, &mut batch);
            if is_last || batch.len() >= BATCH {
                break;
            }
            match frames.try_recv() {
                Ok(next) => frame = next,
                Err(_) => break,
            }
        }
        writer.write_all(&batch).await?;
        writer.flush().await?;
        batch.clear();
    }
    writer.shutdown().await
}

struct Reading<'a, R> {
    reader: &'a mut BufReader<R>,
    shared: &'a Arc<Shared>,
    opened: mpsc::Sender<Stream>,
    hangup: Hangup,
    most_streams: usize,
}

impl<R: AsyncRead + Unpin> Reading<'_, R> {
    async fn run(mut self) -> Result<(), SpdyError> {
        let mut inflate = Inflate::new();
        loop {
            let mut head = [0; HEAD];
            match self.reader.read(&mut head[..1]).await? {
                0 => return Ok(()),
                _ => self.reader.read_exact(&mut head[1..]).await?,
            };
            match Head::parse(head)? {
                Head::Data { id, fin, length } => self.data(id, fin, length).await?,
                Head::Control { kind, flags, length } => {
                    let mut payload = vec![0; length];
                    self.reader.read_exact(&mut payload).await?;
                    if let Some(frame) = Frame::parse(kind, flags, &payload, &mut inflate)? {
                        self.control(frame).await?;
                    }
                }
            }
        }
    }

    async fn data(&mut self, id: StreamId, fin: bool, length: usize) -> Result<(), SpdyError> {
        let inbound = lock(&self.shared.table).inbound(id);
        if inbound.is_none() && !lock(&self.shared.table).is_open(id) {
            self.reset(id, frame::INVALID_STREAM);
        }
        let mut left = length;
        while left > 0 {
            let mut part = BytesMut::with_capacity(left.min(PART));
            let mut limited = (&mut *self.reader).take(left.min(PART) as u64);
            if limited.read_buf(&mut part).await? == 0 {
                return Err(SpdyError::Io(io::ErrorKind::UnexpectedEof.into()));
            }
            left -= part.len();
            let Some(inbound) = &inbound else { continue };
            // Nobody reads what a session has no use for: an error drops it.
            tokio::select! {
                _ = inbound.send(part.freeze()) => {}
                () = self.hangup.happens() => return Err(SpdyError::HungUp),
            }
        }
        if fin {
            lock(&self.shared.table).end_inbound(id);
        }
        Ok(())
    }

    async fn control(&mut self, frame: Frame) -> Result<(), SpdyError> {
        match frame {
            Frame::SynStream {
                id,
                fin,
                one_way,
                headers,
            } => self.open(id, fin, one_way, headers).await?,
            Frame::Reset { id, .. } => {
                lock(&self.shared.table).remove(id);
                self.shared.changed.notify_waiters();
            }
            Frame::Settings { initial_window } => {
                if let Some(window) = initial_window {
                    lock(&self.shared.table).set_initial_window(window);
                    self.shared.changed.notify_waiters();
                }
            }
            // This side asks none: each is the peer's, to be given back. One that does not fit in is not waited for,
            // as the peer may read nothing before this side reads on.
            Frame::Ping(id) => {
                let _ = self.shared.frames.try_send(Frame::Ping(id));
            }
            Frame::WindowUpdate { id, delta } => {
                if !lock(&self.shared.table).widen(id, delta) {
                    return Err(SpdyError::Protocol("a window of more than 2 GiB"));
                }
                self.shared.changed.notify_waiters();
            }
            Frame::Headers { id, fin: true, .. } | Frame::SynReply { id, fin: true, .. } => {
                lock(&self.shared.table).end_inbound(id);
            }
            // The peer opens no more; those that are open go on.
            Frame::GoAway { .. } | Frame::Headers { .. } | Frame::SynReply { .. } | Frame::Data { .. } => {}
        }
        Ok(())
    }

    async fn open(
        &mut self,
        id: StreamId,
        fin: bool,
        one_way: bool,
        headers: Headers,
    ) -> Result<(), SpdyError> {
        let (sender, inbound) = mpsc::channel(PARTS);
        let opening = lock(&self.shared.table).open(id, (!fin).then_some(sender), self.most_streams);
        match opening {
            Opening::Opened if one_way => {
                lock(&self.shared.table).remove(id);
                self.reset(id, frame::PROTOCOL_ERROR);
            }
            Opening::Opened => {
                let reply = Frame::SynReply {
                    id,
                    fin: false,
                    headers: Headers::new(),
                };
                if self.shared.frames.send(reply).await.is_err() {
                    return Err(SpdyError::HungUp);
                }
                let stream = Stream {
                    headers,
                    reader: StreamReader {
                        id,
                        inbound,
                        consumed: 0,
                        shared: Arc::clone(self.shared),
                    },
                    writer: StreamWriter {
                        id,
                        shared: Arc::clone(self.shared),
                    },
                };
                // As many fit as there may be streams. What is not taken is reset as it is dropped.
                let _ = self.opened.try_send(stream);
            }
            Opening::Refused => self.reset(id, frame::REFUSED_STREAM),
            Opening::Misnumbered => return Err(SpdyError::Protocol("a stream with a wrong number")),
        }
        Ok(())
    }

    fn reset(&self, id: StreamId, status: u32) {
        let _ = self.shared.frames.try_send(Frame::Reset { id, status });
    }
}

impl StreamReader {
    /// The next bytes; none after the peer's end of the stream or of the connection. Cancellation loses none.
    pub(crate) async fn read(&mut self) -> Option<Bytes> {
        /// When a peer with windows is told to go on.
        const ENOUGH: u32 = 32 << 10;
        let bytes = self.inbound.recv().await?;
        self.consumed = self
            .consumed
            .saturating_add(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        if self.consumed >= ENOUGH {
            let update = |id| Frame::WindowUpdate {
                id,
                delta: self.consumed,
            };
            if let Ok(mut room) = self.shared.frames.try_reserve_many(2) {
                for id in [self.id, 0] {
                    if let Some(place) = room.next() {
                        place.send(update(id));
                    }
                }
                drop(room);
                self.consumed = 0;
            }
        }
        Some(bytes)
    }
}

impl StreamWriter {
    pub(crate) async fn write(&mut self, mut data: Bytes) -> Result<(), Closed> {
        while !data.is_empty() {
            // Before the look, so that no change falls between the two.
            let mut changed = std::pin::pin!(self.shared.changed.notified());
            changed.as_mut().enable();
            let room = lock(&self.shared.table).take_room(self.id, data.len().min(PART));
            match room {
                Room::Closed => return Err(Closed),
                Room::Wait => changed.await,
                Room::Bytes(room) => {
                    let frame = Frame::Data {
                        id: self.id,
                        fin: false,
                        data: data.split_to(room),
                    };
                    self.shared.frames.send(frame).await.map_err(|_| Closed)?;
                }
            }
        }
        Ok(())
    }

    /// Tells the peer that this was all.
    pub(crate) async fn finish(self) {
        if lock(&self.shared.table).end_outbound(self.id) {
            let frame = Frame::Data {
                id: self.id,
                fin: true,
                data: Bytes::new(),
            };
            // An error says that the connection has ended.
            let _ = self.shared.frames.send(frame).await;
        }
    }
}

impl Drop for StreamWriter {
    fn drop(&mut self) {
        if lock(&self.shared.table).end_outbound(self.id) {
            let reset = Frame::Reset {
                id: self.id,
                status: frame::CANCEL,
            };
            lock(&self.shared.table).remove(self.id);
            let _ = self.shared.frames.try_send(reset);
        }
    }
}
