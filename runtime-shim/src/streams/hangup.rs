//! The end of a TCP peer that is not being read from.

use std::{io, os::fd::AsFd as _};

use tokio::{io::Interest, net::TcpStream};

/// Tells when the peer has closed its side, also while bytes of it wait to be read: a session that takes no more input
/// reads nothing, and would never come to the end that lies behind it.
#[derive(Debug)]
pub(crate) struct Hangup(Option<TcpStream>);

impl Hangup {
    pub(crate) fn of(socket: &TcpStream) -> io::Result<Self> {
        let same = std::net::TcpStream::from(socket.as_fd().try_clone_to_owned()?);
        Ok(Self(Some(TcpStream::from_std(same)?)))
    }

    /// For what carries its own word of the end.
    pub(crate) fn never() -> Self {
        Self(None)
    }

    /// Waits for it. Cancel-safe.
    pub(crate) async fn happens(&self) {
        let Some(socket) = &self.0 else {
            return std::future::pending().await;
        };
        // An error of the watching itself says that the runtime ends.
        while let Ok(ready) = socket.ready(Interest::READABLE).await {
            if ready.is_read_closed() {
                return;
            }
            // More bytes have come. The next event is awaited, not the bytes' being read.
            let would_block = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
            let _ = socket.try_io(Interest::READABLE, would_block);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{io::AsyncWriteExt as _, net::TcpListener, time::timeout};

    use super::*;

    #[tokio::test]
    async fn a_peer_s_end_is_seen_behind_bytes_that_nobody_reads() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (socket, _) = listener.accept().await.unwrap();
        let hangup = Hangup::of(&socket).unwrap();
        peer.write_all(b"unread").await.unwrap();
        timeout(Duration::from_millis(50), hangup.happens())
            .await
            .expect_err("it lives");
        drop(peer);
        timeout(Duration::from_secs(10), hangup.happens())
            .await
            .expect("it has gone");
    }
}
