//! A client of frames against a connection.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    time::timeout,
};

use super::{
    Connection, Headers, Incoming, Stream,
    frame::{Frame, HEAD, Head, REFUSED_STREAM},
    headers::{Deflate, Inflate},
};
use crate::streams::Hangup;

const SOON: Duration = Duration::from_secs(20);
const MOST: usize = 3;

struct Client {
    io: DuplexStream,
    deflate: Deflate,
    inflate: Inflate,
}

impl Client {
    async fn send(&mut self, frame: Frame) {
        let mut bytes = BytesMut::new();
        frame.encode(&mut self.deflate, &mut bytes);
        self.io.write_all(&bytes).await.unwrap();
    }

    async fn open(&mut self, id: u32, kind: &str) {
        let headers = Headers::from([("streamtype".to_owned(), kind.to_owned())]);
        self.send(Frame::SynStream {
            id,
            fin: false,
            one_way: false,
            headers,
        })
        .await;
    }

    async fn data(&mut self, id: u32, fin: bool, data: &'static [u8]) {
        let data = Bytes::from_static(data);
        self.send(Frame::Data { id, fin, data }).await;
    }

    /// None at the end of the connection.
    async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; HEAD];
        timeout(SOON, self.io.read_exact(&mut head))
            .await
            .expect("a frame")
            .ok()?;
        match Head::parse(head).unwrap() {
            Head::Data { id, fin, length } => {
                let mut data = vec![0; length];
                self.io.read_exact(&mut data).await.unwrap();
                let data = data.into();
                Some(Frame::Data { id, fin, data })
            }
            Head::Control { kind, flags, length } => {
                let mut payload = vec![0; length];
                self.io.read_exact(&mut payload).await.unwrap();
                Frame::parse(kind, flags, &payload, &mut self.inflate).unwrap()
            }
        }
    }

    /// The next bytes of any stream, past what is not data.
    async fn next_data(&mut self) -> (u32, bool, Bytes) {
        loop {
            if let Frame::Data { id, fin, data } = self.next().await.expect("data") {
                return (id, fin, data);
            }
        }
    }
}

/// Runs a client and the server's side of one connection beside each other.
async fn between<C, S>(client: impl FnOnce(Client) -> C, server: impl FnOnce(Incoming) -> S)
where
    C: Future<Output = ()>,
    S: Future<Output = ()>,
{
    let (ours, theirs) = duplex(1 << 20);
    let (connection, incoming) = Connection::new(ours, Hangup::never(), MOST);
    let client = client(Client {
        io: theirs,
        deflate: Deflate::new(),
        inflate: Inflate::new(),
    });
    let all = async { tokio::join!(connection.drive(), client, server(incoming)) };
    let _ = timeout(SOON * 2, all).await.expect("both sides end");
}

async fn next(incoming: &mut Incoming) -> Stream {
    timeout(SOON, incoming.next())
        .await
        .expect("a stream")
        .expect("one more")
}

#[tokio::test]
async fn streams_carry_bytes_both_ways_and_each_way_ends_by_itself() {
    between(
        |mut client| async move {
            client.open(1, "data").await;
            client.data(1, false, b"ques").await;
            client.data(1, true, b"tion").await;
            assert!(matches!(
                client.next().await,
                Some(Frame::SynReply {
                    id: 1,
                    fin: false,
                    ..
                })
            ));
            assert_eq!(client.next_data().await, (1, false, "answer".into()));
            assert_eq!(client.next_data().await, (1, true, Bytes::new()));
            assert!(matches!(client.next().await, Some(Frame::GoAway { last: 1 })));
            assert_eq!(client.next().await, None);
        },
        |mut incoming| async move {
            let mut stream = next(&mut incoming).await;
            assert_eq!(stream.headers["streamtype"], "data");
            let mut read = Vec::new();
            while let Some(bytes) = stream.reader.read().await {
                read.extend_from_slice(&bytes);
            }
            assert_eq!(read, b"question");
            stream.writer.write("answer".into()).await.unwrap();
            stream.writer.finish().await;
            incoming.say_goodbye().await;
        },
    )
    .await;
}

