//! The streams of a connection, and how much may be sent on each.

use std::collections::HashMap;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::frame::StreamId;

/// What a side may send before the other has said anything (SPDY/3.1, §2.6.8).
const INITIAL_WINDOW: i64 = 64 << 10;

/// Flow control is a matter of who takes part: the SPDY library of Kubernetes' clients knows no windows and would wait
/// for ever for data that a window holds back. They bind this side once the peer has spoken of them.
#[derive(Debug)]
pub(super) struct Table {
    streams: HashMap<StreamId, Entry>,
    /// The last stream that the peer has opened.
    last: StreamId,
    /// What may still be sent on the whole connection.
    window: i64,
    initial_window: i64,
    windows_bind: bool,
    /// Nothing more comes or goes.
    closed: bool,
}

#[derive(Debug)]
struct Entry {
    /// None after the peer's FIN.
    inbound: Option<mpsc::Sender<Bytes>>,
    /// False after this side's FIN.
    may_send: bool,
    window: i64,
}

/// How a wish to send is answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// So many bytes may go now.
    Bytes(usize),
    /// Until the peer opens its window.
    Wait,
    Closed,
}

/// What to make of a stream that the peer opens.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Opening {
    Opened,
    /// There are too many.
    Refused,
    /// Numbers must be odd and rise.
    Misnumbered,
}

impl Table {
    pub(super) fn new() -> Self {
        Self {
            streams: HashMap::new(),
            last: 0,
            window: INITIAL_WINDOW,
            initial_window: INITIAL_WINDOW,
            windows_bind: false,
            closed: false,
        }
    }

    pub(super) fn open(
        &mut self,
        id: StreamId,
        inbound: Option<mpsc::Sender<Bytes>>,
        most: usize,
    ) -> Opening {
        if id.is_multiple_of(2) || id <= self.last {
            return Opening::Misnumbered;
        }
        self.last = id;
        if self.closed || self.streams.len() >= most {
            return Opening::Refused;
        }
        let entry = Entry {
            inbound,
            may_send: true,
            window: self.initial_window,
        };
        self.streams.insert(id, entry);
        Opening::Opened
    }

    pub(super) fn last(&self) -> StreamId {
        self.last
    }

    pub(super) fn is_open(&self, id: StreamId) -> bool {
        self.streams.contains_key(&id)
    }

    /// Where a stream's bytes go; nowhere after its end.
    pub(super) fn inbound(&self, id: StreamId) -> Option<mpsc::Sender<Bytes>> {
        self.streams.get(&id)?.inbound.clone()
    }

    /// The peer sends nothing more on it.
    pub(super) fn end_inbound(&mut self, id: StreamId) {
        if let Some(entry) = self.streams.get_mut(&id) {
            entry.inbound = None;
            if !entry.may_send {
                self.streams.remove(&id);
            }
        }
    }

    /// Whether this side could still send on it.
    pub(super) fn end_outbound(&mut self, id: StreamId) -> bool {
        let Some(entry) = self.streams.get_mut(&id) else {
            return false;
        };
        let could = std::mem::replace(&mut entry.may_send, false);
        if entry.inbound.is_none() {
            self.streams.remove(&id);
        }
        could
    }

    pub(super) fn remove(&mut self, id: StreamId) {
        self.streams.remove(&id);
    }

    pub(super) fn close(&mut self) {
        self.closed = true;
        self.streams.clear();
    }

    /// Takes room for up to `wanted` bytes.
    pub(super) fn take_room(&mut self, id: StreamId, wanted: usize) -> Room {
        let Some(entry) = self.streams.get_mut(&id).filter(|entry| entry.may_send) else {
            return Room::Closed;
        };
        let room = if self.windows_bind {
            usize::try_from(entry.window.min(self.window)).unwrap_or(0)
        } else {
            wanted
        };
        if room == 0 && wanted > 0 {
            return Room::Wait;
        }
        let taken = room.min(wanted);
        let spent = i64::try_from(taken).unwrap_or(i64::MAX);
        entry.window -= spent;
        self.window -= spent;
        Room::Bytes(taken)
    }

    /// False for a window that would be larger than one can be.
    pub(super) fn widen(&mut self, id: StreamId, delta: u32) -> bool {
        const MOST: i64 = i32::MAX as i64;
        self.windows_bind = true;
        let delta = i64::from(delta);
        if id == 0 {
            self.window += delta;
            return self.window <= MOST;
        }
        let Some(entry) = self.streams.get_mut(&id) else {
            return true;
        };
        entry.window += delta;
        entry.window <= MOST
    }

    pub(super) fn set_initial_window(&mut self, window: u32) {
        self.windows_bind = true;
        let window = i64::from(window.min(i32::MAX.unsigned_abs()));
        let change = window - self.initial_window;
        self.initial_window = window;
        for entry in self.streams.values_mut() {
            entry.window += change;
        }
    }
}
