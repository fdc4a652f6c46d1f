use std::{pin::Pin, task::Context};

use futures::{future::poll_fn, join, task::noop_waker_ref};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

use super::*;

/// A connection of which each write is kept by itself, and which takes so many bytes in all.
struct Socket {
    writes: Vec<Vec<u8>>,
    room: usize,
}

impl Socket {
    fn of_room(room: usize) -> Gathering<Self> {
        Gathering::new(Self {
            writes: Vec::new(),
            room,
        })
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let taken = bytes.len().min(self.room);
        if taken == 0 {
            return Poll::Pending;
        }
        self.room -= taken;
        self.writes.push(bytes[..taken].to_vec());
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// One frame as HTTP/2's codec writes it.
fn frame(connection: &mut Gathering<Socket>, bytes: &[u8]) -> Poll<io::Result<()>> {
    let mut context = Context::from_waker(noop_waker_ref());
    let written = Pin::new(&mut *connection).poll_write(&mut context, bytes);
    assert!(
        matches!(written, Poll::Ready(Ok(count)) if count == bytes.len()),
        "{written:?}"
    );
    Pin::new(connection).poll_flush(&mut context)
}

/// What the connection's task begins its turn with.
fn turn(connection: &mut Gathering<Socket>) {
    let mut context = Context::from_waker(noop_waker_ref());
    let mut nothing = [];
    let read = Pin::new(connection).poll_read(&mut context, &mut ReadBuf::new(&mut nothing));
    assert!(read.is_pending());
}

#[test]
fn frames_of_one_turn_go_out_together_at_the_next() {
    let mut connection = Socket::of_room(usize::MAX);
    for bytes in [b"one", b"two"] {
        assert!(frame(&mut connection, bytes).is_ready());
    }
    assert!(connection.inner.writes.is_empty());
    turn(&mut connection);
    assert_eq!(connection.inner.writes, [b"onetwo"]);
    turn(&mut connection);
    assert_eq!(connection.inner.writes.len(), 1);
}

#[test]
fn a_second_flush_sends_where_nobody_reads() {
    let mut connection = Socket::of_room(usize::MAX);
    assert!(frame(&mut connection, b"one").is_ready());
    let mut context = Context::from_waker(noop_waker_ref());
    assert!(Pin::new(&mut connection).poll_flush(&mut context).is_ready());
    assert_eq!(connection.inner.writes, [b"one"]);
}

#[test]
fn what_is_enough_goes_out_within_the_turn() {
    let mut connection = Socket::of_room(usize::MAX);
    for _ in 0..5 {
        assert!(frame(&mut connection, &vec![7; ENOUGH / 4]).is_ready());
    }
    assert_eq!(connection.inner.writes, [vec![7; ENOUGH]]);
}

#[test]
fn a_peer_that_does_not_read_holds_the_writer_up_and_loses_nothing() {
    let mut connection = Socket::of_room(10);
    assert!(frame(&mut connection, &vec![7; ENOUGH]).is_ready());
    let mut context = Context::from_waker(noop_waker_ref());
    assert!(
        Pin::new(&mut connection)
            .poll_write(&mut context, b"more")
            .is_pending()
    );
    turn(&mut connection);
    connection.inner.room = usize::MAX;
    assert!(frame(&mut connection, b"more").is_ready());
    turn(&mut connection);
    let mut expected = vec![7; ENOUGH];
    expected.extend(b"more");
    assert_eq!(connection.inner.writes.concat(), expected);
}

#[tokio::test]
async fn a_task_that_wrote_wakes_itself_and_the_end_sends_what_is_left() {
    let (near, mut far) = duplex(1024);
    let mut connection = Gathering::new(near);
    let writer = async move {
        connection.write_all(b"answer").await.unwrap();
        let mut turns = 0;
        poll_fn(|context| {
            turns += 1;
            let flushed = Pin::new(&mut connection).poll_flush(context);
            assert!(flushed.is_ready());
            // Nobody else would wake it.
            if turns == 1 {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
        .await;
        connection
    };
    let mut answer = [0; 6];
    let (mut connection, read) = join!(writer, far.read_exact(&mut answer));
    read.unwrap();
    assert_eq!(&answer, b"answer");
    connection.write_all(b"end").await.unwrap();
    connection.shutdown().await.unwrap();
    drop(connection);
    let mut rest = Vec::new();
    far.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"end");
}