#[tokio::test]
async fn a_peer_that_knows_no_windows_is_sent_everything() {
    const LENGTH: usize = 300_000;
    between(
        |mut client| async move {
            client.open(1, "data").await;
            let mut taken = 0;
            loop {
                let (_, fin, data) = client.next_data().await;
                taken += data.len();
                if fin {
                    break;
                }
            }
            assert_eq!(taken, LENGTH);
        },
        |mut incoming| async move {
            let mut stream = next(&mut incoming).await;
            stream.writer.write(vec![b'x'; LENGTH].into()).await.unwrap();
            stream.writer.finish().await;
        },
    )
    .await;
}

#[tokio::test]
async fn a_peer_s_windows_are_kept_to() {
    between(
        |mut client| async move {
            client
                .send(Frame::Settings {
                    initial_window: Some(10),
                })
                .await;
            client.open(1, "data").await;
            let (_, _, data) = client.next_data().await;
            assert_eq!(data.len(), 10);
            // The stream's window is spent: only what answers a ping comes.
            client.send(Frame::Ping(1)).await;
            assert_eq!(client.next().await, Some(Frame::Ping(1)));
            client.send(Frame::WindowUpdate { id: 1, delta: 5 }).await;
            let (_, _, data) = client.next_data().await;
            assert_eq!(data.len(), 5);
            client.send(Frame::WindowUpdate { id: 1, delta: 100 }).await;
            let (_, _, data) = client.next_data().await;
            assert_eq!(data.len(), 7);
        },
        |mut incoming| async move {
            let mut stream = next(&mut incoming).await;
            stream.writer.write(vec![b'x'; 22].into()).await.unwrap();
            stream.writer.finish().await;
        },
    )
    .await;
}

#[tokio::test]
async fn a_stream_that_is_read_opens_its_window_again() {
    between(
        |mut client| async move {
            client.open(1, "data").await;
            for _ in 0..5 {
                client.data(1, false, &[b'x'; 10_000]).await;
            }
            loop {
                if let Some(Frame::WindowUpdate { id: 1, delta }) = client.next().await {
                    assert!(delta >= 32 << 10, "{delta}");
                    break;
                }
            }
            assert!(matches!(
                client.next().await,
                Some(Frame::WindowUpdate { id: 0, .. })
            ));
        },
        |mut incoming| async move {
            let mut stream = next(&mut incoming).await;
            let mut taken = 0;
            while taken < 50_000 {
                taken += stream.reader.read().await.expect("more").len();
            }
            assert!(
                stream.reader.read().await.is_none(),
                "the client ends the connection"
            );
        },
    )
    .await;
}

#[tokio::test]
async fn a_reset_ends_a_stream_for_both() {
    between(
        |mut client| async move {
            client.open(1, "data").await;
            client.data(1, false, b"x").await;
            client.send(Frame::Reset { id: 1, status: 5 }).await;
            client.open(3, "data").await;
            loop {
                // The server drops the second one without an end.
                if let Some(Frame::Reset { id: 3, status: 5 }) = client.next().await {
                    break;
                }
            }
        },
        |mut incoming| async move {
            let mut stream = next(&mut incoming).await;
            assert_eq!(stream.reader.read().await, Some("x".into()));
            assert_eq!(stream.reader.read().await, None);
            assert!(stream.writer.write("y".into()).await.is_err());
            drop(next(&mut incoming).await);
        },
    )
    .await;
}

#[tokio::test]
async fn more_streams_than_there_may_be_are_refused_and_the_others_go_on() {
    between(
        |mut client| async move {
            for id in [1, 3, 5, 7] {
                client.open(id, "data").await;
            }
            let mut refused = None;
            while refused.is_none() {
                if let Some(Frame::Reset { id, status }) = client.next().await {
                    refused = Some((id, status));
                }
            }
            assert_eq!(refused, Some((7, REFUSED_STREAM)));
            client.data(1, true, b"").await;
            assert_eq!(client.next_data().await, (1, true, Bytes::new()));
        },
        |mut incoming| async move {
            let mut first = next(&mut incoming).await;
            assert_eq!(first.reader.read().await, None);
            first.writer.finish().await;
            let _others = (next(&mut incoming).await, next(&mut incoming).await);
            assert!(incoming.next().await.is_none());
        },
    )
    .await;
}

