//! SPDY/3.1, the server's half of it, as far as Kubernetes' clients speak it (The Chromium Projects, "SPDY Protocol -
//! Draft 3.1"): streams that the client opens, each with headers and bytes both ways, over one connection.
//!
//! ```text
//! bytes ◄─► frame (heads, control frames) ◄─► connection (streams, windows, pings) ◄─► Stream
//!                   └── headers (zlib with SPDY's dictionary)
//! stream: open ─(either side's FIN)─► half closed ─(the other's FIN)─► closed        any ─(RST)─► closed
//! ```
//!
//! What a peer can make this side hold is bounded: a control frame, its headers when inflated, the streams of a
//! connection, and the bytes of each stream that nobody has read. A stream whose bytes are not read holds up its
//! connection, as with every server that Kubernetes has: its clients know no flow control of their own.

mod connection;
mod frame;
mod headers;
mod table;
#[cfg(test)]
mod tests;

use std::io;

pub(crate) use self::{
    connection::{Connection, Incoming, Stream, StreamReader, StreamWriter},
    headers::Headers,
};

/// Why a connection ended before its time.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpdyError {
    #[error("the peer breaks SPDY/3.1: {0}")]
    Protocol(&'static str),
    #[error("the connection broke")]
    Io(#[from] io::Error),
    #[error("the peer has hung up")]
    HungUp,
}
