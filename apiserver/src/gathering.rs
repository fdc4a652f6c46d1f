//! A connection whose writes go out together.
//!
//! HTTP/2's codec flushes after every frame of more than a few hundred bytes, which makes a call of the kernel, and under
//! TLS a record with its own encryption, of each event of each watch. As a socket does, this takes what is flushed and
//! sends it a moment later: when the connection's task has its next turn, to which it wakes itself, and at once when a
//! good deal has come together.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::{Stream, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// What comes together before it is sent whatever comes next: several of HTTP/2's largest frames.
const ENOUGH: usize = 64 << 10;
/// Room that a connection keeps while it rests.
const KEPT: usize = 16 << 10;

/// The same connections, each gathering.
pub(crate) fn all<I, E>(
    connections: impl Stream<Item = Result<I, E>>,
) -> impl Stream<Item = Result<Gathering<I>, E>> {
    connections.map(|connection| connection.map(Gathering::new))
}

#[derive(Debug)]
pub(crate) struct Gathering<I> {
    inner: I,
    gathered: Vec<u8>,
    /// So much of it has been sent.
    sent: usize,
    /// Something was written since the last flush.
    fresh: bool,
}

impl<I> Gathering<I> {
    pub(crate) fn new(inner: I) -> Self {
        Self {
            inner,
            gathered: Vec::new(),
            sent: 0,
            fresh: false,
        }
    }
}

impl<I: AsyncWrite + Unpin> Gathering<I> {
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.gathered.len() {
            let rest = &self.gathered[self.sent..];
            match ready!(Pin::new(&mut self.inner).poll_write(context, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.sent += sent,
            }
        }
        self.sent = 0;
        self.gathered.clear();
        self.gathered.shrink_to(KEPT);
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gathering<I> {
    /// Where each turn of the connection's task begins: what the last one wrote goes out.
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(Err(error)) = self.poll_send(context) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Gathering<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.gathered.len() >= ENOUGH {
            ready!(self.poll_send(context))?;
        }
        self.gathered.extend_from_slice(bytes);
        self.fresh = true;
        Poll::Ready(Ok(bytes.len()))
    }

    /// Takes what is new, to send it at the task's next turn; what has had that turn is sent now.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.fresh {
            self.fresh = false;
            context.waker().wake_by_ref();
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_send(context))?;
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(context))?;
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

impl<I: Connected> Connected for Gathering<I> {
    type ConnectInfo = I::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.inner.connect_info()
    }
}

#[cfg(test)]
mod tests;