async fn refused(bytes: &[u8]) -> String {
    let (ours, mut theirs) = duplex(1 << 20);
    let (connection, _incoming) = Connection::new(ours, Hangup::never(), MOST);
    theirs.write_all(bytes).await.unwrap();
    let ended = timeout(SOON, connection.drive()).await.expect("an end");
    ended.expect_err("a break").to_string()
}

fn encoded(frames: &[Frame]) -> BytesMut {
    let (mut deflate, mut bytes) = (Deflate::new(), BytesMut::new());
    for frame in frames {
        frame.encode(&mut deflate, &mut bytes);
    }
    bytes
}

fn syn(id: u32) -> Frame {
    Frame::SynStream {
        id,
        fin: false,
        one_way: false,
        headers: Headers::new(),
    }
}

#[tokio::test]
async fn what_breaks_the_protocol_ends_the_connection() {
    let version_2 = [0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1];
    assert!(refused(&version_2).await.contains("another version"));
    let huge = [0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff];
    assert!(refused(&huge).await.contains("more than 16 KiB"));
    for ids in [[2, 4], [3, 1], [1, 1]] {
        let frames = ids.map(syn);
        assert!(
            refused(&encoded(&frames)).await.contains("wrong number"),
            "{ids:?}"
        );
    }
    let widened = [
        syn(1),
        Frame::WindowUpdate {
            id: 1,
            delta: i32::MAX.unsigned_abs(),
        },
    ];
    assert!(refused(&encoded(&widened)).await.contains("2 GiB"));
}

fn frame() -> impl Strategy<Value = Frame> {
    let id = any::<u32>().prop_map(|id| id >> 1);
    let headers = || prop::collection::btree_map("[a-z]{1,8}", "[ -~]{0,20}", 0..4);
    prop_oneof![
        (id.clone(), any::<bool>(), any::<bool>(), headers()).prop_map(|(id, fin, one_way, headers)| {
            Frame::SynStream {
                id,
                fin,
                one_way,
                headers,
            }
        }),
        (id.clone(), any::<bool>(), headers()).prop_map(|(id, fin, headers)| Frame::SynReply {
            id,
            fin,
            headers
        }),
        (id.clone(), any::<bool>(), headers()).prop_map(|(id, fin, headers)| Frame::Headers {
            id,
            fin,
            headers
        }),
        (id.clone(), any::<u32>()).prop_map(|(id, status)| Frame::Reset { id, status }),
        any::<Option<u32>>().prop_map(|initial_window| Frame::Settings { initial_window }),
        any::<u32>().prop_map(Frame::Ping),
        id.clone().prop_map(|last| Frame::GoAway { last }),
        (id.clone(), id).prop_map(|(id, delta)| Frame::WindowUpdate { id, delta }),
    ]
}

/// Feeds the bytes to a connection whose streams are read, until it ends.
fn survives(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (ours, mut theirs) = duplex(1 << 20);
        let (connection, mut incoming) = Connection::new(ours, Hangup::never(), MOST);
        theirs.write_all(bytes).await.unwrap();
        theirs.shutdown().await.unwrap();
        let reading = async {
            while let Some(mut stream) = incoming.next().await {
                while stream.reader.read().await.is_some() {}
            }
        };
        let all = async { tokio::join!(connection.drive(), reading) };
        let _ = timeout(SOON, all).await.expect("an end");
    });
}

proptest! {
    #[test]
    fn a_control_frame_is_read_as_it_was_written(frames in prop::collection::vec(frame(), 1..6)) {
        let bytes = encoded(&frames);
        let (mut rest, mut inflate) = (&bytes[..], Inflate::new());
        for frame in frames {
            let (head, tail) = rest.split_first_chunk().unwrap();
            let Head::Control { kind, flags, length } = Head::parse(*head).unwrap() else {
                panic!("no control frame");
            };
            let (payload, tail) = tail.split_at(length);
            prop_assert_eq!(Frame::parse(kind, flags, payload, &mut inflate).unwrap(), Some(frame));
            rest = tail;
        }
        prop_assert!(rest.is_empty());
    }

    #[test]
    fn no_bytes_break_a_connection(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        survives(&bytes);
    }

    #[test]
    fn no_order_of_frames_and_no_damage_breaks_a_connection(
        frames in prop::collection::vec(frame(), 1..12),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut bytes = encoded(&frames);
        survives(&bytes);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        survives(&bytes);
    }
}
